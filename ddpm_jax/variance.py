"""Every choice of the reverse variance.

A reverse step is Gaussian; its mean is the kernel's, its variance is a choice. Most choices have the form

    sigma^2 = base + gain h,

where h >= 0 estimates Cov[eps | x_t] per dimension and the kernel supplies base and gain (`process.Steps`; for DDPM
base = tb and gain = v). The article ends on two of them: h = 0 when the data are one point (`small`), and
h = alpha_bar_t when they are standard normal (`large`).

To add one: write a function that returns a ReverseVariance, and name it in VARIANCES.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float

from ddpm_jax.basis import PIXEL, Basis
from ddpm_jax.predict import Prediction
from ddpm_jax.process import Steps
from ddpm_jax.schedule import Schedule, Table

LogVar = Float[Array, "..."] | Float[np.ndarray, "..."]


class ReverseVariance(NamedTuple):
    """One choice of the variance of p(x_s | x_t).

    Attributes:
      log_var: (step, x_t, prediction) -> log sigma^2 in nats, broadcastable to x_t; -inf adds no noise. `step` holds
        one step's coefficients, or arrays of many for a headless choice.
      heads: extra outputs it needs from the network, per channel.
      basis: where the covariance is diagonal.
      headless: it depends on neither x_t nor the prediction, and is evaluated once, before the loop.
      has_excess: it is base + gain h, and so defined for every kernel.
      bound: it has a likelihood bound.
    """

    log_var: Callable[[Steps, Any, Prediction | None], LogVar]
    heads: int = 0
    basis: Basis = PIXEL
    headless: bool = True
    has_excess: bool = False
    bound: bool = True


def from_excess(h: Callable[[Steps, Any, Prediction | None], Any], **properties: Any) -> ReverseVariance:
    """sigma^2 = base + gain h.

    Args:
      h: (step, x_t, prediction) -> estimate of Cov[eps | x_t] per dimension.
      properties: other fields of ReverseVariance.
    """

    def log_var(step: Steps, x_t: Any, prediction: Prediction | None) -> LogVar:
        variance = step.base + step.gain * h(step, x_t, prediction)
        with np.errstate(divide="ignore", invalid="ignore"):
            return variance.__array_namespace__().log(variance)

    return ReverseVariance(log_var, has_excess=True, **properties)


def small() -> ReverseVariance:
    """sigma^2 = tb: exact when the data are one point. Ho et al. 2020, section 3.2 ("fixed small"); the article's first
    answer, sigma_t = bar beta_{t-1} beta_t / bar beta_t. h = 0.
    """
    return from_excess(lambda step, x_t, prediction: 0.0)


def large(schedule: Schedule) -> ReverseVariance:
    """sigma^2 = b: exact when the data are standard normal. Ho et al. 2020, section 3.2 ("fixed large"); the article's
    second answer, sigma_t = beta_t. h = alpha_bar_t, that is `family(1)`.
    """
    return family(1.0, schedule)


def family(c: float, schedule: Schedule) -> ReverseVariance:
    """sigma^2 = b V_s / V_t, V_t = alpha_bar_t c + 1 - alpha_bar_t: exact when the data are N(m, c).

    The article's two answers are c = 0 and c = 1; c to infinity is the upper bound b/a of Bao et al. 2022, theorem 2.
    h = alpha_bar_t c / V_t.

    Raises:
      ValueError: c < 0.
    """
    if not c >= 0:
        raise ValueError(f"c = {c:g}: a variance of the data is at least 0")
    excess = schedule.alpha_bar * c / (schedule.alpha_bar * c + schedule.one_minus_alpha_bar + (c == 0))
    return from_excess(lambda step, x_t, prediction: excess[step.t])


def analytic(excess: Table, clamp_cov: bool = True) -> ReverseVariance:
    """The optimum for an exact mean: h = 1 - Gamma_t, Gamma_t = E||eps_hat||^2 / D. Bao et al. 2022, theorem 1.

    Args:
      excess: 1 - Gamma_t, row t for time t (row 0 unused), from `eval.moments`.
      clamp_cov: hold Cov[x_0 | x_t] = (1 - alpha_bar_t)/alpha_bar_t h within [0, 1], as the paper does for data in
        [-1, 1]. Never for unbounded data.
    """

    def h(step: Steps, x_t: Any, prediction: Prediction | None) -> Any:
        return np.clip(excess[step.t], 0, step.excess_max) if clamp_cov else excess[step.t]

    return from_excess(h)


def isotropic(error: Table) -> ReverseVariance:
    """The least KL of all isotropic choices for this network: h = M_t = E||eps - eps_hat||^2 / D.

    Minimises 1/2 [r (1 + u M_t) - 1 - log r] over r = tb/sigma^2; equals `analytic` when the network is exact.

    Args:
      error: M_t, row t for time t (row 0 unused), from `eval.moments`.
    """
    return from_excess(lambda step, x_t, prediction: error[step.t])


def interpolated(frac: float) -> ReverseVariance:
    """log sigma^2 = frac log b + (1 - frac) log tb, in nats: between the article's two answers.

    frac = 0 is `small`, frac = 1 is `large`; frac = 0.5 is the fixed_medium of Salimans & Ho 2022's released code.
    Numerics: at s = 0, where log tb = -inf, the step carries the papers' stand-in log tb(1, 2).

    Raises:
      ValueError: frac is outside [0, 1].
    """
    if not 0 <= frac <= 1:
        raise ValueError(f"frac = {frac:g} is outside [0, 1]")
    return ReverseVariance(lambda step, x_t, prediction: frac * step.log_b + (1 - frac) * step.log_tb_floored)


def zero() -> ReverseVariance:
    """sigma^2 = 0: the reverse mean alone. It has no likelihood bound."""
    return ReverseVariance(lambda step, x_t, prediction: step.log_b - np.inf, has_excess=True, bound=False)


def scaled(variance: ReverseVariance, factor: float) -> ReverseVariance:
    """sigma^2 = factor times that of `variance`: a control that should lose where `variance` is right.

    Raises:
      ValueError: factor <= 0.
    """
    if not factor > 0:
        raise ValueError(f"factor = {factor:g}: it must be positive")

    def log_var(step: Steps, x_t: Any, prediction: Prediction | None) -> LogVar:
        return variance.log_var(step, x_t, prediction) + np.log(factor)

    return variance._replace(log_var=log_var)


class Calibration(NamedTuple):
    """What the choices of VARIANCES are fixed by.

    Attributes:
      schedule: the forward process.
      frac: of `interpolated`.
      c: of `family`, the variance of the data.
      excess: 1 - Gamma_t (T + 1,), of `analytic`.
      error: M_t (T + 1,), of `isotropic`.
      clamp_cov: see `analytic`.
    """

    schedule: Schedule
    frac: float = 0.5
    c: float = 1.0
    excess: np.ndarray | None = None
    error: np.ndarray | None = None
    clamp_cov: bool = True


class Unmeasured(ValueError):
    """A variance needs moments of the network that its calibration lacks."""


def measured(table: np.ndarray | None, name: str, schedule: Schedule) -> np.ndarray:
    """A table of moments, one row a time.

    Raises:
      Unmeasured: there is none.
      ValueError: it belongs to another schedule.
    """
    if table is None:
        raise Unmeasured(f"this variance needs {name}: measure the moments of the network first")
    if len(table) != schedule.T + 1:
        raise ValueError(f"{name} has {len(table)} rows and the schedule {schedule.T + 1}: measure with this schedule")
    return table


VARIANCES: dict[str, Callable[[Calibration], ReverseVariance]] = {
    "small": lambda known: small(),
    "large": lambda known: large(known.schedule),
    "interpolated": lambda known: interpolated(known.frac),
    "family": lambda known: family(known.c, known.schedule),
    "analytic": lambda known: analytic(measured(known.excess, "1 - Gamma_t", known.schedule), known.clamp_cov),
    "isotropic": lambda known: isotropic(measured(known.error, "M_t", known.schedule)),
    "zero": lambda known: zero(),
}


def check_name(name: str) -> None:
    """Refuse a name that is not of VARIANCES.

    Raises:
      ValueError: no choice has this name.
    """
    if name not in VARIANCES:
        raise ValueError(f"unknown variance {name!r}: choose one of {', '.join(VARIANCES)}")


def build(name: str, calibration: Calibration) -> ReverseVariance:
    """The choice called `name`.

    Raises:
      ValueError: no choice has this name.
      Unmeasured: it needs moments that `calibration` lacks.
    """
    check_name(name)
    return VARIANCES[name](calibration)


def check_kernel(variance: ReverseVariance, steps: Steps) -> None:
    """Refuse a choice that is not base + gain h with a kernel whose base is not tb.

    Raises:
      ValueError: see above.
    """
    if not variance.has_excess and not np.array_equal(steps.base, steps.tb):
        raise ValueError("this variance is defined for the DDPM kernel only: a DDIM-type kernel needs base + gain h")


def table(variance: ReverseVariance, steps: Steps) -> np.ndarray:
    """log sigma^2 of a headless choice at every step, (K,) or (K, *x), in nats, float64.

    Raises:
      ValueError: the choice depends on x_t, does not fit the kernel, or gives a negative variance (an estimate of h
        that noise has made too small: measure more images, or clamp it).
    """
    if not variance.headless:
        raise ValueError("this variance depends on x_t: it has no table")
    check_kernel(variance, steps)
    log_var = np.asarray(variance.log_var(steps, None, None), np.float64)
    if np.isnan(log_var).any():
        t = steps.t[np.argmax(np.isnan(log_var).reshape(steps.K, -1).any(1))]
        raise ValueError(f"the variance at t = {t} is negative: measure more images, or clamp the covariance")
    return log_var
