"""Tests of ddpm_jax.models.convert."""
