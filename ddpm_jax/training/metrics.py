"""The records of a training run: metrics.jsonl, TensorBoard, Weights & Biases, and how it was started.

The only file that imports tensorboardX and wandb.
"""

import importlib
import json
import math
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

import ddpm_jax
from ddpm_jax.errors import first_line
from ddpm_jax.runtime import cache

METRICS, LOG, CONFIG, STARTS = "metrics.jsonl", "log.txt", "config.json", "starts.jsonl"
WANDB = "wandb_id.txt"
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Sink(NamedTuple):
    """One of the places that a run writes to.

    Attributes:
      scalars: takes a step and numbers by name, or lists of them, one a noise level.
      pictures: takes a step, a name and images (n, H, W, C) of grey levels 0..255.
    """

    scalars: Callable[[int, dict[str, Any]], None]
    pictures: Callable[[int, str, np.ndarray], None]


Journal = tuple[Sink, ...]


def check_wandb(wandb: str | None) -> None:
    """Refuse a project of Weights & Biases where it is not installed.

    Raises:
      ValueError: see above.
    """
    if wandb is not None:
        try:
            importlib.import_module("wandb")
        except ImportError as error:
            raise ValueError(f"wandb = {wandb!r}: Weights & Biases is not installed: pip install wandb") from error


def scalars(journal: Journal, step: int, values: dict[str, Any]) -> None:
    """Numbers of a step, or lists of numbers that have a curve each, to every sink; None for one that is not known."""
    for sink in journal:
        sink.scalars(step, values)


def pictures(journal: Journal, step: int, name: str, images: np.ndarray) -> None:
    """Images of a step, to every sink that shows images."""
    for sink in journal:
        sink.pictures(step, name, images)


@contextmanager
def writing(workdir: Path, first: int, run: dict[str, Any], wandb: str | None = None) -> Iterator[Journal]:
    """The sinks of a run that goes on after step `first`; what an interrupted run wrote of later steps is dropped.

    Args:
      workdir: of the run.
      first: the step of the state that training starts from.
      run: its config; plain values.
      wandb: project of Weights & Biases; None for none.
    """
    with _log(workdir / METRICS, first) as log, _events(workdir / "tensorboard", first) as board:
        sinks = [
            Sink(partial(_line, log), partial(_grid, workdir)),
            Sink(partial(_board, board), partial(_images, board)),
        ]
        if wandb is None:
            yield tuple(sinks)
            return
        with _wandb(wandb, workdir, run) as sink:
            yield (*sinks, sink)


def read(log: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, without a last one that was cut short.

    Raises:
      ValueError: another line is no record.
    """
    try:
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        if not all(isinstance(record["step"], int) for record in records):
            raise ValueError("a record without its step")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{log} is damaged ({first_line(error)}): move it away, and the run goes on without it"
        ) from error
    return records


@contextmanager
def _log(path: Path, first: int) -> Iterator[TextIO]:
    """metrics.jsonl for appending."""
    if path.exists():
        kept = [json.dumps(record) + "\n" for record in read(path) if record["step"] <= first]
        cache.write_whole(path, lambda file: file.write("".join(kept).encode()))
    with path.open("a", encoding="utf-8") as log:
        yield log


def _line(log: TextIO, step: int, values: dict[str, Any]) -> None:
    log.write(json.dumps({"step": step, **values}) + "\n")
    log.flush()


def _curves(values: dict[str, Any]) -> dict[str, float]:
    """Every number under a name of its own: that of a list's part is its share of the list, 0.1 to 1.0."""
    lists = {name: value for name, value in values.items() if isinstance(value, list)}
    parts = {
        f"{name}/{(i + 1) / len(value):.1f}": part for name, value in lists.items() for i, part in enumerate(value)
    }
    return {name: value for name, value in (values | parts).items() if name not in lists and value is not None}


def _sheet(images: np.ndarray) -> np.ndarray:
    """All images (n, H, W, C) on one, in a square of rows."""
    columns = math.ceil(len(images) ** 0.5)
    n, height, width, channels = images.shape
    sheet = np.zeros((-(-n // columns) * columns, height, width, channels), np.uint8)
    sheet[:n] = images
    return sheet.reshape(-1, columns, height, width, channels).swapaxes(1, 2).reshape(-1, columns * width, channels)


def _grid(workdir: Path, step: int, name: str, images: np.ndarray) -> None:
    """A PNG of all images; small ones are enlarged."""
    sheet = _sheet(images)
    path = workdir / f"{name}-{step:08d}.png"
    path.parent.mkdir(exist_ok=True)
    picture = Image.fromarray(sheet if sheet.shape[-1] == 3 else sheet[..., 0])
    zoom = max(1, 64 // images.shape[1])
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(path)


@contextmanager
def _events(folder: Path, first: int) -> Iterator[EventsWriter]:
    """A file of events, each on the disk as soon as it is written; those after step `first` in other files are void.

    tensorboardX's own writer hands events to a thread, whose queue a kill would lose and a full disk would block.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # By itself the file's name is the second: a run that goes on within it would write over what is there.
    board = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
    try:
        _event(board, first + 1, session_log=SessionLog(status=SessionLog.START))
        yield board
    finally:
        board.close()


def _event(board: EventsWriter, step: int, **what: Any) -> None:
    board.write_event(Event(wall_time=time.time(), step=step, **what))
    board.flush()


def _board(board: EventsWriter, step: int, values: dict[str, Any]) -> None:
    for name, value in _curves(values).items():
        _event(board, step, summary=summary.scalar(name, value))


def _images(board: EventsWriter, step: int, name: str, images: np.ndarray) -> None:
    _event(board, step, summary=summary.image(name, _sheet(images), dataformats="HWC"))


@contextmanager
def _wandb(project: str, workdir: Path, run: dict[str, Any]) -> Iterator[Sink]:
    module = importlib.import_module("wandb")
    known = workdir / WANDB  # the same run when it goes on
    if not known.exists():
        cache.write_whole(known, lambda file: file.write(secrets.token_hex(8).encode()))
    started = module.init(
        project=project, id=known.read_text(encoding="utf-8"), dir=str(workdir), config=run, resume="allow"
    )
    try:
        yield Sink(
            lambda step, values: started.log(_curves(values), step=step),
            lambda step, name, images: started.log({name: [module.Image(image) for image in images]}, step=step),
        )
    except BaseException:
        started.finish(exit_code=1)
        raise
    started.finish()


def note(workdir: Path, words: str) -> None:
    """One line with the time, to log.txt."""
    with (workdir / LOG).open("a", encoding="utf-8") as log:
        log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {words}\n")


def introduce(workdir: Path, run: dict[str, Any], step: int, devices: str) -> None:
    """config.json, and a line in starts.jsonl: when, with which command, code and libraries, from which step.

    Args:
      workdir: of the run; made if it is not there.
      run: all that a checkpoint says of it.
      step: that it goes on from.
      devices: what it runs on, in words.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    cache.write_whole(workdir / CONFIG, lambda file: file.write((json.dumps(run, indent=2) + "\n").encode()))
    start = {"time": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", "step": step, "command": [sys.executable, *sys.argv]}
    start |= {**made_with(), "devices": devices, "machine": platform.platform()}
    with (workdir / STARTS).open("a", encoding="utf-8") as starts:
        starts.write(json.dumps(start) + "\n")


def made_with() -> dict[str, str | None]:
    """This code's version and git commit, Python and the libraries that numbers depend on."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {"ddpm_jax": ddpm_jax.__version__, "commit": _commit(), "python": platform.python_version(), **libraries}


@lru_cache
def _commit() -> str | None:
    """The git commit of this code, with a + where files differ from it; None where it is not a checkout."""
    here = Path(__file__)
    questions = (["ls-files", "--error-unmatch", here.name], ["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
    git = partial(subprocess.run, cwd=here.parent, capture_output=True, text=True, timeout=10, check=True)
    try:
        _, head, changed = (git(["git", *words]).stdout.strip() for words in questions)
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")
