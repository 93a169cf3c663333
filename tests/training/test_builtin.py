"""The network that comes with the package: it loads without data, and scores what its card says."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import ddpm_jax as ddpm
from ddpm_jax.data import datasets
from ddpm_jax.evaluation import moments
from ddpm_jax.training import model
from tests.cli.conftest import run

CARD = (model.PACKAGED / "digits.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| ([\d. |]+) \|$", re.MULTILINE)


def test_it_loads_with_its_heads_and_without_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.DATASETS, "digits", lambda image_size=None: pytest.fail("the data were read"))
    found = ddpm.load("builtin:digits")
    assert found.shape == (8, 8, 1) and found.levels == 17 and found.schedule.T == 1000
    assert set(found.heads) == {"npr", "sn", "ocm", "learned", "learned_range"}
    said = jax.eval_shape(found.denoiser, np.zeros((2, 8, 8, 1), np.float32), np.ones(2, np.int32))
    assert said.x_0.shape == (2, 8, 8, 1) and said.heads.keys() == {*found.heads}


@pytest.mark.slow
def test_its_heads_and_moments_fix_every_variance() -> None:
    found = ddpm.load("builtin:digits")
    rules = ddpm.conventions.protocol("ddpm", found.levels)
    stored = moments.load(model.packaged("builtin:digits", "moments"), found.fingerprint, rules)
    for variance in ("npr", "analytic", "isotropic", "spectral", "family"):
        x_0 = ddpm.sample(jax.random.key(0), found, variance=variance, K=2, n=2, moments=stored)
        assert np.isfinite(x_0).all()


def test_one_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no network builtin:mnist comes with the package: choose builtin:digits"):
        ddpm.load("builtin:mnist")


def test_another_step_or_average_is_refused() -> None:
    with pytest.raises(ValueError, match="step = 5"):
        ddpm.load("builtin:digits", step=5)
    with pytest.raises(ValueError, match="averages of"):
        ddpm.load("builtin:digits", ema_decay=0.5)


@pytest.mark.slow
def test_a_command_takes_it_where_it_takes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(
        "sample",
        "--workdir",
        "builtin:digits",
        "--moments",
        "builtin:digits",
        "--variance",
        "analytic",
        "--K",
        2,
        "--n",
        2,
    )
    assert (tmp_path / "runs/builtin-digits/samples/samples.npz").exists()
    run("export", "--workdir", "builtin:digits", "--out", tmp_path / "exported")
    assert (tmp_path / "exported/unet/config.json").exists()


@pytest.mark.parametrize("word", ["Data", "Licence", "Command", "Commit", "Seed", "Not for"])
def test_its_card_says_what_it_is(word: str) -> None:
    assert f"**{word}**" in CARD


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_it_scores_what_its_card_says() -> None:
    """Every variance of the card at every K, within 0.001 bits/dim."""
    (Ks,) = re.findall(r"^\| variance \| (.*) \|$", CARD, re.MULTILINE)
    K = tuple(int(word.removeprefix("K = ")) for word in Ks.split(" | "))
    wanted = {name: [float(word) for word in numbers.split(" | ")] for name, numbers in ROW.findall(CARD)}
    assert len(wanted) >= 10
    rows = ddpm.compare(ddpm.load("builtin:digits"), ddpm.data.load("digits"), variances=tuple(wanted), K=K)
    got = {(row["variance"], row["K"]): row["bits_per_dim"] for row in rows}
    for name, numbers in wanted.items():
        np.testing.assert_allclose([got[name, k] for k in K], numbers, atol=1e-3, err_msg=name)
