"""Training from a config: wiring, loop, log, checkpoints. The one imperative file."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from ddpm_jax import checkpoint, data, objective, parallel, predict, process, sampler, train, trajectory, unet, variance
from ddpm_jax import schedule as schedules
from ddpm_jax.config import Config, from_dict, to_dict
from ddpm_jax.data import DataSet
from ddpm_jax.predict import Denoiser
from ddpm_jax.schedule import Schedule
from ddpm_jax.train import Recipe, TrainState
from ddpm_jax.unet import UNetConfig

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0}  # for hundreds of random draws that run once


class Run(NamedTuple):
    """A config with its names resolved.

    Attributes:
      config: as given.
      data: the images.
      network: the shape of the U-Net.
      schedule: the forward process.
      recipe: what the training step needs.
    """

    config: Config
    data: DataSet
    network: UNetConfig
    schedule: Schedule
    recipe: Recipe


class Trained(NamedTuple):
    """A network read from a checkpoint.

    Attributes:
      run: what it was trained with.
      state: at the last step.
      denoiser: of the averaged parameters.
    """

    run: Run
    state: TrainState
    denoiser: Denoiser


def _named(table: dict[str, Any], name: str, kind: str) -> Any:
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(table)}")
    return table[name]


def resolve(config: Config, network: UNetConfig | None = None) -> Run:
    """Turn names into things, and refuse what cannot work, before anything is compiled or written.

    Args:
      config: of the run.
      network: default the preset's.

    Raises:
      ValueError: an unknown name, or parts that do not fit each other.
    """
    for name in ("steps", "batch", "log_every", "save_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} = {getattr(config, name)}: it is at least 1")
    images = data.load(config.data)
    network = _named(unet.PRESETS, config.preset, "preset") if network is None else network
    forward = _named(schedules.SCHEDULES, config.schedule, "schedule")(config.T)
    process.steps(forward, [forward.T])  # refuses a schedule that leaves no data at T
    predict.check_prediction(config.prediction, forward)
    _named(parallel.PARALLEL, config.parallel, "parallel")
    unet.check(network, images.shape[0])
    if network.image_channels != images.shape[2]:
        raise ValueError(
            f"preset {config.preset!r} is for {network.image_channels}-channel images and {config.data} has "
            f"{images.shape[2]}: choose another preset"
        )
    recipe = Recipe(
        schedule=forward,
        network=unet.network(network),
        prediction=config.prediction,
        objective=objective.build(config.objective, config.prediction),
        optimizer=train.adam(config.learning_rate, config.warmup, config.clip_norm),
        ema_decay=config.ema_decay,
        levels=images.levels,
        flip=images.flip,
    )
    return Run(config, images, network, forward, recipe)


def fresh(run: Run) -> TrainState:
    """The state before the first step."""
    params_key, key = jax.random.split(jax.random.key(run.config.seed))
    params = unet.init(params_key, run.network, run.data.shape[0])
    return train.init(key, params, run.recipe.optimizer)


def fit(config: Config, workdir: Path) -> Trained:
    """Train to config.steps, from the newest checkpoint of workdir if there is one.

    Writes checkpoints, metrics.jsonl, TensorBoard event files and sample grids.

    Raises:
      ValueError: the config cannot work, or workdir holds a run with another config.
      FloatingPointError: the loss is not finite; names the step and the time t. The last checkpoint stays.
    """
    run = resolve(config)
    folder = workdir / CHECKPOINTS
    state = jax.jit(partial(fresh, run), compiler_options=FAST_TO_COMPILE)()
    if checkpoint.latest(folder) is not None:
        _check_same(config, run.network, checkpoint.describe(folder), workdir)
        state = checkpoint.restore(folder, state)
    state = parallel.replicate(state)
    step = parallel.parallelise(partial(train.train_step, run.recipe), config.parallel, config.batch)
    batches = data.batches(run.data.train.images, config.batch, config.seed)
    description = {"config": to_dict(config), "network": to_dict(run.network)}

    first = int(state.step)
    workdir.mkdir(parents=True, exist_ok=True)
    with (
        _open_log(workdir / METRICS, first) as log,
        SummaryWriter(str(workdir / "tensorboard"), purge_step=first) as board,
        tqdm(desc="train", total=config.steps, initial=first, unit="step", mininterval=1) as bar,
    ):
        started, before = time.perf_counter(), None
        for index in range(first + 1, config.steps + 1):
            state, metrics = step(state, batches[index - 1])
            _check_finite(before, index - 1)
            before = metrics
            bar.update()
            last = index == config.steps
            if index % config.log_every == 0 or last:
                rate = (index - first) * config.batch / (time.perf_counter() - started)
                line = {"step": index, "loss": float(metrics.loss), "gradient_norm": float(metrics.gradient_norm)}
                _check_finite(metrics, index)
                _record(log, board, {**line, "images_per_second": round(rate, 1)})
                bar.set_postfix_str(f"loss {line['loss']:.4f}, {rate:.0f} images/s")
            if config.sample_every and index % config.sample_every == 0:
                board.add_images("samples", _preview(run, state), index, dataformats="NHWC")
            if index % config.save_every == 0 or last:
                _check_finite(metrics, index)
                checkpoint.save(folder, state, description)
    return Trained(run, state, _denoiser(run, state))


def load(workdir: Path) -> Trained:
    """The network of the newest checkpoint in workdir.

    Raises:
      ValueError: there is none, or it does not fit this version.
    """
    folder = workdir / CHECKPOINTS
    stored = checkpoint.describe(folder)
    config = from_dict(Config, stored["config"])
    run = resolve(config, from_dict(UNetConfig, stored["network"]))
    state = checkpoint.restore(folder, jax.eval_shape(partial(fresh, run)))
    return Trained(run, state, _denoiser(run, state))


def _denoiser(run: Run, state: TrainState) -> Denoiser:
    return predict.make_denoiser(run.recipe.network, state.ema, run.schedule, run.config.prediction)


def _check_same(config: Config, network: UNetConfig, stored: dict[str, Any], workdir: Path) -> None:
    """A run may be prolonged or logged differently; anything else would mix two runs."""
    free = {"steps", "log_every", "save_every", "sample_every", "parallel"}
    wanted = {**to_dict(config), "network": to_dict(network)}
    there = {**stored["config"], "network": stored["network"]}
    for name in wanted.keys() - free:
        if wanted[name] != there.get(name):
            raise ValueError(
                f"{workdir} holds a run with {name} = {there.get(name)}, not {wanted[name]}: choose another --workdir"
            )


def _check_finite(metrics: train.Metrics | None, step: int) -> None:
    """Looks at the step before the one just dispatched, so that the device need not wait for the host."""
    if metrics is not None and not np.isfinite(metrics.loss):
        raise FloatingPointError(
            f"loss {float(metrics.loss)} at step {step}, t = {int(metrics.bad_t)}: lower the learning rate; "
            "the last checkpoint is as it was"
        )


def _open_log(path: Path, first: int) -> TextIO:
    """metrics.jsonl for appending, without what an interrupted run wrote after its last checkpoint."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["step"] <= first), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _record(log: TextIO, board: SummaryWriter, line: dict[str, Any]) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()
    for name in line.keys() - {"step"}:
        board.add_scalar(name, line[name], line["step"])


def _preview(run: Run, state: TrainState, count: int = 16, K: int = 50) -> np.ndarray:
    """A few samples of the averaged network, a short chain with `large` variance."""
    steps = process.steps(run.schedule, trajectory.even(run.schedule.T, min(K, run.schedule.T)))
    shape = (count, *run.data.shape)
    rules = sampler.Rules(levels=run.data.levels)
    choice = variance.large(run.schedule)
    x_0 = sampler.sample(state.key, steps, _denoiser(run, state), choice, shape, rules)
    return np.round((np.clip(np.asarray(x_0), -1, 1) + 1) * 127.5).astype(np.uint8)
