"""Worlds whose denoiser is known, against conditioning the joint Gaussian, quadrature and dense sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import bases, process, toy, variances
from tests.oracle import finite_sets as oracle_finite_sets
from tests.oracle import mixtures as oracle_mixtures
from tests.oracle import pairs
from tests.oracle import variances as oracle_variances

SHORT = [0.1, 0.3, 0.5, 0.7]
MEAN = np.array([0.3, -0.5, 0.0, 1.0]).reshape(2, 2, 1)
VARIANCE = np.array([0.25, 4.0, 1.0, 0.0]).reshape(2, 2, 1)
MIXTURE = (
    np.array([2.0, 1.0, 1.0]),
    np.array([[0.3, -1.0], [-0.8, 0.4], [1.5, 0.0]]).reshape(3, 2, 1, 1),
    np.array([[0.25, 0.04], [1.0, 0.5], [0.0, 2.0]]).reshape(3, 2, 1, 1),
)
IMAGES = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (7, 2, 2, 1)).astype(np.float32)
EACH = list(zip(MEAN.ravel(), VARIANCE.ravel(), strict=True))


@pytest.fixture(scope="module")
def world(short):
    return toy.gaussian(short, MEAN, VARIANCE)


def x_t_draws():
    return 1.5 * jax.random.normal(jax.random.key(3), (6, 2, 2, 1))


@pytest.mark.parametrize("t", [1, 2, 4])
def test_the_denoiser_is_the_conditional_mean(world, t):
    x_t = x_t_draws()
    prediction = world.denoiser(x_t, jnp.full(6, t))
    p = pairs.pair(SHORT, 0, t)
    expected = [
        [pairs.data_given(p, m, c, y)[0] for (m, c), y in zip(EACH, row.ravel(), strict=True)]
        for row in np.asarray(x_t)
    ]
    np.testing.assert_allclose(prediction.x_0.reshape(6, 4), expected, atol=1e-5)
    np.testing.assert_allclose(np.sqrt(p.ab_t) * prediction.x_0 + np.sqrt(p.noise_t) * prediction.eps, x_t, atol=1e-5)


def test_the_denoiser_takes_one_time_per_example(world):
    x_t, t = x_t_draws(), jnp.asarray([1, 2, 3, 4, 2, 1])
    together = world.denoiser(x_t, t).x_0
    for i in range(6):
        np.testing.assert_allclose(together[i], world.denoiser(x_t[i : i + 1], t[i : i + 1]).x_0[0], rtol=1e-6)


@pytest.mark.parametrize("t", range(1, 5))
def test_cov_is_the_conditional_variance_of_the_data(world, t):
    p = pairs.pair(SHORT, 0, t)
    expected = [pairs.data_given(p, m, c, 0.0)[1] for m, c in EACH]
    cov = world.cov(x_t_draws(), jnp.full(6, t))
    np.testing.assert_allclose(cov.reshape(6, 4), np.broadcast_to(expected, (6, 4)), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("s", "t"), [(s, t) for t in range(1, 5) for s in range(t)])
def test_the_reverse_kernel_is_bayes_rule_with_the_data_integrated_out(world, s, t):
    x_t, p = x_t_draws(), pairs.pair(SHORT, s, t)
    kernel = world.reverse_kernel(x_t, s, t)
    for i in range(6):
        for j, ((m, c), y) in enumerate(zip(EACH, np.ravel(x_t[i]), strict=True)):
            mean, var = pairs.marginal_reverse(p, m, c, float(y))
            assert np.ravel(kernel.mean[i])[j] == pytest.approx(mean, abs=1e-5)
            sigma2 = np.exp(np.ravel(np.broadcast_to(kernel.log_var, x_t.shape)[i])[j])
            assert sigma2 == pytest.approx(var, rel=1e-5, abs=1e-12)


def test_the_reverse_kernels_mean_is_the_posterior_mean_at_the_denoised_data(world, short):
    x_t = x_t_draws()
    x_0_hat = world.denoiser(x_t, jnp.full(6, 4)).x_0
    np.testing.assert_allclose(
        world.reverse_kernel(x_t, 2, 4).mean, process.posterior(short, x_0_hat, x_t, 2, 4).mean, atol=1e-5
    )


def test_samples_have_the_worlds_mean_and_variance(world):
    n = 20_000
    x = np.asarray(world.sample(jax.random.key(0), n), float).reshape(n, 4)
    for j, (m, c) in enumerate(EACH):
        assert x[:, j].mean() == pytest.approx(m, abs=5 * np.sqrt(c / n) + 1e-6)
        assert x[:, j].var() == pytest.approx(c, abs=5 * c * np.sqrt(2 / n) + 1e-6)


@pytest.mark.parametrize("c", [0.25, 1.0, 4.0])
def test_the_denoisers_error_and_excess_are_the_exact_h(short, c):
    """M_t = 1 - Gamma_t = ab_t c/V_t: what `isotropic` and `analytic` measure in this world."""
    n, world = 50_000, toy.gaussian(short, np.full((1, 1, 1), 0.3), np.full((1, 1, 1), c))
    x_0, eps = world.sample(jax.random.key(1), n), jax.random.normal(jax.random.key(2), (n, 1, 1, 1))
    for t in (1, 2, 4):
        eps_hat = world.denoiser(process.diffuse(short, x_0, t, eps), jnp.full(n, t)).eps
        h = oracle_variances.noise_variance(pairs.pair(SHORT, 0, t), c)
        for values in ((eps - eps_hat) ** 2, eps**2 - eps_hat**2):
            values = np.asarray(values, float)
            assert values.mean() == pytest.approx(h, abs=5 * values.std() / np.sqrt(n))


def test_the_family_at_the_worlds_own_variance_is_its_reverse_kernel(short):
    world = toy.gaussian(short, np.zeros((2, 2, 1)), np.full((2, 2, 1), 2.5))
    steps = process.steps(short, [1, 3, 4])
    log_var = variances.table(variances.family(2.5, short), steps)
    for k in range(3):
        kernel = world.reverse_kernel(x_t_draws(), int(steps.s[k]), int(steps.t[k]))
        np.testing.assert_allclose(kernel.log_var, log_var[k], rtol=1e-5)


def test_a_point_is_known_at_every_time(short, linear):
    x = np.array([0.5, -1.0, 0.0, 0.25]).reshape(2, 2, 1)
    for tables in (short, linear):
        world = toy.point(tables, x)
        for t in (1, tables.T):
            x_0_hat = world.denoiser(x_t_draws(), jnp.full(6, t)).x_0
            np.testing.assert_allclose(x_0_hat, np.broadcast_to(x, (6, 2, 2, 1)), atol=1e-6)
            np.testing.assert_array_equal(world.cov(x_t_draws(), jnp.full(6, t)), np.zeros((6, 2, 2, 1)))
        np.testing.assert_allclose(world.sample(jax.random.key(0), 3), np.broadcast_to(x, (3, 2, 2, 1)), atol=1e-7)


def test_only_data_inside_the_range_are_called_bounded(short, world):
    assert not world.bounded
    assert toy.point(short, np.full((1, 1, 1), 0.5)).bounded
    assert not toy.point(short, np.full((1, 1, 1), 1.5)).bounded
    assert not toy.mixture(short, *MIXTURE).bounded
    assert toy.mixture(short, np.ones(2), np.array([[-1.0], [1.0]]), np.zeros(2)).bounded
    assert toy.finite(short, IMAGES).bounded
    assert not toy.finite(short, 1.01 * IMAGES).bounded
    assert not toy.finite(short, -1.01 * IMAGES).bounded


def test_a_negative_variance_is_refused_with_the_value(short):
    with pytest.raises(ValueError, match=r"-0\.5"):
        toy.gaussian(short, np.zeros((1, 1, 1)), np.full((1, 1, 1), -0.5))


def mixture_given(p, x_t):
    """The oracle's q(x_s | x_t) of one example of the mixture world."""
    weights, means, variances_ = MIXTURE
    return oracle_mixtures.given(
        p, weights / weights.sum(), means.reshape(3, 2), variances_.reshape(3, 2), np.ravel(x_t).astype(float)
    )


@pytest.mark.parametrize("t", [1, 2, 4])
def test_a_mixtures_denoiser_and_cov_are_its_conditional_moments(short, t):
    world, x_t = toy.mixture(short, *MIXTURE), 1.5 * jax.random.normal(jax.random.key(4), (6, 2, 1, 1))
    times = jnp.full(6, t)
    x_0, cov = world.denoiser(x_t, times).x_0, world.cov(x_t, times)
    for i in range(6):
        mean, var = oracle_mixtures.moments(*mixture_given(pairs.pair(SHORT, 0, t), x_t[i]))
        np.testing.assert_allclose(np.ravel(x_0[i]), mean, atol=1e-5)
        np.testing.assert_allclose(np.ravel(cov[i]), var, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("s", "t"), [(0, 1), (1, 2), (2, 4), (0, 4)])
def test_a_mixtures_reverse_kernel_is_bayes_rule(short, s, t):
    world, x_t = toy.mixture(short, *MIXTURE), 1.5 * jax.random.normal(jax.random.key(4), (6, 2, 1, 1))
    kernel = world.reverse_kernel(x_t, s, t)
    for i in range(6):
        weights, means, variances_ = mixture_given(pairs.pair(SHORT, s, t), x_t[i])
        np.testing.assert_allclose(np.exp(kernel.log_weights[i]), weights, atol=1e-5)
        np.testing.assert_allclose(kernel.mean[i].reshape(3, 2), means, atol=1e-5)
        np.testing.assert_allclose(kernel.variance[i].reshape(3, 2), variances_, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("t", [1, 112, 556, 1000])
def test_a_mixture_in_one_dimension_is_what_quadrature_says(linear, t):
    weights, means, spreads = [0.3, 0.5, 0.2], [-1.5, 0.2, 1.1], [0.04, 0.09, 0.01]
    world = toy.mixture(linear, np.array(weights), np.reshape(means, (3, 1, 1, 1)), np.array(spreads))
    p = pairs.pair(linear.beta[1:], 0, t)
    for x_t in (-1.4, -0.6, 0.0, 0.9):
        mean, var = oracle_mixtures.integrated(p, weights, means, spreads, x_t)
        at = (jnp.full((1, 1, 1, 1), x_t), jnp.asarray([t]))
        assert world.denoiser(*at).x_0.item() == pytest.approx(mean, abs=2e-5)
        assert world.cov(*at).item() == pytest.approx(var, rel=2e-3, abs=1e-6)


def test_a_mixture_of_one_is_the_gaussian_world(world, short):
    alone = toy.mixture(short, np.array([3.0]), MEAN[None], VARIANCE[None])
    x_t, t = x_t_draws(), jnp.asarray([1, 2, 3, 4, 2, 1])
    np.testing.assert_allclose(alone.denoiser(x_t, t).x_0, world.denoiser(x_t, t).x_0, atol=1e-5)
    np.testing.assert_allclose(alone.cov(x_t, t), world.cov(x_t, t), rtol=1e-5, atol=1e-7)


def test_draws_of_a_mixture_and_of_a_finite_set(short):
    n = 20_000
    x = np.asarray(toy.mixture(short, *MIXTURE).sample(jax.random.key(0), n), float)
    weights, means, variances_ = MIXTURE
    mean, var = oracle_mixtures.moments(weights / 4, means, variances_)
    np.testing.assert_array_less(np.abs(x.mean(axis=0) - mean), 5 * np.sqrt(var / n))
    drawn = np.asarray(toy.finite(short, IMAGES).sample(jax.random.key(0), n)).reshape(n, -1)
    counts = np.array([(drawn == image.ravel()).all(axis=1).sum() for image in IMAGES])
    assert counts.sum() == n
    np.testing.assert_array_less(np.abs(counts - n / 7), 5 * np.sqrt(n * 6 / 49))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((np.ones(2), np.zeros((3, 1)), np.ones(3)), "2 weights, 3 means, 3 variances"),
        ((np.array([1, 0]), np.zeros((2, 1)), np.ones(2)), "weights from 0"),
        ((np.ones(2), np.zeros((2, 1)), np.array([1, -0.5])), "variances from -0.5"),
    ],
)
def test_what_is_no_mixture_is_refused(short, parts, message):
    with pytest.raises(ValueError, match=message):
        toy.mixture(short, *parts)


def test_the_reverse_kernel_of_a_finite_set_is_the_mixture_of_posteriors(short):
    world, x_t, p = toy.finite(short, IMAGES), x_t_draws(), pairs.pair(SHORT, 1, 3)
    kernel = world.reverse_kernel(x_t, 1, 3)
    for i in range(6):
        weights = oracle_finite_sets.weights(IMAGES, p.ab_t, p.noise_t, x_t[i])
        np.testing.assert_allclose(np.exp(kernel.log_weights[i]), weights, atol=1e-5)
        means = [
            [pairs.posterior(p, y, x)[0] for y, x in zip(np.ravel(v), np.ravel(x_t[i]), strict=True)] for v in IMAGES
        ]
        np.testing.assert_allclose(kernel.mean[i].reshape(7, 4), means, atol=1e-5)
    np.testing.assert_allclose(kernel.variance, p.tb, rtol=1e-5)


@pytest.mark.parametrize("t", [1, 3])
def test_in_a_basis_cov_is_the_diagonal_there(short, t):
    dct = bases.dct(((1.0,),))
    pixels, spectral, x_t = toy.finite(short, IMAGES), toy.in_basis(short, IMAGES, dct), x_t_draws()
    times, p = jnp.full(6, t), pairs.pair(SHORT, 0, t)
    cov = spectral.cov(dct.forward(x_t), times)
    units = np.asarray(dct.forward(jnp.eye(4).reshape(4, 2, 2, 1))).reshape(4, 4)  # row i: the coefficients of pixel i
    for i in range(6):
        _, full = oracle_finite_sets.moments(IMAGES, p.ab_t, p.noise_t, x_t[i])
        np.testing.assert_allclose(np.ravel(cov[i]), np.diag(units.T @ full @ units), atol=1e-5)
    x_0 = spectral.denoiser(dct.forward(x_t), times).x_0
    np.testing.assert_allclose(dct.inverse(x_0), pixels.denoiser(x_t, times).x_0, atol=1e-5)


@pytest.mark.parametrize("name", ["npr", "sn", "ocm", "learned", "learned_range"])
def test_exact_heads_make_every_trained_variance_the_exact_one(short, name):
    world, steps = toy.mixture(short, *MIXTURE), process.steps(short, [1, 2, 4])
    choice = variances.build(name, variances.Calibration(short, clamp_cov=False))
    denoiser, x_t = toy.exact_heads(world, steps), 1.5 * jax.random.normal(jax.random.key(4), (6, 2, 1, 1))
    for k in range(3):
        prediction = denoiser(x_t, jnp.full(6, steps.t[k]))
        step = process.Steps(*(column[k] for column in steps))
        log_var = choice.log_var(step, x_t, prediction)
        for i in range(6):
            _, var = oracle_mixtures.moments(
                *mixture_given(pairs.pair(SHORT, int(steps.s[k]), int(steps.t[k])), x_t[i])
            )
            np.testing.assert_allclose(
                np.exp(np.ravel(log_var[i])), var, rtol=2e-3 if name == "sn" else 2e-4, atol=1e-6
            )


def test_exact_heads_are_finite_where_nothing_is_left_to_know(short):
    steps = process.steps(short, [1, 4])
    denoiser = toy.exact_heads(toy.point(short, MEAN), steps)
    found = denoiser(x_t_draws(), jnp.full(6, 1)).heads
    assert all(np.isfinite(values).all() for values in found.values())
    assert variances.read_head(denoiser(x_t_draws(), jnp.full(6, 4)), "learned").max() == pytest.approx(
        steps.log_tb[1], rel=1e-5
    )


def test_in_the_world_of_4_by_4_pixels_the_excess_depends_on_the_image(linear):
    """sd(h)/mean(h) > .2 in every pixel at ten times: where a head has something to learn."""
    n, world = 4_000, toy.mixture(linear, *oracle_mixtures.four_by_four())
    x_0, eps = world.sample(jax.random.key(0), n), jax.random.normal(jax.random.key(1), (n, 4, 4, 1))
    for t in oracle_mixtures.TELLING_TIMES:
        h = np.asarray(world.cov(process.diffuse(linear, x_0, t, eps), jnp.full(n, t)), float)
        assert (h.std(axis=0) / h.mean(axis=0)).min() > 0.2
