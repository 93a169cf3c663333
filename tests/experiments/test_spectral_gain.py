"""The experiment on spectral variances: what it measures, its files, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules, timesteps, variances
from experiments import spectral_gain
from experiments.spectral_gain import COLOURS, FULL, RADIAL
from tests.cli import conftest
from tests.cli.conftest import run
from tests.oracle import variances as oracle_variances

FEW = ["--K", "2", "5", "--images", "20"]


@pytest.fixture(autouse=True)
def known_to_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (spectral_gain.SpectralGain, spectral_gain.main, spectral_gain.__doc__)
    monkeypatch.setitem(conftest.EXPERIMENTS, "spectral_gain", parts)


@pytest.mark.slow
def test_tables_figures_and_what_is_remembered(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    argv = ["--checkpoints", trained, *FEW, "--workdir", tmp_path]
    run("spectral_gain", *argv)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (network,) = results["networks"]
    few = [f"{name}, {n} images" for n in (5, 1) for name in (RADIAL, FULL)]
    assert network["variances"] == ["isotropic", RADIAL, FULL, *few]
    cells = {(row["variance"], row["trajectory"], row["K"]): row for row in network["rows"]}
    assert len(cells) == 2 * len(network["variances"]) + 2 * 3
    assert all(row["paired_standard_error"] is not None for row in cells.values())
    assert {(tmp_path / f"{kind}-digits.png").stat().st_size > 0 for kind in ("gain", "spectrum")} == {True}
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") in capsys.readouterr().out
    before, stored = (tmp_path / "results.json").read_bytes(), sorted((tmp_path / "cells").rglob("*.npz"))
    run("spectral_gain", *argv)
    assert (tmp_path / "results.json").read_bytes() == before
    assert sorted((tmp_path / "cells").rglob("*.npz")) == stored


def test_every_time_of_the_even_chains_is_visited_and_none_beyond_T() -> None:
    times = spectral_gain.visited(1000, (10, 25))
    assert (np.diff(times) > 0).all() and (times[0], times[-1]) == (1, 1000)
    assert {*timesteps.even(1000, 10).tolist(), *timesteps.even(1000, 25).tolist()} <= {*times.tolist()}
    np.testing.assert_array_equal(spectral_gain.visited(30, (30,)), np.arange(1, 31))


def test_numbers_are_averaged_over_axes_over_radii_or_not_at_all() -> None:
    tables = schedules.from_betas([0.1, 0.3, 0.5])
    spectrum = np.random.default_rng(0).uniform(0.1, 0.9, (4, 4, 4, 3))
    known = variances.Calibration(tables, spectrum=spectrum, colours=tuple(map(tuple, np.eye(3).tolist())))
    found = {name: variances.build(*fixed) for name, fixed in spectral_gain.spectra(known).items()}
    step = process.pairs(tables, np.array([1]), np.array([3]))
    expected = {
        COLOURS: np.broadcast_to(spectrum[3].mean(axis=(0, 1)), (4, 4, 3)),
        RADIAL: oracle_variances.radial_means(spectrum[3]),
        FULL: spectrum[3],
    }
    assert list(found) == list(expected)
    for name, h in expected.items():
        np.testing.assert_allclose(np.exp(found[name].log_var(step, None, None))[0], step.base + step.gain * h)
    grey = known._replace(spectrum=spectrum[..., :1], colours=((1.0,),))
    assert list(spectral_gain.spectra(grey)) == [RADIAL, FULL]


def test_a_dry_run_prints_the_options_and_writes_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run("spectral_gain", "--checkpoints", trained, *FEW, "--workdir", tmp_path / "new", "--dry-run")
    assert json.loads(capsys.readouterr().out)["images"] == 20
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--images 16", "images = 16: of digits 17 to 40 can be taken"),
        ("--images 41", "images = 41: of digits 17 to 40 can be taken"),
        ("--K 1", "K = 1: a chain of one step"),
        ("--K 5 5", "K = 5 5: give at least one, and each once"),
        ("--K 31", "K = 31 steps: choose 1 to 30"),
    ],
)
def test_bad_input_is_one_line(
    trained: Path, words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        run("spectral_gain", "--checkpoints", trained, *FEW, *words.split(), "--workdir", tmp_path / "new")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_two_networks_of_one_data_set_are_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run("spectral_gain", "--checkpoints", trained, f"{trained}/../{trained.name}", *FEW, "--workdir", tmp_path)
    assert stop.value.code == 2
    assert "give one network a data set" in capsys.readouterr().err
