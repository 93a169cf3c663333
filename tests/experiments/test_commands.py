"""The command lines end to end on a tiny network: train, sample, the ablation, and what they refuse."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from ddpm_jax import unet
from ddpm_jax.config import command_line
from experiments import sample, train, variance_ablation
from tests.test_unet import TINY as TWO_LEVELS

TINY = replace(TWO_LEVELS, multipliers=(1,))
TRAINING = ["--preset", "tiny", "--T", "30", "--steps", "4", "--batch", "8", "--sample-every", "0"]
EXPERIMENTS = {
    "train": (train.Train, train),
    "sample": (sample.Sample, sample),
    "variance_ablation": (variance_ablation.Ablation, variance_ablation),
}


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(unet.PRESETS, "tiny", TINY)


def run(name: str, *argv: str) -> None:
    options, module = EXPERIMENTS[name]
    command_line(options, module.main, module.__doc__, list(argv))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(unet.PRESETS, "tiny", TINY)
        run("train", *TRAINING, "--workdir", str(folder))
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_shows_the_shared_options(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run(name, "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--workdir", "--seed", "--dry-run"):
        assert option in shown


@pytest.mark.parametrize("name", ["train", "variance_ablation"])
def test_dry_run_prints_the_resolved_config_and_writes_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(
        name,
        *TRAINING,
        "--workdir",
        str(tmp_path / "new"),
        "--dry-run",
        *(("--K", "5", "--sample-K", "5") * (name != "train")),
    )
    shown = json.loads(capsys.readouterr().out)
    assert shown["network"]["channels"] == TINY.channels
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--variance", "isotropic"],
        ["--variance", "family", "--sampler", "ddim", "--eta", "0.5"],
        ["--times", "1", "30"],
    ],
    ids=["measured", "ddim", "explicit"],
)
def test_sample_draws_a_grid(trained: Path, tmp_path: Path, options: list[str]) -> None:
    run("sample", "--workdir", str(trained), "--K", "3", "--n", "5", "--out", str(tmp_path), *options)
    assert (tmp_path / "samples.png").stat().st_size > 0
    images = np.load(tmp_path / "samples.npz")["images"]
    assert images.shape == (5, 8, 8, 1)
    assert images.max() <= 16


def test_the_ablation_leaves_tables_pictures_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    few = ["--K", "3", "10", "30", "--sample-K", "3", "10", "--images", "4", "--seeds", "2"]
    run("variance_ablation", *TRAINING, *few, "--workdir", str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    test = [row for row in results["likelihood"] if row["split"] == "test"]
    assert len(test) == (7 + 6) * 3
    assert len(results["samples"]) == 7 * 2 * 2
    assert results["training"]["parameters"] == results_size()
    assert {claim["holds"] for claim in results["claims"] if claim["split"] == "calibration"} == {True}
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == (7 + 6) * 3
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no bound" in page
    assert len(list((tmp_path / "figures").glob("*.png"))) >= 8
    assert "report:" in capsys.readouterr().out


def results_size() -> int:
    return unet.parameter_count(jax.eval_shape(lambda: unet.init(jax.random.key(0), TINY, 8)))


def test_the_ablation_takes_the_network_of_another_run(trained: Path, tmp_path: Path) -> None:
    few = ["--K", "3", "--sample-K", "3", "--images", "4", "--seeds", "1", "--variances", "small", "isotropic"]
    run("variance_ablation", "--checkpoint", str(trained), *few, "--workdir", str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["config"]["training"]["T"] == 30
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("name", "argv", "message"),
    [
        ("sample", ["--K", "3", "--variance", "smal"], "unknown variance 'smal'"),
        ("sample", ["--sampler", "ddmi"], "unknown sampler 'ddmi'"),
        ("sample", ["--K", "3", "--sampler", "ddim", "--variance", "interpolated"], "defined for the DDPM kernel only"),
        ("sample", ["--K", "3", "--sampler", "ddim", "--eta", "2"], "eta = 2 is outside [0, 1]"),
        ("sample", ["--K", "31"], "K = 31 steps: choose 1 to 30"),
        ("sample", ["--times", "3", "3", "30"], "times 3, 3: they must ascend"),
        ("sample", ["--n", "0"], "n = 0"),
        ("variance_ablation", ["--K", "31"], "K = 31 steps: choose 1 to 30"),
        ("variance_ablation", ["--K", "3", "--sample-K", "3", "--variances", "smal"], "unknown variance 'smal'"),
        ("variance_ablation", ["--K", "3", "--sample-K", "3", "--seeds", "0"], "seeds = 0: it is at least 1"),
        ("variance_ablation", ["--K", "3", "--sample-K", "3", "--last-step", "none"], "unknown last_step 'none'"),
    ],
)
def test_wrong_values_are_one_line_and_exit_code_2(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, argv: list[str], message: str
) -> None:
    place = {"sample": ["--workdir", str(trained), "--out", str(tmp_path / "new")]}
    place["variance_ablation"] = ["--checkpoint", str(trained), "--workdir", str(tmp_path / "new")]
    with pytest.raises(SystemExit) as stop:
        run(name, *place[name], *argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()
