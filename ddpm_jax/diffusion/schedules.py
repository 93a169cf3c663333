"""The noise schedule: how fast data turn into noise.

Tables have T + 1 rows and row 0 is the data, so t runs 0..T as in the article (Su, "DDPM = Bayes + denoising") and no
formula needs a `prev` table or a mask. In the article's letters, beta[t] is beta_t^2 and alpha_bar[t] is bar alpha_t^2;
here they are named as in Ho et al. 2020.

Numerics: tables are built in float64 on the host and cast once, where they enter a jitted function. 1 - alpha_bar is
kept as a table of its own: formed from float32 values it would err by up to 1.7e-4.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from ddpm_jax.diffusion import registry

Table = Float[Array, " n"] | Float[np.ndarray, " n"]
Times = Int[Array, "..."] | Int[np.ndarray, "..."] | int


class Schedule(NamedTuple):
    """The variances of the forward process, row t for time t = 0..T.

    x_t = sqrt(alpha_bar[t]) x_0 + sqrt(one_minus_alpha_bar[t]) eps. Ho et al. 2020, equation 4.

    Attributes:
      beta: variance of the noise added between t - 1 and t; beta[0] = 0.
      alpha_bar: share of the data's variance left at t; alpha_bar[0] = 1.
      one_minus_alpha_bar: variance of the noise in x_t.
    """

    beta: Table
    alpha_bar: Table
    one_minus_alpha_bar: Table

    @property
    def T(self) -> int:
        """The number of noise levels; tables have T + 1 rows."""
        return self.beta.shape[0] - 1


def rows(table: Table, t: Times, like: Array) -> Array:
    """Rows t of a table in the dtype of `like`, shaped to multiply a batch like it.

    Args:
      table: (T + 1,).
      t: one time, or one per example.
      like: (b, *x).
    """
    chosen = jnp.asarray(table, like.dtype)[jnp.asarray(t)]
    return chosen.reshape(chosen.shape + (1,) * (like.ndim - chosen.ndim)) if chosen.ndim else chosen


def from_betas(betas: np.ndarray | list[float]) -> Schedule:
    """The schedule of any beta_1..beta_T: alpha_bar_t = prod of 1 - beta_s over s <= t. Ho et al. 2020, equation 4.

    Args:
      betas: T numbers in (0, 1); the last may be 1 (no data left at T).

    Raises:
      ValueError: a beta is outside these bounds.
    """
    beta = np.concatenate([[0.0], np.asarray(betas, np.float64)])
    bad = ~((beta > 0) & (beta < 1))
    bad[0], bad[-1] = False, not 0 < beta[-1] <= 1
    if len(beta) < 2:
        raise ValueError("a schedule needs at least one beta, got none")
    if bad.any():
        t = int(np.argmax(bad))
        raise ValueError(f"beta_{t} = {beta[t]:g} is outside (0, 1): lower it (only beta_T may be 1)")
    with np.errstate(divide="ignore"):
        log_alpha_bar = np.cumsum(np.log1p(-beta))
    return Schedule(beta, np.exp(log_alpha_bar), -np.expm1(log_alpha_bar))


def _ends(T: int, beta_1: float | None, beta_T: float | None) -> tuple[float, float]:
    """Ho et al.'s ends 1e-4 and 0.02, scaled by 1000/T so that alpha_bar_T stays alike; given ends stay as given."""
    _check_length(T)
    return (1e-4 * 1000 / T if beta_1 is None else beta_1), (0.02 * 1000 / T if beta_T is None else beta_T)


def _check_length(T: int) -> None:
    if T < 1:
        raise ValueError(f"T = {T}: a schedule has at least one time")


def linear(T: int = 1000, beta_1: float | None = None, beta_T: float | None = None) -> Schedule:
    """beta_t linear in t, 1e-4 to 0.02 over T = 1000. Ho et al. 2020, section 4.

    Args:
      T: number of noise levels.
      beta_1: first beta; default 1e-4 * 1000/T.
      beta_T: last beta; default 0.02 * 1000/T.
    """
    return from_betas(np.linspace(*_ends(T, beta_1, beta_T), T))


def quadratic(T: int = 1000, beta_1: float | None = None, beta_T: float | None = None) -> Schedule:
    """sqrt(beta_t) linear in t, with `linear`'s ends. Song et al. 2021 (DDIM), released code's `quad`."""
    first, last = _ends(T, beta_1, beta_T)
    with np.errstate(invalid="ignore"):  # negative ones are refused with the betas
        return from_betas(np.linspace(np.sqrt(first), np.sqrt(last), T) ** 2)


def sigmoid(T: int = 1000, beta_1: float | None = None, beta_T: float | None = None) -> Schedule:
    """beta_t a logistic curve over [-6, 6] between `linear`'s ends. Ho et al. 2020 and GeoDiff, released code."""
    first, last = _ends(T, beta_1, beta_T)
    return from_betas(first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, T))))


def constant(T: int = 1000, beta: float | None = None) -> Schedule:
    """beta_t the same at every t; default 0.02 * 1000/T. Ho et al. 2020, section 4."""
    return from_betas(np.full(T, _ends(T, None, beta)[1]))


def jsd(T: int = 1000) -> Schedule:
    """beta_t = 1/(T - t + 1), which ends at beta_T = 1. Sohl-Dickstein et al. 2015, section 2.4.1."""
    _check_length(T)
    return from_betas(1 / np.arange(T, 0, -1))


def cosine(T: int = 1000) -> Schedule:
    """alpha_bar_t = f(t)/f(0), f(t) = cos^2((t/T + .008)/1.008 pi/2), betas at most .999.

    Nichol & Dhariwal 2021, equation 17.
    """
    _check_length(T)
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - f[1:] / f[:-1], 0.999))


def zero_terminal(schedule: Schedule) -> Schedule:
    """sqrt(alpha_bar_t) shifted and stretched so that it is 0 at T and stays as it is at t = 1.

    Source: Lin et al. 2024 (Common diffusion noise schedules and sample steps are flawed), algorithm 1.
    Numerics: with q_t = sqrt(alpha_bar_t) - sqrt(alpha_bar_T), a sum of positive terms, beta_t = 1 - (q_t/q_(t-1))^2 is
    formed without a difference of near numbers.

    Args:
      schedule: with T >= 2; one that has no data left at T already stays as it is.

    Raises:
      ValueError: T = 1, where alpha_bar_1 cannot both stay and be 0.
    """
    if schedule.alpha_bar[-1] == 0:
        return schedule
    if schedule.T < 2:
        raise ValueError("T = 1: a zero terminal schedule keeps alpha_bar_1 and needs T = 2 or more")
    beta = np.asarray(schedule.beta)
    drop = np.sqrt(schedule.alpha_bar[1:-1]) * beta[2:] / (1 + np.sqrt(1 - beta[2:]))
    q = np.append(np.cumsum(drop[::-1])[::-1], 0.0)
    return from_betas(np.append(beta[1], drop * (q[:-1] + q[1:]) / q[:-1] ** 2))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "quadratic": quadratic,
    "sigmoid": sigmoid,
    "constant": constant,
    "jsd": jsd,
    "linear_zero_terminal": lambda T: zero_terminal(linear(T)),
    "cosine_zero_terminal": lambda T: zero_terminal(cosine(T)),
}
"""By name: T and, of some, numbers that follow a colon in the name -> the schedule."""

TABLE = "betas"  # before the colon of a name that is the numbers themselves
SHOWN = 60  # characters of a name that is shown whole


def build(name: str, T: int) -> Schedule:
    """The schedule that a name says.

    Example:
      build("linear:1e-4,0.02", 1000)

    Args:
      name: of SCHEDULES, with its numbers or without; or a table, from `table`.
      T: number of noise levels.

    Raises:
      ValueError: no schedule has this name or takes these numbers, or a table is of another length.
    """
    kind, colon, words = name.partition(":")
    if kind == TABLE and colon:
        betas = _numbers(name, words)
        if len(betas) != T:
            raise ValueError(f"T = {T}: the schedule is a table of {len(betas)} betas, give T = {len(betas)}")
        return from_betas(betas)
    made = registry.named(SCHEDULES, kind, "schedule")
    numbers = _numbers(name, words) if colon else []
    _, *takes = inspect.signature(made).parameters.values()
    needed = any(number.default is number.empty for number in takes)
    if len(numbers) != len(takes) and (colon or needed):
        written = f"write {kind}:{','.join(number.name for number in takes)}" if takes else f"{kind} takes no numbers"
        raise ValueError(f"schedule {title(name)!r}: {written}{'' if needed or not takes else f' or {kind}'}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"schedule {title(name)!r}: its numbers are finite")
    return made(T, *numbers)


def table(betas: np.ndarray | list[float]) -> str:
    """The name of a schedule that is these betas, in full precision.

    Args:
      betas: see `from_betas`.

    Raises:
      ValueError: see `from_betas`.
    """
    return f"{TABLE}:{','.join(repr(beta) for beta in from_betas(betas).beta[1:].tolist())}"


def name_of(betas: np.ndarray | list[float]) -> str:
    """The shortest name of these betas to 1e-6 of each: a schedule, one with its numbers, or a table.

    Args:
      betas: see `from_betas`.

    Raises:
      ValueError: see `from_betas`.
    """
    wanted = np.asarray(from_betas(betas).beta)[1:]
    for name in _likely(wanted):
        with suppress(ValueError):  # at this T it may have betas outside (0, 1)
            if np.allclose(build(name, len(wanted)).beta[1:], wanted, rtol=1e-6, atol=0):
                return name
    return table(wanted)


def title(name: str) -> str:
    """A name to be shown: of a long one its kind, how many numbers it has, the first and the last."""
    kind, _, words = name.partition(":")
    numbers = words.split(",")
    return name if len(name) <= SHOWN else f"{kind} ({len(numbers)} numbers, {numbers[0]} to {numbers[-1]})"


def _likely(betas: np.ndarray) -> Iterator[str]:
    """Names that may have these betas: those without numbers, then those with the numbers that its ends say."""
    yield from SCHEDULES
    first, last = betas[0], betas[-1]
    inner = (last - first) / (1 - 2 / (1 + np.exp(6)))  # of a logistic curve from -6 to 6 the ends are not reached
    middle = (first + last) / 2
    yield f"constant:{first:.12g}"
    yield f"linear:{first:.12g},{last:.12g}"
    yield f"quadratic:{first:.12g},{last:.12g}"
    yield f"sigmoid:{middle - inner / 2:.12g},{middle + inner / 2:.12g}"


def _numbers(name: str, words: str) -> list[float]:
    """What follows a colon."""
    try:
        return [float(word) for word in words.split(",")]
    except ValueError:
        raise ValueError(f"schedule {title(name)!r}: numbers, with commas between them, follow the colon") from None
