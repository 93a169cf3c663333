"""Hugging Face diffusers' scheduler_config.json, of whichever sampler: of which chain a network knows.

Most samplers of diffusers are for the same networks and say the same of them: betas, and what is predicted. DDPM's and
DDIM's say how x_0 is clipped, and DDPM's which variance is drawn with. Classes of another kind are refused by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddpm_jax import paths
from ddpm_jax.diffusion import registry, schedules
from ddpm_jax.models.convert import files, values
from ddpm_jax.paths import AnyPath

NAME = "scheduler_config.json"
LONGEST = 100_000  # noise levels
# What a scheduler_config.json leaves out: defaults of diffusers 0.42, those of all classes and those of some.
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
CLIPPED = {"clip_sample": True, "clip_sample_range": 1.0}
FREE = {**CLIPPED, "clip_sample": False}
THRESHOLD = {"thresholding": False}
RESCALED = {"rescale_betas_zero_snr": False}
FLOW = {"use_flow_sigmas": False}
DRAWN = {"variance_type": "fixed_small"}
HEADED = {"variance_type": None}
CLASSES: dict[str, dict[str, Any]] = {
    "DDPMScheduler": {**CLIPPED, **THRESHOLD, **RESCALED, **DRAWN},
    "DDPMParallelScheduler": {**CLIPPED, **THRESHOLD, **RESCALED, **DRAWN},
    "DDIMScheduler": {**CLIPPED, **THRESHOLD, **RESCALED},
    "DDIMParallelScheduler": {**CLIPPED, **THRESHOLD, **RESCALED},
    "DDIMInverseScheduler": {**CLIPPED, **RESCALED},
    "DEISMultistepScheduler": {**FLOW},
    "DPMSolverMultistepScheduler": {**FLOW, **RESCALED, **HEADED},
    "DPMSolverMultistepInverseScheduler": {**FLOW, **HEADED},
    "DPMSolverSDEScheduler": {**LATENT},
    "DPMSolverSinglestepScheduler": {**FLOW, **HEADED},
    "EulerAncestralDiscreteScheduler": {**RESCALED},
    "EulerDiscreteScheduler": {**RESCALED, "timestep_type": "discrete"},
    "HeunDiscreteScheduler": {**LATENT, **FREE},
    "KDPM2AncestralDiscreteScheduler": {**LATENT},
    "KDPM2DiscreteScheduler": {**LATENT},
    "LCMScheduler": {**LATENT, **FREE, **THRESHOLD, **RESCALED, "beta_schedule": "scaled_linear"},
    "LMSDiscreteScheduler": {},
    "PNDMScheduler": {},
    "SASolverScheduler": {**FLOW, **HEADED},
    "TCDScheduler": {**LATENT, **FREE, **THRESHOLD, **RESCALED, "beta_schedule": "scaled_linear"},
    "UniPCMultistepScheduler": {**FLOW, **RESCALED},
}
"""By class: the settings that it has beside those of all, and its own defaults."""
DEFAULT_CLASS = "DDPMScheduler"
OLD = "predict_epsilon"  # false: prediction_type "sample", before there was one
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "exp", "laplace")
PREDICTION_TYPES = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
VARIANCE_TYPES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned_range",
}
KINDS = {
    "_class_name": values.TEXT,
    "num_train_timesteps": values.whole(1, LONGEST),
    "beta_start": values.BETA,
    "beta_end": values.BETA,
    "beta_schedule": values.one_of(*BETA_SCHEDULES),
    "trained_betas": values.or_none(values.listed(values.BETA, LONGEST)),
    "prediction_type": values.one_of(*PREDICTION_TYPES),
    "variance_type": values.or_none(values.one_of(*VARIANCE_TYPES, "learned")),
    "clip_sample": values.FLAG,
    "clip_sample_range": values.number(1e-6, 1e6),
    "thresholding": values.FLAG,
    "rescale_betas_zero_snr": values.FLAG,
    "use_flow_sigmas": values.FLAG,
    "timestep_type": values.TEXT,
    OLD: values.FLAG,
}


class Scheduler(NamedTuple):
    """What the names of a Config are.

    Attributes:
      schedule: a name that `schedules.build` knows.
      T: number of noise levels.
      prediction: a name of denoiser.PREDICTIONS.
      variance: that is sampled with, a name of variances.VARIANCES; None where nothing says so.
      clip_x_0: whether predicted data are clipped to [-1, 1] in sampling; None where nothing says so.
    """

    schedule: str = "linear"
    T: int = 1000
    prediction: str = "eps"
    variance: str | None = None
    clip_x_0: bool | None = None


def find(folder: AnyPath) -> Path | None:
    """The scheduler_config.json of a folder, or of scheduler/ in it; None where there is none."""
    folder = paths.local(folder)
    places = [folder / NAME, folder / "scheduler" / NAME]
    return next((place for place in places if place.is_file()), None)


def load(folder: AnyPath, clip_x_0: bool | None = None) -> Scheduler | None:
    """What a folder of diffusers says; None where it holds no scheduler.

    Args:
      folder: local.
      clip_x_0: in the place of what the file says of clipping.

    Raises:
      ValueError: the file is damaged, or says what cannot be kept.
    """
    path = find(folder)
    if path is None:
        return None
    given = files.read_json(path)
    with files.of(path):
        return read(given, clip_x_0)


def read(given: Mapping[str, Any], clip_x_0: bool | None = None) -> Scheduler:
    """What a scheduler_config.json says.

    Args:
      given: by key.
      clip_x_0: see `load`.

    Raises:
      ValueError: the class is of another kind, a value is of a wrong type or unknown, or a setting cannot be kept.
    """
    values.check(given, KINDS)
    settings = _settings(given)
    for name, kept in (("use_flow_sigmas", False), ("timestep_type", "discrete")):
        if settings.get(name, kept) != kept:
            raise ValueError(
                f"{name} = {settings[name]!r}: a network of flow matching or of continuous time is no DDPM"
            )
    return Scheduler(
        schedule=_schedule(settings),
        T=settings["num_train_timesteps"],
        prediction=PREDICTION_TYPES[_prediction_type(given, settings)],
        variance=_variance(settings),
        clip_x_0=_clipping(settings) if clip_x_0 is None else clip_x_0,
    )


def told(given: Mapping[str, Any]) -> list[str]:
    """What a scheduler_config.json says that is not kept, a line each.

    Raises:
      ValueError: see `read`.
    """
    name, settings = given.get("_class_name"), _settings(given)
    lines = []
    if name is None:
        lines.append(f"no _class_name: read as {DEFAULT_CLASS}")
    elif name != DEFAULT_CLASS:
        lines.append(f"{name}: of it the network's chain is kept; ddpm-jax samples by DDPM and DDIM")
    if str(name).startswith("DDIM") and settings["clip_sample"]:
        lines.append(
            "where x_0 is clipped, DDIM here goes on with the eps of the clipped x_0 (use_clipped_model_output)"
        )
    idle = [key for key in given if not key.startswith("_") and key not in settings and key != OLD]
    return lines + ([f"without effect here: {', '.join(idle)}"] if idle else [])


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What its class has, with its defaults."""
    name = given.get("_class_name", DEFAULT_CLASS)
    if name not in CLASSES:
        raise ValueError(
            f"_class_name = {values.shown(name)}: its networks are no DDPMs, or it is unknown here; if this one is a "
            f"DDPM, name {DEFAULT_CLASS} there, with num_train_timesteps, betas and prediction_type"
        )
    defaults = {**DEFAULTS, **CLASSES[name]}
    return {"_class_name": name, **defaults, **{key: given[key] for key in defaults if key in given}}


def _schedule(settings: Mapping[str, Any]) -> str:
    T, trained = settings["num_train_timesteps"], settings["trained_betas"]
    if trained is not None and len(trained) != T:
        raise ValueError(f"trained_betas are {len(trained)} numbers and num_train_timesteps = {T}: as many are wanted")
    with files.of("beta_schedule" if trained is None else "trained_betas"):
        made = schedules.from_betas(betas(settings))
        made = schedules.zero_terminal(made) if settings.get("rescale_betas_zero_snr") else made
        return schedules.name_of(np.asarray(made.beta)[1:])


def betas(settings: Mapping[str, Any]) -> np.ndarray:
    """beta_1..beta_T, float64, before they are rescaled."""
    T, ends = settings["num_train_timesteps"], (settings["beta_start"], settings["beta_end"])
    if settings["trained_betas"] is not None:
        return np.asarray(settings["trained_betas"], np.float64)
    match settings["beta_schedule"]:
        case "linear":
            return np.linspace(*ends, T)
        case "scaled_linear":
            return np.linspace(ends[0] ** 0.5, ends[1] ** 0.5, T) ** 2
        case "sigmoid":
            return ends[0] + (ends[1] - ends[0]) / (1 + np.exp(-np.linspace(-6, 6, T)))
        case "exp":
            return np.full(T, min(-np.expm1(-12 / T), 0.999))
        case "laplace":
            return _laplace(T)
    return np.asarray(schedules.cosine(T).beta)[1:]


def _laplace(T: int) -> np.ndarray:
    """Betas of a log signal-to-noise ratio that falls as the quantiles of a Laplace distribution.

    Hang et al. 2024 (Improved noise schedule for diffusion training), with a scale of 1/2. Differs from: theirs, where
    it is alpha_bar whose square root this is; diffusers has it so.
    """
    t = np.arange(T + 1) / T
    log_ratio = -np.copysign(0.5, 0.5 - t) * np.log(1 - 2 * np.abs(0.5 - t) + 1e-6)
    alpha_bar = 1 / np.sqrt(1 + np.exp(-log_ratio))
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def _prediction_type(given: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    if given.get(OLD, True):
        return settings["prediction_type"]
    if given.get("prediction_type", "sample") != "sample":
        raise ValueError(f"{OLD} = False and prediction_type = {given['prediction_type']!r}: leave one of them out")
    return "sample"


def _variance(settings: Mapping[str, Any]) -> str | None:
    """What is drawn with, of a class that says so."""
    kind = settings.get("variance_type")
    if kind == "learned":
        raise ValueError("variance_type = 'learned': outputs are variances there and their logarithms here")
    kind = CLASSES[settings["_class_name"]].get("variance_type") if kind is None else kind
    return None if kind is None else VARIANCE_TYPES[kind]


def _clipping(settings: Mapping[str, Any]) -> bool | None:
    """Whether x_0 is clipped to [-1, 1], of a class that says so."""
    cure = "x_0 is clipped to [-1, 1] here, or not at all: choose by --clip-x-0 True or False"
    if settings.get("thresholding"):
        raise ValueError(f"thresholding = True: {cure}")
    if settings.get("clip_sample") and settings["clip_sample_range"] != 1:
        raise ValueError(f"clip_sample_range = {settings['clip_sample_range']:g}: {cure}")
    return settings.get("clip_sample")


def save(folder: AnyPath, described: Mapping[str, Any]) -> None:
    """Write scheduler/ and model_index.json beside the unet/ of a DDPMPipeline.

    Raises:
      OSError: the folder cannot be written.
    """
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    folder = paths.local(folder)
    files.write_json(folder / "model_index.json", index)
    files.write_json(folder / "scheduler" / NAME, described)


def write(scheduler: Scheduler) -> dict[str, Any]:
    """The scheduler_config.json of a DDPMScheduler, with every beta; the inverse of `read`.

    Where nothing says so, the larger fixed variance is drawn with and x_0 is clipped, as by `ddpm-jax sample`.

    Raises:
      ValueError: diffusers has no such prediction or variance.
    """
    back = {name: theirs for theirs, name in reversed(PREDICTION_TYPES.items())}
    kinds = {name: theirs for theirs, name in reversed(VARIANCE_TYPES.items())}
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": scheduler.T,
        "trained_betas": np.asarray(schedules.build(scheduler.schedule, scheduler.T).beta)[1:].tolist(),
        "prediction_type": registry.named(back, scheduler.prediction, "prediction"),
        "variance_type": registry.named(kinds, scheduler.variance or "large", "variance"),
        "clip_sample": scheduler.clip_x_0 is not False,
    }
