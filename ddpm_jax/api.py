"""What a notebook needs in one call each: measure, sample, compare, train; `load` is `training.model.load`."""

from collections.abc import Sequence

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from ddpm_jax.data.datasets import DataSet, Split
from ddpm_jax.diffusion import bases, conventions, process, sampler, timesteps, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.random_keys import OneKey
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation import ablation, likelihood
from ddpm_jax.evaluation import moments as passes
from ddpm_jax.evaluation.design import Design
from ddpm_jax.evaluation.likelihood import Row
from ddpm_jax.evaluation.moments import Moments
from ddpm_jax.paths import AnyPath
from ddpm_jax.training import loop
from ddpm_jax.training.config import Config
from ddpm_jax.training.model import Model, check_clip, check_fit


def measure(
    key: OneKey,
    model: Model,
    images: Split | UInt8[np.ndarray, "n h w c"],
    rules: Rules | None = None,
    times: Sequence[int] | np.ndarray | None = None,
) -> Moments:
    """The moments of a network, from one pass over images at every time: what the measured variances are fixed by.

    Bao et al. 2022, theorem 1, and Ho et al. 2020, equation 5.

    Example:
      >>> import jax
      >>> import ddpm_jax as ddpm
      >>> data, model = ddpm.data.load("digits"), ddpm.load("builtin:digits")
      >>> moments = ddpm.measure(jax.random.key(0), model, data.calibration.images[:4], times=[1, 500, 1000])
      >>> moments.error.shape  # a row an image, a column a time
      (4, 1001)

    Args:
      key: of the noise.
      model: the network.
      images: a split of a data set, or grey levels 0..levels-1; images that the network has not seen.
      rules: conventions; default DDPM's.
      times: which times to visit; default all of 1..T.

    Returns:
      Moments, likelihood terms in nats per dimension.

    Raises:
      ValueError: no images, or grey levels that the model does not have.
    """
    pixels = images.images if isinstance(images, Split) else np.asarray(images)
    rules = conventions.protocol("ddpm", model.levels) if rules is None else rules
    times = None if times is None else np.asarray(times)
    axes = bases.colour_axes(pixels)
    return passes.measure(key, model.schedule, model.denoiser, pixels, rules, times, colours=axes)


def sample(
    key: OneKey,
    model: Model,
    variance: str | None = None,
    K: int = 50,
    n: int = 16,
    moments: Moments | None = None,
    trajectory: str = "even",
    rules: Rules | None = None,
) -> Float[Array, "n h w c"]:
    """Images of a network. Ho et al. 2020, algorithm 2, for any variance and number of steps.

    Example:
      >>> import jax
      >>> import ddpm_jax as ddpm
      >>> ddpm.sample(jax.random.key(0), ddpm.load("builtin:digits"), variance="large", K=5, n=2).shape
      (2, 8, 8, 1)

    Args:
      key: of the noise; image i does not depend on n.
      model: the network.
      variance: a choice, see `variances.find`; default what the project says that the network was imported from, else
        large.
      K: number of steps.
      n: number of images.
      moments: of `measure`, for a variance that is measured.
      trajectory: which times are visited, a name of TRAJECTORIES.
      rules: conventions; default DDPM's, with x_0_hat clipped as the project says that the network was imported from.

    Returns:
      x_0, data on [-1, 1], not clipped.

    Raises:
      ValueError: an unknown name, K outside 1..T, a variance that needs moments or heads that are not there.
    """
    variance = variance or model.sampling_variance or "large"
    if rules is None:
        rules = conventions.protocol("ddpm", model.levels, clip_x_0=model.sampling_clip_x_0)
    known = Calibration(model.schedule, clamp_cov=rules.clamp_cov, learned_times=model.learned_times)
    known = known if moments is None else likelihood.calibrate(known, moments)
    choice = variances.build(variance, known)
    if choice.heads:
        check_clip(model, rules.clip_x_0)
    steps = process.steps(model.schedule, timesteps.named(trajectory, model.schedule.T, K))
    return sampler.sample(key, steps, model.denoiser, choice, (n, *model.shape), rules)


def compare(
    model: Model,
    data: DataSet,
    variances: Sequence[str] = (),
    K: Sequence[int] = (10, 50),
    trajectories: Sequence[str] = ("even",),
    key: OneKey | None = None,
    rules: Rules | None = None,
) -> list[Row]:
    """The likelihood of a network under several variances: fixed by calibration images, judged on test images.

    Example:
      rows = compare(load("builtin:digits"), data.load("digits"), variances=("small", "large", "analytic"), K=(10, 50))

    Args:
      model: the network.
      data: its images.
      variances: choices, see `variances.find`; default all that the model has heads for.
      K: chain lengths.
      trajectories: even, quadratic, optimal or optimal_free.
      key: of the noise; default key 0.
      rules: conventions; default Bao et al. 2022's.

    Returns:
      Rows by (variance, trajectory, K) with likelihoods in bits/dim and standard errors over images.

    Raises:
      ValueError: an unknown name, K outside 1..T, a head that is not there, or images that do not fit the model.
    """
    check_fit(model, data)
    rules = conventions.protocol("analytic-dpm", model.levels) if rules is None else rules
    design = Design(rules, tuple(variances), tuple(trajectories), tuple(K), tuple(K))
    return ablation.compare(model, data, design, jax.random.key(0) if key is None else key)


def train(config: Config, workdir: AnyPath) -> Model:
    """Train a network, or go on where its training stopped. Ho et al. 2020, algorithm 1.

    Example:
      model = train(Config(data="digits", steps=200), "runs/mine")

    Args:
      config: of the run.
      workdir: folder of checkpoints and logs; `~` is the user's folder.

    Raises:
      ValueError: the config cannot work, or workdir holds another run; see `loop.fit`.
    """
    return loop.fit(config, workdir).model
