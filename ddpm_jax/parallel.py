"""One device's work becomes that of many.

Two shapes of work. `parallelise`: training steps, whose state is one tree, the same on all devices of all processes and
without a device axis, so that a checkpoint does not know how many devices wrote it. `over_examples`: a function of
examples that do not look at each other (samples, images), of which every device of this process takes a share.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Shaped

from ddpm_jax.devices import AXIS, PARALLEL, Devices, Layout, Spread, are_cores, check, every, local, replicate

Batches = Shaped[Array, "n b *x"] | Shaped[np.ndarray, "n b *x"]


class ParallelSteps(NamedTuple):
    """Training steps on all devices of all processes.

    Attributes:
      run: (state, this process's rows of n global batches (n, b, *x)) -> (state, metrics). The old state is given away,
        but on several devices of a CPU.
      lower: the same arguments, or their shapes (`jax.eval_shape`) -> what `run` would run, for a compiler: also that
        of devices that are not here. What it compiles, `run` does not compile again.
    """

    run: Callable[[Any, Batches], tuple[Any, Any]]
    lower: Callable[[Any, Any], jax.stages.Lowered]


def block(layout: Layout, n: int) -> int:
    """Examples of one call over all devices, when n are worked on in the fewest equal parts."""
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
    """`steps` on all devices of all processes: the batches split, the state whole and given away.

    Args:
      steps: (state, batches (n, b, *x), axis, frozen) -> (state, metrics).
      layout: see Layout; its `batch` plays no part.
      frozen: tree of arrays that a step reads and does not change; whole on every device.

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
    """What `over_examples` would run on a block, of shapes, for the compiler of devices that need not be here."""
    return _compiled(function, layout.how, local(layout), tuple(sorted(fixed.items()))).lower(None, shared, examples)


@lru_cache(maxsize=256)
def _compiled(function: Callable, how: str, devices: Devices, fixed: tuple[tuple[str, Any], ...]) -> Spread:
    def on_one(nothing: None, shared: Any, examples: Any) -> Any:
        return function(shared, examples, **dict(fixed))

    return PARALLEL[how](on_one, devices, 0, False)
