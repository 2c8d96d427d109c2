"""The winner as a file for another runtime: how each kind is written, and how it answers where only that runtime is."""
