"""How fast is it? Training step, network, sampling, the pass for the moments, input, compiling and memory; one device.

Every side works in a process of its own, and all that is timed takes turns, so that what else the machine does slows
all alike: ratios can be trusted anywhere, times only on a machine that does nothing else. --against diffusers adds the
same network in PyTorch. docs/benchmarks.md says what each number means.
Needs: half an hour of two CPU cores; for the comparison torch and diffusers.
Command: python -m benchmarks.bench --against diffusers --json bench.json
"""

import json
import os
import sys
import tempfile
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import trange

from benchmarks import bench_input, bench_ours, bench_tables, turns
from benchmarks.bench_input import BenchInput
from benchmarks.bench_tables import COMPARED, label
from benchmarks.turns import Row, Worker
from ddpm_jax.cli.command import command_line
from ddpm_jax.diffusion import timesteps
from ddpm_jax.models import unet
from ddpm_jax.models.convert import diffusers
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.runtime import cache
from ddpm_jax.training import metrics, setup
from ddpm_jax.training.config import Config, check_config, from_dict, to_dict

PARTS = ("compile", "step", "forward", "sampling", "moments", "peak", "input")
AGAINST = {"diffusers": {"eager": False, "compiled": True}}  # sides by name, and whether by torch.compile
IMAGE_SIZES = {"digits": 8, "mnist": 28, "celebahq256": 256}  # of a preset; of others 32
IMAGES = 2**27  # bytes of the images that batches are made of
ALONE = {"JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TQDM_DISABLE": "1"}
CACHED = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
CACHED |= {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
STEPS = 200  # batches in a turn of the input pipeline
COUNTS = ("batch", "microbatches", "K", "turns", "repetitions")
MALLOC = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")  # they tell on CPUs


@dataclass(frozen=True)
class Bench:
    """The options of this tool.

    Attributes:
      preset: a name of unet.PRESETS.
      image_size: of the images; default the preset's.
      batch: images at a time.
      microbatches: parts of a batch that our training step works through one after another.
      K: steps of the sampler's chain, and times of the pass for the moments.
      parts: what is measured, of compile, step, forward, sampling, moments, peak and input.
      turns: of everything, one after the other.
      repetitions: in a turn; of a training step as many calls, which are ten steps each on accelerators.
      activations: precision in training, float32 or bfloat16; sampling and the pass are float32.
      product_sizes: sides of the square matrices whose fastest product is the machine's peak.
      against: diffusers; default nothing.
      channels_last: memory format of its network; default with bfloat16 alone.
      torch_python: the Python that has torch and diffusers; default this one.
      json: file for the figures; default none.
      dry_run: print the resolved options and stop.
    """

    preset: str = "cifar10"
    image_size: int | None = None
    batch: int = 16
    microbatches: int = 1
    K: int = 10
    parts: tuple[str, ...] = PARTS
    turns: int = 5
    repetitions: int = 1
    activations: str = "float32"
    product_sizes: tuple[int, ...] = (1024, 2048, 4096)
    against: str | None = None
    channels_last: bool | None = None
    torch_python: str = sys.executable
    json: Path | None = None
    dry_run: bool = False


def main(options: Bench) -> None:
    """Measure, print a table of figures and one of ratios, and write a file if one is named."""
    settings = resolve(options)
    about = described(options, settings)
    if options.dry_run:
        print(json.dumps(about, indent=2))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measured(options, settings, Path(folder))
    found |= {"batch": options.batch, "K": options.K, "activations": options.activations}
    found["input"] = input_speed(options, settings) if "input" in options.parts else None
    found |= {"figures": bench_tables.figures(found), "ratios": bench_tables.ratios(found)}
    print("\n".join(f"{side}: {json.dumps(words)}" for side, words in found["about"].items()), end="\n\n")
    print(bench_tables.table(found["figures"]), bench_tables.table(found["ratios"]), sep="\n")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        environment = {name: os.environ.get(name) for name in MALLOC}
        cache.write_json(options.json, {**about, "made_with": metrics.made_with(), "malloc": environment, **found})


def described(options: Any, settings: Row) -> Row:
    """What a dry run prints and a file says first: the options as they were given, and what they resolve to.

    Args:
      options: of a tool that writes `json`.
      settings: of `resolve`.
    """
    return {"options": {**asdict(options), "json": options.json and str(options.json)}, **settings}


def resolve(options: Bench) -> Row:
    """What every worker is told. No device is touched here: some let one process alone have them.

    Raises:
      ValueError: a value that cannot work.
    """
    size = IMAGE_SIZES.get(options.preset, 32) if options.image_size is None else options.image_size
    for name, value in {"image_size": size, **{name: getattr(options, name) for name in COUNTS}}.items():
        if value < 1:
            raise ValueError(f"{name} = {value}: it is at least 1")
    for part in options.parts:
        if part not in PARTS:
            raise ValueError(f"unknown part {part!r}: choose of {', '.join(PARTS)}")
    if min(options.product_sizes, default=0) < 1:
        raise ValueError(f"product_sizes = {options.product_sizes}: give one or more of at least 1")
    if options.against not in (None, *AGAINST):
        raise ValueError(f"unknown against {options.against!r}: choose {' or '.join(AGAINST)}, or leave it out")
    if options.against and not {*COMPARED} & {*options.parts}:
        raise ValueError(f"against = {options.against}: it needs {' or '.join(COMPARED)} among the parts")
    if options.batch % options.microbatches:
        raise ValueError(f"microbatches = {options.microbatches}: choose a divisor of the batch, {options.batch}")
    given = {name: getattr(options, name) for name in ("preset", "batch", "microbatches", "activations")}
    config = Config(image_size=size, **given)
    check_config(config)
    network = setup.shape(config)
    unet.check(network, size)
    timesteps.even(config.T, options.K)
    if options.json:
        cache.check_writable(options.json.parent)
    return {
        "training": to_dict(config),
        "network": to_dict(network),
        "image_size": size,
        "K": options.K,
        "product_sizes": list(options.product_sizes),
        "channels_last": options.activations == "bfloat16" if options.channels_last is None else options.channels_last,
    }


def measured(options: Bench, settings: Row, folder: Path) -> Row:
    """All that workers measure. Theirs are started before ours, so that what is missing there is known at once.

    Raises:
      ValueError: a worker refuses or fails, or the sides are on different devices.
    """
    say("counting operations")
    with one_of_ours("counting", settings, folder, {"JAX_PLATFORMS": "cpu"}) as worker:
        flops = turns.ask(worker, "flops")
        settings = {**settings, "parameters": worker.about["parameters"]}
    with ExitStack() as stack:
        theirs: dict[str, Worker] = {}
        python = os.path.abspath(options.torch_python) if os.sep in options.torch_python else options.torch_python
        for side, compiled in AGAINST[options.against].items() if options.against else ():
            command = [python, "-m", f"benchmarks.against_{options.against}"]
            environment = {"TORCHINDUCTOR_CACHE_DIR": str(folder / side)}
            wanted = {**settings, "compiled": compiled, "described": to_diffusers(settings)}
            theirs[side] = stack.enter_context(
                turns.started(f"{options.against}, {side}", command, wanted, folder / f"{side}.log", environment)
            )
        compiling: dict[str, Row] = {}
        for name in ("cold", "warm") if "compile" in options.parts else ():
            say(f"compiling the training step: {name}")
            cache = {**CACHED, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
            with one_of_ours(name, settings, folder, cache) as worker:
                compiling[name] = turns.ask(worker, "compile")
        ours = stack.enter_context(one_of_ours("ours", settings, folder, {}))
        for side, worker in theirs.items():
            if worker.about["platform"] != ours.about["platform"]:
                there, here = worker.about["platform"], ours.about["platform"]
                raise ValueError(f"{side} is on a {there}, ours on a {here}: install JAX and PyTorch for one device")
        sides = {"ours": ours, **theirs}
        about = {side: worker.about for side, worker in sides.items()}
        return {"about": about, "flops": flops, "compile": compiling, **taken_in_turns(options, sides)}


def say(doing: str) -> None:
    """What is under way until the turns begin, which takes minutes."""
    print(doing, file=sys.stderr, flush=True)


def to_diffusers(settings: Row) -> Row:
    """Our network as diffusers describes it.

    Raises:
      ValueError: it has no such network.
    """
    return diffusers.write_config(from_dict(UNetConfig, settings["network"]))


def one_of_ours(name: str, settings: Row, folder: Path, environment: dict[str, str]) -> AbstractContextManager[Worker]:
    """A worker of our side."""
    command = [sys.executable, "-m", bench_ours.__name__]
    return turns.started(name, command, settings, folder / f"{name}.log", {**ALONE, **environment})


def taken_in_turns(options: Bench, sides: dict[str, Worker]) -> Row:
    """The first call of everything, the training step before the rest, for its memory; and then the turns."""
    wanted = [(part, side) for part in COMPARED if part in options.parts for side in sides]
    loops = [part for part in ("sampling", "moments") if part in options.parts]
    wanted += [(part, "ours") for part in (*loops, *(["bare"] if loops else []))]
    first: dict[str, float] = {}
    memory: dict[str, Row] = {}
    for part, side in wanted:
        say(f"compiling and first call: {label(part, side)}")
        first[label(part, side)] = turns.ask(sides[side], part)
        if part == "step":
            memory[side] = running_memory(sides[side])
    if "peak" in options.parts:
        wanted += [(f"product_{kind}", "ours") for kind in ("float32", "bfloat16")]
    jobs = {label(part, side): (sides[side], part) for part, side in wanted}
    bar = trange(options.turns if jobs else 0, desc="turns", unit="turn")
    return {"first_call_seconds": first, "memory": memory, "answers": turns.alternate(jobs, bar, options.repetitions)}


def running_memory(worker: Worker) -> Row:
    """Bytes of a worker that has made a training step: the most since its start, and the most of one more step."""
    whole = turns.ask(worker, "memory")
    turns.ask(worker, "step")
    since = turns.ask(worker, "memory")
    return {"with compiling": whole["bytes"], **({} if since["since_start"] else {"running": since["bytes"]})}


def input_speed(options: Bench, settings: Row) -> Row:
    """Images a second of a training's own batches, from images in memory, and of bare indexing."""
    size, channels = settings["image_size"], settings["network"]["image_channels"]
    images = bench_ours.made_up(channels, size, max(1, IMAGES // (size * size * channels)))
    return bench_input.measure(images, BenchInput(batch=options.batch, turns=options.turns, steps=STEPS))


if __name__ == "__main__":
    command_line(Bench, main, __doc__)
