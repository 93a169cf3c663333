"""The training step: randomness per example, the average of the parameters, the optimizer, non-finite losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ddpm_jax import objective, schedule, train
from ddpm_jax.train import Recipe, TrainState

SCHEDULE = schedule.linear(100)
IMAGES = np.random.default_rng(0).integers(0, 17, (8, 4, 4, 1)).astype(np.uint8)


def linear_network(params: dict, x_t: jax.Array, t: jax.Array, keys: jax.Array) -> jax.Array:
    return params["scale"] * x_t + params["shift"]


def recipe(**changes: object) -> Recipe:
    plain = Recipe(
        schedule=SCHEDULE,
        network=linear_network,
        prediction="eps",
        objective=objective.simple("eps"),
        optimizer=optax.sgd(0.1),
        ema_decay=0.9,
        levels=17,
        flip=False,
    )
    return plain._replace(**changes)


def state_of(optimizer: optax.GradientTransformation) -> TrainState:
    return train.init(jax.random.key(5), {"scale": jnp.float32(0.3), "shift": jnp.float32(0.1)}, optimizer)


def drawn(images: np.ndarray, step: int = 0, **changes: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the objective is given: data, times, noise."""
    seen: list = []

    def record(schedule, denoiser, x_0, t, eps):  # type: ignore[no-untyped-def]
        seen.append((np.asarray(x_0), np.asarray(t), np.asarray(eps)))
        return jnp.zeros(len(x_0))

    settings = recipe(objective=record, **changes)
    state = state_of(settings.optimizer)._replace(step=jnp.int32(step))
    train.train_step(settings, state, jnp.asarray(images))
    return seen[0]


def test_images_become_minus_one_to_one_and_back() -> None:
    x = train.to_unit(jnp.arange(17, dtype=jnp.uint8)[:, None], 17)
    np.testing.assert_allclose(x[:, 0], np.linspace(-1, 1, 17), atol=1e-6)
    np.testing.assert_array_equal(train.to_levels(x, 17)[:, 0], np.arange(17))


def test_levels_are_rounded_not_truncated_and_clipped() -> None:
    assert train.to_levels(np.array([[0.99, -0.99, 3.0, -3.0]]), 17).tolist() == [[16, 0, 16, 0]]


def test_one_step_of_sgd_is_the_gradient_of_the_mean_loss() -> None:
    settings = recipe()
    state = state_of(settings.optimizer)
    new, metrics = train.train_step(settings, state, jnp.asarray(IMAGES))

    root = jax.random.fold_in(state.key, 0)
    losses = []
    gradient = np.zeros(2)
    for i, image in enumerate(IMAGES):
        _, t_key, eps_key, _ = jax.random.split(jax.random.fold_in(root, i), 4)
        t = int(jax.random.randint(t_key, (), 1, 101))
        eps = np.asarray(jax.random.normal(eps_key, (4, 4, 1)), np.float64)
        x_0 = image / 8.0 - 1
        x_t = np.sqrt(SCHEDULE.alpha_bar[t]) * x_0 + np.sqrt(1 - SCHEDULE.alpha_bar[t]) * eps
        residual = 0.3 * x_t + 0.1 - eps
        losses.append((residual**2).mean())
        gradient += np.array([(2 * residual * x_t).mean(), (2 * residual).mean()]) / len(IMAGES)
    np.testing.assert_allclose(metrics.loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics.gradient_norm, np.linalg.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(new.params["scale"], 0.3 - 0.1 * gradient[0], rtol=1e-5)
    np.testing.assert_allclose(new.params["shift"], 0.1 - 0.1 * gradient[1], rtol=1e-5)
    assert int(new.step) == 1


def test_times_cover_1_to_T_evenly() -> None:
    images = np.zeros((4000, 1, 1, 1), np.uint8)
    counts = np.bincount(drawn(images, schedule=schedule.from_betas([0.1, 0.2, 0.3, 0.4]))[1], minlength=5)
    assert counts[0] == 0
    assert (np.abs(counts[1:] - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)).all()


def test_every_example_and_step_draws_its_own_noise() -> None:
    every = np.concatenate([drawn(IMAGES, step)[2] for step in (0, 1)]).reshape(16, -1)
    distances = np.abs(every[:, None] - every[None]).max(axis=2)
    assert (distances[~np.eye(16, dtype=bool)] > 0.1).all()


def test_noise_is_standard_normal() -> None:
    eps = drawn(np.zeros((1000, 10, 10, 1), np.uint8))[2]
    assert abs(eps.mean()) < 5 / np.sqrt(eps.size)
    assert abs(eps.var() - 1) < 5 * np.sqrt(2 / eps.size)


def test_flip_mirrors_about_half_of_the_images() -> None:
    many = np.tile(IMAGES[:1], (400, 1, 1, 1))
    given = drawn(many, flip=True)[0]
    x_0 = np.asarray(train.to_unit(jnp.asarray(many), 17))
    same, mirrored = (np.abs(given - other).max(axis=(1, 2, 3)) == 0 for other in (x_0, x_0[:, :, ::-1]))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 5 * np.sqrt(0.25 / 400)
    np.testing.assert_array_equal(drawn(many)[0], x_0)


def test_the_average_of_constants_is_the_constant_at_every_step() -> None:
    settings = recipe(optimizer=optax.sgd(0.0), ema_decay=0.9999)
    state = state_of(settings.optimizer)
    for _ in range(3):
        state, _ = train.train_step(settings, state, jnp.asarray(IMAGES))
        np.testing.assert_array_equal(state.ema["scale"], np.float32(0.3))


def test_the_average_weighs_the_newest_by_one_minus_decay() -> None:
    settings = recipe(ema_decay=0.5)
    state = state_of(settings.optimizer)._replace(step=jnp.int32(1000))
    new, _ = train.train_step(settings, state, jnp.asarray(IMAGES))
    np.testing.assert_allclose(new.ema["scale"], 0.5 * 0.3 + 0.5 * new.params["scale"], rtol=1e-6)


def test_the_average_follows_quickly_at_first() -> None:
    settings = recipe(ema_decay=0.9999)
    state = state_of(settings.optimizer)
    new, _ = train.train_step(settings, state, jnp.asarray(IMAGES))
    np.testing.assert_allclose(new.ema["scale"], 0.1 * 0.3 + 0.9 * new.params["scale"], rtol=1e-6)


def test_learning_rate_grows_linearly_to_its_value() -> None:
    optimizer = train.adam(0.1, warmup=4, clip_norm=1e9)
    params = {"w": jnp.float32(0.0)}
    state, moves = optimizer.init(params), []
    for _ in range(6):
        updates, state = optimizer.update({"w": jnp.float32(1.0)}, state, params)
        moves.append(-float(updates["w"]))
    np.testing.assert_allclose(moves, [0, 0.025, 0.05, 0.075, 0.1, 0.1], atol=1e-6)


def test_large_gradients_are_clipped_before_adam() -> None:
    clip = train.adam(1.0, warmup=0, clip_norm=1.0)
    params = {"w": jnp.zeros(2)}
    _, state = clip.update({"w": jnp.array([30.0, 40.0])}, clip.init(params), params)
    first_moment = jax.tree.leaves(state[1][0].mu)[0]
    np.testing.assert_allclose(first_moment, 0.1 * np.array([0.6, 0.8]), rtol=1e-5)


def test_a_loss_that_is_not_finite_names_its_time() -> None:
    def broken(schedule, denoiser, x_0, t, eps):  # type: ignore[no-untyped-def]
        return jnp.where(jnp.arange(len(t)) == 4, jnp.nan, 0.0)

    settings = recipe(objective=broken)
    _, metrics = train.train_step(settings, state_of(settings.optimizer), jnp.asarray(IMAGES))
    assert np.isnan(metrics.loss)
    times = drawn(IMAGES)[1]
    assert int(metrics.bad_t) == times[4]
    assert (times == times[4]).sum() == 1 and times.min() < times[4] < times.max()  # no other could be meant


def test_a_finite_loss_names_no_time() -> None:
    settings = recipe()
    _, metrics = train.train_step(settings, state_of(settings.optimizer), jnp.asarray(IMAGES))
    assert int(metrics.bad_t) == 0


def test_the_network_is_given_dropout_keys_one_an_example() -> None:
    seen = {}

    def network(params: dict, x_t: jax.Array, t: jax.Array, keys: jax.Array) -> jax.Array:
        seen["keys"] = keys.shape
        return params["scale"] * x_t

    settings = recipe(network=network)
    train.train_step(settings, state_of(settings.optimizer), jnp.asarray(IMAGES))
    assert seen["keys"] == (8,)
