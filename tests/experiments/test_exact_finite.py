"""The experiment on a finite set of images: its files, what it remembers, and what it refuses."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.cli.command import command_line
from ddpm_jax.diffusion import bases
from experiments import exact_finite
from experiments.exact_finite import ExactFinite
from tests.oracle import finite_sets as oracle_finite_sets

FEW = ["--examples", "60", "--T", "40", "--K", "2", "4", "--images", "12", "--seeds", "2"]
NAMES = ["isotropic", "spectral", "npr"]


def run(*argv: str) -> None:
    command_line(ExactFinite, exact_finite.main, exact_finite.__doc__ or "", [str(word) for word in argv])


@pytest.mark.slow
def test_tables_figure_and_what_is_remembered(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argv = [*FEW, "--variances", *NAMES, "--workdir", str(tmp_path)]
    run(*argv)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert len(results["rows"]) == 2 * 3
    assert all(row["frechet"] > 0 and row["nearest"] < 0.1 for row in results["rows"])
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") in capsys.readouterr().out
    assert (tmp_path / "figure.png").stat().st_size > 0
    before, stored = (tmp_path / "results.json").read_bytes(), sorted((tmp_path / "cells").rglob("*.npz"))
    run(*argv)
    assert (tmp_path / "results.json").read_bytes() == before
    assert sorted((tmp_path / "cells").rglob("*.npz")) == stored


@pytest.mark.slow
def test_the_calibration_is_the_average_of_exact_covariances(tmp_path: Path) -> None:
    """M_(t,j) over as many draws in float64; both are means over 1,000 x_t or more."""
    options = ExactFinite(workdir=tmp_path, examples=9, T=40, K=(2,), variances=("spectral",))
    images, tables, design = exact_finite.resolve(options)
    known = exact_finite.calibrate(images, tables, design, jax.random.key(0))
    dct, draw, t = bases.dct(known.colours), np.random.default_rng(0), 40
    assert np.isnan(known.spectrum[2:40]).all()
    levels = images.train.images / 8.0 - 1
    found = []
    for i in draw.integers(9, size=1000):
        noise = draw.standard_normal(levels.shape[1:])
        x_t = np.sqrt(tables.alpha_bar[t]) * levels[i] + np.sqrt(tables.one_minus_alpha_bar[t]) * noise
        w = oracle_finite_sets.weights(levels, tables.alpha_bar[t], tables.one_minus_alpha_bar[t], x_t)
        at = np.asarray(dct.forward(jnp.asarray(levels, jnp.float32))).astype(float)
        mean = np.tensordot(w, at, 1)
        found.append(np.tensordot(w, (at - mean) ** 2, 1))
    expected = tables.alpha_bar[t] / tables.one_minus_alpha_bar[t] * np.mean(found, axis=0)
    error = 5 * np.std(found, axis=0) * np.sqrt(2 / 1000) + 1e-6
    assert (np.abs(known.spectrum[t] - expected) < error).all()
    assert known.error[t] == known.excess[t] == pytest.approx(known.spectrum[t].mean())
    assert known.variance == pytest.approx(levels.var(axis=0).mean(), rel=1e-6)


def test_a_dry_run_prints_the_options_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(*FEW, "--workdir", str(tmp_path / "new"), "--dry-run")
    assert json.loads(capsys.readouterr().out)["examples"] == 60
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data digit", "unknown data set 'digit'"),
        ("--schedule lin", "unknown schedule 'lin': choose one of linear"),
        ("--examples 1", "examples = 1: digits has 2 to 150"),
        ("--examples 151", "examples = 151: digits has 2 to 150"),
        ("--variances smal", "unknown variance 'smal'"),
        ("--variances small:1", "variance 'small:1': small takes nothing after its name, not '1'"),
        ("--K 3 3", "K = 3 3 repeats one"),
        ("--seeds 0", "seeds = 0: it is at least 1"),
        ("--last-step none", "unknown last_step 'none'"),
    ],
)
def test_bad_input_is_one_line(words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*words.split(), "--workdir", str(tmp_path / "new"))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
