"""Fewer channels: which belong together, which matter, and a model without the others."""
