"""A choice of the reverse variance: what it consists of, and what is done with one.

A reverse step is Gaussian; its mean is the kernel's, its variance is a choice. Most choices have the form

    sigma^2 = base + gain h,

where h >= 0 estimates Cov[eps | x_t] per dimension and the kernel supplies base and gain (`process.Steps`; for DDPM
base = tb and gain = v). The choices themselves are in `variance` and `heads`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float

from ddpm_jax.basis import PIXEL, Basis
from ddpm_jax.predict import Prediction
from ddpm_jax.process import Steps

LogVar = Float[Array, "..."] | Float[np.ndarray, "..."]
OfState = Callable[[Steps, Any, Prediction | None], Any]


class ReverseVariance(NamedTuple):
    """One choice of the variance of p(x_s | x_t).

    Attributes:
      log_var: (step, x_t, prediction) -> log sigma^2 in nats, broadcastable to x_t; -inf adds no noise. `step` holds
        one step's coefficients, or arrays of many for a headless choice.
      heads: names of the outputs it reads from `prediction.heads`.
      basis: where the covariance is diagonal.
      headless: it depends on neither x_t nor the prediction, and is evaluated once, before the loop.
      every_kernel: it is defined for every kernel, as base + gain h is.
      excess: (step, x_t, prediction) -> h, of a choice that is base + gain h; of the step it reads t's columns alone.
      bound: it has a likelihood bound.
      clamped: (step, x_t, prediction) -> where h was moved into its bounds; None for a choice without bounds.
      times: of the chain whose steps it was fitted on, where it is defined there only; None for any pair.
    """

    log_var: Callable[[Steps, Any, Prediction | None], LogVar]
    heads: tuple[str, ...] = ()
    basis: Basis = PIXEL
    headless: bool = True
    every_kernel: bool = False
    excess: OfState | None = None
    bound: bool = True
    clamped: OfState | None = None
    times: tuple[int, ...] | None = None


def from_excess(h: OfState, **properties: Any) -> ReverseVariance:
    """sigma^2 = base + gain h.

    Args:
      h: (step, x_t, prediction) -> estimate of Cov[eps | x_t] per dimension; for a headless choice one value a step,
        or an image of them.
      properties: other fields of ReverseVariance.
    """

    def log_var(step: Steps, x_t: Any, prediction: Prediction | None) -> LogVar:
        excess = h(step, x_t, prediction)
        variance = beside(step.base, excess) + beside(step.gain, excess) * excess
        with np.errstate(divide="ignore", invalid="ignore"):
            return variance.__array_namespace__().log(variance)

    return ReverseVariance(log_var, every_kernel=True, excess=h, **properties)


def from_bounded_excess(h: OfState, **properties: Any) -> ReverseVariance:
    """sigma^2 = base + gain h with Cov[x_0 | x_t] = (1 - alpha_bar_t)/alpha_bar_t h held within [0, 1], as it is for
    data in [-1, 1]. Bao et al. 2022, theorem 2. Where this moves h is reported. Never for unbounded data.

    Args:
      h: see `from_excess`.
      properties: other fields of ReverseVariance.
    """

    def held(step: Steps, x_t: Any, prediction: Prediction | None) -> Any:
        excess = h(step, x_t, prediction)
        return excess.__array_namespace__().clip(excess, 0, beside(step.excess_max, excess))

    def clamped(step: Steps, x_t: Any, prediction: Prediction | None) -> Any:
        excess = h(step, x_t, prediction)
        return (excess < 0) | (excess > beside(step.excess_max, excess))

    return from_excess(held, clamped=clamped, **properties)


def estimated(h: OfState, clamp_cov: bool, **properties: Any) -> ReverseVariance:
    """`from_bounded_excess` where clamp_cov says so, else `from_excess`: sigma^2 = base + gain h."""
    return (from_bounded_excess if clamp_cov else from_excess)(h, **properties)


def beside(column: Any, values: Any) -> Any:
    """A step's coefficient, or one a step, shaped to multiply `values`."""
    missing = np.ndim(values) - np.ndim(column)
    return column.reshape(*column.shape, *[1] * missing) if np.ndim(column) and missing > 0 else column


def scaled(variance: ReverseVariance, factor: float) -> ReverseVariance:
    """sigma^2 = factor times that of `variance`: a control that should lose where `variance` is right.

    Raises:
      ValueError: factor <= 0.
    """
    if not factor > 0:
        raise ValueError(f"factor = {factor:g}: it must be positive")

    def log_var(step: Steps, x_t: Any, prediction: Prediction | None) -> LogVar:
        return variance.log_var(step, x_t, prediction) + np.log(factor)

    return variance._replace(log_var=log_var, excess=None)


def check_steps(variance: ReverseVariance, steps: Steps) -> None:
    """Refuse a choice that is not base + gain h with a kernel whose base is not tb, and steps it was not fitted on.

    Raises:
      ValueError: see above.
    """
    if not variance.every_kernel and not np.array_equal(steps.base, steps.tb):
        raise ValueError("this variance is defined for the DDPM kernel only: a DDIM-type kernel needs base + gain h")
    if variance.times is not None and not fits(variance, steps.t):
        raise ValueError(
            f"this variance was fitted on a chain of {len(variance.times)} steps and is defined on those alone: "
            f"it says nothing of a chain of {steps.K}"
        )


def fits(variance: ReverseVariance, times: np.ndarray) -> bool:
    """The choice is defined on the chain that visits `times`: s_k = t_(k-1) are among the pairs it was fitted on."""
    return variance.times is None or np.array_equal(variance.times, times)


def table(variance: ReverseVariance, steps: Steps) -> np.ndarray:
    """log sigma^2 of a headless choice at every step, (K,) or (K, *x), in nats, float64.

    Raises:
      ValueError: the choice depends on x_t, does not fit the kernel, or gives a negative variance (an estimate of h
        that noise has made too small: measure more images, or clamp it).
    """
    if not variance.headless:
        raise ValueError("this variance depends on x_t: it has no table")
    check_steps(variance, steps)
    log_var = np.asarray(variance.log_var(steps, None, None), np.float64)
    if np.isnan(log_var).any():
        t = steps.t[np.argmax(np.isnan(log_var).reshape(steps.K, -1).any(1))]
        raise ValueError(f"the variance at t = {t} is negative: measure more images, or clamp the covariance")
    return log_var
