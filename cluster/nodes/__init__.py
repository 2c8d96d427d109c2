"""The machines of a cluster: joined, counted, looked at."""
