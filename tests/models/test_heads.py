"""Heads on a frozen denoiser: each loss has the right optimum, and a small network finds it."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddpm_jax.diffusion import denoiser as denoisers
from ddpm_jax.diffusion import losses, process, schedules, timesteps, toy, variances
from ddpm_jax.models import unet
from ddpm_jax.models.heads import NATURAL, START, Units, units, with_heads
from ddpm_jax.training import heads as head_training
from ddpm_jax.training import timestep_sampling
from ddpm_jax.training.step import Recipe, initial_state, train_step
from tests.oracle import pairs
from tests.oracle import schedules as oracle_schedules
from tests.oracle import variances as oracle_variances

LINEAR = schedules.linear()
BETAS = oracle_schedules.linear(1000)
CHAIN = process.steps(LINEAR, timesteps.even(1000, 10))
NAMES = tuple(NATURAL)
SHAPE = (4, 4, 1)
UNITS = units(LINEAR, CHAIN)
FREE = variances.Calibration(LINEAR, clamp_cov=False)


def a_number_a_time(params, x_t, t):
    """The least network: one number for every time and head."""
    return jnp.broadcast_to(params[t][:, None, None, :], (*x_t.shape[:-1], len(NAMES)))


def recipe(network, steps, rate):
    return Recipe(
        schedule=LINEAR,
        chain=CHAIN,
        denoiser=lambda params, keys, still: with_heads(still, network, params, NAMES, UNITS),
        objective=head_training.head_loss(NAMES, CHAIN),
        time_sampler=timestep_sampling.build("antithetic"),
        optimizer=optax.adam(optax.cosine_decay_schedule(rate, steps)),
        ema_decay=(0.99,),
        levels=None,
        flip=False,
    )


def trained(settings, params, world, steps, batch):
    """The averaged heads' parameters after a training on fresh data of the world."""
    still = denoisers.as_argument(world.denoiser)

    @jax.jit
    def run(state):
        def step(state, i):
            x_0 = world.sample(jax.random.fold_in(jax.random.key(7), i), batch)
            return train_step(settings, state, x_0, frozen=still)

        return jax.lax.scan(step, state, jnp.arange(steps))

    return run(initial_state(jax.random.key(0), params, settings))[0].ema[0]


@cache
def gaussian_world(c):
    return toy.gaussian(LINEAR, np.zeros(SHAPE), np.full(SHAPE, c))


@cache
def headed_in_a_gaussian_world(c):
    world, settings = gaussian_world(c), recipe(a_number_a_time, 500, 0.05)
    params = trained(settings, jnp.zeros((1001, len(NAMES))), world, 500, 1024)
    return with_heads(world.denoiser, a_number_a_time, params, NAMES, UNITS)


def one_step(k):
    return process.Steps(*(jnp.asarray(column[k], jnp.float32) for column in CHAIN))


def excesses(c, name):
    """(sigma^2 - tb)/(Q - tb) of a choice at every step with s >= 1 and b/tb > 1.05, averaged over states."""
    world = gaussian_world(c)
    x_0 = world.sample(jax.random.key(99), 4096)
    choice, found = variances.build(name, FREE), []
    for k, p in enumerate(pairs.chain(BETAS, [int(t) for t in CHAIN.t])):
        if p.s >= 1 and p.b / p.tb > 1.05:
            x_t = process.diffuse(LINEAR, x_0, p.t, jax.random.normal(jax.random.key(p.t), x_0.shape))
            if choice.headless:
                sigma2 = np.exp(variances.table(choice, CHAIN)[k])
            else:
                said = headed_in_a_gaussian_world(c)(x_t, jnp.full(len(x_t), p.t))
                sigma2 = np.exp(np.asarray(choice.log_var(one_step(k), x_t, said), np.float64)).mean()
            found.append((sigma2 - p.tb) / (oracle_variances.true_variance(p, c) - p.tb))
    assert len(found) >= 4
    return np.asarray(found)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("c", [*(pytest.param(c, marks=pytest.mark.slow) for c in (0.25, 0.5)), 4.0])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "npr")) for n in NAMES])
def test_every_head_recovers_the_true_variance_of_gaussian_data(name, c):
    """Each loss is least where the head is E[target | x_t]: sigma^2 = Q(c) at every step of the chain."""
    assert np.abs(excesses(c, name) - 1).max() <= (0.10 if name == "sn" else 0.05)


@pytest.mark.parametrize("c", [0.25, pytest.param(0.5, marks=pytest.mark.slow), 4.0])
@pytest.mark.parametrize("name", ["small", "large"])
def test_the_articles_two_answers_fail_that_test(name, c):
    assert np.abs(excesses(c, name) - 1).max() > 0.10


def test_the_clamped_head_stays_at_b_where_the_truth_lies_beyond():
    at_b = excesses(4.0, "large")
    np.testing.assert_allclose(excesses(4.0, "learned_range:clamped"), at_b, rtol=1e-4)
    assert (at_b < 0.95).any()


def test_heads_start_as_large_and_clip_their_own_mean_only(linear):
    world = toy.gaussian(linear, np.zeros(SHAPE), np.full(SHAPE, 0.3))
    x_t, t = 3 * jax.random.normal(jax.random.key(0), (5, *SHAPE)), jnp.asarray([1, 112, 445, 889, 1000])
    zeros = jnp.zeros((1001, len(NAMES)))
    said = with_heads(world.denoiser, a_number_a_time, zeros, NAMES, UNITS, clip=True)(x_t, t)
    plain = world.denoiser(x_t, t)
    np.testing.assert_array_equal(said.eps, plain.eps)
    np.testing.assert_allclose(said.heads["npr"][:, 0, 0, 0], linear.alpha_bar[t], rtol=1e-5)
    np.testing.assert_allclose(said.heads["ocm"][:, 0, 0, 0], linear.alpha_bar[t] - 1, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(said.heads["learned_range"], 1, atol=1e-5)
    np.testing.assert_allclose(said.heads["learned"][:, 0, 0, 0], CHAIN.log_b[[0, 1, 4, 8, 9]], rtol=1e-5, atol=1e-6)
    clipped = denoisers.clipped(world.denoiser, linear)(x_t, t)
    np.testing.assert_allclose(
        said.heads["sn"] - clipped.eps**2,
        np.broadcast_to(linear.alpha_bar[t][:, None, None, None], x_t.shape),
        atol=4e-7 * float((clipped.eps**2).max()),
    )


@pytest.mark.parametrize("t", [1, 100, 500, 1000])
@pytest.mark.parametrize("name", ["npr", "sn", "ocm"])
def test_no_time_and_no_head_drowns_the_others(name, t):
    """The loss of the best head is the variance of its target in its unit, at most 2 at every time: they are fitted
    together, and where alpha_bar_t is 4e-5 the loss of sn in such units would be 1e9.
    """
    c, every = 0.25, process.every_step(LINEAR)
    world = toy.gaussian(LINEAR, np.zeros(SHAPE), np.full(SHAPE, c))
    x_0, eps = (jax.random.normal(jax.random.key(i), (2000, *SHAPE)) for i in range(2))
    keys = jax.random.split(jax.random.key(2), 2000)
    drawn = losses.noised(LINEAR, every, jnp.full(2000, t - 1), 0.5 * x_0, eps, None, keys)
    said = toy.exact_heads(world, every)(drawn.x_t, drawn.step.t)
    loss = head_training.LOSSES[name](drawn, world.denoiser, said, every)
    h = oracle_variances.noise_variance(pairs.pair(BETAS, t - 1, t), c)
    unit = max(LINEAR.alpha_bar[t], head_training.LEAST_UNIT)
    expected = {"npr": 2 * h**2 / unit**2, "sn": 2 * h**2 + 4 * h * (1 - h), "ocm": 0.0}[name]
    assert loss.mean() == pytest.approx(expected, rel=0.1, abs=1e-9 if name == "ocm" else 0)


@pytest.mark.parametrize("name", ["learned", "learned_range"])
def test_short_steps_learn_as_fast_as_long_ones(name):
    """The slope of the loss in what the network says, root mean square over draws, where b/tb - 1 is 1.2 and .02."""
    c, n, every = 0.25, 2000, process.every_step(LINEAR)
    world, unit = toy.gaussian(LINEAR, np.zeros(SHAPE), np.full(SHAPE, c)), units(LINEAR, every)
    x_0, eps = (jax.random.normal(jax.random.key(i), (n, *SHAPE)) for i in range(2))
    slopes = []
    for t in (2, 100):
        drawn = losses.noised(LINEAR, every, jnp.full(n, t - 1), 0.5 * x_0, eps)
        said = world.denoiser(drawn.x_t, drawn.step.t)

        def loss(raw, t=t, drawn=drawn, said=said):
            at = Units(*(column[t] for column in unit))
            head = NATURAL[name](at, jax.nn.softplus(raw + START), said.eps)
            heads = {name: jnp.broadcast_to(head, drawn.x_t.shape)}
            return head_training.LOSSES[name](drawn, world.denoiser, said._replace(heads=heads), every)

        slopes.append(float(jnp.sqrt(jnp.mean(jax.jacfwd(loss)(jnp.float32(0)) ** 2))))
    assert 1 / 5 < slopes[0] / slopes[1] < 5


@pytest.mark.parametrize("name", ["npr", "sn", "ocm"])
def test_where_no_data_are_left_heads_are_fitted_to_the_error_of_x_0(name):
    """At alpha_bar_T = 0, h is Var x_0 = c; the loss is least there."""
    tables, c, n = schedules.SCHEDULES["linear_zero_terminal"](20), 0.25, 20_000
    chain = process.every_step(tables)
    world = toy.gaussian(tables, np.zeros((2, 2, 1)), np.full((2, 2, 1), c))
    x_0, eps = (jax.random.normal(jax.random.key(i), (n, 2, 2, 1)) for i in range(2))
    keys = jax.random.split(jax.random.key(2), n)
    drawn = losses.noised(tables, chain, jnp.full(n, 19), np.sqrt(c) * x_0, eps, None, keys)
    said = world.denoiser(drawn.x_t, drawn.step.t)

    def loss(h):
        head = {"npr": h, "sn": h + said.eps**2, "ocm": h - 1}[name]
        heads = {name: jnp.broadcast_to(head, x_0.shape)}
        return head_training.LOSSES[name](drawn, world.denoiser, said._replace(heads=heads), chain).mean()

    assert loss(c) < min(loss(0.8 * c), loss(1.25 * c))
    slope = 2 / (1 if name == "sn" else head_training.LEAST_UNIT) ** 2  # of slope/2 (h - square)^2
    assert jax.grad(loss)(c) == pytest.approx(0, abs=slope * 5 * c * np.sqrt(2 / (4 * n)))


def test_off_its_chain_a_range_is_that_of_adjacent_times(linear):
    every = units(linear, process.every_step(linear))
    on = np.isin(np.arange(1001), CHAIN.t)
    for name in ("ratio", "log_tb"):
        found = getattr(UNITS, name)
        np.testing.assert_array_equal(found[~on], getattr(every, name)[~on])
    p = pairs.pair(BETAS, 459, 460)
    assert UNITS.ratio[460] == pytest.approx(p.b / p.tb - 1, rel=1e-6)
    p = pairs.pair(BETAS, 334, 445)
    assert UNITS.ratio[445] == pytest.approx(p.b / p.tb - 1, rel=1e-9)


def test_the_heads_of_a_denoiser_stay_beside_new_ones(short):
    old = lambda x_t, t: denoisers.Prediction(x_t, x_t, {"mine": x_t})  # noqa: E731
    chain = process.every_step(short)
    network = lambda params, x_t, t: jnp.zeros_like(x_t)  # noqa: E731
    said = with_heads(old, network, None, ("npr",), units(short, chain))(jnp.ones((1, 2, 2, 1)), jnp.asarray([2]))
    assert set(said.heads) == {"mine", "npr"}


def test_a_jacobian_vector_product_is_the_diagonal_on_average(short):
    """A linear denoiser eps_hat = A x: the target's mean over probes is -sqrt(1 - alpha_bar) diag A."""
    matrix = np.random.default_rng(0).normal(size=(4, 4)) * 0.2
    n, chain = 20_000, process.every_step(short)

    def denoiser(x_t, t):
        flat = (x_t.reshape(len(x_t), 4) @ jnp.asarray(matrix.T, jnp.float32)).reshape(x_t.shape)
        return denoisers.Prediction(flat, flat, {"ocm": jnp.zeros_like(x_t)})

    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(1)))(jnp.arange(n))
    x_0 = jnp.zeros((n, 2, 2, 1))
    drawn = losses.noised(short, chain, jnp.full(n, 2), x_0, x_0, None, keys)
    diagonal = jnp.asarray(-np.sqrt(short.one_minus_alpha_bar[3]) * np.diag(matrix), jnp.float32)

    def loss(head):
        heads = {"ocm": jnp.broadcast_to(head.reshape(2, 2, 1), x_0.shape)}
        said = denoiser(drawn.x_t, drawn.step.t)._replace(heads=heads)
        return head_training.fit_ocm(drawn, denoiser, said, chain).mean()

    np.testing.assert_allclose(jax.grad(loss)(diagonal), 0, atol=0.01 * float(jax.grad(loss)(diagonal + 0.5).max()))


def test_what_cannot_be_fitted_is_refused(short):
    with pytest.raises(ValueError, match="unknown head 'nrp'"):
        head_training.head_loss(("nrp",), process.every_step(short))
    with pytest.raises(ValueError, match="give at least one"):
        head_training.head_loss((), process.every_step(short))
    with pytest.raises(ValueError, match="each once"):
        head_training.head_loss(("npr", "npr"), process.every_step(short))


# ---------------------------------------------------------------- a mixture of images, where the truth depends on x_t

MIXTURE_TIMES = [80, 86, 92, 98, 104, 110, 116, 122, 130, 138]  # h lies above .3, where sn is judged, and differs
MIXTURE_STEPS = 3000


def mixture_of_images():
    """A wide and a narrow mode with nearly the same mean: what is uncertain depends on how near x_t lies to it."""
    means = 0.2 * np.random.default_rng(3).uniform(-1, 1, (2, *SHAPE))
    spreads = np.array([1.5, 0.1])[:, None, None, None] * np.ones(SHAPE)
    return toy.mixture(LINEAR, np.array([0.6, 0.4]), means, spreads)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_heads_follow_the_exact_covariance_of_a_mixture_of_images():
    """A small U-Net of (x_t, t) on the exact denoiser: npr, sn and ocm against Cov[eps | x_t] at ten times."""
    world, chain, names = mixture_of_images(), process.steps(LINEAR, MIXTURE_TIMES), ("npr", "sn", "ocm")
    config = replace(unet.HEAD_SIZES["narrow"], image_channels=1, heads=2)
    network, unit, still = unet.network(config), units(LINEAR, chain), denoisers.as_argument(world.denoiser)
    rate = optax.cosine_decay_schedule(3e-3, MIXTURE_STEPS)
    settings = recipe(network, MIXTURE_STEPS, 0.0)._replace(
        chain=chain,
        denoiser=lambda params, keys, still: with_heads(still, network, params, names, unit),
        objective=head_training.head_loss(names, chain),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        ema_decay=(0.995,),
    )
    state = initial_state(jax.random.key(0), unet.init(jax.random.key(1), config, 4), settings)
    step = jax.jit(lambda state, key: train_step(settings, state, world.sample(key, 512), frozen=still))
    for i in range(MIXTURE_STEPS):
        state, _ = step(state, jax.random.fold_in(jax.random.key(7), i))

    headed = with_heads(still, network, state.ema[0], names, unit)
    x_0 = world.sample(jax.random.key(99), 4000)
    for t in MIXTURE_TIMES:
        x_t = process.diffuse(LINEAR, x_0, t, jax.random.normal(jax.random.key(t), x_0.shape))
        said = headed(x_t, jnp.full(len(x_t), t))
        h = np.asarray(world.cov(x_t, jnp.full(len(x_t), t))) * LINEAR.alpha_bar[t] / LINEAR.one_minus_alpha_bar[t]
        assert h.std() / h.mean() > 0.2 and h.min() >= 0.3
        found_h = {"npr": said.heads["npr"], "ocm": 1 + said.heads["ocm"], "sn": said.heads["sn"] - said.eps**2}
        for name, found in found_h.items():
            assert np.corrcoef(np.ravel(found), h.ravel())[0, 1] > 0.99, (name, t)
            assert np.abs(found - h).mean() < 0.03 * h.mean(), (name, t)
