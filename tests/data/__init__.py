"""Tests of ddpm_jax.data."""
