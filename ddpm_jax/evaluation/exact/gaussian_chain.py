"""Chains whose denoiser is exact for Gaussian data: every marginal stays Gaussian, so nothing has to be drawn.

Data N(m, C) are taken along the eigen-directions of C, one variance c each; everything here is elementwise in them.
With V_t = alpha_bar_t c + 1 - alpha_bar_t the true reverse kernel q(x_s | x_t) has variance Q = b V_s / V_t: tb at
c = 0 and b at c = 1, the article's two answers. Samples of a chain with any variances sigma_k^2 are compared with the
data by their divergence, their Frechet distance, and the divergence of the paths.
"""

from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.variances import beside
from ddpm_jax.evaluation.moments import Moments

Directions = np.ndarray  # float64 (*x): one number an eigen-direction


class Final(NamedTuple):
    """The samples of a chain, one Gaussian an eigen-direction.

    Attributes:
      error: their mean less the data's.
      variance: P_0.
    """

    error: Directions
    variance: Directions


class Affine(NamedTuple):
    """P_0 = offset + sum_k weights_k sigma_k^2.

    Attributes:
      offset: (*x) what is left of x_T's variance.
      weights: (K, *x).
    """

    offset: Directions
    weights: np.ndarray


def excess(schedule: Schedule, c: Directions) -> np.ndarray:
    """M_t = 1 - Gamma_t = alpha_bar_t c / V_t of every direction, (T + 1, *x); row 0 is NaN, as in `moments`.

    Its mean over directions is what `analytic` and `isotropic` measure for these data. Counted in x_0, and so c, where
    alpha_bar_t = 0; see `process.Steps`.
    """
    t = np.arange(1, schedule.T + 1)
    signal = _signal(schedule, t, c)
    table = np.where(signal > 0, signal, 1.0) * c / _total(schedule, t, c)
    return np.concatenate([np.full((1, *c.shape), np.nan), table])


def moments(schedule: Schedule, c: Directions) -> Moments:
    """What `evaluation.moments` would measure on endlessly many images N(0, c) with the exact denoiser: M_t = mean of
    alpha_bar_t c / V_t and L_T = 1/2 [alpha_bar_T (mean c - 1) - log(1 - alpha_bar_T)]. L_0 is left out, as 0.

    Args:
      schedule: the forward process.
      c: (H, W, C), of the DCT coefficients along colour axes.
    """
    spectrum = excess(schedule, c)
    error = _over_directions(spectrum)[None]
    prior = 0.5 * (schedule.alpha_bar[-1] * (c.mean() - 1) - np.log(schedule.one_minus_alpha_bar[-1]))
    axes = tuple(map(tuple, np.eye(c.shape[-1]).tolist()))
    return Moments(
        error, error, np.zeros_like(error), np.asarray([prior]), float(c.mean()), spectrum=spectrum, colours=axes
    )


def true_log_var(schedule: Schedule, steps: Steps, c: Directions) -> np.ndarray:
    """log Q of every step and direction, (K, *x), in nats: Q = b V_s / V_t, the variance of q(x_s | x_t)."""
    with np.errstate(divide="ignore"):
        return np.log(_column(steps.b, c) * _total(schedule, steps.s, c) / _total(schedule, steps.t, c))


def final(schedule: Schedule, steps: Steps, log_var: np.ndarray, c: Directions, mean: Any = 0.0) -> Final:
    """The chain's samples, step by step: P_s = slope^2 P_t + sigma^2, error_s = slope error_t, from x_T ~ N(0, 1).

    The slope of the reverse mean is mean_x_0 sqrt(alpha_bar_t) c / V_t + mean_x_t; for the DDPM kernel sqrt(a) V_s/V_t.

    Args:
      schedule: the forward process.
      steps: the chain, of any kernel, ending at T.
      log_var: log sigma^2, (K,) or (K, *x); -inf for a step without noise.
      c: variances of the data.
      mean: of the data, a number or (*x).
    """
    gain = _column(steps.signal, c) * c / _total(schedule, steps.t, c)
    slope = _column(steps.mean_x_0, c) * gain + _column(steps.mean_x_t, c)
    noise = np.exp(log_var)
    variance, error = np.ones_like(c), np.full_like(c, -steps.signal[-1]) * mean
    for k in reversed(range(steps.K)):
        variance, error = slope[k] ** 2 * variance + noise[k], slope[k] * error
    return Final(error, variance)


def affine(schedule: Schedule, steps: Steps, c: Directions) -> Affine:
    """P_0 as a function of the K variances: offset alpha_bar_T c^2/V_T^2, weights alpha_bar_s c^2/V_s^2.

    The same as P_0 = c + (alpha_bar_T c^2/V_T^2)(1 - V_T) + sum_k (alpha_bar_s c^2/V_s^2)(sigma_k^2 - Q_k), without its
    cancellation.

    Raises:
      ValueError: another kernel than DDPM's.
    """
    if not np.array_equal(steps.base, steps.tb):
        raise ValueError("the weights of P_0 are those of the DDPM kernel: use `final` for a DDIM-type kernel")
    first = (_column(steps.s, c) == 0) & (c == 0)  # 0/0: the last step's noise is left as it is
    ratio = np.where(first, 1.0, c / np.where(first, 1.0, _total(schedule, steps.s, c)))
    weights = _signal(schedule, steps.s, c) * ratio**2
    last = steps.t[-1:]
    return Affine((_signal(schedule, last, c) * (c / _total(schedule, last, c)) ** 2)[0], weights)


def data_kl(samples: Final, c: Directions) -> float:
    """KL(data || samples) = 1/2 mean_j [c/P - 1 - log(c/P) + error^2/P], nats per dimension; inf where P or c is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(c) - np.log(samples.variance)
        terms = np.expm1(log_ratio) - log_ratio + samples.error**2 / samples.variance
        return float(0.5 * np.mean(np.where(np.isfinite(log_ratio), terms, np.inf)))


def frechet(samples: Final, c: Directions) -> float:
    """The Frechet distance W2^2 = sum_j (sqrt P - sqrt c)^2 + error^2 to the data. Heusel et al. 2017, equation 6."""
    return float(np.sum((np.sqrt(samples.variance) - np.sqrt(c)) ** 2 + samples.error**2))


def path_kl(schedule: Schedule, steps: Steps, log_var: np.ndarray, c: Directions) -> np.ndarray:
    """KL(q(x_s | x_t) || p(x_s | x_t)) of the steps with s >= 1, (K - 1,): their sum is the divergence of the paths.

    KL = 1/2 mean_j [Q/sigma^2 - 1 - log(Q/sigma^2)], nats per dimension; inf where a step has no noise.

    Args:
      schedule: the forward process.
      steps: a chain with the DDPM kernel, whose means are exact.
      log_var: log sigma^2, (K,) or (K, *x), of which the last step's is not used.
      c: variances of the data.
    """
    true = true_log_var(schedule, steps, c)[1:]
    log_ratio = true - beside(log_var[1:], true)
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isinf(log_ratio), np.inf, 0.5 * (np.expm1(log_ratio) - log_ratio))
    return _over_directions(terms)


def step_kl(schedule: Schedule, steps: Steps, log_var: np.ndarray, c: Directions) -> np.ndarray:
    """E KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of the steps with s >= 1, (K - 1,), nats per dimension.

    1/2 mean_j [r (1 + u M_j) - 1 - log r] with r = tb/sigma^2: as tb (1 + u M_j) = Q_j, it is `path_kl` and what no
    variance can save, 1/2 mean_j log(Q_j/tb), whose sum over a chain is the same for every trajectory from T to tau_1.
    """
    least = 0.5 * (true_log_var(schedule, steps, c)[1:] - _column(steps.log_tb[1:], c))
    return path_kl(schedule, steps, log_var, c) + _over_directions(least)


def _column(column: Any, c: Directions) -> np.ndarray:
    """A coefficient a step, shaped to stand beside the directions."""
    return np.reshape(column, (-1, *[1] * c.ndim))


def _signal(schedule: Schedule, t: Any, c: Directions) -> np.ndarray:
    return _column(np.asarray(schedule.alpha_bar)[t], c)


def _total(schedule: Schedule, t: Any, c: Directions) -> np.ndarray:
    """V_t = alpha_bar_t c + 1 - alpha_bar_t, (times, *x)."""
    return _signal(schedule, t, c) * c + _column(np.asarray(schedule.one_minus_alpha_bar)[t], c)


def _over_directions(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=tuple(range(1, values.ndim)))
