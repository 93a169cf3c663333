"""Tests of ddpm_jax.evaluation.fid."""
