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


SLURM = {
    "SLURM_JOB_ID": "123",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


class ConfigException(Exception):
    """As of the package kubernetes."""


def joined(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], error: Exception, *given: object) -> list:
    """What JAX is asked by a process of this environment, where its detection, if asked for, raises an error."""
    asked: list[dict] = []

    def initialize(*place: object, **how: object) -> None:
        asked.append({"place": place, **how})
        if how["cluster_detection_method"] is None:
            raise error

    for cluster in distributed.CLUSTERS:
        for name in (cluster.sign, *cluster.others):
            monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    distributed.join(*given)  # type: ignore[arg-type]
    return asked


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        (POD, ConfigException("Service token file does not exist.")),
        (POD, RuntimeError("Kubernetes API Error: 403 - Forbidden\nIt appears that the service account")),
        ({**POD, "JOB_COMPLETION_INDEX": "0"}, KeyError("HOSTNAME")),
        ({}, ConnectionError("metadata.google.internal does not answer")),
        ({"SLURM_JOB_ID": "123", **POD}, ConfigException("a shell of salloc in a pod")),
    ],
)
def test_a_cluster_that_cannot_be_asked_leaves_the_process_alone_and_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, environment: dict[str, str], error: Exception
) -> None:
    joined(monkeypatch, environment, error)
    said = capsys.readouterr().err
    assert said.startswith("this process trains alone: the cluster cannot be asked for others (")
    assert f"({type(error).__name__}: {str(error).partition(chr(10))[0]});" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ({}, ValueError(f"{distributed.NO_CLUSTER}.")),
        ({}, RuntimeError(f"jax.distributed.initialize() {distributed.TOO_LATE}")),
        ({"SLURM_JOB_ID": "123", "SLURM_NTASKS": "4"}, ValueError(f"{distributed.NO_CLUSTER}.")),  # beside its jobs
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, ValueError(f"{distributed.NO_CLUSTER}.")),  # without a TPU
        ({**SLURM, "SLURM_NTASKS": "1"}, RuntimeError(f"initialize {distributed.TOO_LATE}")),
    ],
)
def test_where_there_is_no_cluster_a_process_is_alone_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, environment: dict[str, str], error: Exception
) -> None:
    joined(monkeypatch, environment, error)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("environment", "error", "cure"),
    [
        (OPEN_MPI, KeyError("OMPI_COMM_WORLD_SIZE"), "env -u OMPI_MCA_orte_hnp_uri"),
        ({**SLURM, "SLURM_NTASKS": "2(x3)"}, ValueError("invalid literal for int()"), "env -u SLURM_JOB_ID"),
        (SLURM, RuntimeError(f"initialize {distributed.TOO_LATE}"), "env -u SLURM_JOB_ID"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1"},
            ValueError("Number of processes must be defined."),
            "env -u JAX_COORDINATOR_ADDRESS",
        ),
        (
            {**POD, "TPU_WORKER_HOSTNAMES": "a,b"},
            RuntimeError("Failed to recognize coordinator address a"),
            "env -u TPU_WORKER_HOSTNAMES -u KUBERNETES_SERVICE_HOST",
        ),
    ],
)
def test_one_of_several_that_cannot_join_them_does_not_train_alone(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], error: Exception, cure: str
) -> None:
    with pytest.raises(ValueError, match=r"^this is one of several processes because of ") as refused:
        joined(monkeypatch, environment, error)
    said = str(refused.value)
    assert all(f"{name}={value}" in said for name, value in environment.items() if name != "SLURM_LOCALID")
    assert str(error) in said and said.endswith(f"or `{cure}` before the command trains alone") and "\n" not in said


def test_where_all_is_given_a_cluster_need_not_be_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked = joined(monkeypatch, POD, ConfigException("no token"), "localhost:1234", 2, 1)
    assert [call["place"] for call in asked] == 2 * [("localhost:1234", 2, 1)]
    assert [call["cluster_detection_method"] for call in asked] == [None, "deactivate"]
    assert capsys.readouterr().err == ""


@pytest.mark.oracle
def test_a_pod_that_may_not_ask_for_its_job_trains_alone() -> None:
    """The package kubernetes itself, without a service account."""
    pytest.importorskip("kubernetes")
    pod = {**os.environ, "JAX_PLATFORMS": "cpu", **POD, "KUBERNETES_SERVICE_PORT": "443"}
    alone = "from ddpm_jax.runtime import distributed; distributed.join(); print(distributed.share())"
    done = subprocess.run([sys.executable, "-c", alone], env=pod, capture_output=True, text=True, check=False)
    (said,) = [line for line in done.stderr.splitlines() if "proxy" not in line]
    assert done.stdout == "(0, 1)\n" and done.returncode == 0
    assert said.startswith("this process trains alone: the cluster cannot be asked for others (ConfigException: ")


WAITING = """
import sys
from ddpm_jax.runtime import distributed
distributed.SOON, distributed.WAIT = 1, int(sys.argv[1])
distributed.join(*(of(word) for of, word in zip((str, int, int), sys.argv[2:])))
print(distributed.share())
"""


def waiting(seconds: int, *given: object, **environment: str) -> subprocess.Popen:
    """A process that joins the others and says who it is."""
    command = [sys.executable, "-c", WAITING, str(seconds), *map(str, given)]
    known = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(command, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("index", ["0", "3"])
def test_others_that_do_not_come_are_named_at_once_and_end_the_wait_in_one_line(index: str) -> None:
    run = waiting(4, **{**SLURM, "SLURM_PROCID": index})
    said = words(run)[0]
    told = [line for line in said.splitlines() if "3 other processes at localhost:" in line]
    assert run.returncode == 2 and "stack trace" not in said, said
    assert told[0].startswith("waiting for 3 ") and told[1].startswith("error: 4 seconds of waiting for 3 "), said
    for line in told:
        assert (
            f"because of SLURM_JOB_ID=123, SLURM_STEP_NODELIST=localhost, SLURM_NTASKS=4, SLURM_PROCID={index}" in line
        )
        assert "`env -u SLURM_JOB_ID` before the command trains alone" in line


@pytest.mark.slow
def test_what_is_told_about_staying_alone_is_true() -> None:
    known = {**os.environ, "JAX_PLATFORMS": "cpu", **SLURM}
    command = ["env", "-u", "SLURM_JOB_ID", sys.executable, "-c", WAITING, "60"]
    alone = subprocess.run(command, env=known, capture_output=True, text=True, timeout=60 * MINUTES, check=False)
    given = waiting(60, f"localhost:{free_port()}", 1, 0, **SLURM)
    assert alone.stdout == given.communicate(timeout=60 * MINUTES)[0] == "(0, 1)\n"
    none = "import jax; jax.distributed.initialize()"  # JAX's own words where there is no cluster
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "KUBERNETES", "OMPI"))}
    said = subprocess.run([sys.executable, "-c", none], env=bare, capture_output=True, text=True, check=False).stderr
    assert distributed.NO_CLUSTER in said
    jax.devices()
    with pytest.raises(RuntimeError, match=distributed.TOO_LATE):
        jax.distributed.initialize()


@pytest.mark.slow
def test_processes_that_are_started_apart_find_each_other() -> None:
    place = (f"localhost:{free_port()}", 2)
    first = waiting(60, *place, 1)
    assert first.stderr is not None and "waiting for 1 other process at localhost:" in next(
        line for line in first.stderr if "proxy" not in line
    )
    second = waiting(60, *place, 0)
    assert [run.communicate(timeout=60 * MINUTES)[0] for run in (first, second)] == ["(1, 2)\n", "(0, 2)\n"]


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
