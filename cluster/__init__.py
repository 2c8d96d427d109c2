"""Where the search runs: Ray sessions and their resources."""
