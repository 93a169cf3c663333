"""Will it run on Cloud TPU? The training step and the sampler, compiled for slices that nobody had to rent.

Compiles the very programs that ddpm-jax train and ddpm-jax sample would run, without data, and prints what the
compiler says: memory, work, its own estimate of time, and what chips tell each other. Times are the compiler's model of
the chip, not measurements; and the settings that compile fast may use more memory than those of a real run.
Needs: libtpu (pip install -e ".[tpu]"), minutes of two CPU cores a slice.
Command: python -m benchmarks.tpu_check --preset cifar10 --slices v5e-8 --batch 128
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import tpu
from ddpm_jax.cli.command import command_line
from ddpm_jax.data.datasets import DataSet, Split
from ddpm_jax.diffusion import process, timesteps, variances
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation import samples
from ddpm_jax.runtime import cache, sharding, xla
from ddpm_jax.runtime.sharding import Layout
from ddpm_jax.runtime.xla import DoesNotFit, Program
from ddpm_jax.training import loop, setup, step
from ddpm_jax.training.config import Config, Flat, to_dict
from ddpm_jax.training.setup import Run

Row = dict[str, Any]
HEADINGS = {
    "program": "program",
    "slice": "slice",
    "batch": "batch",
    "memory_gib": "GiB a chip",
    "chip_gib": "of",
    "gigaflops": "GFLOP a chip",
    "gigabytes": "GB accessed",
    "milliseconds": "ms (model)",
    "collectives": "collectives",
    "compile_seconds": "s to compile",
}


@dataclass(frozen=True)
class TpuCheck:
    """The options of this tool.

    Attributes:
      training: the run; its data are not read, images are of --image-size, by default 32.
      slices: names of tpu.CHIPS with a number, as v5e-8.
      K: steps of the sampler's chain; a step's work is told.
      largest: double the batch until it fits no more, or halve it until it fits.
      json: file for the figures; default none.
      dry_run: print the resolved config and stop.
    """

    training: Flat = field(default_factory=lambda: Config(preset="cifar10", batch=128))
    slices: tuple[str, ...] = ("v5e-8",)
    K: int = 50
    largest: bool = False
    json: Path | None = None
    dry_run: bool = False


def main(options: TpuCheck) -> None:
    """Compile for every slice, print a row for each program, and exit with code 1 if one does not fit."""
    wanted = setup.resolve(options.training, images=stand_in(options.training))
    wanted = wanted._replace(recipe=wanted.recipe._replace(unroll=False))  # as where loops are fast
    if options.dry_run:
        plain = {**vars(options), "training": to_dict(wanted.config), "json": options.json and str(options.json)}
        print(json.dumps({**plain, "network": to_dict(wanted.network)}, indent=2))
        return
    timesteps.even(wanted.schedule.T, options.K)
    if options.json:
        cache.check_writable(options.json.parent)
    slices = [tpu.slice_of(name) for name in options.slices]
    for where in slices:
        sharding.for_batch(wanted.config.batch, wanted.recipe.microbatches, layout(wanted, where))
    rows = []
    print("| " + " | ".join(HEADINGS.values()) + " |\n|" + " --- |" * len(HEADINGS), flush=True)
    count = wanted.config.steps_per_call or loop.STEPS_PER_CALL
    for where in slices:
        rows += checked("training step", partial(lower_step, count=count), wanted, where, options.largest)
        rows += checked("sampler step", partial(lower_sampler, K=options.K), wanted, where, options.largest)
    if options.json:
        about = {"config": to_dict(wanted.config), "network": to_dict(wanted.network), "jax": jax.__version__}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        cache.write_json(options.json, {**about, "rows": rows})
    if any("needs_gib" in row and row["batch"] == wanted.config.batch for row in rows):
        sys.exit(1)


def stand_in(config: Config) -> DataSet:
    """Black images of the network's channels: nothing is read."""
    network = setup.shape(config)
    side = config.image_size or 32
    few = Split(np.zeros((20, side, side, network.image_channels), np.uint8), None)
    return DataSet(setup.data_of(config), "none", 256, True, few, few, few)


def layout(wanted: Run, where: tpu.Slice) -> Layout:
    """All chips of a slice."""
    return Layout(wanted.config.parallel, where.devices)


def lower_step(wanted: Run, spread: Layout, batch: int, count: int) -> jax.stages.Lowered:
    """The program of a training's call of so many steps; a loop of them the compiler counts once."""
    state = jax.eval_shape(partial(setup.fresh, wanted))
    batches = jax.ShapeDtypeStruct((count, batch, *wanted.data.shape), np.uint8)
    return sharding.parallelise(partial(step.train_steps, wanted.recipe), spread).lower(state, batches)


def lower_sampler(wanted: Run, spread: Layout, batch: int, K: int) -> jax.stages.Lowered:
    """The program of a block of samples: K steps in a loop that the compiler counts once."""
    params = jax.eval_shape(partial(setup.fresh, wanted)).ema[0]
    steps = process.steps(wanted.schedule, timesteps.even(wanted.schedule.T, K))
    small = variances.build("small", Calibration(wanted.schedule))
    denoiser = setup.denoiser_of(wanted.config, wanted.network, wanted.schedule, params)
    return samples.lower(steps, denoiser, small, (batch, *wanted.data.shape), spread)


def checked(
    name: str, lower: Callable[[Run, Layout, int], jax.stages.Lowered], wanted: Run, where: tpu.Slice, largest: bool
) -> list[Row]:
    """The row of a program at the batch that was asked for, and with `largest` those of the search; all printed."""

    def look(batch: int) -> Row:
        about = {"program": name, "slice": where.name, "batch": batch, "chip_gib": where.chip.memory}
        try:
            row = about | figures(xla.compiled(lower(wanted, layout(wanted, where), batch), tpu.FAST_TO_COMPILE))
        except DoesNotFit as error:
            row = about | {"needs_gib": round(error.used / 2**30, 2), "has_gib": round(error.available / 2**30, 2)}
        print("| " + " | ".join(shown(row, column) for column in HEADINGS) + " |", flush=True)
        return row

    rows = [look(wanted.config.batch)]
    fits = "needs_gib" not in rows[0]
    while largest:
        batch = rows[-1]["batch"] * 2 if fits else rows[-1]["batch"] // 2
        if batch % (len(where.devices) * wanted.recipe.microbatches):
            break
        rows.append(look(batch))
        if fits == ("needs_gib" in rows[-1]):
            break
    return rows


def figures(found: Program) -> Row:
    """What a table and a file say of a program."""
    row = {
        "memory_gib": round(found.memory / 2**30, 2),
        "gigaflops": round(found.flops / 1e9, 1),
        "gigabytes": round(found.bytes_accessed / 1e9, 2),
        "milliseconds": None if found.optimal_seconds is None else round(found.optimal_seconds * 1e3, 3),
        "compile_seconds": round(found.seconds, 1),
    }
    return row | {"collectives": [one._asdict() for one in found.collectives]}


def shown(row: Row, column: str) -> str:
    """A cell of the table."""
    if column == "memory_gib" and "needs_gib" in row:
        return f"does not fit: {row['needs_gib']} of {row['has_gib']}"
    if column == "collectives" and column in row:
        return ", ".join(f"{one['number']} {one['kind']}, {one['bytes']:,} bytes" for one in row[column]) or "none"
    return str(row.get(column, ""))


if __name__ == "__main__":
    command_line(TpuCheck, main, __doc__)
