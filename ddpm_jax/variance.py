"""Every choice of the reverse variance, by name.

The article ends on two of them: h = 0 when the data are one point (`small`), and h = alpha_bar_t when they are standard
normal (`large`); see `reverse` for h. Those of this file are fixed before sampling starts; those that are trained and
look at x_t are in `heads`.

To add one: write a function that returns a ReverseVariance, and name it in VARIANCES.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ddpm_jax import basis, heads
from ddpm_jax.basis import Axes
from ddpm_jax.predict import Prediction
from ddpm_jax.process import Steps
from ddpm_jax.reverse import LogVar, ReverseVariance, estimated, from_excess
from ddpm_jax.schedule import Schedule, Table


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
    h = alpha_bar_t c / V_t, and c where alpha_bar_t = 0 (see `process.Steps`).

    Raises:
      ValueError: c < 0.
    """
    if not c >= 0:
        raise ValueError(f"c = {c:g}: a variance of the data is at least 0")
    alpha_bar = np.asarray(schedule.alpha_bar)
    total = alpha_bar * c + schedule.one_minus_alpha_bar + (c == 0)
    excess = np.where(alpha_bar > 0, alpha_bar, 1) * c / total
    return from_excess(lambda step, x_t, prediction: excess[step.t])


def analytic(excess: Table, clamp_cov: bool = True) -> ReverseVariance:
    """The optimum for an exact mean: h = 1 - Gamma_t, Gamma_t = E||eps_hat||^2 / D. Bao et al. 2022, theorem 1.

    Args:
      excess: 1 - Gamma_t, row t for time t (row 0 unused), from `eval.moments`.
      clamp_cov: hold Cov[x_0 | x_t] = (1 - alpha_bar_t)/alpha_bar_t h within [0, 1], as the paper does for data in
        [-1, 1]. Never for unbounded data.
    """

    return estimated(partial(_row, excess), clamp_cov)


def _row(table: Any, step: Steps, x_t: Any, prediction: Prediction | None) -> LogVar:
    return table[step.t]


def isotropic(error: Table) -> ReverseVariance:
    """The least KL of all isotropic choices for this network: h = M_t = E||eps - eps_hat||^2 / D.

    Minimises 1/2 [r (1 + u M_t) - 1 - log r] over r = tb/sigma^2; equals `analytic` when the network is exact.

    Args:
      error: M_t, row t for time t (row 0 unused), from `eval.moments`.
    """
    return from_excess(partial(_row, error))


def spectral(spectrum: Float[np.ndarray, "m h w c"], colours: Axes) -> ReverseVariance:
    """`isotropic` for every frequency and colour: h_j = M_{t,j} = E (u_j . (eps - eps_hat))^2, u_j the DCT basis.

    The least KL of all choices that are diagonal in this basis and do not look at x_t: 1/2 mean_j log(1 + u M_{t,j}),
    never more than `isotropic` on the images that fixed both (Jensen's inequality). This project's own.

    Args:
      spectrum: M_{t,j}, row t for time t (row 0 unused), from `eval.moments`; averaged over bins or not.
      colours: axes of the basis, see `basis.dct`.
    """
    return from_excess(partial(_row, spectrum), basis=basis.dct(colours))


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
    return ReverseVariance(lambda step, x_t, prediction: step.log_b - np.inf, every_kernel=True, bound=False)


class Calibration(NamedTuple):
    """What the choices of VARIANCES are fixed by.

    Attributes:
      schedule: the forward process.
      frac: of `interpolated`.
      c: of `family`, the variance of the data.
      excess: 1 - Gamma_t (T + 1,), of `analytic`.
      error: M_t (T + 1,), of `isotropic`.
      spectrum: M_{t,j} (T + 1, H, W, C), of `spectral`.
      colours: axes of that basis.
      clamp_cov: see `reverse.from_bounded_excess`.
      clamp_head: see `heads.learned_range`.
      learned_times: see `heads.learned`.
    """

    schedule: Schedule
    frac: float = 0.5
    c: float = 1.0
    excess: np.ndarray | None = None
    error: np.ndarray | None = None
    spectrum: np.ndarray | None = None
    colours: Axes = ()
    clamp_cov: bool = True
    clamp_head: bool = False
    learned_times: tuple[int, ...] | None = None


class Fixed(NamedTuple):
    """A choice by its name, and what fixes it.

    Attributes:
      name: of VARIANCES.
      by: what it is built from.
    """

    name: str
    by: Calibration


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


def _spectral(known: Calibration, binned: bool) -> ReverseVariance:
    table = measured(known.spectrum, "M_{t,j}", known.schedule)
    values = basis.averaged(table, basis.radial_bins(table.shape[1:])) if binned else table
    return spectral(values, known.colours)


VARIANCES: dict[str, Callable[[Calibration], ReverseVariance]] = {
    "small": lambda known: small(),
    "large": lambda known: large(known.schedule),
    "interpolated": lambda known: interpolated(known.frac),
    "family": lambda known: family(known.c, known.schedule),
    "analytic": lambda known: analytic(measured(known.excess, "1 - Gamma_t", known.schedule), known.clamp_cov),
    "isotropic": lambda known: isotropic(measured(known.error, "M_t", known.schedule)),
    "spectral": lambda known: _spectral(known, binned=False),
    "spectral_radial": lambda known: _spectral(known, binned=True),
    "npr": lambda known: heads.npr(known.clamp_cov),
    "sn": lambda known: heads.sn(known.clamp_cov),
    "ocm": lambda known: heads.ocm(known.clamp_cov),
    "learned": lambda known: heads.learned(known.learned_times),
    "learned_range": lambda known: heads.learned_range(known.clamp_head),
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
