"""The network, its size, its training and its bundle."""
