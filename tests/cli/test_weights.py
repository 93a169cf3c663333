"""Weights of other projects, in and out, by command: what comes back, and what is refused in one line."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax.training import model
from tests import golden
from tests.cli.conftest import run


@pytest.fixture
def exported(trained: Path, tmp_path: Path) -> Path:
    run("export", "--workdir", str(trained), "--out", str(tmp_path / "theirs"))
    return tmp_path / "theirs"


@pytest.mark.slow
def test_a_run_goes_out_and_comes_back_the_same(trained: Path, exported: Path, tmp_path: Path) -> None:
    run("import", "--weights", str(exported), "--data", "digits", "--workdir", str(tmp_path / "back"))
    before, after = (model.read(folder) for folder in (trained, tmp_path / "back"))
    assert after.model.schedule.T == before.model.schedule.T and after.config.prediction == "eps"
    assert after.network == replace(before.network, time_start=0)
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    t = jnp.array([1, 2, before.model.schedule.T])
    np.testing.assert_allclose(after.model.denoiser(x, t).eps, before.model.denoiser(x, t).eps, rtol=1e-4, atol=1e-5)
    run("sample", "--workdir", str(tmp_path / "back"), "--K", "3", "--n", "2", "--variance", "isotropic")
    assert (tmp_path / "back" / "samples" / "samples.png").exists()


@pytest.mark.slow
def test_a_learned_head_of_improved_diffusion_is_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    kind = golden.HERE / "improved_diffusion_learned_range"
    save_file(golden.weights(kind / "weights.json"), tmp_path / "model.safetensors")
    said = json.loads((kind / "config.json").read_text())
    described = {**said, "diffusion_steps": 20, "noise_schedule": "cosine"}
    (tmp_path / "model.json").write_text(json.dumps(described))
    np.savez(tmp_path / "images.npz", images=np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8))
    files = ("--weights", str(tmp_path / "model.safetensors"), "--description", str(tmp_path / "model.json"))
    with pytest.raises(SystemExit) as stop:
        run("import", *files, "--data", "digits", "--T", "50", "--workdir", str(tmp_path / "run"))
    assert stop.value.code == 2 and "model.json says diffusion_steps = 20, leave --T out" in capsys.readouterr().err
    run("import", *files, "--data", str(tmp_path / "images.npz"), "--workdir", str(tmp_path / "run"))
    config = model.read(tmp_path / "run").config
    assert (config.schedule, config.T, config.variance, config.objective) == ("cosine", 20, "learned_range", "hybrid")
    run("sample", "--workdir", str(tmp_path / "run"), "--K", "3", "--n", "2", "--variance", "learned_range")


@pytest.mark.slow
def test_an_imported_network_gets_heads_and_an_ablation(exported: Path, tmp_path: Path) -> None:
    back, heads = tmp_path / "back", tmp_path / "heads"
    run("import", "--weights", str(exported), "--data", "digits", "--workdir", str(back))
    few = ("--head-steps", "2", "--head-batch", "8", "--save-every", "2")
    run("heads", "--checkpoint", str(back), "--workdir", str(heads), "--heads", "npr", *few)
    options = ("--K", "3", "30", "--sample-K", "3", "--images", "4", "--seeds", "1", "--trajectories", "even")
    workdir = tmp_path / "ablation"
    of_network = ("--checkpoint", str(back), "--head-checkpoint", str(heads))
    run("ablate", *of_network, "--workdir", str(workdir), "--variances", "isotropic", "npr", *options)
    results = json.loads((workdir / "results.json").read_text())
    assert {row["variance"] for row in results["likelihood"]} == {"isotropic", "npr"}
    assert results["classifier"]["measure"]["n"] == 4 and (workdir / "report.html").exists()


def test_dry_runs_write_nothing(trained: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run("export", "--workdir", str(trained), "--out", str(tmp_path / "a"), "--dry-run")
    run("import", "--weights", str(exported), "--data", "digits", "--workdir", str(tmp_path / "b"), "--dry-run")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
    assert '"_class_name": "UNet2DModel"' in capsys.readouterr().out


def test_what_cannot_be_imported_is_one_line(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for options, message in (
        (["--weights", str(tmp_path / "none"), "--data", "digits"], "is no folder: a state dict needs --description"),
        (["--weights", str(tmp_path), "--data", "digits"], "config.json: no such file"),
        (["--weights", str(exported), "--data", "mnis"], "mnis"),
        (["--weights", str(exported), "--data", "digits", "--description", "x.json"], "has no effect"),
        (["--weights", str(exported), "--data", "digits", "--prediction", "flow"], "unknown prediction 'flow'"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run("import", *options, "--workdir", str(tmp_path / "new"))
        assert stop.value.code == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert message in said[-1] and re.match("error: ", said[-1])


def test_a_workdir_with_a_run_is_not_written_over(exported: Path, trained: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        run("import", "--weights", str(exported), "--data", "digits", "--workdir", str(trained))
    assert stop.value.code == 2 and "holds a run already" in capsys.readouterr().err
