"""One pass over images, from which the likelihood of every variance and every trajectory follows.

The posterior and the model's kernel differ in the mean by a multiple of eps - eps_hat alone, so the network is needed
only for M_t = E||eps - eps_hat||^2/D and Gamma_t = E||eps_hat||^2/D at each time. One eps is drawn per (image, t) and
shared by all choices.
"""

import zipfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float64, Int, Key, UInt8
from tqdm import tqdm

from ddpm_jax import cells, gaussian, parallel, predict, process
from ddpm_jax.cells import Keep
from ddpm_jax.parallel import Layout
from ddpm_jax.predict import Denoiser
from ddpm_jax.process import Steps
from ddpm_jax.sampler import Rules
from ddpm_jax.schedule import Schedule
from ddpm_jax.train import to_unit

CODE = cells.code_version(__name__)  # of this process, even if the files change while it runs
EVALUATIONS_PER_CALL = 15_000  # about: between two moves of the progress bar, and what an interruption loses

PerTime = Float64[np.ndarray, "n times"]


class Moments(NamedTuple):
    """What the pass leaves, image by image; column t is time t, NaN where it was not measured.

    Attributes:
      error: ||eps - eps_hat||^2 / D; its mean over images is M_t.
      excess: (||eps||^2 - ||eps_hat||^2) / D; its mean is 1 - Gamma_t, with far less noise than Gamma_t alone.
      decoder: -log P(x_0 | mean x_0_hat(x_t, t), variance tb(1, 2)), nats per dimension.
      prior: (n,) KL(q(x_T | x_0) || N(0, 1)), nats per dimension.
      variance: Var x_0, averaged over dimensions.
    """

    error: PerTime
    excess: PerTime
    decoder: PerTime
    prior: Float64[np.ndarray, " n"]
    variance: float


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

    For data N(m, c) and an exact denoiser M_t = alpha_bar_t c / V_t, and c_eff = c. NaN where M_t >= 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        c = schedule.one_minus_alpha_bar * error / (schedule.alpha_bar * (1 - error))
    return np.where(error < 1, c, np.nan)


def save(path: Path, moments: Moments, denoiser: str, rules: Rules) -> None:
    """Moments in one .npz file, with what they are of.

    Args:
      path: of the file.
      moments: of calibration images.
      denoiser: its fingerprint.
      rules: under which they were measured.
    """
    of = dict(denoiser=np.asarray(denoiser), clip_x_0=np.asarray(rules.clip_x_0))
    cells.write_whole(path, lambda file: np.savez(file, allow_pickle=False, **of, **moments._asdict()))


def load(path: Path, denoiser: str, rules: Rules) -> Moments:
    """The moments that `save` stored.

    Raises:
      ValueError: the file is no such file, or of another denoiser or x_0 clip.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = dict(stored)
        parts = {name: found[name] for name in Moments._fields}
        of = {"denoiser": str(found["denoiser"]), "clip_x_0": bool(found["clip_x_0"])}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no moments: give the moments.npz that an ablation left") from error
    for name, wanted in (("denoiser", denoiser), ("clip_x_0", rules.clip_x_0)):
        if of[name] != wanted:
            raise ValueError(f"{path} is of another {name}: it has {of[name]}, this is {wanted}; leave --moments out")
    return Moments(**{**parts, "variance": float(parts["variance"])})


def measure(
    key: Key[Array, ""],
    schedule: Schedule,
    denoiser: Denoiser,
    images_uint8: UInt8[np.ndarray, "n h w c"],
    rules: Rules,
    times: np.ndarray | None = None,
    layout: Layout = Layout(),
    keep: Keep = cells.compute_always,
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

    Raises:
      ValueError: no images, or grey levels outside 0..levels-1.
    """
    n = len(images_uint8)
    if not n or images_uint8.max() >= rules.levels:
        raise ValueError(
            f"{n} images with grey levels up to {np.max(images_uint8, initial=0)}: need 1 and {rules.levels - 1}"
        )
    times = np.arange(1, schedule.T + 1) if times is None else np.asarray(times)
    columns = np.full((n, 3, schedule.T + 1), np.nan)
    block = _Block(key, schedule, predict.as_argument(denoiser), images_uint8, rules, layout)
    inputs = dict(key=key, schedule=schedule, images=images_uint8, levels=rules.levels, clip_x_0=rules.clip_x_0)
    inputs["code"] = CODE
    for some in tqdm(_equal_parts(times, n), desc=f"moments of {n} images", unit="call", mininterval=1):
        values = keep("moments", {**inputs, "times": some}, partial(_visit, block, some))
        columns[:, :, some] = values["columns"]
    data = np.asarray(images_uint8, np.float64) * (2 / (rules.levels - 1)) - 1
    error, excess, decoder = columns.swapaxes(0, 1)
    return Moments(error, excess, decoder, _prior(schedule, data), float(data.var(axis=0).mean()))


def _equal_parts(times: np.ndarray, images: int) -> list[np.ndarray]:
    """The times in parts of one length, the last one filled up by its last time, so that one compilation serves all."""
    most = max(1, EVALUATIONS_PER_CALL // images)
    size = -(-len(times) // -(-len(times) // most))
    return [times[np.minimum(np.arange(i, i + size), len(times) - 1)] for i in range(0, len(times), size)]


class _Block(NamedTuple):
    """What all calls of a pass share."""

    key: Key[Array, ""]
    schedule: Schedule
    denoiser: Denoiser
    images_uint8: np.ndarray
    rules: Rules
    layout: Layout


def _visit(block: _Block, times: np.ndarray) -> cells.Arrays:
    """error, excess and decoder term of every image at some times, columns (n, 3, times)."""
    at = process.pairs(block.schedule, np.zeros_like(times), times)
    columns = parallel.over_examples(
        _pass,
        (block.key, at, process.decoder_log_var(block.schedule), block.denoiser),
        (np.arange(len(block.images_uint8)), block.images_uint8),
        block.layout,
        levels=block.rules.levels,
        clip_x_0=block.rules.clip_x_0,
    )
    return dict(columns=np.asarray(columns))


def _prior(schedule: Schedule, x_0: np.ndarray) -> np.ndarray:
    """L_T: 1/2 [alpha_bar_T ||x_0||^2/D - alpha_bar_T - log(1 - alpha_bar_T)]. Ho et al. 2020, equation 5."""
    power = (x_0**2).reshape(len(x_0), -1).mean(axis=1)
    return 0.5 * (schedule.alpha_bar[-1] * (power - 1) - np.log(schedule.one_minus_alpha_bar[-1]))


@jax.default_matmul_precision("highest")
def _pass(
    shared: tuple[Key[Array, ""], Steps, Array, Denoiser],
    examples: tuple[Int[Array, " b"], UInt8[Array, "b *x"]],
    *,
    levels: int,
    clip_x_0: bool,
) -> Float[Array, "b 3 times"]:
    (key, at, decoder_log_var, denoiser), (index, images_uint8) = shared, examples
    x_0 = to_unit(images_uint8, levels)
    keys = jax.vmap(partial(jax.random.fold_in, key))(index)
    mean_square = lambda x: jnp.mean(x**2, axis=tuple(range(1, x.ndim)))  # noqa: E731

    def visit(_: None, step: Steps) -> tuple[None, Array]:
        eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step.t), x_0.shape[1:]))(keys)
        x_t = step.signal * x_0 + step.noise * eps
        prediction = denoiser(x_t, jnp.full(len(x_0), step.t))
        if clip_x_0:
            prediction = predict.clip_x_0(x_t, prediction, step.signal, step.noise)
        decoder = gaussian.Gaussian(prediction.x_0, decoder_log_var)
        return None, jnp.stack(
            [
                mean_square(eps - prediction.eps),
                mean_square(eps) - mean_square(prediction.eps),
                -gaussian.discretised_log_prob(decoder, x_0, levels),
            ]
        )

    _, values = jax.lax.scan(visit, None, at)
    return values.transpose(2, 1, 0)
