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

from ddpm_jax.cli import export_weights, sample
from ddpm_jax.cli.arguments import Sample
from ddpm_jax.diffusion import schedules
from ddpm_jax.models.convert import diffusers, tensors
from ddpm_jax.training import model
from ddpm_jax.training.config import Config
from tests import golden
from tests.cli.conftest import run
from tests.cli.test_bad_input import refused
from tests.models.test_unet import LEAST, randomised

PARAMETERS = randomised(LEAST)


def pipeline(folder: Path, **scheduler: object) -> Path:
    """A random network for digits, with what its scheduler says; with nothing none is there."""
    diffusers.save(folder / "unet", PARAMETERS, LEAST, 8)
    if scheduler:
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


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


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0},
            "FlowMatchEulerDiscreteScheduler': its networks",
        ),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler': its networks are no DDPMs"),
        ({"beta_start": "0.1"}, "scheduler_config.json: beta_start = '0.1': a number above 0 and at most 1 is wanted"),
        ({"clip_sample_range": 3.0}, "clip_sample_range = 3: x_0 is clipped to [-1, 1] here, or not at all: choose by"),
        ({"thresholding": True}, "scheduler_config.json: thresholding = True: x_0 is clipped"),
        ({"variance_type": "learned_range"}, "variance_type = 'learned_range': the network has no outputs for it"),
        ({"rescale_betas_zero_snr": True}, "prediction 'eps' needs alpha_bar_T > 0"),
    ],
)
def test_a_scheduler_that_cannot_be_kept_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, scheduler: dict, message: str
) -> None:
    folder = pipeline(tmp_path / "theirs", **scheduler)
    assert message in refused(
        "import", ["--weights", folder, "--data", "digits", "--workdir", tmp_path / "run"], capsys
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("choice", [True, False])
@pytest.mark.parametrize("said", [{"thresholding": True}, {"clip_sample_range": 0.5}])
def test_clipping_that_is_not_ours_is_chosen_by_option(
    tmp_path: Path, capsys: pytest.CaptureFixture, said: dict, choice: bool
) -> None:
    options = ("--data", "digits", "--workdir", tmp_path / "run", "--clip-x-0", choice, "--dry-run")
    run("import", "--weights", pipeline(tmp_path / "theirs", **said), *options)
    assert json.loads(capsys.readouterr().out)["sampling_clip_x_0"] is choice


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(tensors, "ours", mistaken)
    with pytest.raises(KeyError, match="ours"):
        run("import", "--weights", pipeline(tmp_path / "theirs"), "--data", "digits", "--workdir", tmp_path / "run")


def said_by_sample(capsys: pytest.CaptureFixture, workdir: Path, *options: str) -> tuple[object, ...]:
    capsys.readouterr()
    run("sample", "--workdir", workdir, "--K", "2", "--n", "2", "--dry-run", *options)
    said = json.loads(capsys.readouterr().out)
    return tuple(said[name] for name in ("variance", "clip_x_0", "protocol"))


def test_what_a_scheduler_says_of_sampling_is_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    said = {"clip_sample": False, "variance_type": "fixed_small", "beta_end": 0.012, "steps_offset": 1}
    folder = pipeline(tmp_path / "theirs", _class_name="DDPMScheduler", **said)
    run("import", "--weights", folder, "--data", "digits", "--workdir", tmp_path / "run")
    err = capsys.readouterr().err
    chain = "kept: schedule linear:0.0001,0.012, T = 1000, prediction eps, variance small, x_0 not clipped"
    assert chain in err and "scheduler_config.json: without effect here: steps_offset" in err
    assert said_by_sample(capsys, tmp_path / "run") == ("small", False, "ddpm")
    assert said_by_sample(capsys, tmp_path / "run", "--clip-x-0", "True") == ("small", True, "ddpm")
    assert said_by_sample(capsys, tmp_path / "run", "--variance", "large") == ("large", False, "ddpm")
    assert said_by_sample(capsys, tmp_path / "run", "--protocol", "iddpm") == ("small", None, "iddpm")
    run("export", "--workdir", tmp_path / "run", "--out", tmp_path / "back")
    written = json.loads((tmp_path / "back" / "scheduler" / "scheduler_config.json").read_text())
    assert (written["variance_type"], written["clip_sample"]) == ("fixed_small", False)


@pytest.mark.slow
def test_samples_of_an_imported_network_are_drawn_as_its_scheduler_says(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "theirs", clip_sample=False, variance_type="fixed_small")
    for name, options in (("said", ()), ("given", ("--clip-x-0", "False", "--variance", "small"))):
        run("import", "--weights", folder, "--data", "digits", "--workdir", tmp_path / name)
        run("sample", "--workdir", tmp_path / name, "--K", "2", "--n", "2", *options)
    kept = [np.load(tmp_path / name / "samples" / "samples.npz") for name in ("said", "given")]
    np.testing.assert_array_equal(*(found["arr_0"] for found in kept))
    said = json.loads(str(kept[0]["options"]))
    assert said["rules"]["clip_x_0"] is False and said["variance"] == "small" and said["clip_x_0"] is False


def test_a_folder_without_scheduler_says_what_is_assumed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = pipeline(tmp_path / "theirs")
    run("import", "--weights", folder, "--data", "digits", "--workdir", tmp_path / "run", "--dry-run")
    err = capsys.readouterr().err
    assert "no scheduler_config.json, so DDPM's linear schedule of T = 1000 and eps" in err
    assert "variance not said, clipping not said" in err


BETAS = [0.1, 0.5, 1 / 3, 0.2 + 0.1]


@pytest.mark.parametrize("held", [BETAS, {"betas": BETAS}, {"trained_betas": BETAS, "_class_name": "x"}])
def test_a_table_of_betas_is_kept_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture, held: object) -> None:
    (tmp_path / "b.json").write_text(json.dumps(held))
    folder, table = pipeline(tmp_path / "theirs"), ("--schedule", tmp_path / "b.json", "--T", 4)
    run("import", "--weights", folder, "--data", "digits", "--workdir", tmp_path / "run", *table)
    (tmp_path / "b.json").unlink()
    found = model.read(tmp_path / "run")
    assert found.config.schedule == schedules.table(BETAS) and found.model.schedule.beta[1:].tolist() == BETAS
    others = ("--schedule", "linear:0.1,0.3", "--T", 4)
    run("import", "--weights", folder, "--data", "digits", "--workdir", tmp_path / "other", *others)
    assert found.model.fingerprint != model.read(tmp_path / "other").model.fingerprint
    run("export", "--workdir", tmp_path / "run", "--out", tmp_path / "back")
    assert json.loads((tmp_path / "back/scheduler/scheduler_config.json").read_text())["trained_betas"] == BETAS
    capsys.readouterr()


@pytest.mark.parametrize(
    ("variance", "theirs", "kept"),
    [
        ("learned_range:clamped", None, "learned_range"),
        ("learned_range", "small", "learned_range"),
        ("large", "small", "small"),
        ("large", None, None),
    ],
)
def test_a_network_with_outputs_for_it_is_exported_to_draw_with_them(
    variance: str, theirs: str | None, kept: str | None
) -> None:
    config = Config(objective="hybrid" if variance != "large" else "simple", variance=variance)
    assert export_weights.chain(replace(config, sampling_variance=theirs)).variance == kept


@pytest.mark.parametrize("variance", ["npr", "sn", "learned"])
def test_outputs_that_diffusers_does_not_read_are_not_exported(variance: str) -> None:
    with pytest.raises(ValueError, match=f"variance = {variance}: diffusers reads no outputs but"):
        export_weights.chain(Config(objective="hybrid", variance=variance))


@pytest.mark.parametrize(("sampler", "variance"), [("ddpm", "learned_range"), ("ddim", "large")])
def test_the_variance_of_a_project_is_for_its_ddpm(sampler: str, variance: str) -> None:
    imported = model.of_function(lambda x_t, t: x_t / 2, schedules.linear(30), "eps", (8, 8, 1))
    imported = imported._replace(sampling_variance="learned_range", sampling_clip_x_0=False)
    found = sample.as_the_network_says(Sample(sampler=sampler), imported)
    assert (found.variance, found.clip_x_0, found.protocol) == (variance, False, "ddpm")


def test_a_thousand_betas_are_never_printed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "b.json").write_text(json.dumps([0.001 + i % 7 / 1000 for i in range(1000)]))
    folder, table = pipeline(tmp_path / "theirs"), ("--schedule", tmp_path / "b.json")
    for dry in ((), ("--dry-run",)):
        run("import", "--weights", folder, "--data", "digits", "--workdir", tmp_path / "run", *table, *dry)
    run("train", "--preset", "tiny", *table, "--dry-run")
    run("sample", "--workdir", tmp_path / "run", "--K", 3, "--dry-run")
    run("export", "--workdir", tmp_path / "run", "--dry-run")
    printed = "".join(capsys.readouterr())
    assert printed.count("betas (1000 numbers, 0.001 to ") == 6 and "0.002,0.003" not in printed
    other = refused("sample", ["--workdir", tmp_path / "run", "--schedule", "linear:1e-4,0.02"], capsys)
    assert "schedule = linear:1e-4,0.02 has no effect" in other
    assert len(refused("sample", ["--workdir", "builtin:digits", *table], capsys)) < 300
    assert "T = 7: the schedule is a table of 1000 betas" in refused(
        "train", ["--preset", "tiny", *table, "--T", 7, "--workdir", tmp_path / "new"], capsys
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "b.json: no such file"),
        ("[0.1, 0.2", "b.json is not JSON"),
        ("[]", "b.json: betas = []: a list of 1 to 100,000 entries"),
        (
            '{"betas": [0.1], "trained_betas": [0.1]}',
            "b.json: a list of betas is wanted, or one of betas and trained_betas",
        ),
        ('{"alphas": [0.1]}', "or one of betas and trained_betas in an object"),
        ('{"trained_betas": null}', "b.json: trained_betas = None: a list of 1 to"),
        ('[0.1, "0.2"]', "b.json: betas = [0.1, '0.2']: a list"),
        ("[0.1, NaN]", "b.json: betas = [0.1, nan]: a list"),
        ("[1, 0.2]", "b.json: beta_1 = 1 is outside (0, 1)"),
        ("0.1", "b.json: betas = 0.1: a list"),
        ("~nobody-here", "there is no user 'nobody-here'"),
    ],
)
def test_a_file_of_no_betas_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, content: str | None, message: str
) -> None:
    path = f"{content}/b.json" if content == "~nobody-here" else tmp_path / "b.json"
    if content is not None:
        (tmp_path / "b.json").write_text(content)
    options = ("--schedule", path, "--T", 2, "--preset", "tiny", "--workdir", tmp_path / "run")
    assert message in refused("train", options, capsys)
    assert not (tmp_path / "run").exists()
