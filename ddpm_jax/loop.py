"""The training loop: steps, log, checkpoints. The one imperative file."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from ddpm_jax import cells, checkpoint, data, parallel, process, run, sampler, train, trajectory, variance
from ddpm_jax.config import Config
from ddpm_jax.parallel import Layout
from ddpm_jax.run import Run, Trained
from ddpm_jax.train import Recipe, TrainState

METRICS = "metrics.jsonl"
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0}  # for hundreds of random draws that run once


class Job(NamedTuple):
    """A training that the loop can do.

    Attributes:
      recipe: of a step.
      frozen: what a step reads and does not change.
      fresh: () -> the state before the first step.
      images_uint8: that it learns from.
      pace: steps, batch, seed, and how often to log, save and sample.
      description: stored with every checkpoint.
      check: refuses what another training's checkpoint says of itself.
      preview: state -> samples as grey levels 0..255; None for none.
    """

    recipe: Recipe
    frozen: Any
    fresh: Callable[[], TrainState]
    images_uint8: np.ndarray
    pace: Config
    description: dict[str, Any]
    check: Callable[[dict[str, Any]], None]
    preview: Callable[[TrainState], np.ndarray] | None


def fit(config: Config, workdir: Path) -> Trained:
    """Train to config.steps, from the newest checkpoint of workdir that can be read, if there is one.

    Writes checkpoints, metrics.jsonl, TensorBoard event files and sample grids.

    Raises:
      ValueError: the config cannot work, or workdir is not writable or holds a run with another config.
      FloatingPointError: the loss is not finite; names the step and the time t. The last checkpoint stays.
    """
    wanted = run.resolve(config)
    job = Job(
        recipe=wanted.recipe,
        frozen=None,
        fresh=partial(run.fresh, wanted),
        images_uint8=wanted.data.train.images,
        pace=config,
        description=run.describe(wanted),
        check=partial(run.check_same, wanted, workdir=workdir),
        preview=partial(_preview, wanted),
    )
    return run.trained(wanted, work(job, workdir))


def work(job: Job, workdir: Path) -> TrainState:
    """The state after the last step of a job, as far as it is not done yet; see `fit`.

    Raises:
      ValueError: workdir is not writable or holds another training, or more steps.
      FloatingPointError: the loss is not finite.
    """
    layout = Layout(job.pace.parallel)
    step = parallel.parallelise(partial(train.train_step, job.recipe), job.pace.batch, layout, job.frozen)
    cells.check_writable(workdir)
    state = _begin(job, workdir)
    if int(state.step) == job.pace.steps:
        return state
    if int(state.step) > job.pace.steps:
        raise ValueError(
            f"{workdir} holds a run of {int(state.step)} steps, more than steps = {job.pace.steps}: ask for as many, "
            "or choose another --workdir"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    return _advance(job, step, parallel.replicate(state, layout), workdir)


def _begin(job: Job, workdir: Path) -> TrainState:
    """The state to start from; what a damaged newer checkpoint left is set aside."""
    folder = workdir / run.CHECKPOINTS
    if checkpoint.latest(folder) is None:
        return jax.jit(job.fresh, compiler_options=FAST_TO_COMPILE)()
    job.check(checkpoint.describe(folder))
    state = checkpoint.restore(folder, jax.eval_shape(job.fresh))
    checkpoint.set_aside(folder, int(state.step))
    return state


def _advance(job: Job, step: parallel.Step, state: TrainState, workdir: Path) -> TrainState:
    """The steps from state.step to the last."""
    pace, first = job.pace, int(state.step)
    batches = data.batches(job.images_uint8, pace.batch, pace.seed)
    with (
        _open_log(workdir / METRICS, first) as log,
        SummaryWriter(str(workdir / "tensorboard"), purge_step=first) as board,
        tqdm(desc="train", total=pace.steps, initial=first, unit="step", mininterval=1) as bar,
    ):
        started, before = time.perf_counter(), None
        for index in range(first + 1, pace.steps + 1):
            state, metrics = step(state, batches[index - 1])
            _check_finite(before, index - 1)
            before = metrics
            bar.update()
            last = index == pace.steps
            if index % pace.log_every == 0 or last:
                rate = (index - first) * pace.batch / (time.perf_counter() - started)
                line = {"step": index, "loss": float(metrics.loss), "gradient_norm": float(metrics.gradient_norm)}
                _check_finite(metrics, index)
                _record(log, board, {**line, "images_per_second": round(rate, 1)})
                bar.set_postfix_str(f"loss {line['loss']:.4f}, {rate:.0f} images/s")
            if job.preview and pace.sample_every and index % pace.sample_every == 0:
                board.add_images("samples", job.preview(state), index, dataformats="NHWC")
            if index % pace.save_every == 0 or last:
                _check_finite(metrics, index)
                checkpoint.save(workdir / run.CHECKPOINTS, state, job.description)
    return state


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
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= first]
        cells.write_whole(path, lambda file: file.write("".join(kept).encode()))
    return path.open("a", encoding="utf-8")


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file, without a last one that was cut short."""
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _record(log: TextIO, board: SummaryWriter, line: dict[str, Any]) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()
    for name in line.keys() - {"step"}:
        board.add_scalar(name, line[name], line["step"])


def _preview(wanted: Run, state: TrainState, count: int = 16, K: int = 50) -> np.ndarray:
    """A few samples of the averaged network, a short chain with `large` variance."""
    steps = process.steps(wanted.schedule, trajectory.even(wanted.schedule.T, min(K, wanted.schedule.T)))
    shape = (count, *wanted.data.shape)
    rules = sampler.Rules(levels=wanted.data.levels)
    choice = variance.large(wanted.schedule)
    x_0 = sampler.sample(state.key, steps, run.trained(wanted, state).denoiser, choice, shape, rules)
    return np.round((np.clip(np.asarray(x_0), -1, 1) + 1) * 127.5).astype(np.uint8)
