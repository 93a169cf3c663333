"""The reproduction on random weights: the tables, what is kept, what is cut and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax.evaluation import samples
from ddpm_jax.evaluation.fid import extractors
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor
from experiments import reproduce_analytic_dpm, reproduce_smoke
from experiments.reproduce_plan import Reproduce, resolve
from tests.cli.conftest import run
from tests.models.test_unet import LEAST

SIZE = 6


def pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)[:, :SIZE].astype(float) / 255


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> reproduce_smoke.Inputs:
    """A small network and images; the feature network of these tests needs no file."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reproduce_smoke, "NETWORK", replace(LEAST, image_channels=3, time_start=0))
        patched.setattr(reproduce_smoke, "inception_arrays", lambda draw: {"nothing": np.zeros(1, np.float32)})
        return reproduce_smoke.write(tmp_path_factory.mktemp("smoke"))


@pytest.fixture(autouse=True)
def small_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lambda path, preparation, layout=None: FeatureExtractor("pixels", preparation, SIZE, pixels)  # noqa: E731
    monkeypatch.setattr(extractors, "of_inception", made)


def command(files: reproduce_smoke.Inputs, workdir: Path, *more: str) -> None:
    few = ("--variances", "large", "analytic", "zero", "--K", "10", "50", "--sample-K", "2", "4", "--n", "5")
    of_files = ("--weights", str(files.weights), "--data", str(files.data), "--inception", str(files.inception))
    rest = ("--trajectories", "optimal", "--seeds", "2", "--workdir", str(workdir))
    run("reproduce_analytic_dpm", *of_files, *few, *rest, *more)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_a_killed_run_goes_on_to_tables_beside_the_published_and_then_draws_nothing(
    files: reproduce_smoke.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole, drawn, speed = samples.sample_each, [], 2  # draws that tell how fast the network is

    def counted(*of, **more):  # type: ignore[no-untyped-def]
        if len(drawn) == speed + 5:
            raise KeyboardInterrupt
        drawn.append(of)
        return whole(*of, **more)

    monkeypatch.setattr(samples, "sample_each", counted)
    with pytest.raises(SystemExit) as stop:
        command(files, tmp_path)
    assert stop.value.code == 130
    assert len(json.loads((tmp_path / "results.json").read_text())["fid"]) == 2  # two seeds each
    drawn.extend([None] * 10)  # past the interruption
    before = len(drawn)
    capsys.readouterr()
    command(files, tmp_path)
    assert len(drawn) - before == 20 - 5
    first, text = json.loads((tmp_path / "results.json").read_text()), (tmp_path / "tables.md").read_text()
    names = {(row["kernel"], row["variance"], row["K"]) for row in first["fid"]}
    sampled = [("ddpm", "large"), ("ddpm", "analytic"), ("ddpm", "zero"), ("ddim", "zero"), ("ddim", "analytic")]
    assert names == {(*name, K) for name in sampled for K in (2, 4)}
    assert [row["K"] for row in first["fid"]] == [2] * 5 + [4] * 5
    for row in first["fid"]:
        assert row["value"] == pytest.approx(np.mean(row["by_seed"])) and len(row["by_seed"]) == 2
        assert row["standard_error"] == pytest.approx(abs(np.diff(row["by_seed"])[0]) / 2)
        assert row["mark"] == "*" and row["stamp"]["measure"]["n"] == 5
        assert row["stamp"]["samples"]["seeds"] == [0, 1] and row["stamp"]["samples"]["kernel"] == row["kernel"]
    assert "does not compare: features pixels and not pt_inception-2015-12-05-6726825d.pth" in text
    assert "n 5 and not 50000" in text and "published" in text and "K = 1000" in text
    clips = {(row["kernel"], row["variance"]): row["stamp"]["samples"]["rules"]["pixel_clip"] for row in first["fid"]}
    assert clips["ddpm", "large"] == clips["ddpm", "analytic"] == clips["ddim", "analytic"] == 1.0
    assert clips["ddim", "zero"] is None
    assert "warning: N = 5 is less than 10,000" in capsys.readouterr().err
    bounds = {(row["variance"], row["trajectory"]) for row in first["nll"]}
    assert bounds >= {("large", "even"), ("analytic", "optimal")}

    def never(*of: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(samples, "sample_each", never)
    command(files, tmp_path)
    again = json.loads((tmp_path / "results.json").read_text())
    assert (again["fid"], again["nll"]) == (first["fid"], first["nll"])


@pytest.mark.slow
def test_a_budget_takes_fewer_samples_and_says_so(
    files: reproduce_smoke.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five variances of two seeds: 20 evaluations a sample at K = 2, and 40 more at K = 4; 16 images at 1,000 times."""
    monkeypatch.setattr(reproduce_analytic_dpm, "speed", lambda plan: 1.0)
    few = dict(weights=files.weights, data=str(files.data), inception=files.inception, workdir=tmp_path)
    options = Reproduce(**few, variances=("large", "analytic", "zero"), K=(10,), sample_K=(2, 4), n=9, seeds=2)
    plan = resolve(options)
    work, said = reproduce_analytic_dpm.afford(plan)
    assert (work.n, work.chains, len(said)) == (9, {2: 10, 4: 10}, 1) and said[0].startswith("1.65e+04 network")
    cut = plan._replace(options=replace(options, budget=(16_000 + 5 * 20) / 3600))
    work, said = reproduce_analytic_dpm.afford(cut)
    assert (work.n, work.chains) == (5, {2: 10})
    assert "N = 5 in place of 9, without K = 4" in said[1]


@pytest.mark.slow
def test_another_network_does_not_take_the_place_of_the_first(
    files: reproduce_smoke.Inputs, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    few = dict(weights=tmp_path / "copy", data=str(files.data), inception=files.inception, workdir=tmp_path)
    shutil.copytree(files.weights, tmp_path / "copy")
    first = resolve(Reproduce(**few))
    assert resolve(Reproduce(**few)).model.fingerprint == first.model.fingerprint
    path = tmp_path / "copy" / "diffusion_pytorch_model.safetensors"
    arrays = load_file(path)
    (tmp_path / "copy" / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds another network than .*copy: choose another --workdir"):
        resolve(Reproduce(**few))
    (tmp_path / "copy" / "model_index.json").unlink()
    save_file({name: 2 * array for name, array in arrays.items()}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"holds another network than .*copy: choose another --workdir"):
        resolve(Reproduce(**few))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--fid-protocol", "clean"], "unknown FID protocol 'clean'"),
        (["--checkpoint", "x"], "as --checkpoint or as --weights, one of them"),
        (["--n", "1"], "n = 1, seeds = 2: at least 2 samples"),
        (["--budget", "0"], "budget = 0 hours"),
        (["--checkpoint", "x", "--weights", "y"], "one of them"),
        (["--test-images", "99"], "test_images = 99: from 2 to 8"),
        (["--reference", "none.npz"], "none.npz: no such file"),
        (["--variances", "npr"], "reads the head 'npr'"),
        (["--sample-K", "2000"], "K = 2000"),
    ],
)
def test_what_cannot_be_reproduced_is_one_line(
    files: reproduce_smoke.Inputs, tmp_path: Path, capsys: pytest.CaptureFixture, more: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        command(files, tmp_path, *more)
    assert stop.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last


@pytest.mark.slow
def test_the_smoke_run_takes_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for _ in range(2):  # the second time it finds its own files, and everything in the cells
        run("reproduce_analytic_dpm", "--smoke", "--workdir", str(tmp_path))
    results = json.loads((tmp_path / "smoke" / "results.json").read_text())
    assert results["fid"] and all(np.isfinite(row["value"]) for row in results["fid"])
    assert results["fid"][0]["stamp"]["measure"]["features"].startswith("Inception, sha256 ")
