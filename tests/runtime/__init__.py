"""Tests of ddpm_jax.runtime."""
