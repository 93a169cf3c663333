"""Ho et al.'s table 2 on a tiny network: its files, what it remembers, what diverges, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest

from ddpm_jax.cli.command import command_line
from ddpm_jax.report import published
from ddpm_jax.training import loop
from experiments import ddpm_table2
from experiments.ddpm_table2 import ROWS, DdpmTable2

TINY = ["--preset", "tiny", "--T", "30", "--steps", "4", "--batch", "8", "--images", "4"]
MESSAGE = "loss nan at step 3, t = 7: lower the learning rate; the last checkpoint is as it was"


def run(*argv: object) -> None:
    command_line(DdpmTable2, ddpm_table2.main, ddpm_table2.__doc__ or "", [str(word) for word in argv])


def refused(capsys: pytest.CaptureFixture, *argv: object) -> str:
    """What the command says before it exits with 2."""
    with pytest.raises(SystemExit) as stop:
        run(*argv)
    assert stop.value.code == 2
    return capsys.readouterr().err


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_the_rows_are_those_of_the_published_table() -> None:
    words = {"learned": "learned diagonal", "simple": "L_simple", "mu_mse": "mean squared error", "large": "fixed"}
    for (prediction, objective, variance), known in zip(ROWS, published.table_2(), strict=True):
        assert prediction == known.prediction
        assert words[variance if objective == "vlb" else objective] in known.objective
        assert (objective == "vlb") == known.objective.startswith("L,")


@pytest.mark.slow
def test_tables_figure_and_what_is_remembered(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argv = [*TINY, "--training-seeds", "2", "--seeds", "1", "--workdir", tmp_path]
    run(*argv)
    results = results_of(tmp_path)
    assert [(row["prediction"], row["objective"], row["variance"]) for row in results["rows"]] == list(ROWS)
    for row in results["rows"]:
        assert [network["seed"] for network in row["networks"]] == [0, 1]
        assert all(network["diverged"] is None for network in row["networks"])
        assert all(network["frechet"] > 0 < network["standard_error"] for network in row["networks"])
        found = [network["bits_per_dim"] for network in row["networks"]]
        assert row["bits_per_dim"] == pytest.approx(sum(found) / 2)
        assert found[0] != found[1]
    shown = capsys.readouterr().out
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") in shown
    assert (tmp_path / "figure.png").stat().st_size > 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".json", ".npz", ".jsonl")}
    run(*argv)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".json", ".npz", ".jsonl")}
    assert after == before
    assert len(list((tmp_path / "cells" / "classifiers").iterdir())) == 1


@pytest.mark.slow
def test_a_learning_rate_that_is_far_too_large_is_a_result(tmp_path: Path) -> None:
    run(*TINY, "--learning-rate", "1e30", "--training-seeds", "1", "--workdir", tmp_path)
    for row in results_of(tmp_path)["rows"]:
        (network,) = row["networks"]
        assert "at step" in network["diverged"]


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every training diverges; the folders it was tried in."""
    tried: list[Path] = []

    def diverges(config, folder):
        tried.append(folder)
        raise FloatingPointError(MESSAGE)

    monkeypatch.setattr(loop, "fit", diverges)
    return tried


@pytest.mark.slow
def test_a_training_that_diverges_is_a_result_and_does_so_once(
    attempts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [*TINY, "--seed", "5", "--training-seeds", "2", "--workdir", tmp_path]
    run(*argv)
    results = results_of(tmp_path)
    networks = [network for row in results["rows"] for network in row["networks"]]
    assert networks == [dict(seed=seed, diverged=MESSAGE) for _ in ROWS for seed in (5, 6)]
    assert all(row["diverged"] == 2 and row["frechet"] is None for row in results["rows"])
    assert "diverged" in capsys.readouterr().out
    assert (tmp_path / "figure.png").stat().st_size > 0
    assert len(set(attempts)) == len(attempts) == 12
    run(*argv)
    assert len(attempts) == 12
    assert results_of(tmp_path) == results
    run(*argv, "--learning-rate", "1e-4")
    assert len(attempts) == 24
    run(*argv, "--force")
    assert len(attempts) == 36


def test_a_dry_run_prints_the_trainings_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(*TINY, "--workdir", tmp_path / "new", "--dry-run")
    shown = json.loads(capsys.readouterr().out)
    found = [(one["prediction"], one["objective"], one["variance"]) for one in shown["trainings"]]
    assert found == list(ROWS)
    ours = {(one["weighting"], one["time_sampler"], one["steps"], one["T"]) for one in shown["trainings"]}
    assert ours == {("uniform", "uniform", 4, 30)}
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data digit", "unknown data set 'digit'"),
        ("--preset cifar10 --data digits", "preset 'cifar10' is for 3-channel images"),
        ("--schedule lin", "unknown schedule 'lin': choose one of linear"),
        ("--T 10", "outside (0, 1): lower it"),
        ("--steps 0", "steps = 0: it is at least 1"),
        ("--seed -1", "seed = -1: it is at least 0"),
        ("--training-seeds 0", "training_seeds = 0: it is at least 1"),
        ("--images 1", "images = 1: it is at least 2"),
        ("--seeds 0", "seeds = 0: it is at least 1"),
        ("--parallel pjit", "unknown parallel 'pjit'"),
    ],
)
def test_bad_input_is_one_line(words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    error = refused(capsys, *TINY, *words.split(), "--workdir", tmp_path / "new")
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", ["--prediction eps", "--objective vlb", "--variance large", "--weighting min_snr"])
def test_what_the_rows_decide_is_no_option(option: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    error = refused(capsys, *option.split(), "--workdir", tmp_path / "new")
    assert option.split()[0] in error
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--T 40", "seed-0 holds a run with T = 30, not 40: choose another --workdir"),
        ("--steps 3", "seed-0 holds a run of 4 steps, more than steps = 3"),
    ],
)
def test_a_folder_with_another_training_is_refused_before_any_is_begun(
    trained: Path, attempts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture, words: str, message: str
) -> None:
    """The last row's is there already."""
    shutil.copytree(trained, tmp_path / "eps-simple-large" / "seed-0")
    run(*TINY, "--workdir", tmp_path, "--dry-run")
    assert message in refused(capsys, *TINY, *words.split(), "--workdir", tmp_path)
    assert attempts == []
    assert [path.name for path in tmp_path.iterdir()] == ["eps-simple-large"]
