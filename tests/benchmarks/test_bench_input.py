"""The benchmark of batches: what it prints, and what it refuses. How fast they are is nobody's test."""

import json

import numpy as np
import pytest

from benchmarks import bench_input
from benchmarks.bench_input import BenchInput
from ddpm_jax.cli.command import command_line
from ddpm_jax.data.sources.records import OnDemand, Records

FEW = ["--data", "digits", "--steps", "3", "--turns", "2", "--batch", "700"]


def run(*argv: str) -> None:
    command_line(BenchInput, bench_input.main, bench_input.__doc__ or "", list(argv))


def test_both_speeds_and_their_ratio_are_printed(capsys: pytest.CaptureFixture) -> None:
    run(*FEW)
    found = json.loads(capsys.readouterr().out)
    assert found["data"] == "digits"
    assert found["pipeline_images_per_second"] > 0 and found["numpy_images_per_second"] > 0
    assert found["ratio"] == sorted(found["ratio"]) and len(found["ratio"]) == 3


def test_a_dry_run_prints_the_options(capsys: pytest.CaptureFixture) -> None:
    run(*FEW, "--dry-run")
    assert json.loads(capsys.readouterr().out)["batch"] == 700


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "digit"], "unknown data set 'digit'"),
        ([*FEW, "--turns", "0"], "turns = 0: it is at least 1"),
        ([*FEW, "--batch", "0"], "batch = 0: it is at least 1"),
    ],
)
def test_wrong_values_end_in_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*argv)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and message in said and said.count("\n") == 1


def test_images_on_demand_are_refused() -> None:
    images = OnDemand(Records(9, (1, 1, 1), list, lambda number: np.zeros((1, 1, 1), np.uint8)), np.arange(9))
    with pytest.raises(ValueError, match="9 images are decoded on demand: choose a data set that fits into memory"):
        bench_input.measure(images, BenchInput())
