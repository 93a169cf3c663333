"""A training that is killed twenty times, checkpoints in flight included, is the training that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.training import checkpoints

PROGRAM = """
import sys, zlib
from dataclasses import replace
from pathlib import Path
import numpy as np
from ddpm_jax.cli.main import main
from ddpm_jax.data import loader
from ddpm_jax.models import unet
from tests.models.test_unet import LEAST
unet.PRESETS["tiny"] = replace(LEAST, dropout=0.1)
real, log = loader.stream, Path(sys.argv[-1]) / "batches.log"

def logged(wanted, first=0):
    for step, batch in enumerate(real(wanted, first), first + 1):
        with log.open("a") as file:
            file.write(f"{step} {zlib.crc32(np.ascontiguousarray(batch))}\\n")
        yield batch

loader.stream = logged
main()
"""
STEPS, KILLS = 60, 20
OPTIONS = ["--preset", "tiny", "--T", "50", "--steps", str(STEPS), "--batch", "8", "--save-every", "3"]
OPTIONS += ["--log-every", "2", "--sample-every", "10", "--time-sampler", "loss_second_moment", "--objective", "hybrid"]
OPTIONS += ["--variance", "learned_range", "--ema-decay", "0.9", "0.99", "--optimizer", "lookahead"]
FREE = {"images_per_second", "memory_gib"}  # of a line of the log: what the machine does, not the run
MINUTES = 5


def start(workdir: Path, cache: Path) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-c", PROGRAM, "train", *OPTIONS, "--workdir", str(workdir)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(run: subprocess.Popen) -> None:
    _, error = run.communicate(timeout=60 * MINUTES)
    assert run.returncode == 0, error


def reached(workdir: Path) -> int:
    """Steps whose batches have been drawn, over all starts."""
    log = workdir / "batches.log"
    return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0


def in_flight(workdir: Path) -> bool:
    """A checkpoint is being written."""
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def lines(workdir: Path) -> list[dict]:
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in FREE} for line in found]


def batches(workdir: Path) -> dict[str, str]:
    """The checksum of every step's batch; drawn again, it must be the same."""
    found: dict[str, str] = {}
    for line in (workdir / "batches.log").read_text(encoding="utf-8").splitlines():
        step, _, checksum = line.partition(" ")
        assert found.setdefault(step, checksum) == checksum, step
    return found


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path: Path) -> None:
    calm, killed, cache = tmp_path / "calm", tmp_path / "killed", tmp_path / "cache"
    for folder in (calm, killed):
        folder.mkdir()
    finish(start(calm, cache))
    draw, while_saving = random.Random(20261125), 0
    for kill in range(KILLS):
        run, before, deadline = start(killed, cache), reached(killed), time.monotonic() + 60 * MINUTES
        more, wait_for_save = draw.randint(1, 9), kill % 2 == 0
        while run.poll() is None and (reached(killed) < before + more or (wait_for_save and not in_flight(killed))):
            assert time.monotonic() < deadline
        time.sleep(draw.uniform(0, 0.02))
        while_saving += in_flight(killed)
        run.send_signal(signal.SIGKILL)
        run.communicate()
    finish(start(killed, cache))

    assert while_saving >= KILLS // 4
    stored = [checkpoints.read_arrays(workdir / "checkpoints", STEPS) for workdir in (calm, killed)]
    assert stored[0].keys() == stored[1].keys()
    assert {name.split(".")[0] for name in stored[0]} >= {"params", "ema", "opt_state", "history", "recent", "key"}
    for name in stored[0]:
        np.testing.assert_array_equal(stored[0][name], stored[1][name], err_msg=name)
    assert lines(calm) == lines(killed)
    assert batches(calm) == batches(killed) and len(batches(calm)) == STEPS
