"""Bits per dimension of every variance, kernel and trajectory, from the moments of one pass.

-log p(x_0) <= L_T + sum of the steps' KL + L_0 (Ho et al. 2020, equation 5). With the moments at hand a new variance or
trajectory costs no network evaluation.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from ddpm_jax import process, variance
from ddpm_jax.eval.moments import Moments, standard_error
from ddpm_jax.process import Steps
from ddpm_jax.schedule import Schedule
from ddpm_jax.variance import ReverseVariance

NATS_PER_BIT = np.log(2)


class Likelihood(NamedTuple):
    """A bound on -log2 P(x_0) per dimension and its parts, means over images, all in bits/dim.

    Attributes:
      total: prior + kl + decoder.
      prior: L_T.
      kl: sum of the steps' KL terms.
      decoder: L_0.
      standard_error: of the total, over images.
      per_image: (n,) totals.
    """

    total: float
    prior: float
    kl: float
    decoder: float
    standard_error: float
    per_image: Float64[np.ndarray, " n"]


def step_kl(steps: Steps, log_var: np.ndarray, error: np.ndarray) -> np.ndarray:
    """E KL(q(x_s | x_t, x_0) || p(x_s | x_t)) = 1/2 [r (1 + u M) - 1 - log r], r = base/sigma^2, nats per dimension.

    Args:
      steps: pairs with s >= 1.
      log_var: log sigma^2 of each.
      error: M_t of each, or ||eps - eps_hat||^2/D of single images (..., K).
    """
    log_r = steps.log_base - log_var
    return 0.5 * (np.exp(log_r) * (1 + steps.u * error) - 1 - log_r)


def step_terms(steps: Steps, log_var: np.ndarray, moments: Moments) -> Float64[np.ndarray, "n later"]:
    """L_(t-1) of every image and step with s >= 1, nats per dimension. Ho et al. 2020, equation 5.

    Args:
      steps: a chain.
      log_var: log sigma^2 (K,), from `variance.table`.
      moments: of the images.

    Raises:
      ValueError: a step with s >= 1 has no noise in the kernel or the model.
    """
    later = process.Steps(*(column[1:] for column in steps))
    if not np.isfinite(log_var[1:]).all() or not (later.base > 0).all():
        raise ValueError("no likelihood bound: a step of this chain has variance 0")
    return step_kl(later, log_var[1:], moments.error[:, later.t])


def bits_per_dim(steps: Steps, log_var: np.ndarray, moments: Moments) -> Likelihood:
    """The bound for one chain, bits/dim: (L_T + sum of the steps' KL + L_0)/ln 2. Ho et al. 2020, equation 5.

    Args:
      steps: the chain, ending at T; kernels without noise have no bound.
      log_var: log sigma^2 (K,), from `variance.table`; the last step's is not used: p(x_0 | x_tau_1) is the decoder,
        with variance tb(1, 2) for every choice, as in the papers.
      moments: of the images whose likelihood is wanted.

    Raises:
      ValueError: the chain does not start at T, visits a time that was not measured, or has a step with s >= 1 without
        noise in the kernel or the model.
    """
    if steps.t[-1] != moments.error.shape[1] - 1:
        raise ValueError(f"the chain starts at t = {steps.t[-1]}: the bound needs T = {moments.error.shape[1] - 1}")
    unmeasured = np.isnan(moments.error[:, steps.t]).any(axis=0)
    if unmeasured.any():
        raise ValueError(f"the chain visits t = {steps.t[unmeasured.argmax()]}, which was not measured")
    kl = step_terms(steps, log_var, moments).sum(axis=1)
    kl, decoder, prior = (term / NATS_PER_BIT for term in (kl, moments.decoder[:, steps.t[0]], moments.prior))
    total = prior + kl + decoder
    return Likelihood(total.mean(), prior.mean(), kl.mean(), decoder.mean(), float(standard_error(total)), total)


def paired_standard_error(a: Likelihood, b: Likelihood) -> float:
    """Standard error of d = a.total - b.total over the same images and noise: far smaller than either's own."""
    return float(standard_error(a.per_image - b.per_image))


def cost(schedule: Schedule, choice: ReverseVariance, error: np.ndarray) -> Float64[np.ndarray, "m m"]:
    """cost[s, t] = E KL of the step t -> s under a variance (`step_kl`), nats per dimension, for `trajectory.optimal`.

    Args:
      schedule: the forward process.
      choice: a headless variance with a bound.
      error: M_t (T + 1,) of the calibration images.

    Returns:
      (T + 1, T + 1), [s, t]; inf where no step is allowed. Data are reached from t = 1 only (the papers' tau_1 = 1), at
      cost 0, since the decoder's term is common to all chains.
    """
    s, t = np.triu_indices(schedule.T, 1)
    s, t = s + 1, t + 1
    steps = process.pairs(schedule, s, t)
    table = np.full((schedule.T + 1, schedule.T + 1), np.inf)
    table[s, t] = step_kl(steps, variance.table(choice, steps), error[t])
    table[0, 1] = 0.0
    return table
