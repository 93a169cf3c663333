"""Optimisers by name, against their papers' recursions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.training import optimizers
from ddpm_jax.training.optimizers import OPTIMIZERS, Settings


def moved(settings: Settings, gradients: list[float], start: float = 1.0) -> np.ndarray:
    """The parameter after each gradient."""
    made = optimizers.build(settings)
    params, seen = {"w": jnp.float32(start)}, []
    state = made.init(params)
    for gradient in gradients:
        updates, state = made.update({"w": jnp.float32(gradient)}, state, params)
        params = {"w": params["w"] + updates["w"]}
        seen.append(float(params["w"]))
    return np.array(seen)


def adam(gradients: list[float], rate: float) -> np.ndarray:
    """The moves of Kingma & Ba 2015, algorithm 1."""
    m = v = 0.0
    moves = []
    for i, gradient in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        moves.append(-rate * (m / (1 - 0.9**i)) / (np.sqrt(v / (1 - 0.999**i)) + 1e-8))
    return np.array(moves)


GRADIENTS = [0.5, -0.2, 0.9, 0.1, -0.7, 0.4, 0.3]
FREE = Settings(learning_rate=0.1, clip_norm=1e9, steps=7)


def test_adam_is_that_of_its_paper() -> None:
    np.testing.assert_allclose(moved(FREE, GRADIENTS), 1 + np.cumsum(adam(GRADIENTS, 0.1)), rtol=1e-5)


def test_adamw_shrinks_the_parameter_itself() -> None:
    """Loshchilov & Hutter 2019, algorithm 2: w <- w + move - rate decay w."""
    w, wanted = 1.0, []
    for move in adam(GRADIENTS, 0.1):
        w += move - 0.1 * 0.5 * w
        wanted.append(w)
    np.testing.assert_allclose(moved(FREE._replace(optimizer="adamw", weight_decay=0.5), GRADIENTS), wanted, rtol=1e-5)


def test_lookahead_goes_three_steps_forward_and_one_back() -> None:
    """Zhang et al. 2019, algorithm 1: adam knows nothing of the slow steps, which come every third."""
    fast = slow = 1.0
    wanted = []
    for i, move in enumerate(adam(GRADIENTS, 0.1), 1):
        fast += move
        if i % 3 == 0:
            slow += 0.25 * (fast - slow)
            fast = slow
        wanted.append(fast)
    got = moved(FREE._replace(optimizer="lookahead", slow_period=3, slow_step=0.25), GRADIENTS)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_the_learning_rate_grows_linearly_to_its_value() -> None:
    path = moved(FREE._replace(optimizer="sgd", warmup=4), [1.0] * 7)
    np.testing.assert_allclose(-np.diff(path, prepend=1), [0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.1], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shares"),
    [("cosine", (1 + np.cos(np.pi * np.arange(5) / 5)) / 2), ("linear", 1 - np.arange(5) / 5)],
)
def test_the_learning_rate_falls_to_0_at_the_last_step(name: str, shares: np.ndarray) -> None:
    path = moved(FREE._replace(optimizer="sgd", warmup=2, rate_schedule=name), [1.0] * 8)
    wanted = [0, 0.05, *(0.1 * shares), 0]
    np.testing.assert_allclose(-np.diff(path, prepend=1), wanted, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_large_gradients_are_clipped_before_the_optimiser(name: str) -> None:
    made = optimizers.build(Settings(optimizer=name, learning_rate=1.0, clip_norm=1.0))
    params = {"w": jnp.zeros(2)}
    given, already = (
        jax.tree.leaves(made.update({"w": jnp.array(gradient)}, made.init(params), params))
        for gradient in ([30.0, 40.0], [0.6, 0.8])
    )
    for a, b in zip(given, already, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


SGD = Settings(optimizer="sgd", learning_rate=1.0, clip_norm=2.0)


@pytest.mark.parametrize("scale", [0.0, 0.9, 1.0, 1.5, 1e6])
def test_the_norm_of_all_arrays_together_is_clipped(scale: float) -> None:
    """A gradient of norm 2 scale: as it is, bit for bit, up to 2, and of this norm and its own direction above."""
    unit = {"a": np.float32([[0.5, -0.5]]), "b": np.float32([0.5, 0.5])}
    gradient = jax.tree.map(lambda x: jnp.asarray(2 * scale * x), unit)
    made = optimizers.build(SGD)
    moves, _ = made.update(gradient, made.init(gradient), gradient)
    for name, x in unit.items():
        wanted = -2 * min(scale, 1.0) * x
        np.testing.assert_allclose(moves[name], wanted, rtol=1e-6)
        if scale <= 1:
            np.testing.assert_array_equal(moves[name], -gradient[name])


def test_no_copy_of_the_gradient_is_kept_to_clip_it() -> None:
    """Optax's own clipping keeps one, in a step of Adam that is given its state."""
    params = {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
    gradient = 4 * 512 * 512

    def held(made: optax.GradientTransformation) -> int:
        def step(state: optax.OptState, params: dict, gradient: dict) -> tuple[optax.OptState, optax.Params]:
            updates, state = made.update(gradient, state, params)
            return state, optax.apply_updates(params, updates)

        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(jax.eval_shape(made.init, params), params, params)
        found = lowered.compile().memory_analysis()
        assert found is not None
        return found.temp_size_in_bytes

    clipped, unclipped = optimizers.build(Settings()), optax.adam(Settings().learning_rate)
    theirs = optax.chain(optax.clip_by_global_norm(Settings().clip_norm), unclipped)
    assert held(clipped) - held(unclipped) < gradient / 2 < held(theirs) - held(clipped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, "unknown optimizer 'lion': choose one of adam, adamw, lookahead, sgd"),
        ({"rate_schedule": "step"}, "unknown rate_schedule 'step': choose one of constant"),
        ({"learning_rate": 0.0}, "learning_rate = 0: it must be positive"),
        ({"clip_norm": -1.0}, "clip_norm = -1: it must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate = nan"),
        ({"warmup": -1}, "warmup = -1"),
        ({"optimizer": "lookahead", "slow_period": 0}, "slow_period = 0"),
        ({"optimizer": "lookahead", "slow_step": 1.5}, "slow_step = 1.5"),
        ({"slow_period": 6}, "slow_period has no effect on optimizer 'adam': leave it out"),
        ({"weight_decay": 0.1}, "weight_decay has no effect on optimizer 'adam'"),
        ({"rate_schedule": "cosine", "warmup": 7}, "warmup = 7 leaves nothing of steps = 7"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimizers.build(FREE._replace(**change))
