"""Chains whose result is known exactly."""
