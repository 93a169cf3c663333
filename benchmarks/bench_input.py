"""Batches of images in memory come at half the speed of bare NumPy indexing or more.

The training loop's own iterator and images[rows] with the rows known beforehand take turns over the same batches in one
process, so that what else the machine does slows both. Epochs end on the way, and their orders are drawn.
Needs: MNIST and CIFAR-10 in TFDS_DATA_DIR, half a minute of one CPU core.
Command: python -m benchmarks.bench_input --data mnist cifar10
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddpm_jax.cli.command import command_line
from ddpm_jax.data import datasets, loader
from ddpm_jax.data.sources.records import ImageArray

Row = dict[str, Any]


@dataclass(frozen=True)
class BenchInput:
    """The options of this experiment.

    Attributes:
      data: names of data.DATASETS, or others that data.load takes.
      batch: images a step.
      steps: of one turn.
      turns: of either, one after the other.
      seed: of the orders.
      dry_run: print the options and stop.
    """

    data: tuple[str, ...] = ("mnist", "cifar10")
    batch: int = 128
    steps: int = 1000
    turns: int = 9
    seed: int = 0
    dry_run: bool = False


def main(options: BenchInput) -> None:
    """Measure and print, one line of JSON a data set."""
    for name in ("steps", "turns"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} = {getattr(options, name)}: it is at least 1")
    if options.dry_run:
        print(json.dumps(vars(options), indent=2))
        return
    for name in options.data:
        print(json.dumps({"data": name, **measure(datasets.load(name).train.images, options)}))


def measure(images: ImageArray, options: BenchInput) -> Row:
    """Images a second of both, medians over turns, and the median of their ratio.

    Raises:
      ValueError: the images are not in memory.
    """
    if not isinstance(images, np.ndarray):
        raise ValueError(f"{len(images)} images are decoded on demand: choose a data set that fits into memory")
    batches = loader.batches(images, options.batch, options.seed)
    seconds = []
    for turn in range(options.turns):
        steps = range(turn * options.steps, (turn + 1) * options.steps)
        rows = [batches.rows(step) for step in steps]
        stream = loader.stream(batches, steps[0])
        started = time.perf_counter()
        for _ in steps:
            batch = next(stream)
        between = time.perf_counter()
        for row in rows:
            bare = images[row]
        seconds.append((between - started, time.perf_counter() - between))
        assert np.array_equal(batch, bare)
    pipeline, alone = (options.batch * options.steps / np.array(part) for part in zip(*seconds, strict=True))
    ratio = np.quantile(pipeline / alone, (0, 0.5, 1))
    speeds = {"pipeline_images_per_second": np.median(pipeline), "numpy_images_per_second": np.median(alone)}
    return {**{key: int(value) for key, value in speeds.items()}, "ratio": [round(float(part), 3) for part in ratio]}


if __name__ == "__main__":
    command_line(BenchInput, main, __doc__)
