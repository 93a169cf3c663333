"""Tests: a mirror of ddpm_jax, and an oracle that never calls it."""
