"""Moments, likelihood, samples and distances of trained networks."""
