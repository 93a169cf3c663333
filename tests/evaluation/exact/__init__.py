"""Tests of ddpm_jax.evaluation.exact."""
