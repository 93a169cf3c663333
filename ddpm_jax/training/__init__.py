"""Training runs: configuration, step, loop, checkpoints, and trained networks read back."""
