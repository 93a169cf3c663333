"""The training losses: per example, per dimension; the bound against full covariances; where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import losses as objectives
from ddpm_jax.diffusion import process, schedules, toy, variances
from ddpm_jax.diffusion.denoiser import PREDICTIONS, Prediction, from_x_0
from ddpm_jax.diffusion.losses import LossOptions
from tests.oracle import objectives as oracle_objectives
from tests.oracle import pairs
from tests.oracle import schedules as oracle_schedules
from tests.oracle import variances as oracle_variances

SHORT = [0.1, 0.3, 0.5, 0.7]
SHAPE = (6, 2, 2, 1)
T_EACH = jnp.asarray([1, 2, 3, 4, 4, 1])
AXES = tuple(map(tuple, np.linalg.qr(np.random.default_rng(8).normal(size=(3, 3)))[0].tolist()))
LEVELS = 17


def crooked(x_t, t):
    """A denoiser that is wrong."""
    return Prediction(jnp.tanh(x_t), x_t - 0.2)


def draws(shape=SHAPE):
    return (jax.random.normal(jax.random.key(i), shape) for i in (0, 1))


def grey(shape):
    """Data on the grid of grey levels."""
    return jnp.asarray(np.random.default_rng(0).integers(0, LEVELS, shape) * (2 / (LEVELS - 1)) - 1, jnp.float32)


def adjacent(tables, x_0, eps, t=T_EACH, levels=None):
    """Noise of the whole chain's steps at times t."""
    return objectives.noised(tables, process.every_step(tables), t - 1, x_0, eps, levels)


def test_noised_is_the_forward_process_with_the_columns_beside_the_data(short):
    x_0, eps = draws()
    drawn = adjacent(short, x_0, eps)
    ab = oracle_schedules.alpha_bar(SHORT)[np.asarray(T_EACH)].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(drawn.x_t, np.sqrt(ab) * x_0 + np.sqrt(1 - ab) * eps, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(drawn.step.t, T_EACH)
    np.testing.assert_array_equal(drawn.step.s, T_EACH - 1)
    assert drawn.step.s.shape == drawn.step.t.shape == (6,)
    assert drawn.step.tb.shape == drawn.step.mean_x_0.shape == (6, 1, 1, 1)


# ---------------------------------------------------------------- simple and mu_mse


def test_simple_is_the_mean_squared_error_of_eps_per_example(short):
    x_0, eps = draws()
    ab = oracle_schedules.alpha_bar(SHORT)[np.asarray(T_EACH)].reshape(-1, 1, 1, 1)
    x_t = np.sqrt(ab) * x_0 + np.sqrt(1 - ab) * eps
    expected = ((np.tanh(x_t) - np.asarray(eps)) ** 2).mean((1, 2, 3))
    loss = objectives.simple()(adjacent(short, x_0, eps), crooked)
    assert loss.shape == (6,)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("weighting", sorted(objectives.WEIGHTINGS))
@pytest.mark.parametrize("kind", sorted(PREDICTIONS))
def test_a_perfect_prediction_costs_nothing(short, kind, weighting):
    x_0, eps = draws()
    for loss in (objectives.simple(kind, weighting), objectives.mu_mse()):
        found = loss(adjacent(short, x_0, eps), lambda x_t, t: Prediction(eps, x_0))
        np.testing.assert_allclose(found, 0, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "factor"),
    [
        ("x_0", lambda ab, p: (1 - ab) / ab),
        ("v", lambda ab, p: 1 / ab),
        ("mu", lambda ab, p: (1 - ab) / ab * pairs.posterior_coefficients(p)[0] ** 2),
    ],
)
def test_other_targets_differ_from_eps_by_a_factor_of_t_alone(short, kind, factor):
    """eps_hat and x_0_hat add up to the same x_t as eps and x_0, so x_0's error is eps's by 1/SNR, v's by 1/ab and
    mu's that of x_0 by its coefficient.
    """
    x_0, eps = draws()
    world = toy.gaussian(short, np.zeros(SHAPE[1:]), np.full(SHAPE[1:], 0.5))
    ab = oracle_schedules.alpha_bar(SHORT)
    losses = [objectives.simple(k)(adjacent(short, x_0, eps), world.denoiser) for k in ("eps", kind)]
    by = [factor(ab[t], pairs.pair(SHORT, t - 1, t)) for t in np.asarray(T_EACH)]
    np.testing.assert_allclose(losses[1], losses[0] * np.array(by), rtol=1e-4)


def test_the_expected_loss_of_the_exact_denoiser_is_the_variance_of_eps_given_x_t(short):
    n, c = 50_000, 0.25
    world = toy.gaussian(short, np.full((1, 1, 1), 0.3), np.full((1, 1, 1), c))
    x_0, eps = world.sample(jax.random.key(0), n), jax.random.normal(jax.random.key(1), (n, 1, 1, 1))
    for t in (1, 3, 4):
        loss = np.asarray(objectives.simple()(adjacent(short, x_0, eps, jnp.full(n, t)), world.denoiser), float)
        h = oracle_variances.noise_variance(pairs.pair(SHORT, 0, t), c)
        assert loss.mean() == pytest.approx(h, abs=5 * loss.std() / np.sqrt(n))


@pytest.mark.parametrize("times", [[1, 2, 3, 4], [1, 3, 4], [2, 4]], ids=str)
@pytest.mark.parametrize("kind", sorted(PREDICTIONS))
@pytest.mark.parametrize("weighting", ["min_snr", "truncated_snr"])
def test_weightings_are_of_the_error_of_x_0_whatever_is_predicted(short, weighting, kind, times):
    """min(SNR, 5) and max(SNR, 1) by hand: SNR = 9, 1.7, .46, .104 at t = 1..4, on both sides of both bounds."""
    x_0, eps = draws()
    chain = process.steps(short, times)
    k = jnp.arange(6) % len(times)
    drawn = objectives.noised(short, chain, k, x_0, eps)
    x_0_hat = np.asarray(drawn.x_t) - 0.2
    denoiser = lambda x_t, t: from_x_0(short, x_t, t, x_t - 0.2)  # noqa: E731
    loss = objectives.simple(kind, weighting)(drawn, denoiser)
    ab = oracle_schedules.alpha_bar(SHORT)[np.asarray(drawn.step.t)]
    expected = [
        oracle_objectives.weighted(weighting, a / (1 - a), *xs) for a, *xs in zip(ab, x_0, x_0_hat, strict=True)
    ]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("weighting", ["min_snr", "truncated_snr"])
def test_weightings_are_finite_where_no_data_are_left(weighting):
    tables = schedules.jsd(20)
    x_0, eps = draws()
    drawn = adjacent(tables, x_0, eps, jnp.full(6, 20))
    for kind in ("x_0", "v"):
        loss = objectives.simple(kind, weighting)(drawn, lambda x_t, t: from_x_0(tables, x_t, t, x_0 + 2))
        np.testing.assert_allclose(loss, 0 if weighting == "min_snr" else 4, rtol=1e-5)


@pytest.mark.parametrize("times", [[1, 2, 3, 4], [1, 4], [2, 3]], ids=str)
def test_mu_mse_is_the_error_of_the_posteriors_mean(short, times):
    """||mu-tilde - mu_hat||^2/D by the oracle's posterior, on any chain."""
    x_0, eps = draws()
    chain = process.steps(short, times)
    drawn = objectives.noised(short, chain, jnp.arange(6) % len(times), x_0, eps)
    expected = []
    for i in range(6):
        p = pairs.pair(SHORT, int(drawn.step.s[i]), int(drawn.step.t[i]))
        on_x_0, on_x_t = pairs.posterior_coefficients(p)
        x, right = np.asarray(drawn.x_t[i], float), np.asarray(x_0[i], float)
        miss = (on_x_0 * right + on_x_t * x) - (on_x_0 * (x - 0.2) + on_x_t * x)
        expected.append((miss**2).mean())
        assert expected[-1] == pytest.approx(on_x_0**2 * ((right - (x - 0.2)) ** 2).mean(), rel=1e-12)
    np.testing.assert_allclose(objectives.mu_mse()(drawn, crooked), expected, rtol=1e-5)


def test_mu_mse_of_the_whole_chain_is_simple_with_mu(short):
    x_0, eps = draws()
    drawn = adjacent(short, x_0, eps)
    denoiser = lambda x_t, t: from_x_0(short, x_t, t, x_t - 0.2)  # noqa: E731
    np.testing.assert_allclose(
        objectives.mu_mse()(drawn, denoiser), objectives.simple("mu")(drawn, denoiser), rtol=1e-4, atol=1e-6
    )


# ---------------------------------------------------------------- the bound

CHAINS = {"all": [1, 2, 3, 4], "short": [1, 2, 4], "from_2": [2, 4]}


NUMBERS = {"interpolated": "interpolated:0.3", "family": "family:0.6"}


def calibration(tables, colours):
    rng = np.random.default_rng(2)
    excess, error = rng.uniform(0.1, 0.9, (2, tables.T + 1))
    spectrum = rng.uniform(0.1, 0.9, (tables.T + 1, 2, 2, colours))
    axes = AXES if colours == 3 else ((1.0,),)
    return variances.Calibration(tables, excess=excess, error=error, spectrum=spectrum, colours=axes, clamp_cov=False)


def built(name, known):
    """The entry of this name, with the numbers that the oracle is given."""
    return variances.build(NUMBERS.get(name, name), known)


def with_a_bound(tables):
    known = calibration(tables, 1)
    return [name for name in sorted(variances.VARIANCES) if built(name, known).bound]


BOUNDED = with_a_bound(schedules.from_betas(SHORT))
READING = [name for name in BOUNDED if variances.VARIANCES[name].heads]


def saying(name, shape):
    """A wrong denoiser with made-up heads that keep every variance positive."""
    head = np.random.default_rng(3).uniform(0.1, 0.9, shape)
    shift = {"ocm": -1.0, "learned": -2.0}.get(name, 0.0)

    def denoiser(x_t, t):
        prediction = crooked(x_t, t)
        extra = prediction.eps**2 if name == "sn" else shift
        return prediction._replace(heads={name: jnp.asarray(head, x_t.dtype) + extra})

    return denoiser


def oracle_sigma2(name, p, known, prediction, i):
    """The choice's variance, with tb(1, 2) in the place of a fixed one at s = 0."""
    if name in READING:
        head, eps_hat = (np.asarray(x[i], float) for x in (prediction.heads[name], prediction.eps))
        return oracle_variances.variance(name, p, SHORT, head=head, eps_hat=eps_hat)
    if p.s == 0:
        return pairs.pair(SHORT, 1, 2).tb
    numbers = {"excess": known.excess, "error": known.error, "spectrum": known.spectrum}
    return oracle_variances.variance(name, p, SHORT, frac=0.3, c=0.6, **numbers)


@pytest.mark.parametrize("levels", [LEVELS, None])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", BOUNDED)
def test_vlb_is_the_divergence_of_full_covariances(short, name, chain, colours, levels):
    """K times the KL of two Gaussians, at s = 0 the decoder, for every choice; levels None: a density."""
    known, shape = calibration(short, colours), (6, 2, 2, colours)
    choice, steps = built(name, known), process.steps(short, CHAINS[chain])
    pixels = choice.basis.name == "pixel"
    x_0, (_, eps) = grey(shape), draws(shape)
    k = jnp.arange(6) % steps.K if pixels or levels is None else 1 + jnp.arange(6) % (steps.K - 1)
    drawn, denoiser = objectives.noised(short, steps, k, x_0, eps, levels if pixels else None), saying(name, shape)
    loss = objectives.vlb(choice, steps)(drawn, denoiser)
    assert loss.shape == (6,)
    said, expected = denoiser(drawn.x_t, drawn.step.t), []
    for i in range(6):
        p = pairs.pair(SHORT, int(drawn.step.s[i]), int(drawn.step.t[i]))
        sigma2 = oracle_sigma2(name, p, known, said, i)
        axes = None if pixels else known.colours
        expected.append(
            steps.K * oracle_objectives.bound_term(p, x_0[i], drawn.x_t[i], said.x_0[i], sigma2, drawn.levels, axes)
        )
    np.testing.assert_allclose(loss, expected, rtol=2e-4, atol=1e-4)


def test_grey_levels_need_the_pixel_basis(short):
    steps = process.steps(short, [1, 2, 4])
    drawn = objectives.noised(short, steps, jnp.zeros(6, int), grey(SHAPE), next(draws()), LEVELS)
    with pytest.raises(ValueError, match="pixel basis"):
        objectives.vlb(variances.build("spectral", calibration(short, 1)), steps)(drawn, crooked)


@pytest.mark.parametrize("c", [0.25, 1.0, 4.0])
def test_the_least_bound_of_the_learned_variance_is_the_true_one(short, c):
    """The mean of the bound over x_0 and x_t has no gradient in the head at Q(c), and has one beside it."""
    n, steps = 20_000, process.steps(short, [2, 4])
    world, p = toy.gaussian(short, np.zeros((1, 1, 1)), np.full((1, 1, 1), c)), pairs.pair(SHORT, 2, 4)
    x_0, eps = world.sample(jax.random.key(0), n), jax.random.normal(jax.random.key(1), (n, 1, 1, 1))
    drawn = objectives.noised(short, steps, jnp.ones(n, int), x_0, eps)
    loss = objectives.vlb(variances.learned(None), steps)

    def slopes(log_var):
        def of(log_var):
            said = lambda x_t, t: world.denoiser(x_t, t)._replace(heads={"learned": log_var})  # noqa: E731
            return loss(drawn, said).sum()

        return np.asarray(jax.grad(of)(jnp.full((n, 1, 1, 1), log_var)), float)

    at_q = slopes(np.log(oracle_variances.true_variance(p, c)))
    assert abs(at_q.mean()) < 5 * at_q.std() / np.sqrt(n)
    for factor in (0.8, 1.25):
        beside = slopes(np.log(factor * oracle_variances.true_variance(p, c)))
        assert beside.mean() * np.log(factor) > 5 * beside.std() / np.sqrt(n)


@pytest.mark.parametrize(
    "of", ["linear", *(pytest.param(of, marks=pytest.mark.slow) for of in ("cosine", "jsd")), "linear_zero_terminal"]
)
@pytest.mark.parametrize("name", ["small", "large", "family:0.25", "interpolated:0.3", "learned", "learned_range"])
def test_the_bound_and_its_gradient_are_finite_at_every_time(of, name):
    """Far-off predictions, s = 0 and alpha_bar_T = 0 included."""
    tables = schedules.SCHEDULES[of](1000)
    steps = process.every_step(tables)
    at = np.r_[0, 1, 2, 10, 499, 997, 998, 999]
    x_0, eps = grey((8, 2, 2, 1)), jax.random.normal(jax.random.key(1), (8, 2, 2, 1))
    drawn = objectives.noised(tables, steps, jnp.asarray(at), x_0, eps, LEVELS)
    loss = objectives.vlb(variances.build(name, variances.Calibration(tables)), steps)

    def total(outputs):
        x_0_hat, head = outputs
        said = lambda x_t, t: from_x_0(tables, x_t, t, x_0_hat)._replace(heads={name: head})  # noqa: E731
        losses = loss(drawn, said)
        return losses.sum(), losses

    heads_there = jnp.broadcast_to(jnp.asarray(steps.log_b[at], jnp.float32).reshape(-1, 1, 1, 1), x_0.shape)
    for off in (0.0, 0.1, 3.0):
        head = heads_there - 1 if name == "learned" else 0.3 + 0 * heads_there
        gradient, losses = jax.grad(total, has_aux=True)((x_0 + off, head))
        assert np.isfinite(losses).all()
        assert all(np.isfinite(leaf).all() for leaf in gradient)
        if off:
            assert (np.abs(gradient[0]).reshape(8, -1).max(1) > 0).all()


def test_where_no_data_are_left_the_bound_is_the_divergence_from_the_marginal():
    """q(x_s | x_T, x_0) = q(x_s | x_0), and large is b = 1 there."""
    betas = oracle_schedules.jsd(4)
    tables = schedules.from_betas(betas)
    steps = process.steps(tables, [1, 2, 4])
    x_0, eps = draws()
    drawn = objectives.noised(tables, steps, jnp.full(6, 2), x_0, eps)
    said = lambda x_t, t: from_x_0(tables, x_t, t, 0.5 * x_0)  # noqa: E731
    p = pairs.pair([*betas[:-1], 1.0], 2, 4)
    for choice, sigma2 in (
        (variances.small(), p.noise_s),
        (variances.large(tables), 1.0),
        (variances.family(0.25, tables), p.ab_s * 0.25 + p.noise_s),
    ):
        expected = [3 * oracle_objectives.bound_term(p, x, eps[i], 0.5 * x, sigma2, None) for i, x in enumerate(x_0)]
        np.testing.assert_allclose(objectives.vlb(choice, steps)(drawn, said), expected, rtol=1e-4)


# ---------------------------------------------------------------- hybrid


def network(params, x_t, t):
    mean, head = params
    return Prediction(mean * x_t, x_t - mean, {"learned_range": head + 0 * x_t})


@pytest.mark.parametrize("weighting", ["uniform", "min_snr"])
def test_hybrid_teaches_the_mean_by_the_error_and_the_variance_by_the_bound(short, weighting):
    x_0, eps = grey(SHAPE), next(draws())
    steps, choice = process.every_step(short), variances.learned_range()
    drawn = adjacent(short, x_0, eps, levels=LEVELS)
    parts = {
        "simple": objectives.simple("eps", weighting),
        "vlb": objectives.vlb(choice, steps),
        "hybrid": objectives.hybrid(choice, steps, "eps", weighting),
    }

    def of(loss):
        return jax.value_and_grad(lambda params: loss(drawn, lambda x_t, t: network(params, x_t, t)).sum())((0.7, 0.2))

    found = {name: of(loss) for name, loss in parts.items()}
    value, (of_mean, of_head) = found["hybrid"]
    bits = found["vlb"][0] / np.log(2)
    np.testing.assert_allclose(value, found["simple"][0] + 0.001 * bits, rtol=1e-5)
    np.testing.assert_allclose(of_mean, found["simple"][1][0], rtol=1e-5)
    np.testing.assert_allclose(of_head, 0.001 / np.log(2) * found["vlb"][1][1], rtol=1e-4)
    assert found["simple"][1][1] == 0 and found["vlb"][1][0] != 0 and of_head != 0


# ---------------------------------------------------------------- what is refused


def options(tables, name="large", weighting="uniform", regress="eps", times=None):
    steps = process.every_step(tables) if times is None else process.steps(tables, times)
    return LossOptions(regress, weighting, built(name, calibration(tables, 1)), steps)


def test_unknown_names_list_what_there_is(short):
    with pytest.raises(ValueError, match=r"(?s)score.*eps.*x_0.*v.*mu"):
        objectives.simple("score")
    with pytest.raises(ValueError, match=r"(?s)weighting 'p2'.*uniform.*min_snr.*truncated_snr"):
        objectives.simple("eps", "p2")
    with pytest.raises(ValueError, match="unknown objective 'elbo'") as caught:
        objectives.build("elbo", options(short))
    assert all(name in str(caught.value) for name in objectives.OBJECTIVES)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("simple", {"name": "learned_range"}, "'simple' does not train the head of the variance: choose vlb or hybrid"),
        ("mu_mse", {"name": "learned"}, "'mu_mse' does not train the head"),
        ("hybrid", {}, "'hybrid' trains the head of a variance and this one has none"),
        ("vlb", {"name": "zero"}, "no likelihood bound"),
        ("vlb", {"weighting": "min_snr"}, "weighting 'min_snr' has no effect on objective 'vlb'"),
        ("mu_mse", {"weighting": "min_snr"}, "weighting 'min_snr' has no effect on objective 'mu_mse'"),
        ("simple", {"weighting": "p2"}, "unknown weighting 'p2'"),
        ("hybrid", {"name": "learned_range", "regress": "score"}, "unknown prediction 'score'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(short, name, changes, message):
    with pytest.raises(ValueError, match=message):
        objectives.build(name, options(short, **changes))


def test_the_bound_is_refused_on_steps_the_variance_does_not_know(short):
    choice = variances.learned((1, 2, 4))
    objectives.vlb(choice, process.steps(short, [1, 2, 4]))
    with pytest.raises(ValueError, match="fitted on a chain of 3 steps"):
        objectives.vlb(choice, process.steps(short, [1, 4]))
    with pytest.raises(ValueError, match="DDPM kernel only"):
        objectives.hybrid(variances.learned_range(), process.steps(short, [1, 4], process.ddim(0.5)))


@pytest.mark.parametrize("name", sorted(objectives.OBJECTIVES))
def test_every_objective_is_one_number_an_example(short, name):
    choice = "learned_range" if name in ("vlb", "hybrid") else "large"
    drawn = adjacent(short, grey(SHAPE), next(draws()), levels=LEVELS)
    loss = objectives.build(name, options(short, choice))(drawn, lambda x_t, t: network((0.7, 0.2), x_t, t))
    assert loss.shape == (6,) and np.isfinite(loss).all()
