"""A run's settings, and where it is at home."""
