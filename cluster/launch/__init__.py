"""Files that start clusters."""
