"""An ablation that is killed again and again ends with the numbers of one that was left alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import TRAINING

PROGRAM = """
from ddpm_jax.cli.main import main
from ddpm_jax.evaluation import moments
from ddpm_jax.models import unet
from tests.models.test_unet import LEAST
unet.PRESETS["tiny"] = unet.HEAD_SIZES["narrow"] = LEAST
moments.EVALUATIONS_PER_CALL = 3000
main()
"""
OPTIONS = [
    *TRAINING,
    "--T",
    "100",
    "--steps",
    "40",
    "--head-steps",
    "20",
    "--K",
    "5",
    "20",
    "--sample-K",
    "5",
    "--images",
    "20",
    "--seeds",
    "2",
]
MINUTES = 5


def start(workdir: Path) -> subprocess.Popen:
    """The ablation in a process of its own, on one device."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", PROGRAM, "ablate", *OPTIONS, "--workdir", str(workdir)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(workdir: Path) -> dict:
    """Run to the end; the counts of cells."""
    process = start(workdir)
    _, error = process.communicate(timeout=MINUTES * 60)
    assert process.returncode == 0, error
    return json.loads((workdir / "run.json").read_text(encoding="utf-8"))["cells"]


def kill_when(workdir: Path, reached: Callable[[], bool]) -> None:
    """SIGKILL as soon as the workdir shows that a moment was reached."""
    process, deadline = start(workdir), time.monotonic() + MINUTES * 60
    while not reached():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode < 0


def count(folder: Path) -> int:
    return len(list(folder.glob("*"))) if folder.is_dir() else 0


@pytest.mark.slow
def test_five_kills_change_no_number(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    finish(calm)
    cells = killed / "cells"
    moments = [
        lambda: (killed / "checkpoints" / "14").exists(),
        lambda: count(cells / "moments") >= 5,
        lambda: count(cells / "moments") >= 30,
        lambda: count(cells / "samples") >= 6,
        lambda: (killed / "results.json").exists(),
    ]
    for reached in moments:
        kill_when(killed, reached)
        (killed / "results.json").unlink(missing_ok=True)
    used = finish(killed)
    assert (killed / "results.json").read_bytes() == (calm / "results.json").read_bytes()
    assert used["moments"]["computed"] == used["samples"]["computed"] == 0
    assert (killed / "report.html").exists()
