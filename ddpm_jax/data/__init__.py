"""Image data sets: where they come from, how pictures become arrays, batches by step."""
