"""The scripts for Cloud TPU, with a stand-in for gcloud: what they print, what they call, and what the workers do."""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tyro
import yaml

from benchmarks import tpu
from ddpm_jax.cli import arguments
from ddpm_jax.cli.main import COMMANDS as OURS

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "experiments" / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
COMMANDS = [name for name in SCRIPTS if name not in ("settings.sh", "worker_run.sh", "worker_setup.sh")]
SETTINGS = {
    "NAME": "cifar10",
    "PROJECT": "my-project",
    "ZONE": "us-central1-a",
    "SLICE": "v5e-8",
    "BUCKET": "my-bucket",
}
SETTINGS |= {"REPOSITORY": "https://example.org/ddpm_jax.git", "COMMIT": "0123abc", "POLL": "0"}
# Writes down its arguments. Answers from files, a line a question, the last one for ever. The bucket is a folder, and
# the only worker is another, in which commands by ssh are run.
GCLOUD = r"""#!/usr/bin/env bash
set -euo pipefail
printf '%s\n' "$(printf '%q ' "$@")" >>"$FAKE/calls"
next() { head -n 1 "$1"; [ "$(wc -l <"$1")" -le 1 ] || sed -i 1d "$1"; }
at() { echo "$FAKE/bucket/${1#gs://}"; }
put() { mkdir -p "$(dirname "$1")" && cat >"$1.part" && mv "$1.part" "$1"; } # whole or not at all, as in a bucket
describe() {
    said=$(next "$1")
    case $said in
        NONE) echo "ERROR: (gcloud) NOT_FOUND: Resource was not found." >&2; exit 1 ;;
        UNREACHABLE) echo "ERROR: (gcloud) There was a problem refreshing your current auth tokens" >&2; exit 1 ;;
    esac
    echo "WARNING: an update is available" >&2
    echo "$said"
}
case "$*" in
    *" queued-resources describe "*) describe "$FAKE/states" ;;
    *" tpu-vm describe "*) describe "$FAKE/nodes" ;;
    *" tpu-vm ssh "*)
        exit="$(next "$FAKE/ssh")"
        [ "$exit" = 0 ] || exit "$exit"
        cd "$FAKE/worker"
        for word in "$@"; do
            [[ $word != --command=* ]] || HOME="$PWD" PATH="$FAKE/remote:$PATH" bash -c "${word#--command=}" 3>&-
        done ;;
    "storage cp - "*) put "$(at "$4")" ;;
    "storage cp "*) put "$(at "$4")" <"$3" ;;
    "storage cat "*)
        if [ -e "$FAKE/finished" ]; then next "$FAKE/finished"; else cat "$(at "$3")"; fi ;;
    "storage ls "*) ls "$(at "$3")" ;;
    "storage rsync "*)
        from="${*: -2:1}" to="${*: -1}"
        [[ $from != gs://* ]] || from=$(at "$from")
        [[ $to != gs://* ]] || to=$(at "$to")
        mkdir -p "$to" && cp -r "$from/." "$to" ;;
esac
"""
CURL = """#!/usr/bin/env bash
[[ $* == *Metadata-Flavor:\\ Google*/instance/attributes/agent-worker-number ]] && cat "$FAKE/number"
"""
PYTHON = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$FAKE/words"
echo "data in $TFDS_DATA_DIR"
echo x >>"$FAKE/starts"
mkdir -p runs/cifar10
echo "start $(wc -l <"$FAKE/starts")" >>runs/cifar10/metrics.jsonl
trap 'exit 143' TERM
[ ! -e "$FAKE/wait" ] || touch "$FAKE/waiting"
while [ -e "$FAKE/wait" ]; do sleep 0.01; done
code=$(head -n 1 "$FAKE/codes")
sed -i 1d "$FAKE/codes"
exit "$code"
"""


class Stand(NamedTuple):
    """Everything that is not Google's."""

    fake: Path
    environment: dict[str, str]

    def run(self, script: str, *words: str, **settings: str) -> subprocess.CompletedProcess:
        """A script to its end, which is soon: nothing that it leaves behind may hold its output."""
        command = ["bash", str(LAUNCH / script), *words]
        environment = {**self.environment, **settings}
        return subprocess.run(
            command, env=environment, cwd=self.fake, capture_output=True, text=True, timeout=60, check=False
        )

    def dry(self, script: str, *words: str, **settings: str) -> list[list[str]]:
        """The commands that a dry run prints, in words; it calls nothing."""
        done = self.run(script, "--dry-run", *words, **settings)
        assert done.returncode == 0, done.stderr
        assert self.calls() == []
        return [shlex.split(line) for line in done.stdout.splitlines()]

    def answer(self, name: str, *lines: str | int) -> None:
        (self.fake / name).write_text("".join(f"{line}\n" for line in lines))

    def calls(self) -> list[list[str]]:
        """What gcloud was called with."""
        log = self.fake / "calls"
        return [shlex.split(line) for line in log.read_text().splitlines()] if log.exists() else []

    def called(self, *words: str) -> int:
        """How many calls have these words."""
        return sum(set(words) <= set(call) for call in self.calls())

    @property
    def bucket(self) -> Path:
        return self.fake / "bucket" / "my-bucket" / "cifar10"

    @property
    def repository(self) -> Path:
        return self.fake / "worker" / "ddpm_jax"


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """A stand-in for gcloud, a bucket, and a worker that is set up."""
    executables = {"local/gcloud": GCLOUD, "remote/curl": CURL, "worker/ddpm_jax/.venv/bin/python": PYTHON}
    for name, text in executables.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "worker/ddpm_jax/runs").mkdir()
    (tmp_path / "worker/ddpm_jax/experiments").symlink_to(ROOT / "experiments")
    path = f"{tmp_path / 'local'}:{os.environ['PATH']}"
    clean = {"PATH": path, "HOME": str(tmp_path), "FAKE": str(tmp_path), "PAUSE": "0.02"}
    stand = Stand(tmp_path, {**clean, **SETTINGS})
    for name, answer in {"states": "ACTIVE", "nodes": "READY", "ssh": 0, "number": 0, "codes": 0}.items():
        stand.answer(name, answer)
    yield stand
    (tmp_path / "wait").unlink(missing_ok=True)


def until(happens: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def command_of(call: list[str]) -> str:
    """What an ssh call runs."""
    (command,) = [word.removeprefix("--command=") for word in call if word.startswith("--command=")]
    return command


def started(calls: list[list[str]]) -> tuple[str, list[str]]:
    """The folder in the bucket and the words for Python, of run.sh's last call as the worker's shell reads it."""
    words = shlex.split(command_of(calls[-1]))
    start = next(i for i, word in enumerate(words) if word.endswith("worker_run.sh"))
    end = next(i for i, word in enumerate(words) if word.startswith(">>"))
    return words[start + 1], words[start + 2 : end]


def read_by_command(module: str, name: str, *argv: str) -> Any:
    """The options of `python -m ddpm_jax NAME ARGV`."""
    assert module == "ddpm_jax"
    return tyro.cli(getattr(arguments, OURS[name].options), args=argv)


def read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


# ---------------------------------------------------------------- all scripts


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_short_strict_and_well_formed(name: str) -> None:
    assert subprocess.run(["bash", "-n", LAUNCH / name], check=False).returncode == 0
    lines = (LAUNCH / name).read_text().splitlines()
    assert max(map(len, lines)) <= 120
    if name != "settings.sh":
        assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
        assert os.access(LAUNCH / name, os.X_OK)
        assert any(f"experiments/launch/{name}" in line for line in lines if line.startswith("#")), "no example"
        assert len(lines) <= 40


@pytest.mark.parametrize("script", COMMANDS)
def test_a_missing_project_is_one_line_and_nothing_is_called(stand: Stand, script: str) -> None:
    done = stand.run(script, PROJECT="")
    assert done.returncode == 2
    assert done.stderr == "error: PROJECT is not set: export PROJECT=my-project\n" and not done.stdout
    assert stand.calls() == []


@pytest.mark.parametrize(
    "name, value, cure",
    [
        ("NAME", "", "export NAME="),
        ("ZONE", "", "export ZONE="),
        ("SLICE", "", "export SLICE="),
        ("BUCKET", "", "export BUCKET="),
        ("REPOSITORY", "", "export REPOSITORY="),
        ("COMMIT", "", "export COMMIT=$(git rev-parse HEAD)"),
        ("NAME", "CIFAR 10", "small letters"),
        ("SLICE", "v5e-7", "choose v5e-N"),
        ("SLICE", "v5p-4", "choose v5e-N"),
        ("SLICE", "v5litepod-8", "choose v5e-N"),
        ("SPOT", "yes", "0 or 1"),
        ("BUCKET", "gs://my-bucket", "without gs://"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_the_cure(stand: Stand, name: str, value: str, cure: str) -> None:
    done = stand.run("create.sh", **{name: value})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {name} ") and value in line and cure in line
    assert stand.calls() == []


@pytest.mark.parametrize("script", COMMANDS)
def test_a_misspelt_option_does_not_run(stand: Stand, script: str) -> None:
    done = stand.run(script, "--dryrun")
    assert done.returncode == 2 and "--dryrun" in done.stderr
    assert stand.calls() == []


@pytest.mark.parametrize("script", COMMANDS)
def test_a_dry_run_prints_commands_and_calls_nothing(stand: Stand, script: str) -> None:
    printed = stand.dry(script)
    assert printed and all(line[0] in ("gcloud", "mkdir") for line in printed)
    for line in printed:
        if line[1:3] == ["compute", "tpus"]:
            assert {"cifar10", "--project=my-project", "--zone=us-central1-a"} <= set(line)


# ---------------------------------------------------------------- create


@pytest.mark.parametrize("kind", tpu.CHIPS)
def test_every_slice_has_googles_name_and_software(stand: Stand, kind: str) -> None:
    prefix, version = {
        "v4": ("v4-", "tpu-ubuntu2204-base"),
        "v5e": ("v5litepod-", "v2-alpha-tpuv5-lite"),
        "v5p": ("v5p-", "v2-alpha-tpuv5"),
        "v6e": ("v6e-", "v2-alpha-tpuv6e"),
    }[kind]
    chip = tpu.CHIPS[kind]
    for chips in chip.shapes:
        number = chip.cores * chips
        created = stand.dry("create.sh", SLICE=f"{kind}-{number}")[-1]
        assert f"--accelerator-type={prefix}{number}" in created
        assert f"--runtime-version={version}" in created
        assert created[1:6] == ["compute", "tpus", "queued-resources", "create", "cifar10"]
        assert "--node-id=cifar10" in created


def test_a_spot_slice_is_one_only_when_asked_for(stand: Stand) -> None:
    assert "--spot" in stand.dry("create.sh", SPOT="1")[-1]
    assert "--spot" not in stand.dry("create.sh", SPOT="0")[-1]
    assert "--spot" not in stand.dry("create.sh")[-1]


def test_create_waits_until_the_slice_is_there(stand: Stand) -> None:
    stand.answer("states", "NONE", "NONE", "WAITING_FOR_RESOURCES", "UNREACHABLE", "PROVISIONING", "ACTIVE", "FAILED")
    done = stand.run("create.sh")
    assert done.returncode == 0, done.stderr
    assert stand.called("queued-resources", "create") == 1
    assert stand.called("queued-resources", "describe") == 6
    assert read(stand.fake / "states") == "FAILED"  # it has not asked again
    assert [line.split()[-1] for line in done.stdout.splitlines()][-2:] == ["PROVISIONING", "ACTIVE"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_create_says_when_there_will_be_no_slice(stand: Stand, state: str) -> None:
    stand.answer("states", "NONE", "PROVISIONING", state)
    done = stand.run("create.sh")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "cifar10" in done.stderr and state in done.stderr


def test_create_asks_for_a_slice_once(stand: Stand) -> None:
    stand.answer("states", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "ACTIVE")
    assert stand.run("create.sh").returncode == 0
    assert stand.called("queued-resources", "create") == 0


# ---------------------------------------------------------------- setup, logs, fetch, delete


def test_setup_prepares_the_code_of_the_commit_on_every_worker(stand: Stand) -> None:
    (call,) = stand.dry("setup.sh", COMMIT="v1 'x'", REPOSITORY="https://example.org/it's.git")
    assert call[1:6] == ["compute", "tpus", "tpu-vm", "ssh", "cifar10"] and "--quiet" in call
    assert [word for word in call if word.startswith("--worker")] == ["--worker=all"]
    words = shlex.split(command_of(call).replace(";", " ; "))
    clone = words.index("clone")
    assert words[clone : clone + 4] == ["clone", "--quiet", "https://example.org/it's.git", "ddpm_jax"]
    checkout = words.index("checkout")
    assert words[checkout : checkout + 4] == ["checkout", "--quiet", "--detach", "v1 'x'"]
    assert words[words.index("experiments/launch/worker_setup.sh") + 1] == "gs://my-bucket/data"


@pytest.mark.parametrize("data", [True, False])
def test_a_worker_gets_a_newer_python_the_extras_and_the_data(stand: Stand, data: bool) -> None:
    recorder = '#!/usr/bin/env bash\necho "$(basename "$0") $*" >>"$FAKE/installed"\n'
    makes_pip = '[ "$2" != uv ] || { mkdir -p .venv/bin && cp "$0" .venv/bin/pip; }\n'
    python = stand.fake / "remote" / "python3"
    python.write_text(recorder + makes_pip)
    python.chmod(0o755)
    there = stand.repository / "experiments"  # a copy: the script goes by its own place
    there.unlink()
    (there / "launch").mkdir(parents=True)
    script = there / "launch" / "worker_setup.sh"
    script.write_bytes((LAUNCH / "worker_setup.sh").read_bytes())
    if data:
        images = stand.bucket.parent / "data" / "cifar10" / "images"
        images.parent.mkdir(parents=True)
        images.write_text("images")
    environment = {**stand.environment, "HOME": str(stand.fake / "worker")}
    environment["PATH"] = f"{python.parent}:{environment['PATH']}"
    for _ in range(2):  # a second time changes nothing
        done = subprocess.run(["bash", script, "gs://my-bucket/data"], env=environment, check=False)
        assert done.returncode == 0
    installed = read(stand.fake / "installed").splitlines()
    assert installed[:2] == ["python3 -m pip install --quiet --user uv", installed[1]]
    assert installed[1].startswith("python3 -m uv venv") and "--python 3.12 .venv" in installed[1]
    assert installed[2:] == ["pip install --quiet --editable .[tpu,gcs]"] * 2
    assert read(stand.fake / "worker" / "data" / "cifar10" / "images") == ("images" if data else "")


def test_logs_fetch_and_delete(stand: Stand) -> None:
    (logs,) = stand.dry("logs.sh")
    assert "--worker=0" in logs and shlex.split(command_of(logs))[-2:] == ["-F", "ddpm_jax/runs/cifar10.log"]
    (deleted,) = stand.dry("delete.sh")
    assert deleted[1:6] == ["compute", "tpus", "queued-resources", "delete", "cifar10"]
    assert {"--force", "--quiet"} <= set(deleted)
    fetched = stand.dry("fetch.sh", "--", "my results")[-1]
    assert fetched == ["gcloud", "storage", "rsync", "--recursive", "gs://my-bucket/cifar10/workdir", "my results"]
    (stand.bucket / "workdir").mkdir(parents=True)
    (stand.bucket / "workdir" / "report.html").write_text("report")
    assert stand.run("fetch.sh").returncode == 0
    assert read(stand.fake / "runs" / "cifar10" / "report.html") == "report"


# ---------------------------------------------------------------- run


def test_the_default_run_trains_cifar10_with_its_checkpoints_in_the_bucket(stand: Stand) -> None:
    calls = stand.dry("run.sh")
    assert "--worker=all" in calls[-1]
    bucket, words = started(calls)
    assert bucket == "gs://my-bucket/cifar10"
    options = read_by_command(*words)
    assert (options.training.preset, options.training.steps, options.training.batch) == ("cifar10", 800_000, 128)
    assert options.workdir == Path("runs/cifar10")
    assert options.training.checkpoints == "gs://my-bucket/cifar10/checkpoints"


def test_what_is_given_stays_and_only_training_gets_checkpoints(stand: Stand) -> None:
    own = ["ddpm_jax", "train", "--workdir=runs/cifar10/b", "--checkpoints", "gs://other/b"]
    assert started(stand.dry("run.sh", "--", *own))[1] == own
    heads = ["ddpm_jax", "heads", "--checkpoint", "runs/cifar10", "--workdir", "runs/cifar10/heads"]
    assert started(stand.dry("run.sh", "--", *heads))[1] == heads
    registering = ["ddpm_jax", "--import", "mine", "train", "--workdir", "runs/cifar10"]
    with_bucket = [*registering, "--checkpoints", "gs://my-bucket/cifar10/checkpoints"]
    assert started(stand.dry("run.sh", "--", *registering))[1] == with_bucket
    ablation = ["ddpm_jax", "ablate", "--checkpoint", "runs/cifar10"]
    assert started(stand.dry("run.sh", "--", *ablation))[1] == [*ablation, "--workdir", "runs/cifar10"]


@pytest.mark.parametrize("slice_name, fits", [("v5e-8", True), ("v4-8", True), ("v5e-16", False), ("v5p-16", False)])
@pytest.mark.parametrize("words", [["ddpm_jax", "sample"], ["ddpm_jax", "fid", "--split", "train"]], ids=" ".join)
def test_what_runs_in_one_process_needs_a_slice_of_one_machine(
    stand: Stand, words: list[str], slice_name: str, fits: bool
) -> None:
    done = stand.run("run.sh", "--dry-run", "--", *words, SLICE=slice_name)
    assert done.returncode == (0 if fits else 2)
    assert ("one process" in done.stderr) is not fits
    assert stand.dry("run.sh", "--", "ddpm_jax", "train", SLICE=slice_name)


def test_odd_words_come_through_the_dry_run_and_two_shells(stand: Stand) -> None:
    odd = ["ddpm_jax", "train", "--data", './it\'s "my" $HOME; images', "--wandb", "", "--workdir", "runs/cifar10/*"]
    bucket, words = started(stand.dry("run.sh", "--", *odd, BUCKET="my 'bucket'"))
    assert bucket == "gs://my 'bucket'/cifar10"
    assert words == [*odd, "--checkpoints", "gs://my 'bucket'/cifar10/checkpoints"]
    assert stand.run("run.sh", "--", *odd).returncode == 0
    until(lambda: read(stand.bucket / "finished") == "0")
    assert (stand.fake / "words").read_text().split("\n")[1:-3] == odd


def test_a_run_outlives_the_connection_and_its_log_goes_to_the_bucket(stand: Stand) -> None:
    (stand.fake / "wait").touch()
    assert stand.run("run.sh").returncode == 0  # returns while Python runs
    until(lambda: read(stand.bucket / "workdir" / "metrics.jsonl") == "start 1")
    assert read(stand.bucket / "finished") == "no"
    assert stand.run("run.sh").returncode == 0
    log = stand.repository / "runs" / "cifar10.log"
    until(lambda: "it is running already" in read(log))
    (stand.fake / "wait").unlink()
    until(lambda: read(stand.bucket / "finished") == "0")
    assert read(stand.fake / "starts") == "x"
    assert f"data in {stand.fake / 'worker' / 'data'}" in read(stand.bucket / "output.log")
    assert stand.called("storage", "rsync") >= 2


def test_a_worker_that_is_not_set_up_is_an_error(stand: Stand) -> None:
    (stand.repository / ".venv" / "bin" / "python").unlink()
    assert stand.run("run.sh").returncode != 0


def worker(stand: Stand, *words: str, pause: str = "0.02") -> subprocess.Popen:
    environment = {**stand.environment, "HOME": str(stand.fake / "worker"), "PAUSE": pause}
    environment["PATH"] = f"{stand.fake / 'remote'}:{environment['PATH']}"
    command = ["bash", str(LAUNCH / "worker_run.sh"), "gs://my-bucket/cifar10", *words]
    return subprocess.Popen(command, env=environment, cwd=stand.repository, start_new_session=True)


def test_a_new_machine_fetches_the_workdir_and_an_old_one_keeps_its_own(stand: Stand) -> None:
    (stand.bucket / "workdir").mkdir(parents=True)
    (stand.bucket / "workdir" / "metrics.jsonl").write_text("before\n")
    stand.answer("codes", 0, 0)
    groups = []
    for ending in ("start 1", "start 2"):
        running = worker(stand, "ddpm_jax", "train", pause="60")
        groups.append(running.pid)
        assert running.wait(60) == 0
        assert read(stand.bucket / "workdir" / "metrics.jsonl").endswith(ending)
        (stand.bucket / "workdir" / "metrics.jsonl").write_text("older\n")
    for group in groups:
        os.killpg(group, signal.SIGKILL)  # what would copy in a minute
    own = read(stand.repository / "runs" / "cifar10" / "metrics.jsonl")
    assert own.splitlines() == ["before", "start 1", "start 2"]


@pytest.mark.parametrize("code", [0, 1, 2, 137])
def test_a_run_that_ends_by_itself_leaves_its_exit_code(stand: Stand, code: int) -> None:
    stand.answer("codes", code)
    assert worker(stand, "ddpm_jax", "train").wait(60) == code
    assert read(stand.bucket / "finished") == str(code)
    assert read(stand.fake / "words").split("\n") == ["-m", "ddpm_jax", "train"]


def test_a_run_that_another_process_or_a_notice_ended_goes_on(stand: Stand) -> None:
    stand.answer("codes", 75, 134, 143, 0)
    assert worker(stand, "ddpm_jax", "train").wait(60) == 0
    assert read(stand.fake / "starts").split() == ["x"] * 4
    assert read(stand.bucket / "finished") == "0"


def test_only_the_first_worker_touches_the_bucket(stand: Stand) -> None:
    stand.answer("number", 3)
    assert worker(stand, "ddpm_jax", "train").wait(60) == 0
    assert read(stand.fake / "starts") == "x"
    assert stand.calls() == []


def test_without_its_number_a_worker_does_not_start(stand: Stand) -> None:
    (stand.fake / "number").unlink()
    assert worker(stand, "ddpm_jax", "train").wait(60) != 0
    assert not (stand.fake / "starts").exists()


def test_the_end_of_a_machine_leaves_the_last_log_and_no_exit_code(stand: Stand) -> None:
    (stand.fake / "wait").touch()
    running = worker(stand, "ddpm_jax", "train", pause="60")
    until((stand.fake / "waiting").exists)
    (stand.repository / "runs" / "cifar10" / "metrics.jsonl").write_text("the last\n")
    assert not (stand.bucket / "workdir" / "metrics.jsonl").exists()
    os.killpg(running.pid, signal.SIGTERM)  # to all at once, as at shutdown
    until(lambda: read(stand.bucket / "workdir" / "metrics.jsonl") == "the last")
    assert running.poll() is None and not (stand.bucket / "finished").exists()
    os.killpg(running.pid, signal.SIGKILL)
    running.wait(60)


# ---------------------------------------------------------------- resume


def kinds(stand: Stand) -> list[str]:
    """What resume.sh did to the slice, in order."""
    verbs = ("create", "delete", "ssh")
    return [call[3] for call in stand.calls() if call[0] == "compute" and call[3] in verbs]


WORDS = ("--", "ddpm_jax", "train", "--preset", "digits")


@pytest.fixture
def shallow(stand: Stand) -> Stand:
    """Commands by ssh are written down and not run; each look at the run's end is one line of `finished`."""
    (stand.fake / "local" / "gcloud").write_text(GCLOUD.replace("bash -c ", "true "))
    return stand


@pytest.mark.parametrize(
    "states, nodes",
    [
        (["SUSPENDED", "NONE", "PROVISIONING", "ACTIVE"], ["READY"]),
        (["FAILED", "NONE", "PROVISIONING", "ACTIVE"], ["READY"]),
        (["ACTIVE", "NONE", "PROVISIONING", "ACTIVE"], ["PREEMPTED", "READY"]),
    ],
    ids=["suspended", "failed", "preempted"],
)
def test_resume_recreates_a_lost_slice_and_ends_with_the_run(
    shallow: Stand, states: list[str], nodes: list[str]
) -> None:
    shallow.answer("states", "ACTIVE", "ACTIVE", "ACTIVE", "ACTIVE", *states)
    shallow.answer("nodes", "READY", "READY", *nodes)
    shallow.answer("finished", "no", "no", "no", "no", 0)
    done = shallow.run("resume.sh", *WORDS)
    assert done.returncode == 0, done.stderr
    assert "exit code 0" in done.stdout
    # It was there: set up and run. Then it was lost: deleted, created, set up and run again.
    assert kinds(shallow) == ["ssh", "ssh", "delete", "create", "ssh", "ssh"]
    runs = [call for call in shallow.calls() if any("worker_run.sh" in word for word in call)]
    assert [started([call])[1][:4] for call in runs] == [list(WORDS[1:])] * 2
    setups = [call for call in shallow.calls() if any("worker_setup.sh" in word for word in call)]
    assert len(setups) == 2


def test_resume_creates_a_slice_that_is_not_there(shallow: Stand) -> None:
    shallow.answer("states", "NONE", "NONE", "ACTIVE")
    shallow.answer("finished", "no", 0)
    assert shallow.run("resume.sh", *WORDS, SPOT="1").returncode == 0
    assert kinds(shallow) == ["create", "ssh", "ssh"]
    assert shallow.called("create", "--spot") == 1


@pytest.mark.parametrize("code", [0, 2])
def test_resume_ends_with_the_exit_code_of_a_run_that_has_ended(shallow: Stand, code: int) -> None:
    shallow.answer("finished", code)
    assert shallow.run("resume.sh", *WORDS).returncode == code
    assert kinds(shallow) == []


def test_resume_leaves_a_slice_alone_when_google_cannot_be_reached(shallow: Stand) -> None:
    shallow.answer("states", "ACTIVE", "ACTIVE", "ACTIVE", "UNREACHABLE", "UNREACHABLE", "ACTIVE")
    shallow.answer("finished", "no", "no", "no", "no", 0)
    assert shallow.run("resume.sh", *WORDS).returncode == 0
    assert kinds(shallow) == ["ssh", "ssh"]


def test_resume_tries_again_where_a_new_slice_does_not_answer_yet(shallow: Stand) -> None:
    shallow.answer("ssh", 255, 0)
    shallow.answer("finished", "no", "no", 0)
    assert shallow.run("resume.sh", *WORDS).returncode == 0
    assert kinds(shallow) == ["ssh", "ssh", "ssh"]


def test_resume_gives_up_a_setup_that_never_works(shallow: Stand) -> None:
    shallow.answer("ssh", 1)
    shallow.answer("finished", "no")
    done = shallow.run("resume.sh", *WORDS)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: cifar10 could not be begun five times")
    assert kinds(shallow) == ["ssh"] * 5


def test_a_dry_run_of_resume_shows_the_whole_round(stand: Stand) -> None:
    printed = stand.dry("resume.sh", *WORDS)
    assert printed[0] == ["gcloud", "storage", "cat", "gs://my-bucket/cifar10/finished"]
    assert [line[4] for line in printed if line[1] == "compute"] == ["describe", "describe", "create", "ssh", "ssh"]
    assert started(printed)[1][:4] == list(WORDS[1:])


# ---------------------------------------------------------------- SkyPilot, and the documentation


def test_the_task_for_skypilot_is_the_default_run_on_a_spot_v5e_8(stand: Stand) -> None:
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    resources = task["resources"]
    created = stand.dry("create.sh")[-1]
    assert f"--accelerator-type={resources['accelerators'].removeprefix('tpu-')}" in created
    assert f"--runtime-version={resources['accelerator_args']['runtime_version']}" in created
    assert resources["use_spot"] is True and resources["infra"] == "gcp"
    (mount,) = task["file_mounts"].values()
    assert mount == {"source": "gs://${BUCKET}", "mode": "MOUNT"}
    assert {"NAME", "BUCKET", "REPOSITORY", "COMMIT"} == set(task["envs"])

    shown = '_() { printf "%s\\n" "$@"; }\n' + task["run"].replace("cd ddpm_jax", "").replace("bash exp", "_ exp")
    said = subprocess.run(["bash", "-euc", shown], env=stand.environment, capture_output=True, text=True, check=True)
    _, bucket, *words = said.stdout.splitlines()
    assert (bucket, words) == started(stand.dry("run.sh"))
    assert "TFDS_DATA_DIR=/bucket/data" in task["run"] and "/bucket" in task["file_mounts"]
    assert "worker_setup.sh" in task["setup"]
    assert subprocess.run(["bash", "-n", "-c", task["setup"]], check=False).returncode == 0


def documented() -> list[list[str]]:
    """The commands of docs/tpu.md that call a script, in words."""
    text = (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^    (experiments/launch/.*)$", text, re.MULTILINE)
    return [shlex.split(part) for line in lines for part in line.split(";")]


def test_the_documented_commands_are_understood(stand: Stand) -> None:
    seen = set()
    for script, *words in documented():
        assert (ROOT / script).exists(), script
        assert stand.dry(Path(script).name, *words)
        if words:
            read_by_command(*words[1:])
            seen.add(words[2])
    assert seen == {"train", "heads", "ablate"}
    text = (ROOT / "docs" / "tpu.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in COMMANDS)


def test_the_documented_default_is_the_default(stand: Stand) -> None:
    (full,) = [words for script, *words in documented() if script.endswith("resume.sh") and "cifar10" in words]
    assert started(stand.dry("run.sh", *full)) == started(stand.dry("run.sh"))
