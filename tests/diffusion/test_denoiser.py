"""Predictions: eps, x_0, v and mu freely converted, the clip, and networks as denoisers with heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import denoiser as denoisers
from ddpm_jax.diffusion import process, schedules
from tests.oracle import pairs
from tests.oracle import schedules as oracle_schedules

SHORT = [0.1, 0.3, 0.5, 0.7]
SHAPE = (5, 2, 2, 1)


def draws(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("t", range(1, 5))
@pytest.mark.parametrize("kind", sorted(denoisers.PREDICTIONS))
def test_the_right_output_of_any_kind_gives_back_eps_and_x_0(short, kind, t):
    x_0, eps, times = draws(0), draws(1), jnp.full(5, t)
    x_t = process.diffuse(short, x_0, times, eps)
    output = denoisers.target(short, x_0, times, eps, kind)
    prediction = denoisers.PREDICTIONS[kind](short, x_t, times, output)
    # Dividing by sqrt(ab_4) = .31, or by mu's coefficient .26 of x_0, multiplies float32 rounding by about 3.
    np.testing.assert_allclose(prediction.eps, eps, atol=3e-6)
    np.testing.assert_allclose(prediction.x_0, x_0, atol=1e-5)


def test_the_v_target_is_salimans_and_ho(short):
    x_0, eps = draws(0), draws(1)
    ab = oracle_schedules.alpha_bar(SHORT)[3]
    expected = np.sqrt(ab) * eps - np.sqrt(1 - ab) * x_0
    np.testing.assert_allclose(denoisers.target(short, x_0, jnp.full(5, 3), eps, "v"), expected, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(denoisers.PREDICTIONS))
def test_any_output_agrees_with_x_t(short, kind):
    x_t, t = draws(2), jnp.asarray([1, 2, 3, 4, 4])
    prediction = denoisers.PREDICTIONS[kind](short, x_t, t, draws(3))
    np.testing.assert_allclose(process.diffuse(short, prediction.x_0, t, prediction.eps), x_t, atol=1e-5)


def test_clipped_x_0_lies_in_the_data_range_and_eps_agrees_with_it(short):
    x_t, t = 3 * draws(2), jnp.asarray([1, 2, 3, 4, 4])
    raw = denoisers.PREDICTIONS["eps"](short, x_t, t, draws(3))
    rows = oracle_schedules.alpha_bar(SHORT)[np.asarray(t)].astype(np.float32).reshape(-1, 1, 1, 1)
    clipped = denoisers.clip_x_0(x_t, raw, jnp.sqrt(rows), jnp.sqrt(1 - rows))
    assert float(jnp.abs(raw.x_0).max()) > 1
    np.testing.assert_array_equal(clipped.x_0, np.clip(raw.x_0, -1, 1))
    np.testing.assert_allclose(process.diffuse(short, clipped.x_0, t, clipped.eps), x_t, atol=1e-5)
    inside = np.abs(raw.x_0) <= 1
    np.testing.assert_allclose(np.where(inside, clipped.eps, 0), np.where(inside, raw.eps, 0), atol=1e-5)
    assert not np.allclose(clipped.eps, raw.eps)


def test_a_denoiser_is_a_pytree_whose_leaves_include_the_parameters(short):
    def network(params, x_t, t):
        return params["scale"] * x_t

    denoiser = denoisers.make_denoiser(network, {"scale": jnp.float32(0.5)}, short, "x_0")
    np.testing.assert_allclose(denoiser(draws(0), jnp.full(5, 2)).x_0, 0.5 * draws(0), rtol=1e-6)
    doubled = jax.tree.map(lambda leaf: 2 * leaf if np.ndim(leaf) == 0 else leaf, denoiser)
    np.testing.assert_allclose(doubled(draws(0), jnp.full(5, 2)).x_0, draws(0), rtol=1e-6)
    assert isinstance(denoiser, denoisers.Denoiser)


@pytest.mark.parametrize("t", range(1, 5))
def test_the_mu_target_is_the_posteriors_mean(short, t):
    """Of q(x_{t-1} | x_t, x_0), by the oracle's linear algebra; at t = 1 it is x_0."""
    x_0, eps, times = draws(0), draws(1), jnp.full(5, t)
    x_t, p = process.diffuse(short, x_0, times, eps), pairs.pair(SHORT, t - 1, t)
    on_x_0, on_x_t = pairs.posterior_coefficients(p)
    expected = on_x_0 * np.asarray(x_0, float) + on_x_t * np.asarray(x_t, float)
    target = denoisers.target(short, x_0, times, eps, "mu")
    np.testing.assert_allclose(target, expected, atol=2e-6)
    if t == 1:
        np.testing.assert_allclose(target, x_0, atol=2e-6)
    np.testing.assert_allclose(
        denoisers.from_mu(short, x_t, times, jnp.asarray(expected, jnp.float32)).x_0, x_0, atol=2e-5
    )


@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_mu_gives_back_x_0_as_well_as_its_coefficient_lets_it(linear, t):
    """mu = p x_0 + q x_t: float32 rounding of mu near 1 is magnified by 1/p, p = 6.4e-5 at T = 1000."""
    x_0, eps, times = draws(0), draws(1), jnp.full(5, t)
    p = pairs.posterior_coefficients(pairs.pair(oracle_schedules.linear(1000), t - 1, t))[0]
    prediction = denoisers.from_mu(
        linear, process.diffuse(linear, x_0, times, eps), times, denoisers.target(linear, x_0, times, eps, "mu")
    )
    np.testing.assert_allclose(prediction.x_0, x_0, atol=1e-6 / p + 1e-6)


def test_mu_takes_one_time_per_example(short):
    x_t, t = draws(2), jnp.asarray([1, 2, 3, 4, 4])
    together = denoisers.from_mu(short, x_t, t, draws(3))
    for i in range(5):
        alone = denoisers.from_mu(short, x_t[i : i + 1], int(t[i]), draws(3)[i : i + 1])
        np.testing.assert_allclose(together.x_0[i], alone.x_0[0], rtol=1e-5, atol=1e-6)


def test_a_clipped_denoiser_is_the_clip_of_what_it_says(short):
    x_t, t = 3 * draws(2), jnp.asarray([1, 2, 3, 4, 4])
    plain = denoisers.make_denoiser(lambda params, x_t, t: params * x_t, jnp.float32(0.9), short, "x_0")
    clipped = denoisers.clipped(plain, short)(x_t, t)
    np.testing.assert_allclose(clipped.x_0, np.clip(0.9 * x_t, -1, 1), rtol=1e-6)
    np.testing.assert_allclose(process.diffuse(short, clipped.x_0, t, clipped.eps), x_t, atol=1e-5)
    scaled = jax.tree.map(lambda leaf: leaf / 3 if np.ndim(leaf) == 0 else leaf, denoisers.clipped(plain, short))
    np.testing.assert_allclose(scaled(x_t, t).x_0, np.clip(0.3 * x_t, -1, 1), rtol=1e-6)


def test_a_clip_keeps_the_heads(short):
    headed = denoisers.make_denoiser(lambda params, x_t, t: jnp.tile(5 * x_t, 2), None, short, "x_0", ("learned",))
    x_t, t = draws(2), jnp.asarray([1, 2, 3, 4, 4])
    said = denoisers.clipped(headed, short)(x_t, t)
    assert said.heads is not None
    np.testing.assert_allclose(said.heads["learned"], 5 * x_t, rtol=1e-6)


def test_three_colours_keep_their_own_heads(short):
    def network(params, x_t, t):
        return jnp.concatenate([x_t, 10 * x_t, 20 * x_t], axis=-1)

    x_t = draws(0, (2, 2, 2, 3))
    denoiser = denoisers.make_denoiser(network, (), short, "eps", ("npr", "learned_range"))
    prediction = denoiser(x_t, jnp.asarray([1, 2]))
    np.testing.assert_array_equal(prediction.eps, x_t)
    assert prediction.heads is not None and list(prediction.heads) == ["npr", "learned_range"]
    np.testing.assert_array_equal(prediction.heads["npr"], 10 * x_t)
    np.testing.assert_array_equal(prediction.heads["learned_range"], 20 * x_t)


def test_a_network_without_further_channels_has_no_heads(short):
    denoiser = denoisers.make_denoiser(lambda params, x_t, t: x_t, (), short, "eps")
    assert denoiser(draws(0), jnp.full(5, 2)).heads is None


@pytest.mark.parametrize(("channels", "heads"), [(2, ()), (1, ("npr",)), (2, ("npr", "sn")), (3, ("npr",))])
def test_a_network_with_other_channels_than_its_heads_need_is_refused_with_both_numbers(short, channels, heads):
    denoiser = denoisers.make_denoiser(lambda params, x_t, t: jnp.tile(x_t, channels), (), short, "eps", heads)
    with pytest.raises(ValueError, match=f"has {channels} output channels.* needs {1 + len(heads)}"):
        denoiser(draws(0), jnp.full(5, 2))


def test_an_unknown_prediction_lists_what_there_is(short):
    with pytest.raises(ValueError, match=r"(?s)score.*eps.*x_0.*v"):
        denoisers.make_denoiser(lambda params, x_t, t: x_t, (), short, "score")


def test_an_unknown_target_lists_what_there_is(short):
    with pytest.raises(ValueError, match=r"(?s)score.*eps.*x_0.*v"):
        denoisers.target(short, draws(0), jnp.full(5, 2), draws(1), "score")


def test_predicting_eps_is_refused_where_no_data_are_left():
    with pytest.raises(ValueError, match="eps"):
        denoisers.make_denoiser(lambda params, x_t, t: x_t, (), schedules.jsd(10), "eps")


@pytest.mark.parametrize("of", ["jsd", "linear_zero_terminal", "cosine_zero_terminal"])
@pytest.mark.parametrize("kind", ["x_0", "v", "mu"])
def test_other_kinds_are_finite_where_no_data_are_left(of, kind):
    """At alpha_bar_T = 0 x_T is eps alone; mu's coefficient of x_0 is sqrt(alpha_bar_{T-1})."""
    tables = schedules.SCHEDULES[of](50)
    x_0, eps, t = draws(0), draws(1), jnp.full(5, 50)
    denoiser = denoisers.make_denoiser(
        lambda params, x_t, t: params, denoisers.target(tables, x_0, t, eps, kind), tables, kind
    )
    prediction = denoiser(process.diffuse(tables, x_0, t, eps), t)
    np.testing.assert_allclose(prediction.x_0, x_0, atol=3e-6 / np.sqrt(tables.alpha_bar[49]))
    np.testing.assert_allclose(prediction.eps, eps, atol=3e-6)
