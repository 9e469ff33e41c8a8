"""Runs of recipes: resumable stages in a folder."""
