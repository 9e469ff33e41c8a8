"""Repairs of a network for integers without training: equalised channels, corrected biases."""
