"""Several processes as one run: the same numbers as one process, and an end together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import pytest

from ddpm_jax.runtime import distributed
from ddpm_jax.training import checkpoints, metrics

PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a script's shell has it ignored
import sys
from ddpm_jax.cli.main import main
from ddpm_jax.models import unet
from ddpm_jax.runtime import distributed
from tests.models.test_unet import LEAST
distributed.SILENCE = 30
unet.PRESETS["tiny"] = LEAST
main(["train", *sys.argv[1:]])
"""
FULL_DISK = """
import errno
from ddpm_jax.training import metrics
def line(log, step, values, write=metrics._line):
    if step == 6:
        raise OSError(errno.ENOSPC, "No space left on device", log.name)
    write(log, step, values)
metrics._line = line
"""
STEPS = 10
OPTIONS = ["--preset", "tiny", "--T", "50", "--batch", "8", "--optimizer", "sgd", "--learning-rate", "0.1"]
OPTIONS += ["--warmup", "0", "--log-every", "2", "--save-every", "5", "--sample-every", "0"]
MINUTES = 5


def start(workdir: Path, *more: str, devices: int = 1, before: str = "") -> subprocess.Popen:
    """One process of a run, with so many virtual CPU devices; `before` is run first."""
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-X", "faulthandler", "-c", before + PROGRAM, *OPTIONS, *more, "--workdir", str(workdir)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(workdir: Path, *more: str, before: str = "") -> list[subprocess.Popen]:
    """Two processes of two devices each."""
    place = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", "2"]
    return [start(workdir, *place, "--process", str(i), *more, devices=2, before=before) for i in range(2)]


def wait_for_lines(workdir: Path, count: int, runs: list[subprocess.Popen]) -> None:
    """Returns when the runs, which must not end, have logged so often."""
    log, deadline = workdir / metrics.METRICS, time.monotonic() + 60 * MINUTES
    while not log.exists() or len(metrics.read(log)) < count:
        assert time.monotonic() < deadline and all(run.poll() is None for run in runs)
        time.sleep(0.1)


def words(*runs: subprocess.Popen) -> list[str]:
    """What they wrote to stderr until they ended; those that do not end are made to say where they are."""
    try:
        return [run.communicate(timeout=60 * MINUTES)[1] for run in runs]
    except subprocess.TimeoutExpired:
        for run in runs:
            run.send_signal(signal.SIGABRT)
        pytest.fail("\n".join(run.communicate()[1][-10_000:] for run in runs))


def end(*runs: subprocess.Popen) -> list[str]:
    """What they wrote to stderr; all must succeed."""
    said = words(*runs)
    for run, error in zip(runs, said, strict=True):
        assert run.returncode == 0, error
    return said


def assert_ended_by_another(run: subprocess.Popen, error: str) -> None:
    """By its own step, which failed, or by JAX, which missed the other's heartbeat while the step hung."""
    told = {distributed.LOST: "cannot go on with the others", -signal.SIGABRT: "another task died"}
    assert run.returncode in told and told[run.returncode] in error, (run.returncode, error)


def parameters(workdir: Path, step: int = STEPS) -> list[np.ndarray]:
    stored = checkpoints.read_arrays(workdir / "checkpoints", step)
    return [stored[name] for name in sorted(stored) if name.startswith("params.")]


def assert_same(a: Path, b: Path, step: int = STEPS) -> None:
    for x, y in zip(parameters(a, step), parameters(b, step), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6 * max(1, np.abs(y).max()))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_two_processes_of_two_devices_make_the_steps_of_one(tmp_path: Path, how: str) -> None:
    two, four, one = tmp_path / "two", tmp_path / "four", tmp_path / "one"
    more = ["--parallel", how, "--steps", str(STEPS)]
    end(*start_two(two, *more))
    end(start(four, *more, devices=4))
    end(start(one, *more))
    assert_same(two, one)
    assert_same(four, one)

    # What two processes stored is restored by one, on four devices and on one, and trained on.
    further = ["--parallel", how, "--steps", str(STEPS + 5)]
    whole = tmp_path / "whole"
    end(start(whole, *further))
    for name, devices in (("four", 4), ("one", 1)):
        copy = tmp_path / f"from two to {name}"
        subprocess.run(["cp", "-r", two, copy], check=True)
        end(start(copy, *further, devices=devices))
        assert_same(copy, whole, STEPS + 5)
    end(*start_two(one, *further))
    assert_same(one, whole, STEPS + 5)
    lines = [json.loads(line) for line in (two / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 5, 6, 8, 10]  # one process writes


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_with_a_clear_message_and_a_restart_goes_on(
    tmp_path: Path, victim: int
) -> None:
    workdir, steps = tmp_path / "run", "100000"
    runs, deadline = start_two(workdir, "--steps", steps), time.monotonic() + 60 * MINUTES
    while not (workdir / "checkpoints" / "10").exists():
        assert time.monotonic() < deadline and all(run.poll() is None for run in runs)
        time.sleep(0.1)
    runs[victim].kill()
    killed = time.monotonic()
    error = runs[1 - victim].communicate(timeout=120)[1]
    assert time.monotonic() - killed < 120
    assert_ended_by_another(runs[1 - victim], error)
    reached = max(checkpoints.steps(workdir / "checkpoints"))
    assert reached >= 10
    end(*start_two(workdir, "--steps", str(reached + 20)))
    assert checkpoints.steps(workdir / "checkpoints")[0] == reached + 20


@pytest.mark.slow
def test_sigterm_to_one_process_stores_the_state_of_all(tmp_path: Path) -> None:
    """With three steps a call, after some have been saved, from a step that is far from 0."""
    workdir = tmp_path / "run"
    more = ["--steps", "100000", "--save-every", "7", "--steps-per-call", "3", "--keep", "1", "--keep-best", "0"]
    runs = start_two(workdir, *more)
    wait_for_lines(workdir, 20, runs)
    runs[1].send_signal(signal.SIGTERM)
    said = words(*runs)
    assert [run.returncode for run in runs] == [143, 143], said
    stored = checkpoints.steps(workdir / "checkpoints")[0]
    assert all(f"step {stored} is stored" in error for error in said)


@pytest.mark.slow
def test_an_error_of_one_process_ends_both_and_is_told(tmp_path: Path) -> None:
    """The first process, which alone writes the log, finds the disk full."""
    workdir = tmp_path / "run"
    runs = start_two(workdir, "--steps", "100000", before=FULL_DISK)
    said = words(*runs)
    assert runs[0].returncode == 2, said[0]
    assert "metrics.jsonl: No space left on device; what was finished is kept" in said[0]
    assert "Traceback" not in said[0] and runs[1].returncode != 0
    assert checkpoints.steps(workdir / "checkpoints") == [5]
    end(*start_two(workdir, "--steps", "8"))


@pytest.mark.slow
def test_a_second_run_of_two_is_refused_and_ctrl_c_to_one_ends_the_first(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    runs = start_two(workdir, "--steps", "100000")
    wait_for_lines(workdir, 5, runs)
    others = start_two(workdir, "--steps", "100000")
    for other in others:
        error = other.communicate(timeout=60 * MINUTES)[1]
        assert other.returncode == 2 and f"another process works in {workdir}: wait for it" in error
    assert all(run.poll() is None for run in runs)
    runs[1].send_signal(signal.SIGINT)
    said = words(*runs)
    assert runs[1].returncode == 130 and "interrupted; what was finished is kept" in said[1], said
    assert_ended_by_another(runs[0], said[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1234", None, 0), "processes: missing; give coordinator, processes and process together"),
        ((None, 2, None), "coordinator, process: missing"),
        (("localhost:1234", 2, 2), "process = 2 of processes = 2: it lies in 0..1"),
        (("localhost", 2, 1), "coordinator = 'localhost': give host:port"),
    ],
)
def test_half_an_address_is_refused(given: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distributed.join(*given)


def test_a_process_alone_is_the_first_and_waits_for_nobody() -> None:
    assert distributed.first() and distributed.share() == (0, 1)
    distributed.wait_for_all("here")


def test_sigterm_is_an_answer_within_and_ends_the_process_no_more() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with distributed.stop_request() as asked:
        assert not asked(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked(1, 2)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_cannot_go_on_says_so_in_one_line_and_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """What an ordinary exit would do, wait for the dead, `os._exit` does not; here it only raises."""

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as stop, distributed.ending_together():
        raise jax.errors.JaxRuntimeError("Gloo all-reduce failed: connection reset\nand a trace")
    error = capsys.readouterr().err
    assert stop.value.code == distributed.LOST != 0
    assert error.startswith("error: process 0 cannot go on with the others (Gloo all-reduce failed: connection reset)")
    assert error.count("\n") == 1


def test_an_error_of_a_process_alone_is_its_own() -> None:
    with pytest.raises(jax.errors.JaxRuntimeError), distributed.ending_together():
        raise jax.errors.JaxRuntimeError("out of memory")


@pytest.mark.parametrize("error", [SystemExit(2), KeyError("a fault"), SystemExit("words")])
@pytest.mark.parametrize("together", [True, False])
def test_an_error_that_all_have_ends_each_as_alone_and_one_of_its_own_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: BaseException, together: bool
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "_all_end", lambda: together)
    monkeypatch.setattr(os, "_exit", codes.append)
    with pytest.raises(type(error)) if together else nullcontext(), distributed.ending_together():
        raise error
    assert codes == ([] if together else [2 if error.args == (2,) else 1])
    assert ("KeyError: 'a fault'" in capsys.readouterr().err) == (isinstance(error, KeyError) and not together)


def test_a_command_that_ends_well_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(SystemExit), distributed.ending_together():
        raise SystemExit(0)
