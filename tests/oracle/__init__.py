"""Independent answers: NumPy float64, plain loops and linear algebra, no import of ddpm_jax.

Nothing here is fast and nothing uses a formula that the code under test uses where a more basic one exists: posteriors
come from conditioning a joint Gaussian, divergences from the general formula with full covariances, trajectories from
trying them all.
"""
