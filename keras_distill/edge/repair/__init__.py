"""Repairs of a network for integers without labels: of channels, biases and roundings."""
