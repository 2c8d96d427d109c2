"""One trial: data, network, checkpoints, process."""
