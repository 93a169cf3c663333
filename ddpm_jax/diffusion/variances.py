"""Every choice of the reverse variance, by name: what a choice consists of, the choices, and what is done with one.

A reverse step is Gaussian; its mean is the kernel's, its variance is a choice. The article ends on two of them: `small`
is right when the data are one point, `large` when they are standard normal. Most choices have the form

    sigma^2 = base + gain h,

where h >= 0 estimates Cov[eps | x_t] per dimension and the kernel supplies base and gain (`process.Steps`; for DDPM
base = tb and gain = v). `small` has h = 0, `large` h = alpha_bar_t.

Some choices are fixed before sampling starts. Others are trained: they read extra outputs of the denoiser, its heads
(`denoiser.Prediction.heads`), each under the name of the choice that reads it, and depend on x_t. Heads come in natural
units, from a network of their own on a frozen denoiser (`models.heads`), from extra channels trained with the mean, or
from the closed form of a toy distribution. Equal arguments give the same object, so that jitted users do not compile
again.

To add a choice: write a function that returns a ReverseVariance, and give it an entry in VARIANCES.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float

from ddpm_jax.diffusion import bases, registry
from ddpm_jax.diffusion.bases import PIXEL, Axes, Basis
from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.schedules import Schedule, Table

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
        return variance.log_var(step, x_t, prediction) + float(np.log(factor))

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


def read_head(prediction: Prediction | None, name: str) -> Any:
    """One head of a prediction: heads[name].

    Raises:
      ValueError: the denoiser has no such head.
    """
    there = (prediction.heads if prediction else None) or {}
    if name not in there:
        raise ValueError(
            f"the variance {name!r} reads a head of that name and the denoiser has {', '.join(there) or 'none'}: train "
            "it with ddpm-jax heads, or a network with it"
        )
    return there[name]


@lru_cache
def learned(times: tuple[int, ...] | None) -> ReverseVariance:
    """log sigma^2 is the head itself. Ho et al. 2020, table 2 ("learned diagonal").

    Args:
      times: of the chain it was trained on, whose steps alone it knows; None where it is exact for the steps it meets.
    """

    def log_var(step: Steps, x_t: Any, prediction: Prediction | None) -> LogVar:
        return read_head(prediction, "learned")

    return ReverseVariance(log_var, ("learned",), headless=False, times=times)


@lru_cache
def learned_range(clamp: bool = False) -> ReverseVariance:
    """log sigma^2 = f log b + (1 - f) log tb with f = (head + 1)/2. Nichol & Dhariwal 2021, equation 15.

    f is free: the best one, log(1 + u M)/log(1/rho), exceeds 1 where the data's variance does. At s = 0, where
    log tb = -inf, the step carries a stand-in.

    Args:
      clamp: hold the head within [-1, 1], and so sigma^2 within [tb, b].
    """

    def log_var(step: Steps, x_t: Any, prediction: Prediction | None) -> LogVar:
        head = read_head(prediction, "learned_range")
        head = head.__array_namespace__().clip(head, -1, 1) if clamp else head
        return step.log_tb_floored + (head + 1) / 2 * (step.log_b - step.log_tb_floored)

    return ReverseVariance(log_var, ("learned_range",), headless=False)


@lru_cache
def npr(clamp_cov: bool = True) -> ReverseVariance:
    """h = g(x_t, t), fitted to (eps - eps_hat)^2: the noise prediction residual. Bao et al. 2022b, section 4.

    Right for a network whose mean is wrong, too: then h is its expected squared error.

    Args:
      clamp_cov: see `variances.from_bounded_excess`.
    """
    return estimated(
        lambda step, x_t, prediction: read_head(prediction, "npr"), clamp_cov, heads=("npr",), headless=False
    )


@lru_cache
def sn(clamp_cov: bool = True) -> ReverseVariance:
    """h = g(x_t, t) - eps_hat^2, g fitted to eps^2: the squared noise. Bao et al. 2022b, section 3.

    Numerics: a difference of two numbers near 1; where h is small its error is large, and it may be clamped at 0.

    Args:
      clamp_cov: see `variances.from_bounded_excess`.
    """

    def h(step: Steps, x_t: Any, prediction: Prediction | None) -> Any:
        return read_head(prediction, "sn") - prediction.eps**2  # type: ignore[union-attr]  # read_head() refuses None

    return estimated(h, clamp_cov, heads=("sn",), headless=False)


@lru_cache
def ocm(clamp_cov: bool = True) -> ReverseVariance:
    """h = 1 + g(x_t, t), g fitted to (1 - alpha_bar_t) r * (H r), H the Jacobian of the score, r = +-1. Ou et al. 2025
    (optimal covariance matching), section 3: the diagonal of Tweedie's second-order formula.

    Args:
      clamp_cov: see `variances.from_bounded_excess`.
    """
    return estimated(
        lambda step, x_t, prediction: 1 + read_head(prediction, "ocm"), clamp_cov, heads=("ocm",), headless=False
    )


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
      ValueError: c < 0, or it is not finite.
    """
    if not 0 <= c < np.inf:
        raise ValueError(f"c = {c:g}: a variance of the data is finite and at least 0")
    alpha_bar = np.asarray(schedule.alpha_bar)
    total = alpha_bar * c + schedule.one_minus_alpha_bar + (c == 0)
    excess = np.where(alpha_bar > 0, alpha_bar, 1) * c / total
    return from_excess(lambda step, x_t, prediction: excess[step.t])


def analytic(excess: Table, clamp_cov: bool = True) -> ReverseVariance:
    """The optimum for an exact mean: h = 1 - Gamma_t, Gamma_t = E||eps_hat||^2 / D. Bao et al. 2022, theorem 1.

    Args:
      excess: 1 - Gamma_t, row t for time t (row 0 unused), from `evaluation.moments`.
      clamp_cov: hold Cov[x_0 | x_t] = (1 - alpha_bar_t)/alpha_bar_t h within [0, 1], as the paper does for data in
        [-1, 1]. Never for unbounded data.
    """

    return estimated(partial(_row_of, excess), clamp_cov)


def _row_of(table: Any, step: Steps, x_t: Any, prediction: Prediction | None) -> LogVar:
    return table[step.t]


def isotropic(error: Table) -> ReverseVariance:
    """The least KL of all isotropic choices for this network: h = M_t = E||eps - eps_hat||^2 / D.

    Minimises 1/2 [r (1 + u M_t) - 1 - log r] over r = tb/sigma^2; equals `analytic` when the network is exact.

    Args:
      error: M_t, row t for time t (row 0 unused), from `evaluation.moments`.
    """
    return from_excess(partial(_row_of, error))


def spectral(spectrum: Float[np.ndarray, "m h w c"], colours: Axes) -> ReverseVariance:
    """`isotropic` for every frequency and colour: h_j = M_{t,j} = E (u_j . (eps - eps_hat))^2, u_j the DCT basis.

    The least KL of all choices that are diagonal in this basis and do not look at x_t: 1/2 mean_j log(1 + u M_{t,j}),
    never more than `isotropic` on the images that fixed both (Jensen's inequality). This project's own.

    Args:
      spectrum: M_{t,j}, row t for time t (row 0 unused), from `evaluation.moments`; averaged over bins or not.
      colours: axes of the basis, see `bases.dct`.
    """
    return from_excess(partial(_row_of, spectrum), basis=bases.dct(colours))


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
    """What the choices of VARIANCES are fixed by; None for what was not measured.

    Attributes:
      schedule: the forward process.
      variance: of the data, averaged over dimensions; of `family` without a number.
      excess: 1 - Gamma_t (T + 1,), of `analytic`.
      error: M_t (T + 1,), of `isotropic`.
      spectrum: M_{t,j} (T + 1, H, W, C), of `spectral`.
      colours: axes of that basis.
      clamp_cov: see `from_bounded_excess`.
      learned_times: see `learned`.
    """

    schedule: Schedule
    variance: float | None = None
    excess: np.ndarray | None = None
    error: np.ndarray | None = None
    spectrum: np.ndarray | None = None
    colours: Axes = ()
    clamp_cov: bool = True
    learned_times: tuple[int, ...] | None = None


MOMENTS = {"variance": "the variance of the data", "excess": "1 - Gamma_t", "error": "M_t", "spectrum": "M_{t,j}"}
"""The measured fields of Calibration, in words."""


class Number(NamedTuple):
    """A number that belongs to a choice and is given in its name, as in `interpolated:0.7`.

    Attributes:
      name: of the builder's argument.
      default: where the name has none; or the field of Calibration that stands for it.
    """

    name: str
    default: float | str


class Variance(NamedTuple):
    """An entry of VARIANCES: how a choice is built, and what is known of it before that.

    Attributes:
      build: (calibration, its number and switches by name) -> the choice.
      summary: one line for tables and --help.
      kind: what fixes it: "fixed" (nothing measured of the network), "measured" (one moment for all coefficients),
        "frequencies" (one for every frequency) or "trained" (it reads a head).
      heads: names of the heads it reads.
      moments: fields of Calibration that it needs.
      number: its own number, if it has one.
      switches: words that may follow its name, as in `learned_range:clamped`; the builder takes each as a bool.
    """

    build: Callable[..., ReverseVariance]
    summary: str = ""
    kind: str = "fixed"
    heads: tuple[str, ...] = ()
    moments: tuple[str, ...] = ()
    number: Number | None = None
    switches: tuple[str, ...] = ()


def _spectral_radial(known: Calibration) -> ReverseVariance:
    table = np.asarray(known.spectrum)
    return spectral(bases.averaged(table, bases.radial_bins(table.shape[1:])), known.colours)


VERSION = 1  # raised by hand when the numbers of a choice that looks at x_t change
VARIANCES: dict[str, Variance] = {
    "small": Variance(lambda known: small(), "h = 0: exact for one point"),
    "large": Variance(lambda known: large(known.schedule), "h = alpha_bar_t: exact for standard normal data"),
    "interpolated": Variance(
        lambda known, frac: interpolated(frac),
        "log sigma^2 at a fixed fraction between the two; the fraction follows a colon",
        number=Number("frac", 0.5),
    ),
    "family": Variance(
        lambda known, c: family(c, known.schedule),
        "exact for data N(m, c); c follows a colon, without it the variance of the data",
        number=Number("c", "variance"),
    ),
    "analytic": Variance(
        lambda known: analytic(known.excess, known.clamp_cov),
        "h = 1 - E|eps_hat|^2/D, the optimum for an exact mean (Bao et al. 2022)",
        "measured",
        moments=("excess",),
    ),
    "isotropic": Variance(
        lambda known: isotropic(known.error),
        "h = E|eps - eps_hat|^2/D, the least KL of one number a step",
        "measured",
        moments=("error",),
    ),
    "spectral": Variance(
        lambda known: spectral(known.spectrum, known.colours),
        "isotropic for every frequency and colour axis",
        "frequencies",
        moments=("spectrum",),
    ),
    "spectral_radial": Variance(
        _spectral_radial, "spectral averaged over frequencies of one radius", "frequencies", moments=("spectrum",)
    ),
    "npr": Variance(
        lambda known: npr(known.clamp_cov), "a head fitted to (eps - eps_hat)^2 (Bao et al. 2022b)", "trained", ("npr",)
    ),
    "sn": Variance(lambda known: sn(known.clamp_cov), "a head fitted to eps^2 (Bao et al. 2022b)", "trained", ("sn",)),
    "ocm": Variance(
        lambda known: ocm(known.clamp_cov),
        "a head fitted to the diagonal of the score's Jacobian (Ou et al. 2025)",
        "trained",
        ("ocm",),
    ),
    "learned": Variance(
        lambda known: learned(known.learned_times),
        "log sigma^2 is a head, on the chain it was trained on (Ho et al. 2020)",
        "trained",
        ("learned",),
    ),
    "learned_range": Variance(
        lambda known, clamped: learned_range(clamped),
        "a head between log tb and log b, `clamped` within them (Nichol & Dhariwal 2021)",
        "trained",
        ("learned_range",),
        switches=("clamped",),
    ),
    "zero": Variance(lambda known: zero(), "no noise: the mean alone, without a likelihood bound"),
}
"""By name; a choice is such a name with its number and switches after colons, as `interpolated:0.7`."""


def find(choice: str) -> tuple[Variance, dict[str, Any]]:
    """The entry that a choice names, with the arguments that its name gives.

    Args:
      choice: a name of VARIANCES, its number and switches after colons: `family:0.25`, `learned_range:clamped`.

    Raises:
      ValueError: no choice has this name, or it has no such number or switch, or one of them is given twice.
    """
    name, *words = choice.split(":")
    entry = registry.named(VARIANCES, name, "variance")
    defaults: dict[str, Any] = dict.fromkeys(entry.switches, False)
    if entry.number:
        defaults[entry.number.name] = entry.number.default
    given: dict[str, Any] = {}
    for word in words:
        argument, value = _argument(choice, entry, word)
        if argument in given:
            raise ValueError(f"variance {choice!r}: give {argument} once")
        given[argument] = value
    return entry, {**defaults, **given}


def _argument(choice: str, entry: Variance, word: str) -> tuple[str, Any]:
    """What one word after the name says: the name of an argument, and its value."""
    if word in entry.switches:
        return word, True
    name, switches = choice.partition(":")[0], " and ".join(entry.switches)
    if entry.number:
        takes = f"{entry.number.name} is a number" + (f" and {switches} a switch" if switches else "")
        with suppress(ValueError):
            return entry.number.name, float(word)
    else:
        takes = f"{name} knows {switches}" if switches else f"{name} takes nothing after its name"
    raise ValueError(f"variance {choice!r}: {takes}, not {word!r}")


def needs(choice: str) -> tuple[str, ...]:
    """The fields of Calibration that a choice is fixed by.

    Raises:
      ValueError: see `find`.
    """
    entry, arguments = find(choice)
    return (*entry.moments, *(value for value in arguments.values() if isinstance(value, str)))


def heads_of(choices: Iterable[str]) -> tuple[str, ...]:
    """The heads that these choices read, each once.

    Raises:
      ValueError: see `find`.
    """
    return tuple(dict.fromkeys(head for choice in choices for head in find(choice)[0].heads))


def build(choice: str, known: Calibration) -> ReverseVariance:
    """The reverse variance that a choice names.

    Example:
      build("interpolated:0.7", Calibration(schedules.linear(1000)))

    Args:
      choice: see `find`.
      known: the schedule, and what was measured.

    Raises:
      ValueError: see `find`; or the choice needs what was not measured, or tables of another schedule.
    """
    entry, arguments = find(choice)
    rows = known.schedule.T + 1
    for name in needs(choice):
        value = getattr(known, name)
        if value is None:
            raise ValueError(f"variance {choice!r} needs {MOMENTS[name]}: measure the moments of the network first")
        if np.ndim(value) and len(value) != rows:
            raise ValueError(
                f"{MOMENTS[name]} has {len(value)} rows and the schedule {rows}: measure with this schedule"
            )
    given = {name: getattr(known, value) if isinstance(value, str) else value for name, value in arguments.items()}
    return entry.build(known, **given)
