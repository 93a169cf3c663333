"""One program on many devices, by pmap or by shard_map; the only file that names devices.

Two shapes of work. `parallelise`: training steps, whose state is one tree, the same on all devices of all processes and
without a device axis, so that a checkpoint does not know how many devices wrote it. `over_examples`: a function of
independent examples (samples, images), of which every device of this process takes a share.
"""

import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

S = TypeVar("S")
Devices = tuple[jax.Device, ...]
AXIS = "devices"
MOST_CORES = 8  # that become devices: each holds a copy of the state
WHOLE, SPLIT = PartitionSpec(), PartitionSpec(AXIS)


class Layout(NamedTuple):
    """How work is spread. Numbers do not depend on it, but for the rounding of sums.

    Attributes:
      how: a name of PARALLEL.
      devices: default all: of every process in training, of this one elsewhere.
      batch: examples that one device takes at a time, at most, outside training.
    """

    how: str = "pmap"
    devices: Devices | None = None
    batch: int = 1024


def use_cores() -> None:
    """Make every CPU core of this machine a device of its own, up to MOST_CORES; call it before JAX is used.

    XLA's CPU backend runs one operation at a time, and many use a single core: two devices on two cores took .62
    to .85 of the time of one (U-Net of `digits`, forward and gradient, jax 0.10.2). A number that the user has set, by
    JAX_NUM_CPU_DEVICES or XLA_FLAGS, stays.
    """
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not asked and jax.config.values["jax_num_cpu_devices"] < 1:
        here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with suppress(RuntimeError):  # JAX is in use already, where a command is called from Python
            jax.config.update("jax_num_cpu_devices", min(here, MOST_CORES))


def local(layout: Layout) -> Devices:
    """The devices of a layout in this process."""
    return tuple(jax.local_devices()) if layout.devices is None else layout.devices


def every(layout: Layout) -> Devices:
    """The devices of a layout in all processes, one process after the other, as their rows of a batch lie."""
    found = jax.devices() if layout.devices is None else layout.devices
    return tuple(sorted(found, key=lambda device: (device.process_index, device.id)))


def are_cores(devices: Devices) -> bool:
    """Whether these are cores of one machine's CPU."""
    return jax.process_count() == 1 and devices[0].platform == "cpu"


class Spread(NamedTuple):
    """function(changing, whole, split) on many devices: the last sharded along an axis, the first donated.

    Attributes:
      run: of arrays.
      lower: of their shapes, for devices that need not be attached.
    """

    run: Callable[[Any, Any, Any], Any]
    lower: Callable[[Any, Any, Any], jax.stages.Lowered]


def _given(devices: Devices) -> tuple[int, ...]:
    """Which arguments are donated. On several CPUs none: XLA crashed (jax 0.10.2)."""
    return () if devices[0].platform == "cpu" and len(devices) > 1 else (0,)


def _pmap(function: Callable, devices: Devices, axis: int, whole_result: bool) -> Spread:
    """By jax.pmap, which takes an axis of devices."""
    count = sum(device.process_index == jax.process_index() for device in devices)
    mapped = jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=(None, None, axis),
        out_axes=None if whole_result else 0,
        donate_argnums=_given(devices),
        devices=list(devices),
    )

    def shape(x: Any) -> tuple[int, ...]:
        return (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])

    def run(changing: Any, whole: Any, split: Any) -> Any:
        result = mapped(changing, whole, jax.tree.map(lambda x: x.reshape(shape(x)), split))
        return result if whole_result else jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)

    def like(x: Any) -> Any:  # of several processes pmap lowers arrays alone
        return np.zeros(shape(x), x.dtype) if jax.process_count() > 1 else jax.ShapeDtypeStruct(shape(x), x.dtype)

    def lower(changing: Any, whole: Any, split: Any) -> jax.stages.Lowered:
        return mapped.lower(changing, whole, jax.tree.map(like, split))

    return Spread(run, lower)


def _shard_map(function: Callable, devices: Devices, axis: int, whole_result: bool) -> Spread:
    """By jit(shard_map)."""
    mesh, split = Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(*[None] * axis, AXIS)
    out = WHOLE if whole_result else SPLIT
    on_mesh = jax.shard_map(function, mesh=mesh, in_specs=(WHOLE, WHOLE, split), out_specs=out)
    mapped = jax.jit(on_mesh, donate_argnums=_given(devices))
    if not mesh.is_multi_process:
        return Spread(mapped, mapped.lower)
    sharding, processes = NamedSharding(mesh, split), len({device.process_index for device in devices})

    def run(changing: Any, whole: Any, shares: Any) -> Any:
        return mapped(changing, whole, jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), shares))

    def joined(x: Any) -> jax.ShapeDtypeStruct:
        shape = (*x.shape[:axis], processes * x.shape[axis], *x.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

    return Spread(run, lambda changing, whole, shares: mapped.lower(changing, whole, jax.tree.map(joined, shares)))


PARALLEL: dict[str, Callable[[Callable, Devices, int, bool], Spread]] = {"pmap": _pmap, "shard_map": _shard_map}


def check(how: str) -> None:
    """Refuse an unknown way of spreading.

    Raises:
      ValueError: the name is unknown.
    """
    if how not in PARALLEL:
        raise ValueError(f"unknown parallel {how!r}: choose one of {', '.join(PARALLEL)}")


def replicate(state: S, layout: Layout = Layout()) -> S:
    """A copy of the state on every device, as a step returns it: without this the second step would compile again.

    Every leaf has its own memory, so that it can be donated.

    With several processes, pmap returns a copy to each, shard_map one global array.
    """
    devices = local(layout) if layout.how == "pmap" else every(layout)
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), WHOLE)

    def put(x: Any) -> Array:
        if _is_key(x):  # its numbers: a key cannot leave its process
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        return jax.device_put(x, sharding, may_alias=False)

    return jax.tree.map(put, state)


def own(tree: S) -> S:
    """This process's copy of replicated arrays, in host memory; fully addressable arrays stay where they are."""

    def copy(x: Any) -> Any:
        if x.is_fully_addressable:
            return x
        if _is_key(x):
            return jax.random.wrap_key_data(copy(jax.random.key_data(x)))
        return np.asarray(x.addressable_data(0))

    return jax.tree.map(copy, tree)


def _is_key(x: Any) -> bool:
    return jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


def memory(layout: Layout) -> int | None:
    """The memory of one device in bytes, of a CPU device its share of the machine's. None where it is not reported."""
    found = local(layout)
    if found[0].platform == "cpu":
        known = hasattr(os, "sysconf")  # not on Windows
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(found) if known else None
    return (found[0].memory_stats() or {}).get("bytes_limit")


def peak_memory() -> int:
    """The most bytes that were in use at once: of a device, or of this process where the device is a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def words() -> str:
    """All devices in words."""
    many = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}{many}"


def cuda_generation() -> int:
    """The first number of the compute capability of this process's NVIDIA GPU; 0 where it has none."""
    capability = getattr(jax.local_devices()[0], "compute_capability", "")  # "9.0", and of AMD's GPUs "gfx942"
    return int(capability.partition(".")[0]) if capability[:1].isdigit() else 0


def loops_are_slow() -> bool:
    """Whether gradients of convolutions inside a loop are far slower than outside, as on CPUs."""
    return jax.default_backend() == "cpu"


@jax.jit
def when_there(x: Array, awaited: Any) -> Array:
    """x, made to depend on every leaf of a tree, so that it is not used before they are computed.

    XLA's CPU backend starts whatever it can, and ignores `jax.lax.optimization_barrier`.
    """
    some = sum(leaf.ravel()[0] for leaf in jax.tree.leaves(awaited))
    return jnp.where(some < some, 0, x)


Batches = Shaped[Array, "n b *x"] | Shaped[np.ndarray, "n b *x"]


class ParallelSteps(NamedTuple):
    """Training steps on all devices of all processes.

    Attributes:
      run: (state, this process's rows of n global batches (n, b, *x)) -> (state, metrics). The old state is donated,
        except on several devices of a CPU.
      lower: the same arguments, or their shapes (`jax.eval_shape`) -> the lowered program of `run`, also for devices
        that are not attached. Once it is compiled, `run` does not compile it again.
    """

    run: Callable[[Any, Batches], tuple[Any, Any]]
    lower: Callable[[Any, Any], jax.stages.Lowered]


def block(layout: Layout, n: int) -> int:
    """Examples per call over all devices, when n are processed in the fewest equal blocks."""
    most = layout.batch * len(local(layout))
    return -(-n // -(-n // most))


def for_batch(batch: int, microbatches: int, layout: Layout) -> Layout:
    """The layout with the devices that a batch is split over evenly.

    Of the cores of one machine's CPU, where the layout names none, as many as divide the batch; of other devices all.

    Raises:
      ValueError: the batch does not split evenly, or the way of spreading it is unknown.
    """
    check(layout.how)
    found = every(layout)
    if layout.devices is None and are_cores(found):
        found = found[: max(n for n in range(1, len(found) + 1) if batch % (n * microbatches) == 0 or n == 1)]
        layout = layout._replace(devices=found)
    parts = len(found) * microbatches
    if batch % parts:
        raise ValueError(
            f"batch {batch} does not split over {len(found)} device{'s' * (len(found) > 1)}"
            + (f" and {microbatches} microbatches" if microbatches > 1 else "")
            + f": choose a multiple of {parts}"
        )
    return layout


def parallelise(steps: Callable, layout: Layout = Layout(), frozen: Any = None) -> ParallelSteps:
    """`steps` on all devices of all processes: the batches sharded, the state replicated and donated.

    Args:
      steps: (state, batches (n, b, *x), axis, frozen) -> (state, metrics).
      layout: see Layout; its `batch` is not used.
      frozen: tree of arrays that a step reads and does not change; replicated on every device.

    Raises:
      ValueError: the layout's name is unknown.
    """
    check(layout.how)

    def on_one(state: Any, frozen: Any, batches: Any) -> Any:
        return steps(state, batches, axis=AXIS, frozen=frozen)

    spread, still = PARALLEL[layout.how](on_one, every(layout), 1, True), replicate(frozen, layout)
    return ParallelSteps(
        run=lambda state, batches: spread.run(state, still, batches),
        lower=lambda state, batches: spread.lower(state, still, batches),
    )


def over_examples(function: Callable, shared: Any, examples: Any, layout: Layout = Layout(), **fixed: Any) -> Any:
    """function(shared, examples, **fixed) with the examples split over the devices, block by block.

    The last block is padded with copies of the last example, whose results are dropped: any number of examples works.

    Args:
      function: pure, and the same object each time, or it is compiled again; its result's leaves have one row an
        example.
      shared: tree of what all examples need.
      examples: tree of arrays with one row an example.
      layout: see Layout.
      fixed: hashable static arguments, compiled in.

    Raises:
      ValueError: the layout's name is unknown.
    """
    check(layout.how)
    devices = local(layout)
    spread = _compiled(function, layout.how, devices, tuple(sorted(fixed.items())))
    run = partial(spread.run, None)
    n = len(jax.tree.leaves(examples)[0])
    size = block(layout, n)
    filled = -(-size // len(devices)) * len(devices)
    results = []
    for first in range(0, n, size):
        last = min(first + size, n)
        if first == 0 and last == filled == n:
            return run(shared, examples)
        index = np.minimum(np.arange(first, first + filled), last - 1)
        part = run(shared, jax.tree.map(lambda x, index=index: x[index], examples))
        results.append(jax.tree.map(lambda x, count=last - first: x[:count], part))
    return results[0] if len(results) == 1 else jax.tree.map(lambda *parts: jax.numpy.concatenate(parts), *results)


def lower_over_examples(
    function: Callable, shared: Any, examples: Any, layout: Layout, **fixed: Any
) -> jax.stages.Lowered:
    """The lowered program of `over_examples` for one block, from shapes; its devices need not be attached."""
    return _compiled(function, layout.how, local(layout), tuple(sorted(fixed.items()))).lower(None, shared, examples)


@lru_cache(maxsize=256)
def _compiled(function: Callable, how: str, devices: Devices, fixed: tuple[tuple[str, Any], ...]) -> Spread:
    def on_one(nothing: None, shared: Any, examples: Any) -> Any:
        return function(shared, examples, **dict(fixed))

    return PARALLEL[how](on_one, devices, 0, False)
