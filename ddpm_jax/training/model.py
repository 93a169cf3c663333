"""What is judged: a denoiser with its schedule and its images, from a training run or from the user's own module."""

import importlib
import importlib.util
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import DataSet
from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.denoiser import Denoiser, check_prediction, make_denoiser
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.models import unet
from ddpm_jax.runtime import cache, registry
from ddpm_jax.training import setup
from ddpm_jax.training.config import Config, to_dict
from ddpm_jax.training.setup import Trained


class Subject(NamedTuple):
    """A denoiser and what it is judged on.

    Attributes:
      source: "trained", "checkpoint" or "denoiser" (the user's own).
      name: how to call it in a report.
      data: the images.
      schedule: the forward process it was trained for.
      denoiser: reads x_t.
      fingerprint: a hash that changes when the denoiser does.
      heads: names of what it says beside the mean.
      learned_times: of the chain that `learned` was trained on, see `variances.learned`.
      clip_x_0: whether its heads were fitted to a mean with x_0_hat clipped; None where they came with the mean.
    """

    source: str
    name: str
    data: DataSet
    schedule: Schedule
    denoiser: Denoiser
    fingerprint: str
    heads: tuple[str, ...] = ()
    learned_times: tuple[int, ...] | None = None
    clip_x_0: bool | None = None


def check_clip(subject: Subject, clip_x_0: bool) -> None:
    """Refuse heads that were fitted to another mean than the one they are used with.

    Raises:
      ValueError: see above.
    """
    if subject.clip_x_0 not in (None, clip_x_0):
        raise ValueError(
            f"clip_x_0 = {clip_x_0}: the heads of {subject.name} were fitted with fit_clip_x_0 = {subject.clip_x_0}; "
            "use the same, or fit heads anew"
        )


def of_function(function: Any, schedule: Schedule, prediction: str, images: DataSet, name: str = "own") -> Subject:
    """The user's own denoiser, after a look at what it does.

    It is known by what it returns for a few fixed inputs. A network whose large parameters should not be compiled in is
    better given as network(params, x_t, t) to `denoiser.make_denoiser`.

    Args:
      function: (x_t (b, H, W, C) float32 on [-1, 1]'s scale, t (b,) in 1..T) -> what it predicts, of x_t's shape.
      schedule: the forward process it was trained for.
      prediction: what it predicts, a name of PREDICTIONS.
      images: the data set it is judged on.
      name: how to call it.

    Raises:
      ValueError: it is not callable, fails, or returns another shape, dtype or numbers that are not finite.
    """
    outputs = _probe(function, schedule.T, images.shape, name)
    denoiser = make_denoiser(lambda params, x_t, t: function(x_t, t), None, schedule, prediction)
    parts = dict(outputs=outputs, prediction=prediction, schedule=schedule)
    return Subject("denoiser", name, images, schedule, denoiser, cache.fingerprint(parts))


def _probe(function: Any, T: int, shape: tuple[int, ...], name: str) -> np.ndarray:
    """What it returns for noise at times spread over 1..T."""
    if not callable(function):
        raise ValueError(f"denoiser {name} is a {type(function).__name__}: give a callable (x_t, t)")
    t = jnp.asarray(np.unique(np.round(np.geomspace(1, T, 32))), jnp.int32)
    scale = jnp.array([1.0, 0.3, 3.0])[jnp.arange(len(t)) % 3].reshape(-1, *[1] * len(shape))
    x_t = scale * jax.random.normal(jax.random.key(0), (len(t), *shape))
    try:
        output = jax.jit(lambda x_t, t: function(x_t, t))(x_t, t)
    except Exception as error:  # it is the user's code
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"denoiser {name} fails on x_t {x_t.shape} float32, t {t.shape} int32: {reason}") from error
    got = f"{getattr(output, 'dtype', type(output).__name__)} {getattr(output, 'shape', '')}".strip()
    if got != f"float32 {x_t.shape}":
        raise ValueError(f"denoiser {name} returns {got} for x_t {x_t.shape}: it must return float32 of x_t's shape")
    bad = ~np.isfinite(np.asarray(output)).reshape(len(t), -1).all(axis=1)
    if bad.any():
        raise ValueError(f"denoiser {name} returns numbers that are not finite at t = {t[bad.argmax()]}: mend it there")
    return np.asarray(output)


NETWORK_CODE = cache.code_version(unet.__name__)


def of_training(trained: Trained, source: str, name: str) -> Subject:
    """What is judged: the network of a run, known by its parameters, not by where it lies."""
    made = trained.run
    parts = dict(
        parameters=jax.tree.leaves(jax.device_get(trained.averaged)),
        network=to_dict(made.network),
        prediction=made.config.prediction,
        variance=made.config.variance,
        schedule=made.schedule,
        code=NETWORK_CODE,
    )
    choice, of = setup.in_loss(made.config, made.schedule), cache.fingerprint(parts)
    return Subject(source, name, made.data, made.schedule, trained.denoiser, of, choice.heads, choice.times)


def from_module(spec: str, config: Config) -> Subject:
    """A user's denoiser, with the schedule, prediction and data that the config names.

    It is known by what it does, see `of_function`, and by the code of its module and what that imports of its package.

    Args:
      spec: module:function, a callable (x_t, t) -> what it predicts.
      config: data, schedule, T and prediction are read.

    Raises:
      ValueError: it cannot be imported, or does not do what a denoiser does; see `model.of_function`.
    """
    schedule = registry.named(schedules.SCHEDULES, config.schedule, "schedule")(config.T)
    check_prediction(config.prediction, schedule)
    images = datasets.load(setup.data_of(config), config.image_size)
    module, _, attribute = spec.partition(":")
    try:
        origin = getattr(importlib.util.find_spec(module), "origin", None) or ""
        code = cache.code_version(module) if origin.endswith(".py") else origin
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # it is the user's code
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"--denoiser {spec}: {reason}; give module:function, importable from here") from error
    found = of_function(function, schedule, config.prediction, images, name=spec)
    return found._replace(fingerprint=cache.fingerprint([found.fingerprint, code]))
