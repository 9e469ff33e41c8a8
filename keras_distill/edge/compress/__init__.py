"""Compression of Keras 3 models layer by layer: wrappers of the user's own layers, same names."""
