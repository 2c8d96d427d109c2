"""The verbs of the command line: parse, call the Python door, print."""
