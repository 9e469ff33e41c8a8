"""How many bits each layer needs."""
