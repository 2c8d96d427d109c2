"""Commands sent to a cluster's job server."""
