"""The search over a recipe: accuracy, bytes and latency at once."""
