"""Predictions: eps, x_0 and v freely converted, the clip, and networks as denoisers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import predict, process, schedule
from tests.oracle import schedules

SHORT = [0.1, 0.3, 0.5, 0.7]
SHAPE = (5, 2, 2, 1)


def draws(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("t", range(1, 5))
@pytest.mark.parametrize("kind", sorted(predict.PREDICTIONS))
def test_the_right_output_of_any_kind_gives_back_eps_and_x_0(short, kind, t):
    x_0, eps, times = draws(0), draws(1), jnp.full(5, t)
    x_t = process.diffuse(short, x_0, times, eps)
    output = predict.target(short, x_0, times, eps, kind)
    prediction = predict.PREDICTIONS[kind](short, x_t, times, output)
    # Dividing by sqrt(ab_4) = .31 multiplies float32 rounding by about 3.
    np.testing.assert_allclose(prediction.eps, eps, atol=3e-6)
    np.testing.assert_allclose(prediction.x_0, x_0, atol=1e-5)


def test_the_v_target_is_salimans_and_ho(short):
    x_0, eps = draws(0), draws(1)
    ab = schedules.alpha_bar(SHORT)[3]
    expected = np.sqrt(ab) * eps - np.sqrt(1 - ab) * x_0
    np.testing.assert_allclose(predict.target(short, x_0, jnp.full(5, 3), eps, "v"), expected, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(predict.PREDICTIONS))
def test_any_output_agrees_with_x_t(short, kind):
    x_t, t = draws(2), jnp.asarray([1, 2, 3, 4, 4])
    prediction = predict.PREDICTIONS[kind](short, x_t, t, draws(3))
    np.testing.assert_allclose(process.diffuse(short, prediction.x_0, t, prediction.eps), x_t, atol=1e-5)


def test_clipped_x_0_lies_in_the_data_range_and_eps_agrees_with_it(short):
    x_t, t = 3 * draws(2), jnp.asarray([1, 2, 3, 4, 4])
    raw = predict.PREDICTIONS["eps"](short, x_t, t, draws(3))
    rows = schedules.alpha_bar(SHORT)[np.asarray(t)].astype(np.float32).reshape(-1, 1, 1, 1)
    clipped = predict.clip_x_0(x_t, raw, jnp.sqrt(rows), jnp.sqrt(1 - rows))
    assert float(jnp.abs(raw.x_0).max()) > 1
    np.testing.assert_array_equal(clipped.x_0, np.clip(raw.x_0, -1, 1))
    np.testing.assert_allclose(process.diffuse(short, clipped.x_0, t, clipped.eps), x_t, atol=1e-5)
    inside = np.abs(raw.x_0) <= 1
    np.testing.assert_allclose(np.where(inside, clipped.eps, 0), np.where(inside, raw.eps, 0), atol=1e-5)
    assert not np.allclose(clipped.eps, raw.eps)


def test_a_denoiser_is_a_pytree_whose_leaves_include_the_parameters(short):
    def network(params, x_t, t):
        return params["scale"] * x_t

    denoiser = predict.make_denoiser(network, {"scale": jnp.float32(0.5)}, short, "x_0")
    np.testing.assert_allclose(denoiser(draws(0), jnp.full(5, 2)).x_0, 0.5 * draws(0), rtol=1e-6)
    doubled = jax.tree.map(lambda leaf: 2 * leaf if np.ndim(leaf) == 0 else leaf, denoiser)
    np.testing.assert_allclose(doubled(draws(0), jnp.full(5, 2)).x_0, draws(0), rtol=1e-6)
    assert isinstance(denoiser, predict.Denoiser)


def test_three_colours_keep_their_own_heads(short):
    def network(params, x_t, t):
        return jnp.concatenate([x_t, 10 * x_t], axis=-1)

    x_t = draws(0, (2, 2, 2, 3))
    prediction = predict.make_denoiser(network, (), short, "eps")(x_t, jnp.asarray([1, 2]))
    np.testing.assert_array_equal(prediction.eps, x_t)
    np.testing.assert_array_equal(prediction.heads, 10 * x_t)


def test_an_unknown_prediction_lists_what_there_is(short):
    with pytest.raises(ValueError, match=r"(?s)score.*eps.*x_0.*v"):
        predict.make_denoiser(lambda params, x_t, t: x_t, (), short, "score")


def test_an_unknown_target_lists_what_there_is(short):
    with pytest.raises(ValueError, match=r"(?s)score.*eps.*x_0.*v"):
        predict.target(short, draws(0), jnp.full(5, 2), draws(1), "score")


def test_predicting_eps_is_refused_where_no_data_are_left():
    with pytest.raises(ValueError, match="eps"):
        predict.make_denoiser(lambda params, x_t, t: x_t, (), schedule.jsd(10), "eps")
