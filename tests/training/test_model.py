"""A user's own denoiser: any callable (x_t, t), known by what it does, refused in one line where it does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from ddpm_jax.data import datasets
from ddpm_jax.diffusion import denoiser, schedules
from ddpm_jax.training import model

DIGITS = datasets.digits()
LINEAR = schedules.linear(100)
X_T = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
T = jnp.array([1, 40, 100])


def halve(x_t, t):
    return x_t / 2


def halve_but_at_T(x_t, t):
    return jnp.where(t[:, None, None, None] > 99, x_t, x_t / 2)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x_t, t):
        return linen.Dense(1)(x_t) + t[:, None, None, None] / 100


class NNX(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(1, 1, rngs=nnx.Rngs(0))

    def __call__(self, x_t, t):
        return self.dense(x_t) + t[:, None, None, None] / 100


def test_heads_fitted_to_another_mean_are_refused():
    own = model.of_function(halve, LINEAR, "eps", DIGITS)
    for fitted, used in ((None, True), (None, False), (True, True), (False, False)):
        model.check_clip(own._replace(clip_x_0=fitted), used)
    with pytest.raises(ValueError, match="clip_x_0 = False: the heads of own were fitted with fit_clip_x_0 = True"):
        model.check_clip(own._replace(clip_x_0=True), False)


def linen_network():
    module = Linen()
    params = module.init(jax.random.key(0), X_T, T)
    return lambda x_t, t: module.apply(params, x_t, t)


def a_pytree_of_arrays_and_functions():
    """As an Equinox module is: callable, a tree, and not hashable."""

    @jax.tree_util.register_pytree_node_class
    class Module:
        __hash__ = None  # type: ignore[assignment]

        def __init__(self, scale):
            self.scale = scale

        def __call__(self, x_t, t):
            return self.scale * x_t

        def tree_flatten(self):
            return (self.scale,), None

        @classmethod
        def tree_unflatten(cls, _, leaves):
            return cls(*leaves)

    return Module(jnp.float32(0.3))


@pytest.mark.parametrize("prediction", denoiser.PREDICTIONS)
@pytest.mark.parametrize(
    "make", [lambda: halve, linen_network, NNX, a_pytree_of_arrays_and_functions], ids=["plain", "linen", "nnx", "tree"]
)
def test_any_callable_becomes_a_denoiser(make, prediction: str) -> None:
    function = make()
    found = model.of_function(function, LINEAR, prediction, DIGITS, "mine")
    got = jax.jit(lambda x_t: found.denoiser(x_t, T))(X_T)
    wanted = denoiser.PREDICTIONS[prediction](LINEAR, X_T, T, function(X_T, T))
    np.testing.assert_allclose(got.eps, wanted.eps, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.x_0, wanted.x_0, rtol=1e-5, atol=1e-5)
    assert (found.source, found.name) == ("denoiser", "mine")
    assert (found.heads, found.learned_times) == ((), None)


def test_the_fingerprint_follows_what_it_does() -> None:
    prints = [
        model.of_function(halve, LINEAR, "eps", DIGITS).fingerprint,
        model.of_function(lambda x_t, t: x_t * 0.5, LINEAR, "eps", DIGITS).fingerprint,
        model.of_function(lambda x_t, t: x_t * 0.5000001, LINEAR, "eps", DIGITS).fingerprint,
        model.of_function(
            lambda x_t, t: jnp.where(t[:, None, None, None] > 99, x_t, x_t / 2), LINEAR, "eps", DIGITS
        ).fingerprint,
        model.of_function(halve, LINEAR, "v", DIGITS).fingerprint,
        model.of_function(halve, schedules.cosine(100), "eps", DIGITS).fingerprint,
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 5


def breaks(x_t, t):
    raise ValueError("weights of another network\nand a second line")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (3.0, "denoiser mine is a float: give a callable"),
        (lambda x_t, t: x_t[:, :4], r"returns float32 \(.*, 4, 8, 1\) for x_t \(.*, 8, 8, 1\): it must return float32"),
        (lambda x_t, t: x_t[0], r"returns float32 \(8, 8, 1\) for"),
        (lambda x_t, t: x_t.astype(jnp.bfloat16), "returns bfloat16"),
        (lambda x_t, t: jnp.ones(x_t.shape, int), "returns int32"),
        (lambda x_t, t: (x_t, x_t), "returns tuple for"),
        (lambda x_t, t: x_t / (t - 1)[:, None, None, None], "not finite at t = 1: mend"),
        (lambda x_t, t: jnp.log(100 - t)[:, None, None, None] * x_t, "not finite at t = 100: mend"),
        (lambda x_t: x_t, r"fails on x_t \(.*\) float32, t \(.*\) int32: .*takes 1 positional argument"),
        (breaks, "fails on x_t .* weights of another network$"),
    ],
    ids=["number", "cropped", "one", "dtype", "integers", "tuple", "infinite at 1", "infinite at T", "no t", "raises"],
)
def test_what_is_not_a_denoiser_is_refused_in_one_line(function, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        model.of_function(function, LINEAR, "eps", DIGITS, "mine")
    assert "\n" not in str(refusal.value)


def test_eps_needs_data_left_at_T() -> None:
    with pytest.raises(ValueError, match="prediction 'eps' needs alpha_bar_T > 0"):
        model.of_function(halve, schedules.jsd(10), "eps", DIGITS)
