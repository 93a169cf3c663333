"""Samples: common random numbers in every cell, and shards that are parts of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, sampler, schedules, timesteps, toy, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import make_denoiser
from ddpm_jax.evaluation import likelihood, samples
from ddpm_jax.evaluation.likelihood import Comparison
from ddpm_jax.evaluation.moments import Moments
from ddpm_jax.evaluation.samples import Draws
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.runtime.sharding import Layout

SCHEDULE = schedules.linear(30)
SHAPE = (5, 2, 2, 1)
NOTHING = np.full((1, 31), np.nan)
MOMENTS = Moments(NOTHING, NOTHING, NOTHING, np.zeros(1), 0.2)  # even chains need none
ONE, THREE = Draws((0,), SHAPE[0], SHAPE[1:]), Draws((0, 1, 2), SHAPE[0], SHAPE[1:])
CELLS = [("large", "even", 4), ("zero", "even", 4)]


def test_several_variances_in_one_batch_are_drawn_as_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bases, tables of one number and of an image, and one that reads a head: three programs for all of them."""
    excess = np.linspace(0.5, 0.2, 31)
    spectrum = np.broadcast_to(excess[:, None, None, None], (31, *SHAPE[1:]))
    known = variances.Calibration(SCHEDULE, spectrum=spectrum, colours=((1.0,),), learned_times=(1, 11, 20, 30))
    choices = [variances.build(name, known) for name in ("large", "spectral", "small", "learned", "zero")]
    steps, sizes, over_examples = process.steps(SCHEDULE, timesteps.even(30, 4)), [], sharding.over_examples

    def counted(function, shared, chains, *more, **static):  # type: ignore[no-untyped-def]
        sizes.append(len(chains.keys))
        return over_examples(function, shared, chains, *more, **static)

    def with_heads(params: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.concatenate([params * x_t, jnp.full_like(x_t, -1.0)], axis=-1)

    denoiser = make_denoiser(with_heads, jnp.float32(0.5), SCHEDULE, "eps", ("learned",))
    key, rules = jax.random.key(3), Rules("noise", clip_x_0=False)
    monkeypatch.setattr(sharding, "over_examples", counted)
    together = samples.sample_each(key, steps, denoiser, choices, SHAPE, rules)
    assert sizes == [3 * SHAPE[0], SHAPE[0], SHAPE[0]]
    for one, choice in zip(together, choices, strict=True):
        alone = sampler.sample(key, steps, denoiser, choice, SHAPE, rules)
        np.testing.assert_allclose(one, alone, rtol=1e-5, atol=1e-6)
    assert len(np.unique(np.asarray(together), axis=0)) == len(choices)


def test_a_strip_is_the_predictions_of_a_path_in_grey_levels() -> None:
    world, rules = toy.gaussian(SCHEDULE, np.zeros(SHAPE[1:]), np.full(SHAPE[1:], 0.2)), Rules(levels=17)
    choices = likelihood.choose(variances.Calibration(SCHEDULE), Comparison(("large",), ("even",), (4,)), MOMENTS)
    steps = process.steps(SCHEDULE, timesteps.even(30, 4))
    path = sampler.sample_path(jax.random.key(0), steps, world.denoiser, variances.large(SCHEDULE), SHAPE, rules)
    levels = np.round((np.clip(np.asarray(path.x_0_hat), -1, 1) + 1) * 8)
    found = samples.strip(choices, world.denoiser, ("large", "even", 4), rules, SHAPE)
    np.testing.assert_array_equal(found, levels.swapaxes(0, 1))


@pytest.fixture(scope="module")
def drawn() -> dict:
    world = toy.gaussian(SCHEDULE, np.zeros(SHAPE[1:]), np.full(SHAPE[1:], 0.2))
    known = variances.Calibration(SCHEDULE)
    choices = likelihood.choose(known, Comparison(("large", "zero"), ("even",), (4,)), MOMENTS)
    return samples.draw(choices, world.denoiser, CELLS, Rules(levels=17), THREE)


def test_every_cell_has_its_images_in_grey_levels(drawn: dict) -> None:
    assert list(drawn) == CELLS
    for images in drawn.values():
        assert images.shape == (3, *SHAPE)
        assert images.dtype == np.uint8
        assert images.max() <= 16


def test_seeds_and_images_differ(drawn: dict) -> None:
    images = drawn["large", "even", 4].reshape(15, -1)
    assert len(np.unique(images, axis=0)) == 15


def test_image_i_of_seed_s_does_not_depend_on_the_others(drawn: dict) -> None:
    world = toy.gaussian(SCHEDULE, np.zeros(SHAPE[1:]), np.full(SHAPE[1:], 0.2))
    choices = likelihood.choose(variances.Calibration(SCHEDULE), Comparison(("large",), ("even",), (4,)), MOMENTS)
    fewer = samples.draw(choices, world.denoiser, CELLS[:1], Rules(levels=17), Draws((0, 1), 3, SHAPE[1:]))
    np.testing.assert_array_equal(fewer[CELLS[0]], drawn[CELLS[0]][:2, :3])


def test_shards_are_parts_of_the_whole(drawn: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SHARD", 2)
    world = toy.gaussian(SCHEDULE, np.zeros(SHAPE[1:]), np.full(SHAPE[1:], 0.2))
    choices = likelihood.choose(
        variances.Calibration(SCHEDULE), Comparison(("large", "zero"), ("even",), (4,)), MOMENTS
    )
    kept: list[tuple] = []

    def keep(kind, inputs, compute):  # type: ignore[no-untyped-def]
        if inputs["first"] == 2 and compute is not cache._missing:
            kept.append((inputs["seed"], inputs["shape"]))
        return compute()

    found = samples.draw(choices, world.denoiser, CELLS, Rules(levels=17), THREE, keep=keep)
    for cell in CELLS:
        np.testing.assert_array_equal(found[cell], drawn[cell])
    assert kept == [(seed, (2, *SHAPE[1:])) for seed in range(3) for _ in CELLS]
    assert samples.shards(5) == [(0, 2), (2, 4), (4, 5)]


def test_cells_share_the_noise_of_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: dict[int, list] = {}

    def record(key, steps, denoiser, some, shape, rules, layout):  # type: ignore[no-untyped-def]
        keys.setdefault(steps.K, []).extend([np.asarray(jax.random.key_data(key)).tobytes()] * len(some))
        return np.zeros((len(some), *shape))

    monkeypatch.setattr(samples, "sample_each", record)
    choices = likelihood.choose(
        variances.Calibration(SCHEDULE), Comparison(("large", "small"), ("even",), (2, 4)), MOMENTS
    )
    samples.draw(choices, lambda x_t, t: None, list(choices.times), Rules(levels=17), THREE)
    assert len(keys[2]) == 6
    assert keys[2] == keys[4] == [key for key in keys[2][::2] for _ in range(2)]
    assert len(set(keys[2])) == 3


@pytest.mark.parametrize(("batch", "calls"), [(1024, [2]), (1, [2]), (0, [1, 1])])
def test_variances_share_a_batch_where_that_is_a_few_blocks_and_those_stored_are_not_drawn_again(
    monkeypatch: pytest.MonkeyPatch, batch: int, calls: list[int]
) -> None:
    sizes: list[int] = []

    def count(key, steps, denoiser, some, shape, rules, layout):  # type: ignore[no-untyped-def]
        sizes.append(len(some))
        return np.zeros((len(some), *shape))

    stored: dict[str, dict] = {}

    def keep(kind, inputs, compute):  # type: ignore[no-untyped-def]
        name = cache.fingerprint(inputs)
        if name not in stored:
            stored[name] = compute()
        return stored[name]

    monkeypatch.setattr(samples, "sample_each", count)
    names = ("large", "small", "zero")
    choices = likelihood.choose(variances.Calibration(SCHEDULE), Comparison(names, ("even",), (4,)), MOMENTS)
    layout, rules = Layout(devices=tuple(jax.devices()[:2]), batch=batch), Rules(levels=17)
    samples.draw(choices, lambda x_t, t: None, [("small", "even", 4)], rules, ONE, layout, keep)
    wanted = [(name, "even", 4) for name in names]
    drawn = samples.draw(choices, lambda x_t, t: None, wanted, rules, ONE, layout, keep)
    assert list(drawn) == wanted
    assert sizes == [1, *calls]


def test_variances_that_visit_other_times_do_not_share_a_batch() -> None:
    world = toy.gaussian(SCHEDULE, np.zeros(SHAPE[1:]), np.full(SHAPE[1:], 0.2))
    choices = likelihood.choose(
        variances.Calibration(SCHEDULE), Comparison(("large", "small"), ("even",), (4,)), MOMENTS
    )
    large, small = wanted = list(choices.times)
    other = choices._replace(times={**choices.times, small: np.array([1, 2, 3, 30])})
    before, after = (samples.draw(one, world.denoiser, wanted, Rules(levels=17), THREE) for one in (choices, other))
    np.testing.assert_array_equal(before[large], after[large])
    assert (before[small] != after[small]).any()


def test_the_nearest_image_and_its_distance() -> None:
    others = np.array([0, 10, 16], np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    index, distance = samples.nearest(np.full((1, 2, 2, 1), 12, np.uint8), others)
    assert index.tolist() == [1]
    assert distance == pytest.approx([2.0])
