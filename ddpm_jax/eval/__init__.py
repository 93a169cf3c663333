"""Evaluation of a denoiser: moments in one pass, likelihood, FID."""
