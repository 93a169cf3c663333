"""A one-device step becomes an N-device step; the only file that names devices.

The state is one tree, the same on all devices and without a device axis, so that a checkpoint does not know how many
devices wrote it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

S = TypeVar("S")
Batch = Shaped[Array, "b *x"] | Shaped[np.ndarray, "b *x"]
Step = Callable[[S, Batch], tuple[S, Any]]
AXIS = "devices"


def pmap(step: Callable, devices: Sequence[jax.Device]) -> Step:
    """The step under jax.pmap: the state broadcast, the batch split."""
    mapped = jax.pmap(partial(step, axis=AXIS), axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=list(devices))
    count = len(devices)

    def run(state: Any, batch: Batch) -> tuple[Any, Any]:
        return mapped(state, batch.reshape(count, batch.shape[0] // count, *batch.shape[1:]))

    return run


def shard_map(step: Callable, devices: Sequence[jax.Device]) -> Step:
    """The same step under jit(shard_map)."""
    mesh = Mesh(np.asarray(devices), (AXIS,))
    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    return jax.jit(jax.shard_map(partial(step, axis=AXIS), mesh=mesh, in_specs=(whole, split), out_specs=whole))


PARALLEL: dict[str, Callable[[Callable, Sequence[jax.Device]], Step]] = {"pmap": pmap, "shard_map": shard_map}


def replicate(state: S, devices: Sequence[jax.Device] | None = None) -> S:
    """The state on every device, as a step returns it: without this the second step would compile again."""
    devices = jax.local_devices() if devices is None else devices
    return jax.device_put(state, NamedSharding(Mesh(np.asarray(devices), (AXIS,)), PartitionSpec()))


def parallelise(step: Callable, how: str, batch: int, devices: Sequence[jax.Device] | None = None) -> Step:
    """`step` on all devices.

    Args:
      step: (state, batch, axis) -> (state, metrics).
      how: a name of PARALLEL.
      batch: size of the global batch.
      devices: default all local ones.

    Raises:
      ValueError: the name is unknown, or the batch does not split evenly.
    """
    devices = jax.local_devices() if devices is None else devices
    if how not in PARALLEL:
        raise ValueError(f"unknown parallel {how!r}: choose one of {', '.join(PARALLEL)}")
    if batch % len(devices):
        raise ValueError(f"batch {batch} does not split over {len(devices)} devices: choose a multiple of that")
    return PARALLEL[how](step, devices)
