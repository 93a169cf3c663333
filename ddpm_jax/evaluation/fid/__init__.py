"""The Frechet distance in the features of a network."""
