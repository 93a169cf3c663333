"""Heads on a frozen denoiser as a run: trained, resumed, stored, put back, and refused where they do not fit."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.data import datasets
from ddpm_jax.diffusion import schedules, timesteps, toy
from ddpm_jax.models import unet
from ddpm_jax.training import checkpoints, heads, model
from ddpm_jax.training.config import Config, Heads
from ddpm_jax.training.model import Model
from tests.storing import store

DIGITS = datasets.digits()
SHORT = schedules.linear(30)
PACE = Config(save_every=2, log_every=2, sample_every=0)
HEADS = Heads(heads=("npr", "learned_range"), head_steps=4, head_batch=8)


@pytest.fixture(scope="module", autouse=True)
def tiny_networks() -> Iterator[None]:
    """The heads' networks, small enough to compile quickly."""
    with pytest.MonkeyPatch.context() as patch:
        for size in unet.HEAD_SIZES:
            tiny = replace(unet.HEAD_SIZES[size], channels=8, multipliers=(1,), blocks=0, groups=4)
            patch.setitem(unet.HEAD_SIZES, size, tiny)
        yield


@pytest.fixture(scope="module")
def frozen() -> Model:
    """Digits taken for one Gaussian: a denoiser in closed form."""
    x = DIGITS.train.images / 8.0 - 1
    world = toy.gaussian(SHORT, x.mean(axis=0), x.var(axis=0) + 1e-3)
    return model.of_function(
        lambda x_t, t: world.denoiser(x_t, t).eps, SHORT, "eps", DIGITS.shape, DIGITS.levels, "gaussian"
    )


@pytest.fixture(scope="module")
def trained(frozen: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    folder = tmp_path_factory.mktemp("heads")
    return heads.fit(HEADS, PACE, frozen, DIGITS, folder), folder


def said(headed: Model) -> dict[str, np.ndarray]:
    x_t = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    prediction = headed.denoiser(x_t, jnp.asarray([1, 7, 30]))
    assert prediction.heads is not None
    return {"eps": np.asarray(prediction.eps), **{name: np.asarray(head) for name, head in prediction.heads.items()}}


def test_the_mean_stays_and_the_heads_are_there(frozen: Model, trained: tuple[Model, Path]) -> None:
    headed, _ = trained
    assert headed.heads == ("npr", "learned_range")
    assert headed.fingerprint != frozen.fingerprint
    x_t = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    np.testing.assert_array_equal(said(headed)["eps"], frozen.denoiser(x_t, jnp.asarray([1, 7, 30])).eps)
    assert (said(headed)["npr"] > 0).all()


def test_heads_read_back_are_those_that_were_trained(frozen: Model, trained: tuple[Model, Path]) -> None:
    headed, folder = trained
    again = model.load_heads(folder, frozen)
    assert again.fingerprint == headed.fingerprint and again.heads == headed.heads
    for name, values in said(headed).items():
        np.testing.assert_array_equal(said(again)[name], values)


@pytest.mark.slow
def test_two_and_two_steps_with_a_restore_between_are_four(
    frozen: Model, trained: tuple[Model, Path], tmp_path: Path
) -> None:
    heads.fit(replace(HEADS, head_steps=2), PACE, frozen, DIGITS, tmp_path)
    assert heads.fit(HEADS, PACE, frozen, DIGITS, tmp_path).fingerprint == trained[0].fingerprint


@pytest.mark.slow
def test_heads_are_fitted_to_the_mean_that_the_config_names(
    frozen: Model, trained: tuple[Model, Path], tmp_path: Path
) -> None:
    """The Gaussian's x_0_hat leaves [-1, 1]: without the clip the errors are others."""
    free = heads.fit(replace(HEADS, fit_clip_x_0=False), PACE, frozen, DIGITS, tmp_path)
    assert (free.clip_x_0, trained[0].clip_x_0) == (False, True)
    assert np.abs(said(free)["npr"] - said(trained[0])["npr"]).max() > 0


@pytest.mark.slow
def test_learned_is_bound_to_the_chain_it_was_fitted_on(frozen: Model, tmp_path: Path) -> None:
    wanted = heads.resolve(replace(HEADS, heads=("learned",), chain=5), frozen, DIGITS)
    state = jax.jit(lambda: heads.fresh(wanted, 0))()
    five = tuple(timesteps.even(30, 5).tolist())
    assert model.with_heads(frozen, wanted.config, wanted.network, state.ema[0]).learned_times == five
    store(tmp_path / checkpoints.CHECKPOINTS, state, heads.describe(wanted, 0))
    assert model.load_heads(tmp_path, frozen).learned_times == five


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": ("nrp",)}, "unknown head 'nrp'"),
        ({"heads": ("npr", "npr")}, "each once"),
        ({"size": "huge"}, "unknown size 'huge'"),
        ({"chain": 31}, "K = 31"),
        ({"head_steps": 0}, "head_steps = 0"),
        ({"head_batch": 0}, "head_batch = 0"),
        ({"head_learning_rate": 0.0}, "head_learning_rate = 0: it must be positive"),
    ],
)
def test_what_cannot_be_trained_is_refused(frozen: Model, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        heads.resolve(replace(HEADS, **change), frozen, DIGITS)


def test_another_denoiser_another_training_and_other_heads_are_refused(
    frozen: Model, trained: tuple[Model, Path], tmp_path: Path
) -> None:
    _, folder = trained
    other = frozen._replace(fingerprint="another", name="another")
    with pytest.raises(ValueError, match="trained on another denoiser than another"):
        model.load_heads(folder, other)
    with pytest.raises(ValueError, match=r"holds heads with model = .*, not another: choose another --workdir"):
        heads.fit(HEADS, PACE, other, DIGITS, folder)
    with pytest.raises(ValueError, match="holds heads with size = narrow, not wide"):
        heads.fit(replace(HEADS, size="wide"), PACE, frozen, DIGITS, folder)
    shapes = jax.eval_shape(lambda: heads.fresh(heads.resolve(HEADS, frozen, DIGITS), 0))
    state = checkpoints.restore(folder / checkpoints.CHECKPOINTS, shapes)
    store(tmp_path / checkpoints.CHECKPOINTS, state, {"config": {}})
    for act in (lambda: model.load_heads(tmp_path, frozen), lambda: heads.fit(HEADS, PACE, frozen, DIGITS, tmp_path)):
        with pytest.raises(ValueError, match="holds a training run, not heads"):
            act()


def test_without_names_all_heads_are_meant() -> None:
    assert len(heads.named(Heads()).heads) == 5
    assert heads.named(HEADS) == HEADS


def test_heads_of_the_first_format_are_refused_in_one_line(
    frozen: Model, trained: tuple[Model, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hash of source code was part of what they knew their denoiser by: whether it is this one cannot be told."""
    _, folder = trained
    real = checkpoints.describe

    def early(*where: Any) -> dict[str, Any]:
        stored = real(*where)
        return {**{name: stored[name] for name in stored if name != "model"}, "subject": stored["model"], "format": 1}

    monkeypatch.setattr(checkpoints, "describe", early)
    for act in (lambda: model.load_heads(folder, frozen), lambda: heads.fit(HEADS, PACE, frozen, DIGITS, folder)):
        with pytest.raises(ValueError, match=r"of an earlier version, .*: train them again in another --workdir"):
            act()


@pytest.mark.slow
def test_heads_go_on_from_before_an_option_was_there(
    frozen: Model, trained: tuple[Model, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    headed, folder = trained
    real = checkpoints.describe

    def before(*where: Any) -> dict[str, Any]:
        stored = real(*where)
        return {**stored, "heads": {name: value for name, value in stored["heads"].items() if name != "size"}}

    monkeypatch.setattr(checkpoints, "describe", before)
    assert model.load_heads(folder, frozen).fingerprint == headed.fingerprint
    assert heads.fit(HEADS, PACE, frozen, DIGITS, folder).fingerprint == headed.fingerprint
