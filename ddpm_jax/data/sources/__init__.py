"""Where images come from: TFDS, folders, .npz files."""
