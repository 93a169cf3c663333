"""Our side of benchmarks.bench: the programs of a training, of the sampler and of the pass over images, one device.

A worker of benchmarks.turns.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import turns
from benchmarks.tpu_check import lower_step
from benchmarks.turns import Job, Row
from ddpm_jax.data.datasets import DataSet, Split
from ddpm_jax.diffusion import process, timesteps, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation import moments, samples
from ddpm_jax.models import unet
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.runtime import sharding
from ddpm_jax.runtime.sharding import Layout
from ddpm_jax.training import loop, setup
from ddpm_jax.training.config import Config, from_dict
from ddpm_jax.training.loop import FAST_TO_COMPILE
from ddpm_jax.training.setup import Run
from ddpm_jax.training.step import TrainState, train_steps

LONG = 0.2  # seconds that matrix products are repeated for, at least


class Bench(NamedTuple):
    """What the jobs share.

    Attributes:
      wanted: the run.
      images: a batch, grey levels 0..255.
      K: steps of the chain, and times of the pass.
      product_sizes: sides of the matrices.
      layout: one device.
    """

    wanted: Run
    images: np.ndarray
    K: int
    product_sizes: tuple[int, ...]
    layout: Layout


def made_up(channels: int, side: int, count: int) -> np.ndarray:
    """Images whose pixels are drawn at random."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)


def programs(settings: Row) -> Bench:
    """What the jobs share, of what `bench.resolve` says."""
    config, network = from_dict(Config, settings["training"]), from_dict(UNetConfig, settings["network"])
    images = made_up(network.image_channels, settings["image_size"], config.batch)
    split = Split(images, None)
    wanted = setup.resolve(config, network, DataSet("random", "random pixels", 256, True, split, split, split))
    layout = Layout(config.parallel, sharding.local(Layout())[:1])
    return Bench(wanted, images, settings["K"], tuple(settings["product_sizes"]), layout)


def prepare(settings: Row) -> tuple[Row, dict[str, Job]]:
    """What this worker says of itself, and its jobs; see `turns.serve`."""
    bench = programs(settings)
    count = unet.parameter_count(jax.eval_shape(partial(setup.fresh, bench.wanted)).params)
    device = dict(device=sharding.local(bench.layout)[0].device_kind, platform=jax.default_backend())
    return {"parameters": count, "cores": turns.threads(), "jax": jax.__version__, **device}, jobs(bench)


def jobs(bench: Bench) -> dict[str, Job]:
    """All that can be asked for."""
    on_cpu = jax.default_backend() == "cpu"
    wait, draw = jax.block_until_ready, cache(partial(parameters, bench.wanted))
    return {
        "compile": lambda repetitions: compile_seconds(bench),
        "flops": lambda repetitions: flops(bench),
        "memory": turns.memory(None if on_cpu else sharding.peak_memory),
        "step": turns.timed(partial(step, bench), wait, steps_a_call(bench)),
        "forward": turns.timed(partial(forward, bench, draw), wait),
        "sampling": turns.timed(partial(sampling, bench, draw), wait),
        "bare": turns.timed(partial(bare, bench, draw), wait),
        "moments": turns.timed(partial(measuring, bench, draw), wait),
        "product_float32": lambda repetitions: product_rate(bench.product_sizes, "float32"),
        "product_bfloat16": lambda repetitions: product_rate(bench.product_sizes, "bfloat16"),
    }


def parameters(wanted: Run) -> Any:
    """Those before the first step, on the device."""
    return jax.jit(lambda: setup.fresh(wanted).params, compiler_options=FAST_TO_COMPILE)()


def first_state(wanted: Run) -> TrainState:
    """That before the first step, on the device."""
    return jax.jit(partial(setup.fresh, wanted), compiler_options=FAST_TO_COMPILE)()


def steps_a_call(bench: Bench) -> int:
    """Training steps in one program call, as a training has them by default."""
    return 1 if sharding.loops_are_slow() else loop.STEPS_PER_CALL


def lowered(bench: Bench, count: int) -> jax.stages.Lowered:
    """The program of `count` training steps, not compiled."""
    return lower_step(bench.wanted, bench.layout, len(bench.images), count)


def compile_seconds(bench: Bench) -> Row:
    """How long the training step takes from Python functions to what XLA is given, and from there to a program."""
    started = time.perf_counter()
    traced = lowered(bench, steps_a_call(bench))
    between = time.perf_counter()
    traced.compile()
    return {"tracing": between - started, "compiling": time.perf_counter() - between}


def flops(bench: Bench) -> Row:
    """Floating-point operations of a training step and of a forward pass, as XLA counts them before it optimises.

    One step a program, for work inside a loop is counted once. Needs the CPU backend, the only one that counts.
    """
    params = jax.eval_shape(partial(setup.fresh, bench.wanted)).params
    x_t, t = (
        jax.ShapeDtypeStruct(*one) for one in ((bench.images.shape, np.float32), (bench.images.shape[:1], np.int32))
    )
    passing = jax.jit(unet.network(bench.wanted.network)).lower(params, x_t, t)
    programs = {"step": lowered(bench, 1), "forward": passing}
    return {name: program.cost_analysis()["flops"] for name, program in programs.items()}  # type: ignore[index]


def step(bench: Bench) -> Callable[[], Any]:
    """The training step of a run: mirrored, noised, learnt from, clipped, Adam, averaged."""
    wanted, layout = bench.wanted, bench.layout
    state = sharding.replicate(first_state(wanted), layout)
    call = sharding.parallelise(partial(train_steps, wanted.recipe), layout).run
    batches = np.stack([bench.images] * steps_a_call(bench))

    def one() -> Any:
        nonlocal state
        state, metrics = call(state, batches)
        return state, metrics

    return one


def passes(bench: Bench, network: UNetConfig, draw: Callable[[], Any]) -> Callable[[], Any]:
    """A network's pass over a batch, each upon the one before it, so that two are never under way at once."""
    batch, *shape = bench.images.shape
    apply = unet.network(network)
    call = jax.jit(lambda params, x_t, t: x_t + 1e-3 * apply(params, x_t, t)[..., : shape[-1]])
    params, t = draw(), jnp.arange(batch) % bench.wanted.schedule.T + 1
    x_t = jax.random.normal(jax.random.key(1), (batch, *shape))

    def one() -> Any:
        nonlocal x_t
        x_t = call(params, x_t, t)
        return x_t

    return one


def forward(bench: Bench, draw: Callable[[], Any]) -> Callable[[], Any]:
    """A pass in the precision of training."""
    return passes(bench, bench.wanted.network, draw)


def bare(bench: Bench, draw: Callable[[], Any]) -> Callable[[], Any]:
    """K passes in the precision of sampling."""
    one = passes(bench, replace(bench.wanted.network, activations="float32"), draw)

    def all_of_them() -> Any:
        with jax.default_matmul_precision("highest"):
            return [one() for _ in range(bench.K)][-1]

    return all_of_them


def sampling(bench: Bench, draw: Callable[[], Any]) -> Callable[[], Any]:
    """A batch of samples in K steps."""
    wanted = bench.wanted
    steps = process.steps(wanted.schedule, timesteps.even(wanted.schedule.T, bench.K))
    small = variances.build("small", Calibration(wanted.schedule))
    denoiser, shape = setup.denoiser_of(wanted.config, wanted.network, wanted.schedule, draw()), bench.images.shape
    key = jax.random.key(2)
    draw_all = partial(samples.sample_each, key, steps, denoiser, (small,), shape, layout=bench.layout)
    return lambda: jax.block_until_ready(draw_all()[0])


def measuring(bench: Bench, draw: Callable[[], Any]) -> Callable[[], Any]:
    """The pass over a batch of images at K times."""
    wanted = bench.wanted
    times = timesteps.even(wanted.schedule.T, bench.K)
    what = (
        jax.random.key(3),
        wanted.schedule,
        setup.denoiser_of(wanted.config, wanted.network, wanted.schedule, draw()),
        bench.images,
        Rules(),
    )
    return lambda: moments.measure(*what, times=times, layout=bench.layout).error


def product_rate(sizes: tuple[int, ...], kind: str) -> float:
    """Floating-point operations a second of square matrix products, of the fastest size."""
    return max(_rate(size, kind) for size in sizes)


def _rate(size: int, kind: str) -> float:
    """Products upon each other, four times as many until they take long enough to be timed."""
    x = (jax.random.normal(jax.random.key(4), (size, size)) / np.sqrt(size)).astype(kind)
    product = jax.jit(jnp.dot)
    y, count, seconds = jax.block_until_ready(product(x, x)), 1, 0.0
    while seconds < LONG:
        started = time.perf_counter()
        for _ in range(count):
            y = product(x, y)
        jax.block_until_ready(y)
        seconds, count = time.perf_counter() - started, 4 * count
    return 2 * size**3 * (count // 4) / seconds


if __name__ == "__main__":
    turns.serve(prepare)
