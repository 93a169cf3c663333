"""One pass over images, from which the likelihood of every variance and every trajectory follows.

The posterior and the model's kernel differ in the mean by a multiple of eps - eps_hat alone, so the network is needed
only for M_t = E||eps - eps_hat||^2/D and Gamma_t = E||eps_hat||^2/D at each time. One eps is drawn per (image, t) and
shared by all choices. `measure` is the pass; `visit` is one call of it, a few times together.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Float64, Int, Key, UInt8
from tqdm import tqdm

from ddpm_jax import paths
from ddpm_jax.data.transforms import to_unit
from ddpm_jax.diffusion import bases, process, random_keys, timesteps, variances
from ddpm_jax.diffusion import denoiser as denoisers
from ddpm_jax.diffusion.bases import Axes
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Denoiser, Images, Prediction
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.random_keys import OneKey
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.variances import Calibration, ReverseVariance
from ddpm_jax.evaluation import step_kl
from ddpm_jax.evaluation.step_kl import Table, Tabulated
from ddpm_jax.paths import AnyPath
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.runtime.cache import Keep
from ddpm_jax.runtime.sharding import Layout

VERSION = 1  # raised by hand when the numbers of the pass change: the noise, step_kl's tables and nodes, bases, clips
EVALUATIONS_PER_CALL = 15_000  # about: between two moves of the progress bar, and what an interruption loses

PerTime = Float64[np.ndarray, "n times"]
Spectrum = Float64[np.ndarray, "times h w c"] | None


class Moments(NamedTuple):
    """The results of the pass, per image; column t is time t, NaN where it was not measured.

    Attributes:
      error: ||eps - eps_hat||^2 / D; its mean over images is M_t.
      excess: (||eps||^2 - ||eps_hat||^2) / D; its mean is 1 - Gamma_t, with far less noise than Gamma_t alone.
      decoder: -log P(x_0 | mean x_0_hat(x_t, t), variance tb(1, 2)), nats per dimension.
      prior: (n,) KL(q(x_T | x_0) || N(0, 1)), nats per dimension.
      variance: Var x_0, averaged over dimensions.
      decoders: `decoder` at other variances, those of `step_kl.decoder_nodes`.
      spectrum: M_{t,j} = E (u_j . (eps - eps_hat))^2, u_j the DCT along the colour axes; row t for time t.
      spectrum_error: its standard error over images.
      radial_error: that of its averages over radial bins.
      colours: the axes, one a row.
      tables: of the variances that are not one number a step, see `step_kl`.
      evaluations: of the network, as counted; those of cached results are included.
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


def save(path: AnyPath, moments: Moments, denoiser: str, rules: Rules) -> None:
    """Moments in one .npz file, with what they are of; tables, which fix no variance, stay out.

    Args:
      path: of the file.
      moments: of calibration images.
      denoiser: its fingerprint.
      rules: under which they were measured.
    """
    of = dict(version=np.asarray(VERSION), denoiser=np.asarray(denoiser), clip_x_0=np.asarray(rules.clip_x_0))
    parts = {name: np.asarray(getattr(moments, name)) for name in STORED}
    cache.write_whole(path, lambda file: np.savez(file, allow_pickle=False, **of, **parts))


def load(path: AnyPath, denoiser: str, rules: Rules) -> Moments:
    """The moments that `save` stored.

    Raises:
      ValueError: the file is no such file, or of another version of the pass, denoiser or x_0 clip.
    """
    path = paths.local(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = dict(stored)
        parts: dict[str, Any] = {name: np.asarray(found[name], np.float64) for name in STORED}
        of = {
            "version": int(found.get("version", 0)),
            "denoiser": str(found["denoiser"]),
            "clip_x_0": bool(found["clip_x_0"]),
        }
    except Exception as error:  # whatever NumPy and zipfile raise of other files
        raise ValueError(f"{path} holds no moments: give the moments.npz that an ablation left") from error
    for name, wanted in (("version", VERSION), ("denoiser", denoiser), ("clip_x_0", rules.clip_x_0)):
        if of[name] != wanted:
            raise ValueError(f"{path} is of another {name}: it has {of[name]}, this is {wanted}; leave --moments out")
    plain = {"variance": float(parts["variance"]), "evaluations": int(parts["evaluations"])}
    return Moments(**{**parts, **plain, "colours": tuple(map(tuple, parts["colours"].tolist()))})


def measure(
    key: OneKey,
    schedule: Schedule,
    denoiser: Denoiser,
    images_uint8: UInt8[np.ndarray, "n h w c"],
    rules: Rules,
    times: np.ndarray | None = None,
    layout: Layout = Layout(),
    keep: Keep = cache.compute_always,
    colours: Axes = (),
    tabulated: Mapping[str, tuple[str, Calibration]] = MappingProxyType({}),
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
      tabulated: the variances whose costs are tabulated, by the name that the table gets: a choice (`variances.find`)
        and what fixes it.

    Raises:
      ValueError: no images, or grey levels outside 0..levels-1.
    """
    key, n = random_keys.typed(key), len(images_uint8)
    if not n or images_uint8.max() >= rules.levels:
        raise ValueError(
            f"{n} images with grey levels up to {np.max(images_uint8, initial=0)}: need 1 and {rules.levels - 1}"
        )
    times = np.arange(1, schedule.T + 1) if times is None else np.asarray(times)
    colours = colours or tuple(map(tuple, np.eye(images_uint8.shape[-1]).tolist()))
    choices = {label: variances.build(*fixed) for label, fixed in tabulated.items()}
    block = Block(key, schedule, denoiser, images_uint8, rules, layout, colours, choices)
    inputs = dict(key=key, schedule=schedule, images=images_uint8, levels=rules.levels, clip_x_0=rules.clip_x_0)
    inputs |= dict(
        colours=colours,
        version=VERSION,
        tabulated={label: variance_identity(*fixed, choices[label]) for label, fixed in tabulated.items()},
    )
    parts = []
    for some in tqdm(_equal_parts(times, n), desc=f"moments of {n} images", unit="call", mininterval=1):
        parts.append((some, keep("moments", {**inputs, "times": some}, partial(visit, block, some))))
    data = np.asarray(images_uint8, np.float64) * (2 / (rules.levels - 1)) - 1
    assembled = _assemble(parts, schedule, choices)
    return Moments(prior=_prior(schedule, data), variance=float(data.var(axis=0).mean()), colours=colours, **assembled)


def variance_identity(name: str, known: Calibration, choice: ReverseVariance) -> dict[str, Any]:
    """The cache identity of a variance: its name, what it is fixed by, and the version of its formula.

    One from a user's file has no version: its file's hash and its values on fixed probes take its place.

    Args:
      name: of the choice.
      known: what it is fixed by.
      choice: built from these.
    """
    build = variances.find(name)[0].build
    of = dict(name=name, known=known._asdict())
    if build.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return {**of, "version": variances.VERSION}
    return {**of, "file": cache.file_hash(build), "probes": _probed(choice, known)}


def _probed(choice: ReverseVariance, known: Calibration) -> np.ndarray:
    """log sigma^2, nats, of a few steps: of a choice that looks at x_t for noise in the place of images and heads."""
    T, fitted = known.schedule.T, choice.times
    steps = process.steps(known.schedule, timesteps.even(T, min(T, 8)) if fitted is None else np.asarray(fitted))
    if choice.headless:
        return np.asarray(choice.log_var(steps, None, None), np.float64)
    shape = (2, 8, 8, len(known.colours) or 1) if known.spectrum is None else (2, *known.spectrum.shape[1:])
    x_t, eps, x_0, *heads = jax.random.normal(jax.random.key(0), (3 + len(choice.heads), *shape), jnp.float32)
    said = Prediction(eps, x_0, {name: abs(head) for name, head in zip(choice.heads, heads, strict=True)})
    rows = timesteps.even(steps.K, min(steps.K, 8)) - 1
    rounded = process.cast(steps, jnp.float32)
    each = [Steps(*(column[k] for column in rounded)) for k in rows]
    return np.stack([np.broadcast_to(choice.log_var(step, x_t, said), shape) for step in each])


def _assemble(
    parts: list[tuple[np.ndarray, cache.Arrays]], schedule: Schedule, choices: dict[str, ReverseVariance]
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
            step_kl.nodes(schedule, choice.times),
            gathered(f"{name}/cost", 1, np.float32),
            gathered(f"{name}/log_ratio"),
            gathered(f"{name}/clamped"),
            gathered(f"{name}/decoders", 2, np.float32) if step_kl.has_own_decoder(choice) else None,
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


SHARED = "decoders"  # L_0 at the variances that do not depend on the choice


class Block(NamedTuple):
    """What all calls of a pass share.

    Attributes:
      key: of the noise.
      schedule: the forward process.
      denoiser: what is looked at.
      images_uint8: (n, H, W, C) grey levels.
      rules: levels of the data, and whether x_0_hat is clipped.
      layout: how images are spread over devices.
      colours: axes of the spectrum.
      choices: the variances to tabulate.
    """

    key: Key[Array, ""]
    schedule: Schedule
    denoiser: Denoiser
    images_uint8: np.ndarray
    rules: Rules
    layout: Layout
    colours: Axes
    choices: dict[str, ReverseVariance]


def visit(block: Block, times: np.ndarray) -> cache.Arrays:
    """Every image at some times.

    Returns:
      columns (n, 3, times): error, excess, decoder term. decoders (n, decoders, times): that term at other variances of
      the decoder. spectrum, spectrum_variance (times, H, W, C) and
      radial_variance: M_{t,j} and the variances over images of its terms, alone and averaged over radial bins. Of every
      choice NAME: NAME/cost (n, times, nodes), NAME/log_ratio (times, nodes), NAME/clamped (times,); of one with a
      variance of its own at s = 0 NAME/decoders (n, decoders, times). evaluations: of the network, counted.
    """
    n = len(block.images_uint8)
    at = process.pairs(block.schedule, np.zeros_like(times), times)
    prepared = {name: step_kl.prepare(block.schedule, choice, times) for name, choice in block.choices.items()}
    fixed = {
        name: Tabulated(
            None if choice.headless else choice.log_var,
            choice.excess,
            choice.clamped,
            choice.basis,
            step_kl.has_own_decoder(choice),
        )
        for name, choice in block.choices.items()
    }
    denoiser = denoisers.as_argument(block.denoiser)
    columns, decoded, squares, tabulated = sharding.over_examples(
        look,
        (block.key, (at, prepared), step_kl.decoder_nodes(block.schedule), denoiser),
        (np.arange(n), block.images_uint8),
        block.layout,
        levels=block.rules.levels,
        clip_x_0=block.rules.clip_x_0,
        spectral=bases.dct(block.colours),
        fixed=tuple(fixed.items()),
    )
    found = {"columns": np.asarray(columns), **{name: np.asarray(terms) for name, terms in decoded.items()}}
    found["evaluations"] = np.asarray(n * len(times))
    found |= _spectrum_of(np.asarray(squares))
    for name, (cost, log_ratio, clamped) in tabulated.items():
        found[f"{name}/cost"] = np.asarray(cost)
        found[f"{name}/log_ratio"] = np.asarray(log_ratio, np.float64).mean(axis=0)
        found[f"{name}/clamped"] = np.asarray(clamped, np.float64).mean(axis=0)
    return found


def _spectrum_of(squares: np.ndarray) -> cache.Arrays:
    """Mean over images of (u_j . e)^2 and the variances of its terms, from (n, times, H, W, C)."""
    squares = squares.astype(np.float64)
    ddof = min(1, len(squares) - 1)
    bins = bases.radial_bins(squares.shape[2:])
    return {
        "spectrum": squares.mean(axis=0),
        "spectrum_variance": squares.var(axis=0, ddof=ddof),
        "radial_variance": bases.averaged(squares, bins).var(axis=0, ddof=ddof),
    }


@jax.default_matmul_precision("highest")
def look(
    shared: tuple[Key[Array, ""], tuple[Steps, dict[str, tuple[Steps, Any]]], Array, Denoiser],
    examples: tuple[Int[Array, " b"], UInt8[Array, "b *x"]],
    *,
    levels: int,
    clip_x_0: bool,
    spectral: bases.Basis,
    fixed: tuple[tuple[str, Tabulated], ...],
) -> tuple[Array, dict[str, Array], Array, dict[str, tuple[Array, Array, Array]]]:
    """One device's images, one row an example; see `visit`."""
    (key, times, decoder_log_vars, denoiser), (index, images_uint8) = shared, examples
    x_0 = to_unit(images_uint8, levels)
    at, prepared = times
    rounded = {name: (process.cast(steps, x_0.dtype), table) for name, (steps, table) in prepared.items()}
    nodes = jnp.asarray(decoder_log_vars, x_0.dtype)
    keys = jax.vmap(partial(jax.random.fold_in, key))(index)
    mean = lambda x: jnp.mean(x, axis=tuple(range(1, x.ndim)))  # noqa: E731

    def at_time(_: None, at: tuple[Steps, dict[str, tuple[Steps, Any]]]) -> tuple[None, Any]:
        step, prepared = at
        eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step.t), x_0.shape[1:], x_0.dtype))(keys)
        x_t = process.add_noise(x_0, eps, step.signal, step.noise)
        prediction = denoiser(x_t, jnp.full(len(x_0), step.t))
        if clip_x_0:
            prediction = denoisers.clip_x_0(x_t, prediction, step.signal, step.noise)
        # Where no data are left in x_t, uncertainty is counted in x_0 (process.Steps).
        truth, said = (jnp.where(step.signal > 0, *pair) for pair in ((eps, x_0), (prediction.eps, prediction.x_0)))
        error = truth - said
        decoded = _decoders(fixed, step, x_0, x_t, prediction, partial(step_kl.decoder_at_nodes, nodes, levels))
        columns = jnp.stack([mean(error**2), mean(truth**2) - mean(said**2), decoded[SHARED][0]])
        tabulated = {name: step_kl.tabulate(choice, *prepared[name], x_t, prediction, error) for name, choice in fixed}
        return None, (columns, decoded, spectral.forward(error) ** 2, tabulated)

    _, (columns, decoded, squares, tabulated) = jax.lax.scan(at_time, None, (process.cast(at, x_0.dtype), rounded))
    by_example = {
        name: (jnp.moveaxis(cost, 2, 0), jnp.moveaxis(log_ratio, 2, 0), clamped.T)
        for name, (cost, log_ratio, clamped) in tabulated.items()
    }
    decoded = {name: terms.transpose(2, 1, 0) for name, terms in decoded.items()}
    return columns.transpose(2, 1, 0), decoded, jnp.moveaxis(squares, 1, 0), by_example


def _decoders(
    fixed: tuple[tuple[str, Tabulated], ...],
    step: Steps,
    x_0: Images,
    x_t: Images,
    prediction: Prediction,
    at_nodes: Callable[..., Array],
) -> dict[str, Array]:
    """L_0 at the nodes: the variance itself, or the stand-in for log tb(0, t) of a choice that has its own."""
    found = {SHARED: at_nodes(x_0, prediction.x_0, lambda node: node)}
    for name, choice in fixed:
        if choice.decodes:
            own = lambda node, of=choice.log_var: of(step._replace(log_tb_floored=node), x_t, prediction)  # noqa: E731
            found[f"{name}/{SHARED}"] = at_nodes(x_0, prediction.x_0, own)
    return found
