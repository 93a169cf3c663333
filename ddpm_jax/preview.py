"""A few samples of a network while it trains."""

import jax
import numpy as np

from ddpm_jax import process, protocols, run, sampler, train, trajectory, variance
from ddpm_jax.recipes import Params
from ddpm_jax.run import Run


def grid(wanted: Run, params: Params, count: int = 16, K: int = 50) -> np.ndarray:
    """A few samples of some parameters, a short chain with `large` variance; the same noise every time."""
    steps = process.steps(wanted.schedule, trajectory.even(wanted.schedule.T, min(K, wanted.schedule.T)))
    shape = (count, *wanted.data.shape)
    choice = variance.large(wanted.schedule)
    rules = protocols.Rules(levels=wanted.data.levels)
    x_0 = sampler.sample(jax.random.key(0), steps, run.denoiser(wanted, params), choice, shape, rules)
    return train.to_levels(x_0, 256)
