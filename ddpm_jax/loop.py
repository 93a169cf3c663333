"""The training loop: steps, log, checkpoints. The one imperative file."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from ddpm_jax import (
    cells,
    checkpoint,
    data,
    devices,
    guard,
    journal,
    pace,
    parallel,
    places,
    preview,
    processes,
    room,
    run,
    train,
)
from ddpm_jax.config import Config, Stopped
from ddpm_jax.devices import Layout
from ddpm_jax.journal import Journal
from ddpm_jax.recipes import Metrics, Params, Recipe, TrainState
from ddpm_jax.run import Trained

# Compiles in 2.2 s instead of 6.5 s and runs once: the start of a training does little else than draw parameters.
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
HELD_OUT = 1000  # images that judge a state, at most
SHOWN = ("loss", "held_out_loss", "images_per_second")  # beside the progress bar


class Job(NamedTuple):
    """What is trained, for a loop that does not know what it is.

    Attributes:
      recipe: of a training step.
      frozen: tree of arrays that a step reads and does not change.
      fresh: () -> the state before the first step.
      data: whose training images it learns from; its calibration images judge it.
      pace: steps, batch, seed, and how often to log, save and sample.
      description: stored with every checkpoint.
      check: refuses what another training's checkpoint says of itself.
      preview: parameters -> samples as grey levels 0..255; None for none.
    """

    recipe: Recipe
    frozen: Any
    fresh: Callable[[], TrainState]
    data: data.DataSet
    pace: Config
    description: dict[str, Any]
    check: Callable[[dict[str, Any]], None]
    preview: Callable[[Params], np.ndarray] | None


def fit(config: Config, workdir: Path) -> Trained:
    """Train to config.steps, from the newest checkpoint of workdir that can be read, if there is one.

    Writes checkpoints, metrics.jsonl, TensorBoard event files, sample grids, and how it was started.

    Raises:
      ValueError: the config cannot work, or workdir is not writable, in use, or holds a run with another config.
      FloatingPointError: the loss or its gradient is not finite; names the step and the times. The last checkpoint
        stays.
      Stopped: SIGTERM or a notice of preemption came; the state is stored.
    """
    wanted = run.resolve(config)
    journal.check(config.wandb)
    job = Job(
        recipe=wanted.recipe,
        frozen=None,
        fresh=partial(run.fresh, wanted),
        data=wanted.data,
        pace=wanted.config,
        description=run.describe(wanted),
        check=partial(run.check_same, wanted, workdir=workdir),
        preview=partial(preview.grid, wanted),
    )
    return run.trained(wanted, work(job, workdir))


def work(job: Job, workdir: Path) -> TrainState:
    """The state after the last step of a job, as far as it is not done yet; see `fit`.

    Raises:
      ValueError: workdir holds another training, or more steps. Others: see `fit`.
    """
    config = job.pace
    layout = parallel.for_batch(config.batch, job.recipe.microbatches, Layout(config.parallel))
    cells.check_writable(workdir)
    places.check(workdir, config)
    with guard.locked(*places.on_disk(workdir, config)):
        state = _begin(job, workdir)
        if int(state.step) > config.steps:
            raise ValueError(
                f"{workdir} holds a run of {int(state.step)} steps, more than steps = {config.steps}: ask for as many, "
                "or choose another --workdir"
            )
        if int(state.step) < config.steps:
            state = _advance(job, devices.replicate(state, layout), layout, workdir)
        elif processes.first() and not (workdir / journal.CONFIG).exists():  # all is in --checkpoints
            journal.introduce(workdir, job.description, int(state.step), devices.words())
    return devices.own(state)


def _begin(job: Job, workdir: Path) -> TrainState:
    """The state to start from; what a damaged newer checkpoint left is set aside."""
    folder = places.checkpoints(workdir, job.pace)
    if not processes.of_the_first(len(checkpoint.steps(folder))):
        return jax.jit(job.fresh, compiler_options=FAST_TO_COMPILE)()
    job.check(checkpoint.describe(folder))
    state = checkpoint.restore(folder, jax.eval_shape(job.fresh))
    agreed = processes.of_the_first(int(state.step))
    if int(state.step) != agreed:
        state = checkpoint.restore(folder, jax.eval_shape(job.fresh), agreed)
    processes.wait_for_all("restored")
    if processes.first():
        checkpoint.set_aside(folder, int(state.step))
    processes.wait_for_all("set aside")
    return state


class Open(NamedTuple):
    """What is open while a job is worked on.

    Attributes:
      sinks: of the numbers and pictures; none in any process but the first.
      store: of the checkpoints.
      judge: state -> loss of held-out images.
    """

    sinks: Journal
    store: checkpoint.Store
    judge: Callable[[TrainState], float | None]


def _advance(job: Job, state: TrainState, layout: Layout, workdir: Path) -> TrainState:
    """The steps from state.step to the last."""
    config, first = job.pace, int(state.step)
    recipe, steps = room.fitted(job.recipe, job.frozen, config, state, layout, job.data.train.images)
    job = job._replace(recipe=recipe)
    order = data.batches(job.data.train.images, config.batch, config.seed, processes.share())
    keep = checkpoint.Keep(config.keep, config.keep_every, config.keep_best)
    with (
        closing(data.stream(order, first)) as batches,
        _journal(job, workdir, first) as sinks,
        checkpoint.writing(places.checkpoints(workdir, config), keep) as store,
        processes.stop_request() as stop_asked,
        guard.tracing(workdir, config.profile) as trace_at,
        tqdm(desc="train", total=config.steps, initial=first, unit="step", mininterval=1, disable=not sinks) as bar,
    ):
        desk, before, logged = Open(sinks, store, _judge(job)), None, (first, time.perf_counter())
        for start, end in pace.calls(first, config, devices.loops_are_slow()):
            trace_at(start + 1)
            state, metrics = steps.run(state, np.stack([next(batches) for _ in range(start, end)]))
            guard.check_finite(before, start, state, workdir)
            before = metrics
            bar.update(end - start)
            due, stopping = pace.due(config, end), stop_asked(start, end)
            if stopping or due:
                guard.check_finite(metrics, end, state, workdir)
                line = _measured(state, metrics, (end - logged[0]) * config.batch, logged[1]) if "log" in due else {}
                logged = (end, time.perf_counter()) if "log" in due else logged
                _record(job, desk, state, line, due | ({"save"} if stopping else set()))
                bar.set_postfix_str(
                    ", ".join(f"{name} {line[name]:.4g}" for name in SHOWN if line.get(name) is not None)
                )
            if stopping:
                checkpoint.finish(store)
                raise Stopped(f"stopped as asked: step {end} is stored, the same command goes on from there")
        checkpoint.finish(store)
    return state


def _record(job: Job, desk: Open, state: TrainState, line: dict[str, Any], due: set[str]) -> None:
    """Write down what is due, and store the state last: what a log says of a stored step is there."""
    step, config = int(state.step), job.pace
    if "save" in due and (step % config.save_every == 0 or step == config.steps):
        line["held_out_loss"] = desk.judge(state)
    if line:
        journal.scalars(desk.sinks, step, line)
    if "sample" in due and job.preview:
        own = devices.own((state.params, *state.ema))
        names = ("raw", *(f"ema_{rate:g}" for rate in job.recipe.ema_decay))
        for name, params in zip(names, own, strict=True) if desk.sinks else ():
            journal.pictures(desk.sinks, step, f"samples/{name}", job.preview(params))
    if "save" in due:
        checkpoint.save(desk.store, state, job.description, line.get("held_out_loss"))


def _measured(state: TrainState, metrics: Metrics, images: int, since: float) -> dict[str, Any]:
    """The last step's numbers, and what was done since the last look."""
    last = jax.tree.map(lambda values: float(values[-1]), metrics)
    return {
        "loss": last.loss,
        "gradient_norm": last.gradient_norm,
        "parameter_norm": last.parameter_norm,
        "loss_by_noise_level": [None if np.isnan(mean) else mean for mean in np.asarray(state.recent.means).tolist()],
        "images_per_second": round(images / (time.perf_counter() - since), 1),
        "memory_gib": round(devices.peak_memory() / 2**30, 2),
    }


def _judge(job: Job) -> Callable[[TrainState], float | None]:
    """state -> the mean loss of the calibration images, of the first average; times spread evenly, noise fixed.

    None where it is not finite.
    """
    images = np.asarray(job.data.calibration.images[:HELD_OUT])
    index = np.arange(len(images))
    examples = (index * job.recipe.chain.K // len(images), index, images)
    of, layout = partial(train.held_out_loss, job.recipe), Layout(job.pace.parallel)

    def judge(state: TrainState) -> float | None:
        shared = (jax.random.key(0), devices.own(state.ema[0]), job.frozen)
        loss = float(np.mean(parallel.over_examples(of, shared, examples, layout)))
        return loss if np.isfinite(loss) else None

    return judge


@contextmanager
def _journal(job: Job, workdir: Path, first: int) -> Iterator[Journal]:
    """The sinks of the first process, after it has introduced itself; none of any other."""
    if not processes.first():
        yield ()
        return
    where = devices.words()
    journal.introduce(workdir, job.description, first, where)
    with journal.writing(workdir, first, job.description, job.pace.wandb) as sinks:
        parts = f", in {job.recipe.microbatches} microbatches" if job.recipe.microbatches > 1 else ""
        journal.note(workdir, f"training from step {first} to {job.pace.steps} on {where}{parts}")
        try:
            yield sinks
        except BaseException as stop:
            journal.note(workdir, f"{type(stop).__name__}: {stop}")
            raise
        journal.note(workdir, f"trained to step {job.pace.steps}")
