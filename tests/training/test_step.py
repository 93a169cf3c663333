"""The training step: randomness per example, the average of the parameters, the optimizer, non-finite losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.data import transforms
from ddpm_jax.diffusion import denoiser, losses, process, schedules, timesteps
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.losses import NoisyBatch
from ddpm_jax.training import step as training_step
from ddpm_jax.training import timestep_sampling
from ddpm_jax.training.step import Recipe, TrainState

SCHEDULE = schedules.linear(100)
IMAGES = np.random.default_rng(0).integers(0, 17, (8, 4, 4, 1)).astype(np.uint8)


def linear_network(params: dict, x_t: jax.Array, t: jax.Array, keys: jax.Array) -> jax.Array:
    return params["scale"] * x_t + params["shift"]


def recipe(**changes: object) -> Recipe:
    plain = Recipe(
        schedule=SCHEDULE,
        chain=process.every_step(SCHEDULE),
        denoiser=training_step.in_training(linear_network, SCHEDULE, "eps"),
        objective=losses.simple("eps"),
        time_sampler=timestep_sampling.build("uniform"),
        optimizer=optax.sgd(0.1),
        ema_decay=(0.9,),
        levels=17,
        flip=False,
    )
    return plain._replace(**changes)


def begin(settings: Recipe) -> TrainState:
    return training_step.initial_state(
        jax.random.key(5), {"scale": jnp.float32(0.3), "shift": jnp.float32(0.1)}, settings
    )


def drawn(images: np.ndarray, step: int = 0, **changes: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the objective is given: data, times, noise."""
    settings = recipe(**changes)
    given, _ = training_step.draw(settings, begin(settings)._replace(step=jnp.int32(step)), jnp.asarray(images))
    return np.asarray(given.x_0), np.asarray(given.step.t), np.asarray(given.eps)


def test_images_become_minus_one_to_one_and_back() -> None:
    x = transforms.to_unit(jnp.arange(17, dtype=jnp.uint8)[:, None], 17)
    np.testing.assert_allclose(x[:, 0], np.linspace(-1, 1, 17), atol=1e-6)
    np.testing.assert_array_equal(transforms.to_levels(x, 17)[:, 0], np.arange(17))


def test_levels_can_be_rounded_down() -> None:
    x = np.array([[-1.0, -0.9999, 0.0, 0.9999, 1.0, 2.0]])
    assert transforms.to_levels(x, 256, "down").tolist() == [[0, 0, 127, 254, 255, 255]]


def test_levels_are_rounded_not_truncated_and_clipped() -> None:
    assert transforms.to_levels(np.array([[0.99, -0.99, 3.0, -3.0]]), 17).tolist() == [[16, 0, 16, 0]]


def test_one_step_of_sgd_is_the_gradient_of_the_mean_loss() -> None:
    settings = recipe()
    state = begin(settings)
    new, metrics = training_step.train_step(settings, state, jnp.asarray(IMAGES))

    root = jax.random.fold_in(state.key, 0)
    losses = []
    gradient = np.zeros(2)
    for i, image in enumerate(IMAGES):
        _, t_key, eps_key, _ = jax.random.split(jax.random.fold_in(root, i), 4)
        t = 1 + int(jax.random.randint(t_key, (), 0, 100))
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
    tables = schedules.from_betas([0.1, 0.2, 0.3, 0.4])
    counts = np.bincount(drawn(images, schedule=tables, chain=process.every_step(tables))[1], minlength=5)
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
    x_0 = np.asarray(transforms.to_unit(jnp.asarray(many), 17))
    same, mirrored = (np.abs(given - other).max(axis=(1, 2, 3)) == 0 for other in (x_0, x_0[:, :, ::-1]))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 5 * np.sqrt(0.25 / 400)
    np.testing.assert_array_equal(drawn(many)[0], x_0)


def test_the_average_of_constants_is_the_constant_at_every_step() -> None:
    settings = recipe(optimizer=optax.sgd(0.0), ema_decay=(0.9999,))
    state = begin(settings)
    for _ in range(3):
        state, _ = training_step.train_step(settings, state, jnp.asarray(IMAGES))
        np.testing.assert_array_equal(state.ema[0]["scale"], np.float32(0.3))


def test_the_average_weighs_the_newest_by_one_minus_decay() -> None:
    settings = recipe(ema_decay=(0.5,))
    state = begin(settings)._replace(step=jnp.int32(1000))
    new, _ = training_step.train_step(settings, state, jnp.asarray(IMAGES))
    np.testing.assert_allclose(new.ema[0]["scale"], 0.5 * 0.3 + 0.5 * new.params["scale"], rtol=1e-6)


def test_every_rate_has_its_average() -> None:
    settings = recipe(ema_decay=(0.5, 0.0))
    state = begin(settings)._replace(step=jnp.int32(1000))
    new, _ = training_step.train_step(settings, state, jnp.asarray(IMAGES))
    np.testing.assert_allclose(new.ema[0]["scale"], 0.5 * 0.3 + 0.5 * new.params["scale"], rtol=1e-6)
    np.testing.assert_array_equal(new.ema[1]["scale"], new.params["scale"])


def test_losses_by_noise_level_are_means_of_a_tenth_of_the_times_and_forget() -> None:
    """Two steps whose losses are t itself; Python's own sums. T = 100, so that the first tenth is t = 1..10."""
    settings = recipe(objective=lambda given, denoiser: given.step.t.astype(jnp.float32))
    state, sums, counts = begin(settings), np.zeros(10), np.zeros(10)
    for step in range(2):
        sums, counts = 0.98 * sums, 0.98 * counts
        for t in drawn(IMAGES, step)[1].tolist():
            sums[(t - 1) // 10] += t
            counts[(t - 1) // 10] += 1
        state, _ = training_step.train_step(settings, state, jnp.asarray(IMAGES))
    np.testing.assert_allclose(state.recent.sums, sums, rtol=1e-6)
    np.testing.assert_allclose(state.recent.means, sums / np.where(counts, counts, np.nan), rtol=1e-6)


def test_microbatches_are_one_batch() -> None:
    """One, two and eight parts: the same loss, gradient and times drawn; written out or as a loop."""
    whole, metrics = training_step.train_step(recipe(), begin(recipe()), jnp.asarray(IMAGES))
    for count, unroll in ((2, True), (8, False)):
        settings = recipe(microbatches=count, unroll=unroll)
        parts, found = training_step.train_step(settings, begin(settings), jnp.asarray(IMAGES))
        np.testing.assert_allclose(found.loss, metrics.loss, rtol=1e-6)
        np.testing.assert_allclose(found.gradient_norm, metrics.gradient_norm, rtol=1e-5)
        np.testing.assert_allclose(parts.params["scale"], whole.params["scale"], rtol=1e-6)


def test_the_parameter_norm_is_that_after_the_update() -> None:
    new, metrics = training_step.train_step(recipe(), begin(recipe()), jnp.asarray(IMAGES))
    np.testing.assert_allclose(metrics.parameter_norm, np.hypot(new.params["scale"], new.params["shift"]), rtol=1e-6)


def test_held_out_losses_do_not_depend_on_the_block_and_are_those_of_the_objective() -> None:
    settings, params = recipe(), begin(recipe()).params
    k = np.arange(8) * 100 // 8
    judge = lambda rows: training_step.held_out_loss(  # noqa: E731
        settings,
        (jax.random.key(3), params, None),
        (jnp.asarray(k)[rows], jnp.arange(8)[rows], jnp.asarray(IMAGES)[rows]),
    )
    whole = judge(np.arange(8))
    np.testing.assert_allclose(np.concatenate([judge(np.arange(3)), judge(np.arange(3, 8))]), whole, rtol=1e-6)
    for i in range(8):
        eps_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(3), i))
        eps = np.asarray(jax.random.normal(eps_key, (4, 4, 1)), np.float64)
        alpha_bar = SCHEDULE.alpha_bar[1 + k[i]]
        x_t = np.sqrt(alpha_bar) * (IMAGES[i] / 8.0 - 1) + np.sqrt(1 - alpha_bar) * eps
        np.testing.assert_allclose(whole[i], ((0.3 * x_t + 0.1 - eps) ** 2).mean(), rtol=1e-5)


def test_the_average_follows_quickly_at_first() -> None:
    settings = recipe(ema_decay=(0.9999,))
    state = begin(settings)
    new, _ = training_step.train_step(settings, state, jnp.asarray(IMAGES))
    np.testing.assert_allclose(new.ema[0]["scale"], 0.1 * 0.3 + 0.9 * new.params["scale"], rtol=1e-6)


def test_a_loss_that_is_not_finite_names_its_time() -> None:
    def broken(given: NoisyBatch, denoiser: Denoiser) -> jax.Array:
        return jnp.where(jnp.arange(len(given.x_0)) == 4, jnp.nan, 0.0)

    settings = recipe(objective=broken)
    _, metrics = training_step.train_step(settings, begin(settings), jnp.asarray(IMAGES))
    assert np.isnan(metrics.loss)
    times = drawn(IMAGES)[1]
    assert int(metrics.bad_t) == times[4]
    assert (times == times[4]).sum() == 1 and times.min() < times[4] < times.max()  # no other could be meant


def test_a_finite_loss_names_no_time() -> None:
    settings = recipe()
    _, metrics = training_step.train_step(settings, begin(settings), jnp.asarray(IMAGES))
    assert int(metrics.bad_t) == 0


def test_the_network_is_given_dropout_keys_one_an_example() -> None:
    seen = {}

    def network(params: dict, x_t: jax.Array, t: jax.Array, keys: jax.Array) -> jax.Array:
        seen["keys"] = keys.shape
        return params["scale"] * x_t

    settings = recipe(denoiser=training_step.in_training(network, SCHEDULE, "eps"))
    training_step.train_step(settings, begin(settings), jnp.asarray(IMAGES))
    assert seen["keys"] == (8,)


# ---------------------------------------------------------------- chains, heads and what is frozen


@pytest.mark.slow
def test_only_the_times_of_the_chain_are_drawn_and_each_with_its_own_step() -> None:
    chain = process.steps(SCHEDULE, timesteps.even(100, 4))
    seen: list[NoisyBatch] = []

    def record(given: NoisyBatch, denoiser: Denoiser) -> jax.Array:
        seen.append(given)
        return jnp.zeros(len(given.x_0))

    settings = recipe(objective=record, chain=chain)
    with jax.disable_jit():  # what is recorded is numbers
        training_step.train_step(settings, begin(settings), jnp.zeros((400, 1, 1, 1), jnp.uint8))
    k, step = np.asarray(seen[0].k), seen[0].step
    assert set(k) == {0, 1, 2, 3}
    np.testing.assert_array_equal(step.t, chain.t[k])
    np.testing.assert_array_equal(step.s, chain.s[k])
    for name in ("mean_x_0", "mean_x_t", "tb", "log_b", "gain", "signal"):
        column = getattr(step, name)
        assert column.shape == (400, 1, 1, 1)
        np.testing.assert_allclose(column.ravel(), getattr(chain, name)[k], rtol=1e-6)
    np.testing.assert_allclose(seen[0].x_t, step.signal * -1.0 + step.noise * seen[0].eps, atol=1e-6)
    assert seen[0].levels == 17 and seen[0].keys is not None and seen[0].keys.shape == (400,)


def test_a_networks_heads_reach_the_objective_by_name() -> None:
    def network(params: dict, x_t: jax.Array, t: jax.Array, keys: jax.Array) -> jax.Array:
        return jnp.concatenate([params["scale"] * x_t, params["shift"] + 0 * x_t], axis=-1)

    seen: list[denoiser.Prediction] = []

    def record(given: NoisyBatch, denoiser: Denoiser) -> jax.Array:
        seen.append(denoiser(given.x_t, given.step.t))
        return jnp.zeros(len(given.x_0))

    settings = recipe(objective=record, denoiser=training_step.in_training(network, SCHEDULE, "eps", ("learned",)))
    training_step.train_step(settings, begin(settings), jnp.asarray(IMAGES))
    assert seen[0].heads is not None
    assert list(seen[0].heads) == ["learned"]


def test_what_is_frozen_reaches_the_denoiser_and_stays() -> None:
    """The gradient is of the parameters alone."""

    def made(params: dict, keys: object, frozen: jax.Array) -> Denoiser:
        return lambda x_t, t: denoiser.Prediction(params["scale"] * frozen * x_t, x_t)

    settings = recipe(denoiser=made)
    step = jax.jit(
        lambda frozen: training_step.train_step(settings, begin(settings), jnp.asarray(IMAGES), frozen=frozen)
    )
    losses = [float(step(jnp.float32(value))[1].loss) for value in (0.0, 1.0)]
    eps = drawn(IMAGES)[2]
    np.testing.assert_allclose(losses[0], (eps**2).mean(), rtol=1e-5)
    assert losses[1] != losses[0]
    assert float(step(jnp.float32(0.0))[0].params["scale"]) == np.float32(0.3)


# ---------------------------------------------------------------- time samplers in the step


def test_weights_multiply_the_losses_of_the_gradient_and_of_the_metric() -> None:
    plain = timestep_sampling.build("uniform")
    heavy = plain._replace(
        draw=lambda *given: (plain.draw(*given)[0], jnp.arange(8.0)),
    )
    seen: list = []

    def update(history: timestep_sampling.History, k: jax.Array, losses: jax.Array) -> timestep_sampling.History:
        seen.append((np.asarray(k), np.asarray(losses)))
        return history

    settings = recipe(time_sampler=heavy._replace(update=update))
    new, metrics = training_step.train_step(settings, begin(settings), jnp.asarray(IMAGES))
    x_0, t, eps = drawn(IMAGES)
    ab = SCHEDULE.alpha_bar[t].reshape(-1, 1, 1, 1)
    x_t = np.sqrt(ab) * x_0 + np.sqrt(1 - ab) * eps
    residual = 0.3 * x_t + 0.1 - eps
    losses = (residual**2).mean((1, 2, 3))
    np.testing.assert_allclose(metrics.loss, (np.arange(8) * losses).mean(), rtol=1e-5)
    gradient = (np.arange(8) * (2 * residual).mean((1, 2, 3))).mean()
    np.testing.assert_allclose(new.params["shift"], 0.1 - 0.1 * gradient, rtol=1e-5)
    # what the history remembers are the losses themselves, without weights
    np.testing.assert_array_equal(seen[0][0] + 1, t)
    np.testing.assert_allclose(seen[0][1], losses, rtol=1e-5)


def test_a_loss_that_weighs_nothing_still_names_its_time() -> None:
    """0 x nan would be nan anyway; the time is of the loss itself."""
    plain = timestep_sampling.build("uniform")
    light = plain._replace(draw=lambda *given: (plain.draw(*given)[0], jnp.zeros(8)))

    def broken(given: NoisyBatch, denoiser: Denoiser) -> jax.Array:
        return jnp.where(jnp.arange(len(given.x_0)) == 4, jnp.inf, 0.0)

    settings = recipe(objective=broken, time_sampler=light)
    _, metrics = training_step.train_step(settings, begin(settings), jnp.asarray(IMAGES))
    assert int(metrics.bad_t) == drawn(IMAGES)[1][4]


def test_the_history_remembers_every_loss_of_the_batch() -> None:
    chain = process.steps(SCHEDULE, [10, 50, 100])
    settings = recipe(chain=chain, time_sampler=timestep_sampling.build("loss_second_moment"))
    state = begin(settings)
    assert state.history.losses.shape == (3, timestep_sampling.KEPT)
    step = jax.jit(lambda state: training_step.train_step(settings, state, jnp.asarray(IMAGES)))
    for _ in range(3):
        state, metrics = step(state)
    assert int(state.history.counts.sum()) == 24
    kept = np.asarray(state.history.losses)
    assert (kept[kept > 0].size) == np.minimum(state.history.counts, 10).sum()
    assert np.isfinite(metrics.loss)


def test_antithetic_times_spread_the_batch_evenly() -> None:
    images = np.zeros((40, 1, 1, 1), np.uint8)
    tables = schedules.from_betas([0.1, 0.2, 0.3, 0.4])
    changes = {"schedule": tables, "chain": process.every_step(tables)}
    for step in range(3):
        times = drawn(images, step, time_sampler=timestep_sampling.build("antithetic"), **changes)[1]
        assert np.bincount(times, minlength=5).tolist() == [0, 10, 10, 10, 10]
