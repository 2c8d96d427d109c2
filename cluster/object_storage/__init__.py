"""Data sets and runs at s3://, gs:// and abfss://."""
