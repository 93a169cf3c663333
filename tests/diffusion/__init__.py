"""Tests of ddpm_jax.diffusion."""
