"""One pass over images, from which the likelihood of every variance and every trajectory follows.

The posterior and the model's kernel differ in the mean by a multiple of eps - eps_hat alone, so the network is needed
only for M_t = E||eps - eps_hat||^2/D and Gamma_t = E||eps_hat||^2/D at each time. One eps is drawn per (image, t) and
shared by all choices.
"""

import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float32, Float64, Key, UInt8
from tqdm import tqdm

from ddpm_jax import cells, variance
from ddpm_jax.basis import Axes
from ddpm_jax.cells import Keep
from ddpm_jax.devices import Layout
from ddpm_jax.eval import costs, decoders
from ddpm_jax.eval.costs import Table
from ddpm_jax.eval.visit import Block, visit
from ddpm_jax.predict import Denoiser
from ddpm_jax.protocols import Rules
from ddpm_jax.reverse import ReverseVariance
from ddpm_jax.schedule import Schedule
from ddpm_jax.variance import Fixed

CODE = cells.code_version(__name__)  # of this process, even if the files change while it runs
EVALUATIONS_PER_CALL = 15_000  # about: between two moves of the progress bar, and what an interruption loses

PerTime = Float64[np.ndarray, "n times"]
Spectrum = Float64[np.ndarray, "times h w c"] | None


class Moments(NamedTuple):
    """What the pass leaves, image by image; column t is time t, NaN where it was not measured.

    Attributes:
      error: ||eps - eps_hat||^2 / D; its mean over images is M_t.
      excess: (||eps||^2 - ||eps_hat||^2) / D; its mean is 1 - Gamma_t, with far less noise than Gamma_t alone.
      decoder: -log P(x_0 | mean x_0_hat(x_t, t), variance tb(1, 2)), nats per dimension.
      prior: (n,) KL(q(x_T | x_0) || N(0, 1)), nats per dimension.
      variance: Var x_0, averaged over dimensions.
      decoders: `decoder` at other variances, those of `decoders.nodes`.
      spectrum: M_{t,j} = E (u_j . (eps - eps_hat))^2, u_j the DCT along the colour axes; row t for time t.
      spectrum_error: its standard error over images.
      radial_error: that of its averages over radial bins.
      colours: the axes, one a row.
      tables: of the variances that are not one number a step, see `costs`.
      evaluations: of the network, counted where they were made; those found again count as they were.
    """

    error: PerTime
    excess: PerTime
    decoder: PerTime
    prior: Float64[np.ndarray, " n"]
    variance: float
    decoders: Float32[np.ndarray, "n decoders times"] | None = None
    spectrum: Spectrum = None
    spectrum_error: Spectrum = None
    radial_error: Spectrum = None
    colours: Axes = ()
    tables: Mapping[str, Table] = MappingProxyType({})
    evaluations: int = 0


STORED = [name for name in Moments._fields if name not in ("tables", "decoders")]


def mean_error(moments: Moments) -> Float64[np.ndarray, " times"]:
    """M_t = E||eps - eps_hat||^2 / D; row 0 is NaN."""
    return moments.error.mean(axis=0)


def mean_excess(moments: Moments) -> Float64[np.ndarray, " times"]:
    """1 - Gamma_t, Gamma_t = E||eps_hat||^2 / D: Bao et al. 2022, theorem 1; row 0 is NaN."""
    return moments.excess.mean(axis=0)


def standard_error(per_image: Float64[np.ndarray, "n ..."]) -> Any:
    """Standard error of the mean over images, axis 0: s.e. = deviation / sqrt(n); NaN for a single image."""
    n = per_image.shape[0]
    return per_image.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(per_image.shape[1:], np.nan)


def effective_variance(schedule: Schedule, error: Float64[np.ndarray, " times"]) -> np.ndarray:
    """c_eff(t) = (1 - alpha_bar_t) M_t / (alpha_bar_t (1 - M_t)): which Gaussian the data look like at time t.

    For data N(m, c) and an exact denoiser M_t = alpha_bar_t c / V_t, and c_eff = c. NaN where M_t >= 1; where no data
    are left M_t is the error of x_0, which is c.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        c = schedule.one_minus_alpha_bar * error / (schedule.alpha_bar * (1 - error))
    return np.where(schedule.alpha_bar == 0, error, np.where(error < 1, c, np.nan))


def save(path: Path, moments: Moments, denoiser: str, rules: Rules) -> None:
    """Moments in one .npz file, with what they are of; tables, which fix no variance, stay out.

    Args:
      path: of the file.
      moments: of calibration images.
      denoiser: its fingerprint.
      rules: under which they were measured.
    """
    of = dict(denoiser=np.asarray(denoiser), clip_x_0=np.asarray(rules.clip_x_0))
    parts = {name: np.asarray(getattr(moments, name)) for name in STORED}
    cells.write_whole(path, lambda file: np.savez(file, allow_pickle=False, **of, **parts))


def load(path: Path, denoiser: str, rules: Rules) -> Moments:
    """The moments that `save` stored.

    Raises:
      ValueError: the file is no such file, or of another denoiser or x_0 clip.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = dict(stored)
        parts = {name: found[name] for name in STORED}
        of = {"denoiser": str(found["denoiser"]), "clip_x_0": bool(found["clip_x_0"])}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no moments: give the moments.npz that an ablation left") from error
    for name, wanted in (("denoiser", denoiser), ("clip_x_0", rules.clip_x_0)):
        if of[name] != wanted:
            raise ValueError(f"{path} is of another {name}: it has {of[name]}, this is {wanted}; leave --moments out")
    plain = {"variance": float(parts["variance"]), "evaluations": int(parts["evaluations"])}
    return Moments(**{**parts, **plain, "colours": tuple(map(tuple, parts["colours"].tolist()))})


def measure(
    key: Key[Array, ""],
    schedule: Schedule,
    denoiser: Denoiser,
    images_uint8: UInt8[np.ndarray, "n h w c"],
    rules: Rules,
    times: np.ndarray | None = None,
    layout: Layout = Layout(),
    keep: Keep = cells.compute_always,
    colours: Axes = (),
    tabulated: Mapping[str, Fixed] = MappingProxyType({}),
) -> Moments:
    """The pass: every image at every time, images x times network evaluations.

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps; the terms are those of Ho et al. 2020, equation 5.

    Args:
      key: image i at time t takes its noise from fold_in(fold_in(key, i), t).
      schedule: the forward process.
      denoiser: the network, or a closed form.
      images_uint8: grey levels 0..levels-1.
      rules: levels of the data, and whether x_0_hat is clipped to [-1, 1] and eps_hat made to agree with it.
      times: which times to visit; default all of 1..T.
      layout: how images are spread over devices.
      keep: remembers what was measured, some times together; its inputs name everything but the denoiser.
      colours: axes of the spectrum, one a row; default the colours as they are.
      tabulated: the variances whose costs are tabulated, each under the name that its table gets.

    Raises:
      ValueError: no images, or grey levels outside 0..levels-1.
    """
    n = len(images_uint8)
    if not n or images_uint8.max() >= rules.levels:
        raise ValueError(
            f"{n} images with grey levels up to {np.max(images_uint8, initial=0)}: need 1 and {rules.levels - 1}"
        )
    times = np.arange(1, schedule.T + 1) if times is None else np.asarray(times)
    colours = colours or tuple(map(tuple, np.eye(images_uint8.shape[-1]).tolist()))
    choices = {label: variance.build(fixed.name, fixed.by) for label, fixed in tabulated.items()}
    block = Block(key, schedule, denoiser, images_uint8, rules, layout, colours, choices)
    inputs = dict(key=key, schedule=schedule, images=images_uint8, levels=rules.levels, clip_x_0=rules.clip_x_0)
    inputs |= dict(
        colours=colours, code=CODE, tabulated={label: _identity(fixed) for label, fixed in tabulated.items()}
    )
    parts = []
    for some in tqdm(_equal_parts(times, n), desc=f"moments of {n} images", unit="call", mininterval=1):
        parts.append((some, keep("moments", {**inputs, "times": some}, partial(visit, block, some))))
    data = np.asarray(images_uint8, np.float64) * (2 / (rules.levels - 1)) - 1
    assembled = _assemble(parts, schedule, choices)
    return Moments(prior=_prior(schedule, data), variance=float(data.var(axis=0).mean()), colours=colours, **assembled)


def _identity(fixed: Fixed) -> Any:
    """What a tabulated variance depends on: what it is fixed by, and the code that it is written in."""
    code = cells.code_version(variance.VARIANCES[fixed.name].__module__)
    return dict(name=fixed.name, known=fixed.by._asdict(), code=code)


def _assemble(
    parts: list[tuple[np.ndarray, cells.Arrays]], schedule: Schedule, choices: dict[str, ReverseVariance]
) -> dict[str, Any]:
    """Rows 0..T of everything that was measured some times together."""
    first = parts[0][1]
    n = len(first["columns"])

    def gathered(name: str, axis: int = 0, dtype: type = np.float64) -> np.ndarray:
        shape = list(first[name].shape)
        shape[axis] = schedule.T + 1
        rows: np.ndarray = np.full(shape, np.nan, dtype)
        for times, arrays in parts:
            rows[(slice(None),) * axis + (times,)] = arrays[name]
        return rows

    error, excess, decoder = gathered("columns", 2).swapaxes(0, 1)
    tables = {
        name: Table(
            costs.nodes(schedule, choice.times),
            gathered(f"{name}/cost", 1, np.float32),
            gathered(f"{name}/log_ratio"),
            gathered(f"{name}/clamped"),
            gathered(f"{name}/decoders", 2, np.float32) if decoders.has_own(choice) else None,
        )
        for name, choice in choices.items()
    }
    return dict(
        error=error,
        excess=excess,
        decoder=decoder,
        decoders=gathered("decoders", 2, np.float32),
        spectrum=gathered("spectrum"),
        spectrum_error=np.sqrt(gathered("spectrum_variance") / n),
        radial_error=np.sqrt(gathered("radial_variance") / n),
        tables=tables,
        evaluations=sum(int(arrays["evaluations"]) for _, arrays in parts),
    )


def _equal_parts(times: np.ndarray, images: int) -> list[np.ndarray]:
    """The times in parts of one length, so that one compilation serves all: a divisor of their number, or, where that
    would be far shorter than it might, with the last part filled up by its last time.
    """
    most = max(1, min(EVALUATIONS_PER_CALL // images, len(times)))
    divisor = max(size for size in range(1, most + 1) if len(times) % size == 0)
    size = divisor if divisor > most // 4 else -(-len(times) // -(-len(times) // most))
    return [times[np.minimum(np.arange(i, i + size), len(times) - 1)] for i in range(0, len(times), size)]


def _prior(schedule: Schedule, x_0: np.ndarray) -> np.ndarray:
    """L_T: 1/2 [alpha_bar_T ||x_0||^2/D - alpha_bar_T - log(1 - alpha_bar_T)]. Ho et al. 2020, equation 5."""
    power = (x_0**2).reshape(len(x_0), -1).mean(axis=1)
    return 0.5 * (schedule.alpha_bar[-1] * (power - 1) - np.log(schedule.one_minus_alpha_bar[-1]))
