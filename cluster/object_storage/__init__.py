"""Data sets and runs at s3:// and gs://."""
