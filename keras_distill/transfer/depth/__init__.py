"""Fewer layers: a model cut into blocks, and made of some of them."""
