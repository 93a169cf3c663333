"""The command lines end to end on a tiny network: train, sample, the ablation, and what they refuse."""

import csv
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from ddpm_jax.data import datasets
from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.variances import VARIANCES
from ddpm_jax.evaluation import ablation
from ddpm_jax.evaluation.design import Design
from ddpm_jax.models import unet
from ddpm_jax.training import model
from tests.cli.conftest import DIGITS, TRAINING, run
from tests.models.test_unet import LEAST
from tests.training.test_model import transparent_at


@pytest.mark.parametrize("name", ["train", "sample", "heads", "ablate"])
def test_help_shows_the_shared_options(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run(name, "--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--workdir", "--seed", "--dry-run"):
        assert option in shown


@pytest.mark.parametrize("name", ["train", "ablate"])
def test_dry_run_prints_the_resolved_config_and_writes_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    few = ("--K", "5", "--sample-K", "5") * (name != "train")
    run(name, *TRAINING, "--workdir", str(tmp_path / "new"), "--dry-run", *few)
    shown = json.loads(capsys.readouterr().out)
    assert shown["network"]["channels"] == LEAST.channels
    assert not (tmp_path / "new").exists()


def test_a_dry_run_of_sample_prints_the_times(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run("sample", "--workdir", str(trained), "--K", "3", "--out", str(tmp_path / "new"), "--dry-run")
    assert json.loads(capsys.readouterr().out)["times"] == [1, 16, 30]
    assert not (tmp_path / "new").exists()


def test_how_pictures_are_taken_is_said_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said = ["--data", str(transparent_at(tmp_path / "photos")), "--mirror", "False", "--ground", "black"]
    run("train", *TRAINING, *said, "--workdir", str(tmp_path / "new"), "--dry-run")
    config = json.loads(capsys.readouterr().out)
    assert (config["mirror"], config["ground"]) == (False, "black")
    own = ["--denoiser", "tests.cli.test_bad_input:whole", "--workdir", str(tmp_path / "new"), "--dry-run"]
    run("heads", *said, *own)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--variance", "isotropic"],
        ["--variance", "family", "--sampler", "ddim", "--eta", "0.5"],
        ["--variance", "family:0.25", "--rounding", "down"],
        ["--times", "1", "30"],
    ],
    ids=["measured", "ddim", "named", "explicit"],
)
def test_sample_draws_a_grid(trained: Path, tmp_path: Path, options: list[str]) -> None:
    run("sample", "--workdir", str(trained), "--K", "3", "--n", "5", "--out", str(tmp_path), *options)
    assert (tmp_path / "samples.png").stat().st_size > 0
    images = np.load(tmp_path / "samples.npz")["arr_0"]
    assert images.shape == (5, 8, 8, 1)
    assert {*np.unique(images)} <= {*np.round(np.arange(17) * 255 / 16).astype(int)}


@pytest.mark.slow
def test_the_ablation_leaves_tables_pictures_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    few = ["--K", "3", "10", "30", "--sample-K", "3", "--images", "4", "--seeds", "2", "--head-steps", "3"]
    few += ["--head-batch", "8", "--variances", *VARIANCES]
    run("ablate", *TRAINING, *few, "--workdir", str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    test = [row for row in results["likelihood"] if row["split"] == "test"]
    every, free = len(VARIANCES), len(VARIANCES) - 2  # learned has one chain, zero no bound
    assert len(test) == 3 * (free + 1) + 1 + 2 * 3 * free
    assert len(results["samples"]) == (every - 1) * 2
    assert results["evaluations"]["counted"]["test"] == DIGITS["test"] * 30
    assert results["evaluations"]["one_cell_at_a_time"] > results["evaluations"]["counted"]["test"]
    assert results["training"]["parameters"] == results_size()
    assert {claim["holds"] for claim in results["claims"] if claim["split"] == "calibration"} - {None} == {True}
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(test)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no bound" in page
    assert len(list((tmp_path / "figures").glob("*.png"))) >= 8
    assert "report:" in capsys.readouterr().out
    before = (tmp_path / "results.json").read_bytes()
    run("ablate", *TRAINING, *few, "--workdir", str(tmp_path))
    assert (tmp_path / "results.json").read_bytes() == before
    used = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["cells"]
    assert sum(kind["computed"] for kind in used.values()) == 0 < sum(kind["reused"] for kind in used.values())
    for name in ("spectral", "npr"):
        moments = ["--moments", str(tmp_path / "moments.npz"), "--variance", name]
        run("sample", "--workdir", str(tmp_path), "--K", "3", "--n", "5", *moments)
    assert np.load(tmp_path / "samples" / "samples.npz")["arr_0"].shape == (5, 8, 8, 1)


@pytest.mark.slow
def test_heads_of_a_checkpoint_join_its_ablation(trained: Path, tmp_path: Path) -> None:
    few = ["--K", "3", "30", "--sample-K", "3", "--images", "4", "--seeds", "1", "--trajectories", "even"]
    heads = ["--heads", "ocm", "learned", "--head-steps", "2", "--head-batch", "8", "--save-every", "2"]
    run("heads", "--checkpoint", str(trained), "--workdir", str(tmp_path / "heads"), *heads)
    both = ["--checkpoint", str(trained), "--head-checkpoint", str(tmp_path / "heads")]
    run("ablate", *both, *few, "--workdir", str(tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["network"]["heads"] == ["ocm", "learned"]
    assert {"ocm", "learned"} <= set(results["variances"]) and "npr" not in results["variances"]
    chains = [(row["trajectory"], row["K"]) for row in results["likelihood"] if row["variance"] == "learned"]
    assert set(chains) == {("even", 30)}


def results_size() -> int:
    return unet.parameter_count(unet.shapes(LEAST))


@pytest.mark.slow
def test_the_ablation_takes_the_network_of_another_run(trained: Path, tmp_path: Path) -> None:
    few = ["--K", "3", "--sample-K", "3", "--images", "4", "--seeds", "1", "--variances", "small", "isotropic"]
    run("ablate", "--checkpoint", str(trained), *few, "--workdir", str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["config"]["training"]["T"] == 30
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_the_least_ablation_one_step_and_no_bound(trained: Path, tmp_path: Path) -> None:
    least = ["--K", "1", "--sample-K", "1", "--images", "2", "--seeds", "1", "--variances", "zero"]
    run("ablate", "--checkpoint", str(trained), *least, "--workdir", str(tmp_path))
    assert "has a likelihood bound" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_training_seeds_show_their_spread(tmp_path: Path) -> None:
    few = ["--K", "3", "--sample-K", "3", "--images", "4", "--seeds", "1", "--variances", "large", "isotropic", "zero"]
    argv = [*TRAINING, *few, "--trajectories", "even", "--training-seeds", "2"]
    run("ablate", *argv, "--workdir", str(tmp_path / "both"))
    results = json.loads((tmp_path / "both" / "results.json").read_text(encoding="utf-8"))
    rows = {row["variance"]: row for row in results["spread"]}
    assert results["training_seeds"] == [0, 1]
    own = {row["variance"]: row for row in results["likelihood"] if row["split"] == "test"}
    large = rows["large"]["values"]
    assert large[0] == own["large"]["bits_per_dim"] != large[1]
    assert rows["large"]["mean"] == pytest.approx(sum(large) / 2)
    assert rows["large"]["std"] == pytest.approx(abs(large[0] - large[1]) / 2**0.5)
    isotropic = rows["isotropic"]["values"]
    assert rows["large"]["minus_isotropic"] == pytest.approx((sum(large) - sum(isotropic)) / 2)
    assert rows["zero"]["mean"] is None
    assert rows["zero"]["frechet_mean"] > 0
    run("ablate", "--checkpoint", str(tmp_path / "both" / "seed-1"), *few, "--workdir", str(tmp_path / "one"))
    alone = json.loads((tmp_path / "one" / "results.json").read_text(encoding="utf-8"))
    assert alone["network"]["source"] == "checkpoint"
    assert alone["network"]["fingerprint"] != results["network"]["fingerprint"]


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["by_hand:eps", "nnx_network:v"])
def test_the_example_denoisers_give_a_table_by_command_and_in_python(spec: str, tmp_path: Path) -> None:
    module, _, name = spec.partition(":")
    few = ["--K", "10", "--sample-K", "10", "--images", "4", "--seeds", "1", "--variances", "large", "isotropic"]
    argv = ["--denoiser", f"experiments.denoisers.{spec}", "--prediction", name, *few, "--trajectories", "even"]
    run("ablate", *argv, "--workdir", str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["network"]["source"] == "denoiser"
    assert results["training"] is None
    assert "and was trained for" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    bits = {row["variance"]: row["bits_per_dim"] for row in results["likelihood"] if row["split"] == "test"}
    assert bits["isotropic"] < bits["large"] < 8

    function = getattr(importlib.import_module(f"experiments.denoisers.{module}"), name)
    digits = datasets.load("digits")
    own = model.of_function(function, schedules.linear(), name, digits.shape, digits.levels)
    design = Design(Rules(levels=17), ("large", "isotropic"), ("even",), (10,), ())
    rows = ablation.compare(own, digits, design)
    assert {row["variance"]: row["bits_per_dim"] for row in rows} == pytest.approx(bits, rel=1e-6)
    run("sample", *argv[:4], "--variance", "isotropic", "--K", "10", "--n", "4", "--out", str(tmp_path / "drawn"))
    assert (tmp_path / "drawn" / "samples.png").exists()
