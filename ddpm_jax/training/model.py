"""A trained network, ready to be sampled and judged: `load` reads one from a workdir, without data set or optimizer.

Training builds a `setup.Run`; sampling and evaluation take a `Model`, trained here or the user's own function.
"""

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import ddpm_jax
from ddpm_jax import paths
from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import DataSet
from ddpm_jax.diffusion import denoiser as denoisers
from ddpm_jax.diffusion import process, schedules, timesteps
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.errors import first_line
from ddpm_jax.models import heads as head_networks
from ddpm_jax.models import unet
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.paths import AnyPath
from ddpm_jax.runtime import cache
from ddpm_jax.training import checkpoints, setup
from ddpm_jax.training.config import Config, Heads, from_dict, to_dict
from ddpm_jax.training.step import Params

HEADS = "heads"  # the folder of heads inside the workdir of an ablation
BUILTIN = "builtin:"  # before the name of a network that comes with the package
PACKAGED = Path(ddpm_jax.__file__).parent / "builtin"


class Model(NamedTuple):
    """A denoiser and what has to be known of it.

    Attributes:
      source: "trained", "checkpoint" or "denoiser" (the user's own).
      name: how to call it in a report.
      denoiser: reads x_t.
      schedule: the forward process it was trained for.
      prediction: what its network predicts, a name of PREDICTIONS.
      shape: (H, W, C) of its images.
      levels: number of grey levels of its images.
      fingerprint: a hash that changes when the denoiser does.
      heads: names of its outputs beside the mean.
      learned_times: of the chain that `learned` was trained on, see `variances.learned`.
      clip_x_0: whether its heads were fitted to a mean with x_0_hat clipped; None where they came with the mean.
      trained_on: the description of its data set (`datasets.describe`), with its `name` and how it was read
        (`datasets.OPTIONS`); None if unknown.
      sampling_variance: of an imported network, the reverse variance that its project samples with; None if unknown.
      sampling_clip_x_0: of an imported network, whether its project clips predicted data; None if unknown.
    """

    source: str
    name: str
    denoiser: Denoiser
    schedule: Schedule
    prediction: str
    shape: tuple[int, ...]
    levels: int
    fingerprint: str
    heads: tuple[str, ...] = ()
    learned_times: tuple[int, ...] | None = None
    clip_x_0: bool | None = None
    trained_on: dict[str, Any] | None = None
    sampling_variance: str | None = None
    sampling_clip_x_0: bool | None = None


class Stored(NamedTuple):
    """What a checkpoint holds of a network.

    Attributes:
      model: the network, without heads of their own.
      config: it was trained with.
      network: its shape.
      params: the average of its parameters that is used.
      step: of training.
    """

    model: Model
    config: Config
    network: UNetConfig
    params: Params
    step: int


def load(
    workdir: AnyPath,
    step: int | None = None,
    ema_decay: float | None = None,
    heads: AnyPath | None = None,
) -> Model:
    """The network of a training run, with its heads.

    Example:
      model = load("runs/digits")

    Args:
      workdir: of the run, `~` is the user's folder; or builtin:digits, the network that comes with the package.
      step: of the checkpoint; default the newest that can be read.
      ema_decay: which average of the parameters; default the run's first.
      heads: workdir of heads that were trained on this network; default those that an ablation left in workdir, where
        step and ema_decay are the defaults.

    Raises:
      ValueError: there is no such checkpoint, or it is of heads, or the heads are of another network.
    """
    model = read(workdir, step, ema_decay).model
    if heads is not None:
        return load_heads(heads, model)
    if is_builtin(workdir):
        return load_heads(workdir, model)
    heads_folder = paths.local(workdir) / HEADS
    return load_heads(heads_folder, model) if step is None and ema_decay is None and heads_folder.exists() else model


def is_builtin(workdir: AnyPath) -> bool:
    """Whether it names a network that comes with the package."""
    return str(workdir).startswith(BUILTIN)


def writable(workdir: AnyPath) -> Path:
    """Where files beside a network go: into its workdir, of one that comes with the package into runs/."""
    return Path("runs") / str(workdir).replace(":", "-") if is_builtin(workdir) else paths.local(workdir)


def packaged(workdir: AnyPath, kind: str) -> Path:
    """A file of a network that comes with the package: its `network`, `heads` or `moments`.

    Raises:
      ValueError: there is no such network.
    """
    name = str(workdir).removeprefix(BUILTIN)
    path = PACKAGED / f"{name}_{kind}.npz"
    if not path.exists():
        names = sorted(BUILTIN + one.name.removesuffix("_network.npz") for one in PACKAGED.glob("*_network.npz"))
        raise ValueError(f"no network {workdir} comes with the package: choose {' or '.join(names)}")
    return path


def pack(path: AnyPath, description: dict[str, Any], params: Params) -> None:
    """Write parameters and their description to one .npz file, as the package stores its networks.

    Args:
      path: of the file.
      description: as in a checkpoint; plain values.
      params: float32.
    """
    leaves, _ = jax.tree.flatten_with_path(jax.device_get(params))
    arrays = {jax.tree_util.keystr(at, simple=True, separator="."): leaf for at, leaf in leaves}
    metadata = np.asarray(json.dumps(description))
    cache.write_whole(path, lambda file: np.savez_compressed(file, allow_pickle=False, description=metadata, **arrays))


def _unpacked(path: Path, like: Params) -> Params:
    """The parameters of a packed file, in the tree of `like`."""
    leaves, tree = jax.tree.flatten_with_path(like)
    with np.load(path, allow_pickle=False) as stored:
        arrays = [jnp.asarray(stored[jax.tree_util.keystr(at, simple=True, separator=".")]) for at, _ in leaves]
    return jax.tree.unflatten(tree, arrays)


def _packed_description(path: Path) -> dict[str, Any]:
    """What a packed file says of its parameters."""
    with np.load(path, allow_pickle=False) as stored:
        return json.loads(str(stored["description"]))


def read(workdir: AnyPath, step: int | None = None, ema_decay: float | None = None) -> Stored:
    """The network of a checkpoint with all that is stored of it; see `load`.

    Raises:
      ValueError: there is none, or it is of heads, or the run has no average of this rate.
    """
    folder = None if is_builtin(workdir) else checkpoints.folder_of(workdir)
    stored = _packed_description(packaged(workdir, "network")) if folder is None else checkpoints.describe(folder, step)
    if "config" not in stored:
        raise ValueError(f"{workdir} holds heads, not a training run: give the workdir of ddpm-jax train")
    config, network = from_dict(Config, stored["config"]), from_dict(UNetConfig, stored["network"])
    rates = config.ema_decay
    if ema_decay not in (None, *rates):
        raise ValueError(
            f"ema_decay = {ema_decay:g}: the run has averages of {', '.join(f'{rate:g}' for rate in rates)}"
        )
    unet.check(network, stored["data"]["shape"][0])
    like = unet.shapes(network)
    if folder is None:
        if step is not None:
            raise ValueError(f"step = {step}: {workdir} is of step {stored['step']} alone, leave it out")
        params, at = _unpacked(packaged(workdir, "network"), like), stored["step"]
    else:
        which = 0 if ema_decay is None else rates.index(ema_decay)
        params, at = checkpoints.average(folder, like, which, step)
    return stored_network("checkpoint", str(workdir), config, network, params, at, stored["data"])


def data_description(data: dict[str, Any], config: Config) -> dict[str, Any]:
    """What tells a run's images from changed ones (`datasets.describe`), and how to load them again."""
    return {**data, "name": setup.data_of(config), **{option: getattr(config, option) for option in datasets.OPTIONS}}


def stored_network(
    source: str, name: str, config: Config, network: UNetConfig, params: Params, step: int, data: dict[str, Any]
) -> Stored:
    """A network from the description of its run and the average of its parameters.

    Its fingerprint depends on its parameters and its configuration, not on its path.

    Args:
      source: see Model.
      name: see Model.
      config: of the run.
      network: its shape.
      params: the average that is used.
      step: of training.
      data: what the run says of its data set.
    """
    schedule = schedules.build(config.schedule, config.T)
    choice = setup.in_loss(config, schedule)
    parts = dict(
        parameters=jax.tree.leaves(jax.device_get(params)),
        network=to_dict(network),
        prediction=config.prediction,
        variance=config.variance,
        schedule=schedule,
        version=unet.VERSION,
    )
    model = Model(
        source=source,
        name=name,
        denoiser=setup.denoiser_of(config, network, schedule, params),
        schedule=schedule,
        prediction=config.prediction,
        shape=tuple(data["shape"]),
        levels=data["levels"],
        fingerprint=cache.fingerprint(parts),
        heads=choice.heads,
        learned_times=choice.times,
        trained_on=data_description(data, config),
        sampling_variance=config.sampling_variance,
        sampling_clip_x_0=config.sampling_clip_x_0,
    )
    return Stored(model, config, network, params, step)


def load_heads(workdir: AnyPath, model: Model) -> Model:
    """The model with the heads of the newest checkpoint in workdir, or with those of a network of the package.

    Raises:
      ValueError: there is none, or it was trained on another denoiser.
    """
    folder = None if is_builtin(workdir) else checkpoints.folder_of(workdir)
    stored = _packed_description(packaged(workdir, "heads")) if folder is None else checkpoints.describe(folder)
    if "heads" not in stored:
        raise ValueError(f"{workdir} holds a training run, not heads: give the workdir of ddpm-jax heads")
    check_age(stored, Path(workdir))
    if stored["model"] != model.fingerprint:
        raise ValueError(
            f"the heads of {workdir} were trained on another denoiser than {model.name}: train them on this one"
        )
    config, network = from_dict(Heads, stored["heads"]), from_dict(UNetConfig, stored["network"])
    unet.check(network, model.shape[0])
    like = unet.shapes(network)
    params = _unpacked(packaged(workdir, "heads"), like) if folder is None else checkpoints.average(folder, like)[0]
    return with_heads(model, config, network, params)


def check_age(stored: dict[str, Any], workdir: Path) -> None:
    """Refuse heads of format 1, whose fingerprint of the denoiser covers its source code: it cannot be compared.

    Args:
      stored: what their checkpoint says; without `model` it is of format 1.
      workdir: of the heads.

    Raises:
      ValueError: see above.
    """
    if "model" not in stored:
        raise ValueError(
            f"the heads of {workdir} are of an earlier version, which knew the denoiser by its source code, too, and "
            "whether it is this one cannot be told: train them again in another --workdir"
        )


def head_chain(config: Heads, schedule: Schedule) -> Steps:
    """The steps that heads are fitted on: an even chain, or all of 1..T."""
    return process.steps(schedule, timesteps.even(schedule.T, config.chain or schedule.T))


def with_heads(model: Model, config: Heads, network: UNetConfig, params: Params) -> Model:
    """The model with heads from a second network; its fingerprint depends on their parameters, too.

    Args:
      model: the frozen denoiser.
      config: which heads, named.
      network: the shape of their network.
      params: its averaged parameters.
    """
    chain = head_chain(config, model.schedule)
    unit = head_networks.units(model.schedule, chain)
    denoiser = head_networks.with_heads(
        denoisers.as_argument(model.denoiser), unet.network(network), params, config.heads, unit, config.fit_clip_x_0
    )
    parts = dict(
        model=model.fingerprint,
        parameters=jax.tree.leaves(jax.device_get(params)),
        network=to_dict(network),
        heads=list(config.heads),
        unit=unit,
        clip=config.fit_clip_x_0,
        version=[head_networks.VERSION, unet.VERSION],
    )
    return model._replace(
        denoiser=denoiser,
        fingerprint=cache.fingerprint(parts),
        heads=tuple(dict.fromkeys((*model.heads, *config.heads))),
        learned_times=tuple(chain.t.tolist()) if "learned" in config.heads else model.learned_times,
        clip_x_0=config.fit_clip_x_0,
    )


def check_clip(model: Model, clip_x_0: bool) -> None:
    """Refuse heads that were fitted to another mean than the one they are used with.

    Raises:
      ValueError: see above.
    """
    if model.clip_x_0 not in (None, clip_x_0):
        raise ValueError(
            f"clip_x_0 = {clip_x_0}: the heads of {model.name} were fitted with fit_clip_x_0 = {model.clip_x_0}; "
            "use the same, or fit heads anew"
        )


def load_data(model: Model, name: str | None = None) -> DataSet:
    """The images that a model is judged on: those it was trained on, or others of the same shape and grey levels.

    Args:
      model: see Model.
      name: of a data set, see `datasets.load`; default the one it was trained on.

    Raises:
      ValueError: the data set is not there or does not fit, or it is not known what the model was trained on.
    """
    trained_on = model.trained_on
    if name is None and trained_on is None:
        raise ValueError(f"it is not known what {model.name} was trained on: name a data set with --data")
    if trained_on is not None and name in (None, trained_on["name"]):
        data_set = datasets.load(trained_on["name"], **{option: trained_on[option] for option in datasets.OPTIONS})
        setup.check_data(data_set, trained_on, model.name)
        return data_set
    assert name is not None
    data_set = datasets.load(name, None if trained_on is None else trained_on["image_size"])
    check_fit(model, data_set)
    return data_set


def check_fit(model: Model, images: DataSet) -> None:
    """Refuse images of another shape or number of grey levels.

    Raises:
      ValueError: see above.
    """
    for what, expected, actual in (("shape", model.shape, images.shape), ("levels", model.levels, images.levels)):
        if expected != actual:
            raise ValueError(f"{images.name} has images of {what} {actual} and {model.name} was trained on {expected}")


def of_function(
    function: Any, schedule: Schedule, prediction: str, shape: tuple[int, ...], levels: int = 256, name: str = "own"
) -> Model:
    """The user's own denoiser, checked on a few fixed inputs.

    Its fingerprint depends on its outputs for these inputs. Give a network with large parameters, which should not be
    compiled in as constants, as network(params, x_t, t) to `denoiser.make_denoiser`.

    Args:
      function: (x_t (b, H, W, C) float32 on [-1, 1]'s scale, t (b,) in 1..T) -> what it predicts, of x_t's shape.
      schedule: the forward process it was trained for.
      prediction: what it predicts, a name of PREDICTIONS.
      shape: (H, W, C) of its images.
      levels: number of grey levels of its images.
      name: how to call it.

    Raises:
      ValueError: it is not callable, fails, or returns another shape, dtype or numbers that are not finite.
    """
    outputs = _probe(function, schedule.T, shape, name)
    denoiser = denoisers.make_denoiser(lambda params, x_t, t: function(x_t, t), None, schedule, prediction)
    fingerprint = cache.fingerprint(dict(outputs=outputs, prediction=prediction, schedule=schedule))
    return Model("denoiser", name, denoiser, schedule, prediction, shape, levels, fingerprint)


def _probe(function: Any, T: int, shape: tuple[int, ...], name: str) -> np.ndarray:
    """What it returns for noise at times spread over 1..T."""
    if not callable(function):
        raise ValueError(f"denoiser {name} is a {type(function).__name__}: give a callable (x_t, t)")
    t = jnp.asarray(np.unique(np.round(np.geomspace(1, T, 32))), jnp.int32)
    scale = jnp.array([1.0, 0.3, 3.0], jnp.float32)[jnp.arange(len(t)) % 3].reshape(-1, *[1] * len(shape))
    x_t = scale * jax.random.normal(jax.random.key(0), (len(t), *shape), jnp.float32)
    try:
        output = jax.jit(lambda x_t, t: function(x_t, t))(x_t, t)
    except Exception as error:  # it is the user's code
        reason = first_line(error)
        raise ValueError(f"denoiser {name} fails on x_t {x_t.shape} float32, t {t.shape} int32: {reason}") from error
    got = f"{getattr(output, 'dtype', type(output).__name__)} {getattr(output, 'shape', '')}".strip()
    if got != f"float32 {x_t.shape}":
        raise ValueError(f"denoiser {name} returns {got} for x_t {x_t.shape}: it must return float32 of x_t's shape")
    bad = ~np.isfinite(np.asarray(output)).reshape(len(t), -1).all(axis=1)
    if bad.any():
        raise ValueError(f"denoiser {name} returns numbers that are not finite at t = {t[bad.argmax()]}: mend it there")
    return np.asarray(output)


def of_module(spec: str, config: Config, images: DataSet) -> Model:
    """The user's own denoiser from a module; its fingerprint depends on its outputs (`of_function`) and source file.

    Args:
      spec: module:function, a callable (x_t, t) -> what it predicts.
      config: schedule, T and prediction are read.
      images: whose shape and grey levels it is for.

    Raises:
      ValueError: it cannot be imported, or does not do what a denoiser does; see `of_function`.
    """
    schedule = schedules.build(config.schedule, config.T)
    denoisers.check_prediction(config.prediction, schedule)
    module, _, attribute = spec.partition(":")
    try:
        imported = importlib.import_module(module)
        function, file = getattr(imported, attribute), cache.file_hash(imported)
    except Exception as error:  # it is the user's code
        reason = first_line(error)
        raise ValueError(f"--denoiser {spec}: {reason}; give module:function, importable from here") from error
    model = of_function(function, schedule, config.prediction, images.shape, images.levels, spec)
    return model._replace(
        fingerprint=cache.fingerprint([model.fingerprint, file]),
        trained_on=data_description(datasets.describe(images), config),
    )
