"""Tests of ddpm_jax.convert."""
