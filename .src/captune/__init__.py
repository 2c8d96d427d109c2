"""Searches for the best image-caption classifier that fits a size budget, on one machine or on a Ray cluster."""
