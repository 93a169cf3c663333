"""Other projects' checkpoints to and from ours, one file a project."""
