"""Tests of ddpm_jax.cli."""
