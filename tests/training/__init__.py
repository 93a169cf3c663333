"""Tests of ddpm_jax.training."""
