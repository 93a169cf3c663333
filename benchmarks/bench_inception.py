"""How fast are Inception's features? Beside PyTorch's convolutions of the same layers, in turns in one run.

The other side is the bare layers: every convolution with its bias and rectifier, on an input of its shape, in the
faster of PyTorch's two layouts; no pooling, no joining of branches, no resizing. Ours is the whole: grey levels in,
features out. So the ratio is a lower bound.
Needs: minutes of two CPU cores; torch.
Command: python -m benchmarks.bench_inception --torch-python python --json inception.json
"""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import trange

from benchmarks import inception_layers, turns
from benchmarks.bench import ALONE
from benchmarks.inception_layers import LAYOUTS
from benchmarks.turns import Row
from ddpm_jax.cli.command import command_line
from ddpm_jax.models import inception
from ddpm_jax.runtime import cache
from ddpm_jax.training import metrics

IMAGE_SIZE = 32  # of the images before they are resized


@dataclass(frozen=True)
class BenchInception:
    """The options of this tool.

    Attributes:
      batch: images at a time.
      turns: of both sides, one after the other.
      repetitions: in a turn: threads that wait for work keep a core busy for a while, also in the other side's turn.
      torch_python: the Python that has torch; default this one.
      json: file for the figures; default none.
      dry_run: print the options and stop.
    """

    batch: int = 32
    turns: int = 5
    repetitions: int = 4
    torch_python: str = sys.executable
    json: Path | None = None
    dry_run: bool = False


def main(options: BenchInception) -> None:
    """Measure, print, and write a file if one is named."""
    for name in ("batch", "turns", "repetitions"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} = {getattr(options, name)}: it is at least 1")
    described = {**asdict(options), "json": options.json and str(options.json)}
    if options.dry_run:
        print(json.dumps(described, indent=2))
        return
    if options.json:
        cache.check_writable(options.json.parent)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(options, Path(folder))
    print(f"images/s: {json.dumps(found['images_per_second'])}")
    print(f"ours / PyTorch: {json.dumps(found['ratio'])} (least, median, largest)")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        cache.write_json(options.json, {"options": described, "made_with": metrics.made_with(), **found})


def measured(options: BenchInception, folder: Path) -> Row:
    """Images a second of both sides, and their ratio turn by turn.

    Raises:
      ValueError: a side cannot be started or fails.
    """
    settings = {"batch": options.batch, "image_size": IMAGE_SIZE, "layers": inception.layers()}
    theirs = [options.torch_python, "-m", inception_layers.__name__]
    ours = [sys.executable, "-m", "benchmarks.bench_inception_ours"]
    with (
        turns.started("PyTorch", theirs, settings, folder / "theirs.log", {}) as one,
        turns.started("ours", ours, settings, folder / "ours.log", ALONE) as other,
    ):
        jobs: dict[str, Any] = {"ours": (other, "features"), **{layout: (one, layout) for layout in LAYOUTS}}
        for worker, job in jobs.values():
            turns.ask(worker, job)
        answers = turns.alternate(jobs, trange(options.turns, desc="turns", unit="turn"), options.repetitions)
        about = {"ours": other.about, "PyTorch": one.about}
    fastest = [min(seconds) for seconds in zip(*(answers[layout] for layout in LAYOUTS), strict=True)]
    speeds = {side: turns.spread([options.batch / one for one in seconds]) for side, seconds in answers.items()}
    ratio = turns.spread([there / here for there, here in zip(fastest, answers["ours"], strict=True)])
    return {"about": about, "answers": answers, "images_per_second": speeds, "ratio": ratio}


if __name__ == "__main__":
    command_line(BenchInception, main, __doc__)
