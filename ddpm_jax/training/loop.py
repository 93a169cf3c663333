"""The training loop: steps, log, checkpoints and safeguards. The one imperative file.

One trainer per workdir, no step after a loss or gradient that is not finite, as many microbatches as memory requires.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from ddpm_jax import paths
from ddpm_jax.data import datasets, loader, transforms
from ddpm_jax.data.sources.records import ImageArray
from ddpm_jax.diffusion import conventions, process, sampler, timesteps, variances
from ddpm_jax.paths import AnyPath
from ddpm_jax.runtime import cache, distributed, sharding, xla
from ddpm_jax.runtime.sharding import Layout, ParallelSteps
from ddpm_jax.runtime.xla import DoesNotFit
from ddpm_jax.training import checkpoints, metrics, setup, step
from ddpm_jax.training.config import Config, Stopped
from ddpm_jax.training.metrics import Journal
from ddpm_jax.training.model import Stored, stored_network
from ddpm_jax.training.setup import Run
from ddpm_jax.training.step import TENTHS, Metrics, Params, Recipe, TrainState

# Compiles in 2.2 s instead of 6.5 s and runs once: the start of a training does little else than draw parameters.
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
HELD_OUT = 1000  # images that judge a state, at most
SHOWN = ("loss", "held_out_loss", "images_per_second")  # beside the progress bar


class Job(NamedTuple):
    """A training job; the loop need not know what is trained.

    Attributes:
      recipe: of a training step.
      frozen: tree of arrays that a step reads and does not change.
      fresh: () -> the state before the first step.
      data: whose training images it learns from; its calibration images judge it.
      config: steps, batch, seed, and how often to log, save and sample.
      description: stored with every checkpoint.
      check: refuses the description of another training's checkpoint.
      preview: parameters -> samples as grey levels 0..255; None for none.
    """

    recipe: Recipe
    frozen: Any
    fresh: Callable[[], TrainState]
    data: datasets.DataSet
    config: Config
    description: dict[str, Any]
    check: Callable[[dict[str, Any]], None]
    preview: Callable[[Params], np.ndarray] | None


def fit(config: Config, workdir: AnyPath) -> Stored:
    """Train to config.steps, from the newest checkpoint of workdir that can be read, if there is one.

    Writes checkpoints, metrics.jsonl, TensorBoard event files, sample grids, and how it was started.

    Raises:
      ValueError: the config cannot work, or workdir is not writable, in use, or holds a run with another config.
      FloatingPointError: the loss or its gradient is not finite; names the step and the times. The last checkpoint
        stays.
      Stopped: SIGTERM or a notice of preemption came; the state is stored.
    """
    workdir, run = paths.local(workdir), setup.resolve(config)
    metrics.check_wandb(config.wandb)
    job = Job(
        recipe=run.recipe,
        frozen=None,
        fresh=partial(setup.fresh, run),
        data=run.data,
        config=run.config,
        description=setup.describe(run),
        check=partial(setup.check_same, run, workdir=workdir),
        preview=partial(preview_grid, run),
    )
    state, data = work(job, workdir), datasets.describe(run.data)
    return stored_network("trained", run.config.preset, run.config, run.network, state.ema[0], int(state.step), data)


def work(job: Job, workdir: Path) -> TrainState:
    """Run the remaining steps of a job and return the last state; see `fit`.

    Raises:
      ValueError: workdir holds another training, or more steps. Others: see `fit`.
    """
    config = job.config
    layout = sharding.for_batch(config.batch, job.recipe.microbatches, Layout(config.parallel))
    cache.check_writable(workdir)
    checkpoints.check_folder(workdir, config)
    with locked(*checkpoints.on_disk(workdir, config)):
        state = _begin(job, workdir)
        if int(state.step) > config.steps:
            raise ValueError(
                f"{workdir} holds a run of {int(state.step)} steps, more than steps = {config.steps}: ask for as many, "
                "or choose another --workdir"
            )
        if int(state.step) < config.steps:
            state = _advance(job, sharding.replicate(state, layout), layout, workdir)
        elif distributed.first() and not (workdir / metrics.CONFIG).exists():  # all is in --checkpoints
            metrics.introduce(workdir, job.description, int(state.step), sharding.words())
    return sharding.own(state)


def _begin(job: Job, workdir: Path) -> TrainState:
    """The state to start from; what a damaged newer checkpoint left is set aside."""
    folder = checkpoints.folder_of(workdir, job.config)
    if not distributed.of_the_first(len(checkpoints.steps(folder))):
        return jax.jit(job.fresh, compiler_options=FAST_TO_COMPILE)()
    job.check(checkpoints.describe(folder))
    state = checkpoints.restore(folder, jax.eval_shape(job.fresh))
    agreed = distributed.of_the_first(int(state.step))
    if int(state.step) != agreed:
        state = checkpoints.restore(folder, jax.eval_shape(job.fresh), agreed)
    distributed.wait_for_all("restored")
    if distributed.first():
        checkpoints.set_aside(folder, int(state.step))
    distributed.wait_for_all("set aside")
    return state


class Outputs(NamedTuple):
    """What is open while a job is worked on.

    Attributes:
      sinks: of the numbers and pictures; none in any process but the first.
      store: of the checkpoints.
      held_out_loss: state -> loss of held-out images.
    """

    sinks: Journal
    store: checkpoints.Manager
    held_out_loss: Callable[[TrainState], float | None]


def _advance(job: Job, state: TrainState, layout: Layout, workdir: Path) -> TrainState:
    """The steps from state.step to the last."""
    config, first = job.config, int(state.step)
    recipe, steps = fitted(job.recipe, job.frozen, config, state, layout, job.data.train.images)
    job = job._replace(recipe=recipe)
    order = loader.batches(job.data.train.images, config.batch, config.seed, distributed.share())
    keep = checkpoints.Retention(config.keep, config.keep_every, config.keep_best)
    with (
        closing(loader.stream(order, first)) as batches,
        _journal(job, workdir, first) as sinks,
        checkpoints.writing(checkpoints.folder_of(workdir, config), keep) as store,
        distributed.stop_request() as stop_asked,
        tracing(workdir, config.profile) as trace_at,
        tqdm(desc="train", total=config.steps, initial=first, unit="step", mininterval=1, disable=not sinks) as bar,
    ):
        outputs, before, logged = Outputs(sinks, store, _held_out_loss(job)), None, (first, time.perf_counter())
        for start, end in calls(first, config, sharding.loops_are_slow()):
            trace_at(start + 1)
            state, metrics = steps.run(state, np.stack([next(batches) for _ in range(start, end)]))
            check_finite(before, start, state, workdir)
            before = metrics
            bar.update(end - start)
            tasks, stopping = due(config, end), stop_asked(start, end)
            if stopping or tasks:
                check_finite(metrics, end, state, workdir)
                line = _measured(state, metrics, (end - logged[0]) * config.batch, logged[1]) if "log" in tasks else {}
                logged = (end, time.perf_counter()) if "log" in tasks else logged
                _record(job, outputs, state, line, tasks | ({"save"} if stopping else set()))
                bar.set_postfix_str(
                    ", ".join(f"{name} {line[name]:.4g}" for name in SHOWN if line.get(name) is not None)
                )
            if stopping:
                checkpoints.finish(store)
                raise Stopped(f"stopped as asked: step {end} is stored, the same command goes on from there")
        checkpoints.finish(store)
    return state


def _record(job: Job, outputs: Outputs, state: TrainState, line: dict[str, Any], due: set[str]) -> None:
    """Write down what is due, and store the state last: what a log says of a stored step is there."""
    step, config = int(state.step), job.config
    if "save" in due and (step % config.save_every == 0 or step == config.steps):
        line["held_out_loss"] = outputs.held_out_loss(state)
    if line:
        metrics.scalars(outputs.sinks, step, line)
    if "sample" in due and job.preview:
        parameter_sets = sharding.own((state.params, *state.ema))
        names = ("raw", *(f"ema_{rate:g}" for rate in job.recipe.ema_decay))
        for name, params in zip(names, parameter_sets, strict=True) if outputs.sinks else ():
            metrics.pictures(outputs.sinks, step, f"samples/{name}", job.preview(params))
    if "save" in due:
        checkpoints.save(outputs.store, state, job.description, line.get("held_out_loss"))


def _measured(state: TrainState, metrics: Metrics, images: int, since: float) -> dict[str, Any]:
    """The last step's numbers, and what was done since the last look."""
    last = jax.tree.map(lambda values: float(values[-1]), metrics)
    return {
        "loss": last.loss,
        "gradient_norm": last.gradient_norm,
        "parameter_norm": last.parameter_norm,
        "loss_by_noise_level": [None if np.isnan(mean) else mean for mean in state.recent.means.tolist()],
        "images_per_second": round(images / (time.perf_counter() - since), 1),
        "memory_gib": round(sharding.peak_memory() / 2**30, 2),
    }


def _held_out_loss(job: Job) -> Callable[[TrainState], float | None]:
    """state -> the mean loss of the calibration images, of the first average; times spread evenly, noise fixed.

    None where it is not finite.
    """
    images = np.asarray(job.data.calibration.images[:HELD_OUT])
    index = np.arange(len(images))
    examples = (index * job.recipe.chain.K // len(images), index, images)
    per_example, layout = partial(step.held_out_loss, job.recipe), Layout(job.config.parallel)

    def loss(state: TrainState) -> float | None:
        shared = (jax.random.key(0), sharding.own(state.ema[0]), job.frozen)
        loss = float(np.mean(sharding.over_examples(per_example, shared, examples, layout)))
        return loss if np.isfinite(loss) else None

    return loss


@contextmanager
def _journal(job: Job, workdir: Path, first: int) -> Iterator[Journal]:
    """The sinks of the first process, after it has introduced itself; none of any other."""
    if not distributed.first():
        yield ()
        return
    where = sharding.words()
    metrics.introduce(workdir, job.description, first, where)
    with metrics.writing(workdir, first, job.description, job.config.wandb) as sinks:
        parts = f", in {job.recipe.microbatches} microbatches" if job.recipe.microbatches > 1 else ""
        metrics.note(workdir, f"training from step {first} to {job.config.steps} on {where}{parts}")
        try:
            yield sinks
        except BaseException as stop:
            metrics.note(workdir, f"{type(stop).__name__}: {stop}")
            raise
        metrics.note(workdir, f"trained to step {job.config.steps}")


STEPS_PER_CALL = 10  # where loops are fast


def calls(first: int, config: Config, loops_are_slow: bool) -> Iterator[tuple[int, int]]:
    """(start, end) of the program calls from step `first` on.

    A call ends where anything is due and at the multiples of steps_per_call: a resumed run groups its steps as before,
    so that rounding is the same.

    Args:
      first: the step that training starts from.
      config: steps, steps_per_call, and how often something is due.
      loops_are_slow: then the default is one step per call.
    """
    most = config.steps_per_call or (1 if loops_are_slow else STEPS_PER_CALL)
    strides = [every for every in (most, config.log_every, config.save_every, config.sample_every) if every]
    begin, last = config.profile or (1, 0)
    while first < config.steps:
        edges = [edge for edge in (begin - 1, last) if edge > first]  # of the steps that are traced
        end = min(config.steps, *edges, *((first // every + 1) * every for every in strides))
        yield first, end
        first = end


def due(config: Config, step: int) -> set[str]:
    """What is to be done after a step: log, save, sample."""
    last = step == config.steps
    tasks = {name for name in ("log", "save") if last or step % getattr(config, f"{name}_every") == 0}
    return tasks | ({"sample"} if config.sample_every and step % config.sample_every == 0 else set())


def preview_grid(wanted: Run, params: Params, count: int = 16, K: int = 50) -> np.ndarray:
    """A few samples of some parameters, a short chain with `large` variance; the same noise every time."""
    steps = process.steps(wanted.schedule, timesteps.even(wanted.schedule.T, min(K, wanted.schedule.T)))
    shape = (count, *wanted.data.shape)
    choice = variances.large(wanted.schedule)
    rules = conventions.Rules(levels=wanted.data.levels)
    x_0 = sampler.sample(
        jax.random.key(0),
        steps,
        setup.denoiser_of(wanted.config, wanted.network, wanted.schedule, params),
        choice,
        shape,
        rules,
    )
    return transforms.to_levels(x_0, 256)


SPARE = 1 / 16  # of a device's memory, for batches on their way and what its allocator cannot hand out


def fitted(
    recipe: Recipe, frozen: Any, config: Config, state: TrainState, layout: Layout, images: ImageArray
) -> tuple[Recipe, ParallelSteps]:
    """The recipe with the requested number of microbatches, else the fewest that fit in memory, and its steps.

    A step is compiled to find the memory that it needs; running it does not compile it again.

    Args:
      recipe: of a training step.
      frozen: tree of arrays that a step reads and does not change.
      config: where `microbatches` is None, the number is searched for.
      state: on the devices.
      layout: with the devices that the batch is split over.
      images: any number of them; only their shape and dtype are read.

    Raises:
      ValueError: not even one image at a time fits.
    """

    def with_microbatches(count: int) -> tuple[Recipe, ParallelSteps]:
        parts = recipe._replace(microbatches=count)
        return parts, sharding.parallelise(partial(step.train_steps, parts), layout, frozen)

    available_bytes = sharding.memory(layout)
    if config.microbatches or available_bytes is None:
        return with_microbatches(config.microbatches or 1)
    first, last = next(calls(int(state.step), config, sharding.loops_are_slow()))
    rows = config.batch // jax.process_count()
    batches = jax.ShapeDtypeStruct((last - first, rows, *images.shape[1:]), images.dtype)
    share = config.batch // len(sharding.every(layout))
    for count in (n for n in range(1, share + 1) if share % n == 0):
        candidate = with_microbatches(count)
        needed_bytes = _needed(candidate[1].lower(state, batches))
        if distributed.of_the_first(int(needed_bytes <= (1 - SPARE) * available_bytes)):
            return candidate
    raise ValueError(
        f"a training step needs {needed_bytes / 2**30:.2f} GiB with one image at a time, and a device has "
        f"{available_bytes / 2**30:.2f} GiB: use --remat, a smaller preset, or devices with more memory"
    )


def _needed(lowered: jax.stages.Lowered) -> int:
    """Bytes on a device, as its compiler says it."""
    try:
        return xla.memory(xla.executable(lowered))
    except DoesNotFit as error:
        return error.used


LOCK = ".lock"


@contextmanager
def locked(*folders: Path) -> Iterator[None]:
    """Lock the folders, so that no other run trains in them. The system releases the locks however the process ends.

    Raises:
      ValueError: another process holds one; raised in every process.
    """
    with ExitStack() as stack:
        taken = distributed.of_the_first(_lock(folders, stack) if distributed.first() else 0)
        if taken:
            raise ValueError(
                f"another process works in {folders[taken - 1]}: wait for it, stop it, or choose another folder"
            )
        yield


def _lock(folders: tuple[Path, ...], stack: ExitStack) -> int:
    """Which of the folders, from 1, another process holds; 0 if all are ours now."""
    for number, folder in enumerate(folders, 1):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(FileLock(folder / LOCK).acquire(timeout=0))
        except Timeout:
            return number
    return 0


def check_finite(metrics: Metrics | None, end: int, state: TrainState, workdir: Path) -> None:
    """Stop at a loss or gradient that is not finite.

    Args:
      metrics: of the steps of one call; None before the first call.
      end: the last of these steps.
      state: whose losses by noise level are reported.
      workdir: where the last good checkpoint lies.

    Raises:
      FloatingPointError: names the step, a time, and the losses by noise level.
    """
    if metrics is None:
        return
    numbers = np.stack([np.asarray(metrics.loss), np.asarray(metrics.gradient_norm)])
    bad = ~np.isfinite(numbers).all(axis=0)
    if not bad.any():
        return
    i = int(bad.argmax())
    step, t = end - len(bad) + i + 1, int(metrics.bad_t[i])
    what = f"loss {numbers[0, i]:g} at step {step}" + (f", t = {t}" if t else f", gradient norm {numbers[1, i]:g}")
    means = (f"{(i + 1) / TENTHS:.1f}: {mean:.3g}" for i, mean in enumerate(state.recent.means))
    raise FloatingPointError(
        f"{what}; loss by t/T up to {', '.join(means)}. Lower the learning rate; the last checkpoint in {workdir} is "
        "as it was"
    )


@contextmanager
def tracing(workdir: Path, window: tuple[int, int] | None) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the next step before every call; traces the window's steps to workdir/profile."""
    running: list[bool] = []

    def at(step: int) -> None:
        in_window = window is not None and distributed.first() and window[0] <= step <= window[1]
        if in_window and not running:
            jax.profiler.start_trace(str(workdir / "profile"))
            running.append(True)
        elif running and not in_window:
            jax.profiler.stop_trace()
            running.clear()

    try:
        yield at
    finally:
        if running:
            jax.profiler.stop_trace()
