"""Tests of ddpm_jax.eval."""
