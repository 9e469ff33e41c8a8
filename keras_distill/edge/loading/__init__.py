"""Saved models of either Keras generation, read as Keras 3 models."""
