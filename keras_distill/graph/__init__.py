"""A model as a graph: walked, copied, its layers named."""
