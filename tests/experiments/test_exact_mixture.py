"""The experiment on a one-dimensional mixture: its numbers, its files, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.cli.command import command_line
from experiments import exact_mixture
from experiments.exact_mixture import ExactMixture
from tests.oracle import densities, pairs

FEW = ["--K", "3", "--points", "3001", "--variances", "analytic", "isotropic", "npr"]
CHOICES = {"isotropic": lambda p, h, mean: p.tb + p.v * mean, "npr": lambda p, h, mean: p.tb + p.v * h}


def run(*argv: str) -> None:
    command_line(ExactMixture, exact_mixture.main, exact_mixture.__doc__ or "", [str(word) for word in argv])


@pytest.mark.slow
def test_tables_figure_and_numbers(linear, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Within 1 % of an independent computation, and variances of one truth share a line."""
    run(*FEW, "--workdir", str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert "| analytic, isotropic |" in printed
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") in printed
    assert (tmp_path / "figure.png").stat().st_size > 0
    parts = ((0.3, 0.5, 0.2), (-1.5, 0.2, 1.1), (0.04, 0.09, 0.01))
    chain, x = pairs.chain(linear.beta[1:], [1, 500, 1000]), np.linspace(-4.6, 4.6, 2001)
    for row in results["rows"]:
        choose = CHOICES.get(row["variance"], CHOICES["isotropic"])
        expected = densities.distances(*densities.propagate(chain, *parts, choose, x), *parts)
        assert [row[key] for key in results["measures"]] == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_a_grid_that_is_too_coarse_leaves_a_dash(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run("--K", "2", "--points", "501", "--variances", "small", "large", "--workdir", str(tmp_path))
    assert "–: the samples lie closer together than the grid can tell" in capsys.readouterr().out


def test_a_dry_run_prints_the_options_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(*FEW, "--workdir", str(tmp_path / "new"), "--dry-run")
    assert json.loads(capsys.readouterr().out)["variances"] == ["analytic", "isotropic", "npr"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--schedule lin", "unknown schedule 'lin': choose one of linear"),
        ("--variances smal", "unknown variance 'smal': choose one of small"),
        ("--variances small small", "variances = small small: give at least one, and each once"),
        ("--K 3 3", "K = 3 3: give at least one, and each once"),
        ("--K 1001", "K = 1001 steps: choose 1 to 1000"),
        ("--weights .5 .5", "2 weights, 3 means, 3 variances"),
        ("--weights .5 .5 0", "weights from 0"),
        ("--points 2", "2 points up to 7"),
        ("--points 99 --variances small --K 2", "points = 99: too few for any of these chains"),
        ("--last-step none", "unknown last_step 'none'"),
        ("--variances interpolated:2", "frac = 2 is outside [0, 1]"),
        ("--workdir {file}/deep", "is a file; choose another folder"),
    ],
)
def test_bad_input_is_one_line(words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("a file\n")
    argv = words.format(file=tmp_path / "file").split()
    with pytest.raises(SystemExit) as stop:
        run(*argv, *(["--workdir", str(tmp_path / "new")] if "--workdir" not in argv else []))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
