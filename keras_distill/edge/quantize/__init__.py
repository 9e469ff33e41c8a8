"""Quantisation-aware models: which tensor gets a range, what a range is, and how it is set."""
