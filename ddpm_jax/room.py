"""How much of a batch is worked through at a time: what fits the devices' memory."""

from functools import partial
from typing import Any

import jax

from ddpm_jax import devices, pace, parallel, processes, program, train
from ddpm_jax.config import Config
from ddpm_jax.devices import Layout
from ddpm_jax.parallel import ParallelSteps
from ddpm_jax.program import DoesNotFit
from ddpm_jax.recipes import Recipe, TrainState
from ddpm_jax.records import ImageArray

SPARE = 1 / 16  # of a device's memory, for batches on their way and what its allocator cannot hand out


def fitted(
    recipe: Recipe, frozen: Any, config: Config, state: TrainState, layout: Layout, images: ImageArray
) -> tuple[Recipe, ParallelSteps]:
    """The recipe with as many microbatches as were asked for, else as few as fit the devices, and its steps.

    To know what a step needs it is compiled, which is not done again when it is run.

    Args:
      recipe: of a training step.
      frozen: tree of arrays that a step reads and does not change.
      config: whose `microbatches` None is to be found.
      state: on the devices.
      layout: with the devices that the batch is split over.
      images: any number of them, of which shape and type are looked at.

    Raises:
      ValueError: not even one image at a time fits.
    """

    def of(count: int) -> tuple[Recipe, ParallelSteps]:
        parts = recipe._replace(microbatches=count)
        return parts, parallel.parallelise(partial(train.train_steps, parts), layout, frozen)

    there = devices.memory(layout)
    if config.microbatches or there is None:
        return of(config.microbatches or 1)
    first, last = next(pace.calls(int(state.step), config, devices.loops_are_slow()))
    rows = config.batch // jax.process_count()
    batches = jax.ShapeDtypeStruct((last - first, rows, *images.shape[1:]), images.dtype)
    share = config.batch // len(devices.every(layout))
    for count in (n for n in range(1, share + 1) if share % n == 0):
        found = of(count)
        needed = _needed(found[1].lower(state, batches))
        if processes.of_the_first(int(needed <= (1 - SPARE) * there)):
            return found
    raise ValueError(
        f"a training step needs {needed / 2**30:.2f} GiB with one image at a time, and a device has "
        f"{there / 2**30:.2f} GiB: use --remat, a smaller preset, or devices with more memory"
    )


def _needed(lowered: jax.stages.Lowered) -> int:
    """Bytes on a device, as its compiler says it."""
    try:
        return program.memory(program.executable(lowered))
    except DoesNotFit as error:
        return error.used
