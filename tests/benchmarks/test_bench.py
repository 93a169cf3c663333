"""The benchmark: what is timed is what runs, sides take turns, ratios are of a turn. How fast it is, no test asks."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import against_diffusers, bench, bench_ours, bench_tables, turns
from benchmarks.bench import Bench
from benchmarks.turns import Row, Worker
from ddpm_jax.cli.command import command_line
from ddpm_jax.models import unet
from ddpm_jax.models.unet import PRESETS
from ddpm_jax.training.config import from_dict
from tests.models.test_unet import LEAST

NEEDS_TORCH = pytest.mark.skipif(find_spec("diffusers") is None, reason="torch and diffusers are not installed")
FEW = [
    "--preset",
    "tiny",
    "--image-size",
    "8",
    "--batch",
    "2",
    "--K",
    "2",
    "--turns",
    "2",
    "--product-sizes",
    "16",
    "32",
]
STAND_IN = """
import sys
from itertools import count
from benchmarks import turns

def prepare(settings):
    print("a library that talks")
    if "refuse" in settings:
        raise ValueError(settings["refuse"])
    order = count()
    one = lambda repetitions: next(order)
    jobs = {"step": lambda repetitions: 0.5, "forward": lambda repetitions: repetitions / 4, "a": one, "b": one}
    jobs |= {"memory": lambda repetitions: {"bytes": 2**30, "since_start": False}, "fail": lambda repetitions: 1 / 0}
    return {"parameters": settings.get("parameters"), "platform": settings.get("platform", "cpu")}, jobs

turns.serve(prepare)
"""


def run(*argv: str) -> None:
    command_line(Bench, bench.main, bench.__doc__ or "", list(argv))


# ---------------------------------------------------------------- workers


def stand_in(folder: Path, settings: Row | None = None) -> AbstractContextManager[Worker]:
    return turns.started("stand-in", [sys.executable, "-c", STAND_IN], settings or {}, folder / "log", {})


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with stand_in(tmp_path, {"parameters": 3}) as found:
        yield found


def test_a_worker_answers_and_what_libraries_print_does_not_disturb(worker: Worker) -> None:
    assert worker.about == {"parameters": 3, "platform": "cpu"}
    assert turns.ask(worker, "forward", 3) == 0.75
    assert "a library that talks" in worker.log.read_text()


def test_a_worker_is_gone_afterwards(tmp_path: Path) -> None:
    with stand_in(tmp_path) as worker:
        assert worker.process.poll() is None
    assert worker.process.poll() is not None


def test_every_second_turn_goes_backwards(worker: Worker) -> None:
    found = turns.alternate({"first": (worker, "a"), "second": (worker, "b")}, range(3), 1)
    assert found == {"first": [0, 3, 4], "second": [1, 2, 5]}


def test_what_goes_wrong_in_a_worker_is_told(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stand-in ended with code 1: ZeroDivisionError: division by zero"):
        turns.ask(worker, "fail")
    with pytest.raises(ValueError, match="stand-in ended with code 1: ZeroDivisionError"):
        turns.ask(worker, "step")
    with pytest.raises(ValueError, match=r"^no such thing$"), stand_in(tmp_path, {"refuse": "no such thing"}):
        pass
    nowhere = turns.started("theirs", ["/nowhere/python"], {}, tmp_path / "log", {})
    with pytest.raises(ValueError, match=r"/nowhere/python cannot be run \(No such file or directory\): give"), nowhere:
        pass


def test_calls_are_timed_together_and_without_what_builds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, built, waited = [0.0], [], []

    def build():
        built.append(clock[0])
        clock[0] += 100
        return lambda: clock.__setitem__(0, clock[0] + 6)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    job = turns.timed(build, waited.append, parts=3)
    assert (job(1), job(5)) == (2, 2)
    assert len(built) == 1 and waited == [None, None]


@pytest.mark.skipif(not turns.CLEAR.exists(), reason="this system forgets no peak")
def test_memory_is_the_most_since_it_was_asked_last() -> None:
    job, size = turns.memory(None), 200_000_000
    job(1)
    before = job(1)
    block = np.ones(size, np.uint8)
    del block
    with_block, after = job(1), job(1)
    assert not before["since_start"]
    assert 0.9 * size < with_block["bytes"] - before["bytes"] < 1.3 * size
    assert with_block["bytes"] - after["bytes"] > 0.9 * size
    assert turns.memory(lambda: 7)(1) == {"bytes": 7, "since_start": True}


def test_as_many_threads_as_this_process_may_use() -> None:
    assert 1 <= turns.threads() <= (os.cpu_count() or 1)


# ---------------------------------------------------------------- our side


@pytest.fixture(scope="module")
def settings() -> Row:
    """Of two images of 8 x 8 pixels and a network of one level."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", LEAST)
        return bench.resolve(Bench(preset="tiny", image_size=8, batch=2, K=2, product_sizes=(16, 32)))


@pytest.fixture(scope="module")
def ours(settings: Row) -> tuple[Row, dict[str, turns.Job]]:
    return bench_ours.prepare(settings)


def test_our_worker_says_what_it_is(ours: tuple[Row, dict[str, turns.Job]]) -> None:
    shapes = unet.shapes(LEAST)
    assert ours[0]["parameters"] == unet.parameter_count(shapes)
    assert ours[0]["platform"] == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("job", "step forward sampling moments bare product_float32 product_bfloat16".split())
def test_every_job_gives_a_number(ours: tuple[Row, dict[str, turns.Job]], job: str) -> None:
    found = ours[1][job](2)
    assert np.isfinite(found) and found > 0


@pytest.mark.slow
def test_tracing_and_compiling_are_timed_apart(ours: tuple[Row, dict[str, turns.Job]]) -> None:
    found = ours[1]["compile"](1)
    assert set(found) == {"tracing", "compiling"} and min(found.values()) > 0


@pytest.mark.slow
def test_work_is_that_of_the_convolutions_and_three_times_as_much_in_training(
    ours: tuple[Row, dict[str, turns.Job]],
) -> None:
    """Almost all of a network of one level are 3 x 3 and 1 x 1 convolutions at 64 pixels: two operations a weight."""
    found = ours[1]["flops"](1)
    shapes = unet.shapes(LEAST)
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes) if leaf.ndim == 4)
    assert 0.7 < found["forward"] / (2 * 2 * 64 * weights) < 1.5
    assert 2.5 < found["step"] / found["forward"] < 4


@pytest.fixture(scope="module")
def programs(settings: Row) -> bench_ours.Bench:
    return bench_ours.programs(settings)


@pytest.mark.slow
def test_the_timed_step_trains(programs: bench_ours.Bench) -> None:
    step = bench_ours.step(programs)
    states = [jax.device_get(step()[0]._replace(key=None)) for _ in range(2)]
    assert int(states[1].step) == 2
    first, second = (jax.tree.leaves(state.params) for state in states)
    assert any((np.asarray(one) != np.asarray(other)).any() for one, other in zip(first, second, strict=True))


@pytest.mark.slow
def test_the_timed_samples_and_errors_are_those_of_the_images(programs: bench_ours.Bench) -> None:
    params = bench_ours.parameters(programs.wanted)
    samples = bench_ours.sampling(programs, lambda: params)()
    assert samples.shape == (2, 8, 8, 1) and np.isfinite(samples).all()
    error = bench_ours.measuring(programs, lambda: params)()
    assert np.isfinite(error[:, [1, 1000]]).all() and np.isnan(error[:, 2:1000]).all()


# ---------------------------------------------------------------- tables

FOUND: Row = {
    "batch": 4,
    "K": 10,
    "activations": "float32",
    "flops": {"step": 6e9, "forward": 2e9},
    "first_call_seconds": {"step, ours": 9.0},
    "compile": {"cold": {"tracing": 2.0, "compiling": 8.0}, "warm": {"tracing": 2.0, "compiling": 0.5}},
    "memory": {"ours": {"running": 2**30}, "eager": {"running": 3 * 2**29}},
    "input": {"pipeline_images_per_second": 5, "numpy_images_per_second": 10, "ratio": [0.4, 0.5, 0.6]},
    "answers": {
        "step, ours": [1.0, 2.0, 4.0],
        "step, eager": [2.0, 3.0, 4.0],
        "sampling, ours": [5.0, 5.0, 6.0],
        "bare, ours": [4.0, 5.0, 4.0],
        "product_float32, ours": [2e10, 3e10, 3e10],
    },
}


def test_figures_by_hand() -> None:
    rows = {(row["name"], row["side"], row["unit"]): row["spread"] for row in bench_tables.figures(FOUND)}
    assert rows["training step", "ours", "images/s"] == [1, 2, 4]
    assert rows["training step", "ours", "GFLOP/s"] == [1.5, 3, 6]
    assert rows["training step", "eager", "images/s"] == [1, 1.333, 2]
    assert rows["sampling", "ours", "images x steps/s"] == [6.667, 8, 8]
    assert rows["matrix product, float32", "ours", "GFLOP/s"] == [20, 30, 30]
    assert rows["memory of the training step, running", "eager", "GiB"] == [1.5] * 3
    assert rows["compiling the training step, warm", "ours", "s"] == [0.5] * 3
    assert rows["tracing the training step, cold", "ours", "s"] == [2] * 3
    assert rows["training step, first call", "ours", "s"] == [9] * 3
    assert rows["batches, pipeline", "ours", "images/s"] == [5] * 3


def test_ratios_are_of_a_turn() -> None:
    rows = {row["name"]: row["spread"] for row in bench_tables.ratios(FOUND)}
    assert rows == {
        "training step: speed, ours / eager": [1, 1.5, 2],
        "memory of the training step, running: eager / ours": [1.5] * 3,
        "sampling: time / network alone, K passes": [1, 1.25, 1.5],
        "training step (float32): FLOP/s / matrix product, float32": [0.05, 0.1, 0.3],
        "compiling the training step: time, warm / cold": [0.0625] * 3,
        "the same with tracing: time, warm / cold": [0.25] * 3,
        "batches: speed, pipeline / numpy": [0.4, 0.5, 0.6],
    }


def test_tables_are_markdown() -> None:
    rows = [{"name": "a", "spread": [1.0, 2.0, 3.0]}, {"name": "b", "spread": [4.0, 4.0, 4.0]}]
    lines = bench_tables.table(rows).split("\n")
    assert lines[0] == "| name | median | least to largest |" and lines[2:4] == ["| a | 2 | 1 to 3 |", "| b | 4 |  |"]
    assert bench_tables.table([]) == ""


# ---------------------------------------------------------------- the command


def other_python(folder: Path, program: str) -> str:
    """An interpreter that runs this program whatever it is asked to run."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{program}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
def test_one_run_measures_everything_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "new" / "bench.json"
    run(*FEW, "--against", "diffusers", "--torch-python", other_python(tmp_path, STAND_IN), "--json", str(file))
    (printed, progress), found = capsys.readouterr(), json.loads(file.read_text())
    assert "compiling the training step: warm" in progress and "compiling and first call: step, eager" in progress
    assert {"options", "made_with", "network", "training", "about", "flops", "answers", "figures", "ratios"} <= {*found}
    assert {row["name"].partition(":")[0] for row in found["ratios"]} == {
        "training step",
        "network, forward",
        "memory of the training step, with compiling",
        "memory of the training step, running",
        "sampling",
        "pass for the moments",
        *(f"{name} (float32)" for name in ("training step", "network, forward")),
        "batches",
        "compiling the training step",
        "the same with tracing",
    }
    for row in (*found["figures"], *found["ratios"]):
        assert np.isfinite(row["spread"]).all() and min(row["spread"]) > 0 and row["spread"] == sorted(row["spread"])
        assert row["name"] in printed
    assert {len(answers) for answers in found["answers"].values()} == {2}
    assert found["answers"]["step, eager"] == [0.5, 0.5]
    assert found["about"]["compiled"]["parameters"] == found["about"]["ours"]["parameters"]
    assert set(found["compile"]) == {"cold", "warm"}


@pytest.mark.slow
def test_sides_on_different_devices_are_refused(tmp_path: Path) -> None:
    other = other_python(tmp_path, STAND_IN.replace('"cpu"', '"gpu"'))
    options = Bench(preset="tiny", image_size=8, batch=2, parts=("step",), against="diffusers", torch_python=other)
    with pytest.raises(ValueError, match="eager is on a gpu, ours on a cpu: install JAX and PyTorch for one device"):
        bench.main(options)


def test_a_dry_run_prints_what_workers_are_told(capsys: pytest.CaptureFixture) -> None:
    run(*FEW, "--activations", "bfloat16", "--dry-run")
    found = json.loads(capsys.readouterr().out)
    assert found["options"]["batch"] == found["training"]["batch"] == 2
    assert found["image_size"] == 8 and found["channels_last"] and found["network"]["activations"] == "bfloat16"
    run("--preset", "digits", "--dry-run")
    found = json.loads(capsys.readouterr().out)
    assert found["image_size"] == 8 and not found["channels_last"]


@pytest.mark.slow
def test_no_device_is_touched_but_by_workers() -> None:
    """One process alone may have a TPU."""
    command = [sys.executable, "-m", "benchmarks.bench", "--dry-run"]
    subprocess.run(command, cwd=turns.ROOT, env={**os.environ, "JAX_PLATFORMS": "none such"}, check=True)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "huge"], "unknown preset 'huge': choose one of cifar10"),
        (["--activations", "float16"], "activations 'float16': choose float32 or bfloat16"),
        (["--image-size", "0"], "image_size = 0: it is at least 1"),
        (["--preset", "digits", "--image-size", "6"], "image size 6 cannot be halved 2 times"),
        (["--batch", "0"], "batch = 0: it is at least 1"),
        (["--microbatches", "3"], "microbatches = 3: choose a divisor of the batch, 2"),
        (["--turns", "0"], "turns = 0: it is at least 1"),
        (["--repetitions", "-1"], "repetitions = -1: it is at least 1"),
        (["--K", "0"], "K = 0: it is at least 1"),
        (["--K", "1001"], "1001"),
        (["--parts", "step", "speed"], "unknown part 'speed': choose of compile, step, forward"),
        (["--product-sizes", "64", "0"], "product_sizes = (64, 0): give one or more of at least 1"),
        (["--against", "pytorch"], "unknown against 'pytorch': choose diffusers, or leave it out"),
        (["--against", "diffusers", "--parts", "peak"], "it needs step or forward among the parts"),
        (["--json", f"{__file__}/bench.json"], "is a file; choose another folder"),
    ],
)
def test_wrong_values_end_in_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*FEW, *argv)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1


# ---------------------------------------------------------------- their side


def theirs(settings: Row, **changed: object) -> Row:
    known = dict(parameters=unet.parameter_count(sizes(settings)), compiled=False)
    return {**settings, **known, "described": bench.to_diffusers(settings), **changed}


def sizes(settings: Row) -> dict:
    config = from_dict(unet.UNetConfig, settings["network"])
    return unet.shapes(config)


@pytest.mark.skipif(find_spec("diffusers") is not None, reason="diffusers is installed")
def test_a_missing_library_is_told(settings: Row) -> None:
    with pytest.raises(
        ValueError, match=r"cannot import diffusers \(No module named .*\): pip install torch diffusers"
    ):
        against_diffusers.prepare(theirs(settings))


@NEEDS_TORCH
@pytest.mark.parametrize("preset", PRESETS)
def test_the_other_network_has_as_many_parameters(preset: str) -> None:
    import torch
    from diffusers import UNet2DModel

    settings = bench.resolve(Bench(preset=preset))
    with torch.device("meta"):
        model = UNet2DModel.from_config(bench.to_diffusers(settings))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == unet.parameter_count(sizes(settings))
    assert count == 35_746_307 or preset != "cifar10"


@NEEDS_TORCH
def test_another_number_of_parameters_is_refused(settings: Row) -> None:
    with pytest.raises(ValueError, match="parameters and our network 1: choose another preset"):
        against_diffusers.prepare(theirs(settings, parameters=1))


@NEEDS_TORCH
@pytest.mark.parametrize(
    ("activations", "compiled"),
    [("float32", False), ("bfloat16", False), pytest.param("float32", True, marks=pytest.mark.slow)],
)
def test_their_jobs_give_numbers(settings: Row, activations: str, compiled: bool) -> None:
    training = {**settings["training"], "activations": activations}
    changed = {"training": training, "channels_last": activations == "bfloat16", "compiled": compiled}
    about, jobs = against_diffusers.prepare(theirs(settings, **changed))
    assert about["platform"] in ("cpu", "gpu")
    for job in ("step", "forward", "step"):
        assert jobs[job](2) > 0
    assert jobs["memory"](1)["bytes"] > 0


@NEEDS_TORCH
def test_their_step_trains(settings: Row) -> None:
    """Adam's first step moves every parameter that has a gradient by the learning rate."""
    bench = against_diffusers.programs(theirs(settings))[0]
    before = {name: parameter.detach().clone() for name, parameter in bench.model.named_parameters()}
    step = against_diffusers.step(bench)
    assert np.isfinite(float(step().detach()))
    moved = [(parameter.detach() - before[name]).abs().max() for name, parameter in bench.model.named_parameters()]
    assert float(max(moved)) == pytest.approx(against_diffusers.LEARNING_RATE, rel=0.01)
