"""One device's work becomes that of many; the only file that names devices.

Two shapes of work. `parallelise`: a training step, whose state is one tree, the same on all devices and without a
device axis, so that a checkpoint does not know how many devices wrote it. `over_examples`: a function of examples that
do not look at each other (samples, images), of which every device takes a share.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

S = TypeVar("S")
Batch = Shaped[Array, "b *x"] | Shaped[np.ndarray, "b *x"]
Step = Callable[[S, Batch], tuple[S, Any]]
Devices = tuple[jax.Device, ...]
AXIS = "devices"
WHOLE, SPLIT = PartitionSpec(), PartitionSpec(AXIS)


class Layout(NamedTuple):
    """How work is spread. Numbers do not depend on it, but for the rounding of sums.

    Attributes:
      how: a name of PARALLEL.
      devices: default all local ones.
      batch: examples that one device takes at a time, at most, outside training.
    """

    how: str = "pmap"
    devices: Devices | None = None
    batch: int = 1024


def local(layout: Layout) -> Devices:
    """The devices of a layout."""
    return tuple(jax.local_devices()) if layout.devices is None else layout.devices


def block(layout: Layout, n: int) -> int:
    """Examples of one call over all devices, when n are worked on in the fewest equal parts."""
    most = layout.batch * len(local(layout))
    return -(-n // -(-n // most))


def _shares(x: Any, count: int) -> Any:
    return x.reshape(count, x.shape[0] // count, *x.shape[1:])


def _pmap(function: Callable, devices: Devices, whole_result: bool) -> Callable:
    """function(whole, split) under jax.pmap: the first argument broadcast, the second split."""
    count = len(devices)
    out_axes = None if whole_result else 0
    mapped = jax.pmap(function, axis_name=AXIS, in_axes=(None, 0), out_axes=out_axes, devices=list(devices))

    def run(whole: Any, split: Any) -> Any:
        result = mapped(whole, jax.tree.map(partial(_shares, count=count), split))
        return result if whole_result else jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)

    return run


def _shard_map(function: Callable, devices: Devices, whole_result: bool) -> Callable:
    """The same under jit(shard_map)."""
    mesh, out = Mesh(np.asarray(devices), (AXIS,)), WHOLE if whole_result else SPLIT
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(WHOLE, SPLIT), out_specs=out))


PARALLEL: dict[str, Callable[[Callable, Devices, bool], Callable]] = {"pmap": _pmap, "shard_map": _shard_map}


def check(how: str) -> None:
    """Refuse an unknown way of spreading.

    Raises:
      ValueError: the name is unknown.
    """
    if how not in PARALLEL:
        raise ValueError(f"unknown parallel {how!r}: choose one of {', '.join(PARALLEL)}")


def replicate(state: S, layout: Layout = Layout()) -> S:
    """The state on every device, as a step returns it: without this the second step would compile again."""
    return jax.device_put(state, NamedSharding(Mesh(np.asarray(local(layout)), (AXIS,)), WHOLE))


def parallelise(step: Callable, batch: int, layout: Layout = Layout(), frozen: Any = None) -> Step:
    """`step` on all devices: the batch split, the state whole.

    Args:
      step: (state, batch, axis, frozen) -> (state, metrics).
      batch: size of the global batch.
      layout: see Layout; its `batch` plays no part.
      frozen: tree of arrays that the step reads and does not change; whole on every device.

    Raises:
      ValueError: the layout's name is unknown, or the batch does not split evenly.
    """
    devices = local(layout)
    check(layout.how)
    if batch % len(devices):
        raise ValueError(f"batch {batch} does not split over {len(devices)} devices: choose a multiple of that")
    still = replicate(frozen, layout)
    run = PARALLEL[layout.how](lambda whole, split: step(whole[0], split, axis=AXIS, frozen=whole[1]), devices, True)
    return lambda state, images: run((state, still), images)


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
    return PARALLEL[how](partial(function, **dict(fixed)), devices, False)
