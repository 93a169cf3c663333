"""What bounds the training step? Its operations by kind: time, FLOP/s, bytes/s, and how near the device's roofline.

A trace of single training steps, joined with the compiler's text of their program. An operation needs at least its
FLOPs over the speed of the fastest matrix product, and its bytes (operands and results, each once) over the speed of a
copy; the longer of the two bounds it. What stays in a cache between two operations can beat that.
Needs: a GPU, or patience; a minute of compiling.
Command: python -m benchmarks.roofline --batch 512 --activations bfloat16 --json roofline.json
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.profiler import ProfileData

from benchmarks import bench, bench_ours
from benchmarks.operations import Operation, operations
from benchmarks.turns import Row
from ddpm_jax.cli.command import command_line
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.training import metrics, step

COPIED = 2**29  # bytes of the array that is copied: more than caches hold
COPIES = 20
# A CUDA graph hides which operation a kernel belongs to.
UNGRAPHED = "--xla_gpu_enable_command_buffer="


@dataclass(frozen=True)
class Roofline:
    """The options of this tool.

    Attributes:
      preset: a name of unet.PRESETS.
      image_size: of the images; default the preset's.
      batch: images at a time.
      activations: precision in training, float32 or bfloat16.
      steps: that are traced.
      product_sizes: sides of the square matrices whose fastest product is the machine's peak.
      json: file for the figures; default none.
      dry_run: print the resolved options and stop.
    """

    preset: str = "cifar10"
    image_size: int | None = None
    batch: int = 16
    activations: str = "float32"
    steps: int = 10
    product_sizes: tuple[int, ...] = (1024, 2048, 4096)
    json: Path | None = None
    dry_run: bool = False


class Peak(NamedTuple):
    """What the device can do at most.

    Attributes:
      flops: a second, in matrix products.
      bytes: a second, read and written by a copy.
    """

    flops: float
    bytes: float


def main(options: Roofline) -> None:
    """Trace, print the table, and write a file if one is named."""
    settings = resolve(options)
    about = bench.described(options, settings)
    if options.dry_run:
        print(json.dumps(about, indent=2))
        return
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {UNGRAPHED}".strip()
    wanted = bench_ours.programs(settings)
    seconds, program = traced(wanted, options.steps)
    peak = Peak(bench_ours.product_rate(options.product_sizes, options.activations), copy_rate())
    found = rows(seconds, operations(program), peak)
    device = sharding.local(wanted.layout)[0].device_kind
    print(f"{device}: {peak.flops / 1e12:.4g} TFLOP/s, {peak.bytes / 1e9:.4g} GB/s", end="\n\n")
    print(table(found))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        made = {"made_with": metrics.made_with(), "device": device}
        cache.write_json(options.json, {**about, **made, "peak": peak._asdict(), "kinds": found})


def resolve(options: Roofline) -> Row:
    """What is to be run; as of `bench.resolve`.

    Raises:
      ValueError: a value that cannot work.
    """
    if options.steps < 1:
        raise ValueError(f"steps = {options.steps}: it is at least 1")
    shared = {name: value for name, value in asdict(options).items() if name != "steps"}
    return bench.resolve(bench.Bench(parts=("step",), **shared))


def traced(wanted: bench_ours.Bench, steps: int) -> tuple[dict[str, float], str]:
    """Mean seconds of every operation in a training step, over so many after the first; and the program's text."""
    one = jax.jit(partial(step.train_step, wanted.wanted.recipe), donate_argnums=0)
    state = bench_ours.first_state(wanted.wanted)
    batch = jnp.asarray(wanted.images)
    program = one.lower(state, batch).compile()
    state, _ = jax.block_until_ready(program(state, batch))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                state, _ = program(state, batch)
            jax.block_until_ready(state)
        seconds = Counter[str]()
        for file in Path(folder).rglob("*.xplane.pb"):
            seconds.update(of_operations(ProfileData.from_file(str(file))))
    return {name: sum_of_all / steps for name, sum_of_all in seconds.items()}, program.as_text() or ""


def of_operations(profile: ProfileData) -> Counter[str]:
    """Seconds of the events that say which of XLA's operations they are."""
    seconds = Counter[str]()
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None:
                    seconds[str(name)] += event.duration_ns / 1e9
    return seconds


def copy_rate() -> float:
    """Bytes a second that are read and written by a copy of an array that no cache holds."""
    x = jnp.zeros(COPIED // 4)
    copy = jax.jit(lambda x: x + 1)
    x = jax.block_until_ready(copy(x))
    started = time.perf_counter()
    for _ in range(COPIES):
        x = copy(x)
    jax.block_until_ready(x)
    return 2 * COPIED * COPIES / (time.perf_counter() - started)


def rows(seconds: Mapping[str, float], known: Mapping[str, Operation], peak: Peak) -> list[Row]:
    """A row a kind, the longest first, and one of all.

    Args:
      seconds: of an operation, by name; of those that only hold others, too.
      known: what operations do, by name.
      peak: of the device.
    """
    spent = {name: value for name, value in seconds.items() if name in known}
    kinds: dict[str, list[str]] = {}
    for name in spent:
        kinds.setdefault(known[name].kind, []).append(name)
    found = [row(kind, [(spent[name], known[name]) for name in names], peak) for kind, names in kinds.items()]
    found.sort(key=lambda one: -one["milliseconds"])
    found.append(row("all", [(value, known[name]) for name, value in spent.items()], peak))
    whole = found[-1]["milliseconds"]
    return [{**one, "share": one["milliseconds"] / whole} for one in found]


def row(kind: str, chosen: list[tuple[float, Operation]], peak: Peak) -> Row:
    """What some operations took together, and what they need at least.

    Args:
      kind: their name.
      chosen: seconds of each, and what it does.
      peak: of the device.
    """
    seconds = sum(value for value, _ in chosen)
    flops, moved = (sum(getattr(one, name) for _, one in chosen) for name in ("flops", "bytes"))
    floors = [(one.flops / peak.flops, one.bytes / peak.bytes) for _, one in chosen]
    least = sum(max(floor) for floor in floors)
    return {
        "kind": kind,
        "operations": len(chosen),
        "milliseconds": 1e3 * seconds,
        "teraflops": flops / seconds / 1e12,
        "gigabytes": moved / seconds / 1e9,
        "bound_by_arithmetic": sum(one for one, other in floors if one > other) / least if least else 0.0,
        "of_roofline": least / seconds,
    }


def table(found: list[Row]) -> str:
    """Rows as Markdown."""
    titles = ("kind", "operations", "ms a step", "share", "TFLOP/s", "GB/s", "bound by arithmetic", "of the roofline")
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for one in found:
        speeds = f"{one['milliseconds']:.3g} | {one['share']:.1%} | {one['teraflops']:.3g} | {one['gigabytes']:.4g}"
        bounds = f"{one['bound_by_arithmetic']:.0%} | {one['of_roofline']:.0%}"
        lines.append(f"| {one['kind']} | {one['operations']} | {speeds} | {bounds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(Roofline, main, __doc__)
