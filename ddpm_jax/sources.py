"""Where a denoiser that is judged comes from: a training run, or the user's own module."""

import importlib
import importlib.util

import jax

from ddpm_jax import agreement, cells, data, predict, run, unet
from ddpm_jax import schedule as schedules
from ddpm_jax import subject as subjects
from ddpm_jax.config import Config, to_dict
from ddpm_jax.run import Trained
from ddpm_jax.subject import Subject

CODE = cells.code_version(unet.__name__)


def subject(trained: Trained, source: str, name: str) -> Subject:
    """What is judged: the network of a run, known by its parameters, not by where it lies."""
    made = trained.run
    parts = dict(
        parameters=jax.tree.leaves(jax.device_get(trained.averaged)),
        network=to_dict(made.network),
        prediction=made.config.prediction,
        variance=made.config.variance,
        schedule=made.schedule,
        code=CODE,
    )
    choice, of = run.in_loss(made.config, made.schedule), cells.fingerprint(parts)
    return Subject(source, name, made.data, made.schedule, trained.denoiser, of, choice.heads, choice.times)


def own(spec: str, config: Config) -> Subject:
    """A user's denoiser, with the schedule, prediction and data that the config names.

    It is known by what it does, see `subject.of`, and by the code of its module and what that imports of its package.

    Args:
      spec: module:function, a callable (x_t, t) -> what it predicts.
      config: data, schedule, T and prediction are read.

    Raises:
      ValueError: it cannot be imported, or does not do what a denoiser does; see `subject.of`.
    """
    schedule = agreement.named(schedules.SCHEDULES, config.schedule, "schedule")(config.T)
    predict.check_prediction(config.prediction, schedule)
    images = data.load(run.data_of(config), config.image_size)
    module, _, attribute = spec.partition(":")
    try:
        origin = getattr(importlib.util.find_spec(module), "origin", None) or ""
        code = cells.code_version(module) if origin.endswith(".py") else origin
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # it is the user's code
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"--denoiser {spec}: {reason}; give module:function, importable from here") from error
    found = subjects.of(function, schedule, config.prediction, images, name=spec)
    return found._replace(fingerprint=cells.fingerprint([found.fingerprint, code]))
