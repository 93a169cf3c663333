"""One device's work becomes that of many; the only file that names devices.

Two shapes of work. `parallelise`: training steps, whose state is one tree, the same on all devices of all processes and
without a device axis, so that a checkpoint does not know how many devices wrote it. `over_examples`: a function of
examples that do not look at each other (samples, images), of which every device of this process takes a share.
"""

import resource
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

S = TypeVar("S")
Batches = Shaped[Array, "n b *x"] | Shaped[np.ndarray, "n b *x"]
Step = Callable[[S, Batches], tuple[S, Any]]
Devices = tuple[jax.Device, ...]
AXIS = "devices"
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


def local(layout: Layout) -> Devices:
    """The devices of a layout in this process."""
    return tuple(jax.local_devices()) if layout.devices is None else layout.devices


def every(layout: Layout) -> Devices:
    """The devices of a layout in all processes, one process after the other, as their rows of a batch lie."""
    found = jax.devices() if layout.devices is None else layout.devices
    return tuple(sorted(found, key=lambda device: (device.process_index, device.id)))


def own(tree: S) -> S:
    """This process's copy of what all processes hold, in its memory; what it holds alone stays where it is."""

    def copy(x: Any) -> Any:
        if x.is_fully_addressable:
            return x
        if _is_key(x):
            return jax.random.wrap_key_data(copy(jax.random.key_data(x)))
        return np.asarray(x.addressable_data(0))

    return jax.tree.map(copy, tree)


def _is_key(x: Any) -> bool:
    return jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


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


def loops_are_slow() -> bool:
    """Whether gradients of convolutions inside a loop are far slower than outside, as on CPUs."""
    return jax.default_backend() == "cpu"


def block(layout: Layout, n: int) -> int:
    """Examples of one call over all devices, when n are worked on in the fewest equal parts."""
    most = layout.batch * len(local(layout))
    return -(-n // -(-n // most))


def _pmap(function: Callable, devices: Devices, axis: int, whole_result: bool) -> Callable:
    """function(whole, split) under jax.pmap: the first argument broadcast, the second split along an axis."""
    count = sum(device.process_index == jax.process_index() for device in devices)
    out_axes = None if whole_result else 0
    mapped = jax.pmap(function, axis_name=AXIS, in_axes=(None, axis), out_axes=out_axes, devices=list(devices))

    def shares(x: Any) -> Any:
        return x.reshape(*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])

    def run(whole: Any, split: Any) -> Any:
        result = mapped(whole, jax.tree.map(shares, split))
        return result if whole_result else jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)

    return run


def _shard_map(function: Callable, devices: Devices, axis: int, whole_result: bool) -> Callable:
    """The same under jit(shard_map)."""
    mesh, split = Mesh(np.asarray(devices), (AXIS,)), PartitionSpec(*[None] * axis, AXIS)
    out = WHOLE if whole_result else SPLIT
    mapped = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(WHOLE, split), out_specs=out))
    if not mesh.is_multi_process:
        return mapped
    joined = partial(jax.make_array_from_process_local_data, NamedSharding(mesh, split))
    return lambda whole, shares: mapped(whole, jax.tree.map(joined, shares))


PARALLEL: dict[str, Callable[[Callable, Devices, int, bool], Callable]] = {"pmap": _pmap, "shard_map": _shard_map}


def check(how: str) -> None:
    """Refuse an unknown way of spreading.

    Raises:
      ValueError: the name is unknown.
    """
    if how not in PARALLEL:
        raise ValueError(f"unknown parallel {how!r}: choose one of {', '.join(PARALLEL)}")


def replicate(state: S, layout: Layout = Layout()) -> S:
    """The state on every device, as a step returns it: without this the second step would compile again.

    Of several processes, pmap returns each its own copy, shard_map one array that all of them hold.
    """
    devices = local(layout) if layout.how == "pmap" else every(layout)
    sharding = NamedSharding(Mesh(np.asarray(devices), (AXIS,)), WHOLE)

    def put(x: Any) -> Array:
        if _is_key(x):  # its numbers: a key cannot leave its process
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        return jax.device_put(x, sharding)

    return jax.tree.map(put, state)


def check_batch(batch: int, microbatches: int, layout: Layout) -> None:
    """Refuse a batch that does not split evenly, and an unknown way of spreading it.

    Raises:
      ValueError: see above.
    """
    check(layout.how)
    parts = len(every(layout)) * microbatches
    if batch % parts:
        raise ValueError(
            f"batch {batch} does not split over {len(every(layout))} devices"
            + (f" and {microbatches} microbatches" if microbatches > 1 else "")
            + f": choose a multiple of {parts}"
        )


def parallelise(steps: Callable, layout: Layout = Layout(), frozen: Any = None) -> Step:
    """`steps` on all devices of all processes: the batches split, the state whole.

    Args:
      steps: (state, batches (n, b, *x), axis, frozen) -> (state, metrics).
      layout: see Layout; its `batch` plays no part.
      frozen: tree of arrays that a step reads and does not change; whole on every device.

    Returns:
      (state, this process's rows of n global batches (n, b, *x)) -> (state, metrics).

    Raises:
      ValueError: the layout's name is unknown.
    """
    check(layout.how)
    still = replicate(frozen, layout)

    def on_one(whole: Any, split: Any) -> Any:
        return steps(whole[0], split, axis=AXIS, frozen=whole[1])

    run = PARALLEL[layout.how](on_one, every(layout), 1, True)
    return lambda state, batches: run((state, still), batches)


def over_examples(function: Callable, shared: Any, examples: Any, layout: Layout = Layout(), **fixed: Any) -> Any:
    """function(shared, examples, **fixed) with the examples split over the devices, block by block.

    The last share is filled up with copies of the last example, which are cut off again: any number of examples works
    and none is lost.

    Args:
      function: pure, and the same object each time, or it is compiled again; its result's leaves have one row an
        example.
      shared: tree of what all examples need.
      examples: tree of arrays with one row an example.
      layout: see Layout.
      fixed: hashable decisions, compiled in.

    Raises:
      ValueError: the layout's name is unknown.
    """
    check(layout.how)
    devices = local(layout)
    run = _compiled(function, layout.how, devices, tuple(sorted(fixed.items())))
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


@lru_cache(maxsize=256)
def _compiled(function: Callable, how: str, devices: Devices, fixed: tuple[tuple[str, Any], ...]) -> Callable:
    return PARALLEL[how](partial(function, **dict(fixed)), devices, 0, False)
