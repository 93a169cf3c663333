"""The Gaussian experiment as a command: what it leaves, and what it refuses."""

import json
from pathlib import Path

import pytest

from ddpm_jax.cli.command import command_line
from ddpm_jax.diffusion.variances import VARIANCES
from experiments import exact_gaussian


def run(*argv: str) -> None:
    command_line(exact_gaussian.ExactGaussian, exact_gaussian.main, exact_gaussian.__doc__ or "", list(argv))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--K 1001", "K = 1001 steps: choose 1 to 1000"),
        ("--K 0", "K = 0 steps: choose 1 to 1000"),
        ("--K 4 4", "K = 4 4: give at least one, and each once"),
        ("--samples 1", "samples = 1: it is at least 2"),
        ("--workdir {file}/deep", "{file} is a file; choose another folder"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    argv: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a file\n")
    words = argv.format(file=tmp_path / "file").split()
    with pytest.raises(SystemExit) as stop:
        run(*words, *([] if "--workdir" in words else ["--workdir", str(tmp_path / "new")]))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said.format(file=tmp_path / "file") in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_dry_run_prints_the_options_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--dry-run", "--K", "2", "--workdir", str(tmp_path / "new"))
    assert json.loads(capsys.readouterr().out)["K"] == [2]
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_experiment_leaves_its_tables_and_its_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--K", "3", "--samples", "500", "--workdir", str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    assert (results["family"]["outside"], results["family"]["outside_at_some_t"]) == (60, 60)
    table = results["power_law"]
    assert (table["unanchored"], len(table["cells"])) == (20, 35)
    assert table["median"] <= 0.015
    assert table["worst"] <= 0.15
    assert {row["variance"] for row in results["finals"]} == set(VARIANCES)
    assert all(abs(z) < 5 for row in results["finals"] for z in [*row["variance_z"], *row["error_z"]])

    for K in (10, 25, 50):
        rows = {row["variance"]: row for row in results["optima"] if row["K"] == K}
        assert rows["frechet"]["path_kl"] is None
        assert rows["frechet"]["frechet"] <= rows["frechet, at least tb"]["frechet"] < rows["isotropic"]["frechet"] / 10
        finite = {name: row["path_kl"] for name, row in rows.items() if row["path_kl"] is not None}
        assert min(finite, key=lambda name: finite[name]) == "isotropic"
    for row in results["paths"]:
        assert row["path_kl"]["isotropic"] <= min(row["path_kl"]["small"], row["path_kl"]["large"])
