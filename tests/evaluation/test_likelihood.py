"""Bits/dim of every choice and trajectory: the closed forms against direct divergences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import gaussian, process, schedules, timesteps, toy, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Prediction, clip_x_0
from ddpm_jax.evaluation import likelihood, moments
from ddpm_jax.evaluation import step_kl as tabulated
from tests.oracle import bits, gaussians, pairs, trajectories
from tests.oracle import schedules as oracle_schedules

SHORT = [0.1, 0.3, 0.5, 0.7]
LINEAR = oracle_schedules.linear(1000)
NAMES = sorted(variances.VARIANCES)
LN_2 = np.log(2)


def made_up_calibration(tables):
    """Of everything that a choice may ask for."""
    ones = np.full(tables.T + 1, 0.1)
    spectrum = np.arange(1, 5).reshape(2, 2, 1) * ones[:, None, None, None]
    return variances.Calibration(tables, 0.6, ones, ones, spectrum, ((1.0,),))


def built(name):
    return variances.build(name, made_up_calibration(schedules.from_betas(SHORT)))


BOUNDED = [name for name in NAMES if built(name).bound]
ONE_NUMBER = [name for name in BOUNDED if not tabulated.needs_table(built(name), schedules.from_betas(SHORT))]


def two_times(tables, s, t):
    return process.pairs(tables, np.array([s]), np.array([t]))


def step_kl(steps, choice, error):
    return tabulated.step_kl(steps.log_base - variances.table(choice, steps), steps.u, error)


# ---------------------------------------------------------------- one step


@pytest.mark.parametrize(
    ("make", "s", "t", "small", "large", "isotropic", "unit"),
    [
        (schedules.linear, 1, 112, 72.283817, 3.128583, 2.490320, 5e-7),
        (schedules.linear, 499, 500, 5.508197e-4, 5.505304e-4, 5.505165e-4, 5e-11),
        (schedules.cosine, 1, 112, None, None, 2.234238, 5e-7),
    ],
)
def test_golden_steps(make, s, t, small, large, isotropic, unit):
    tables = make()
    steps, error = two_times(tables, s, t), np.full(1, 0.1)
    table = np.full(1001, 0.1)
    choices = (variances.small(), variances.large(tables), variances.isotropic(table))
    for choice, golden in zip(choices, (small, large, isotropic), strict=True):
        if golden is not None:
            assert step_kl(steps, choice, error)[0] == pytest.approx(golden, abs=unit)


@pytest.mark.parametrize(("s", "t"), [(s, t) for t in range(2, 5) for s in range(1, t)])
@pytest.mark.parametrize("sigma2", [0.01, 0.3, 2.0])
def test_a_step_costs_the_divergence_of_two_gaussians(short, s, t, sigma2):
    steps, p = two_times(short, s, t), pairs.pair(SHORT, s, t)
    for error in (0.0, 0.1, 2.0):
        cost = tabulated.step_kl(steps.log_base - np.log([sigma2]), steps.u, np.array([error]))[0]
        assert cost == pytest.approx(bits.step_kl(p, sigma2, error), rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_a_noisy_ddim_step_costs_the_divergence_from_its_own_kernel(short, eta):
    """q has variance lambda^2, and eps_hat's error moves the mean by the slope of the oracle's kernel."""
    steps, p = process.pairs(short, np.array([2]), np.array([4]), process.ddim(eta)), pairs.pair(SHORT, 2, 4)
    k = pairs.kernel(p, eta)
    for sigma2, error in ((0.05, 0.1), (0.4, 1.5)):
        expected = gaussians.kl(0.0, k.base, np.sqrt(k.gain * error), sigma2)
        cost = tabulated.step_kl(steps.log_base - np.log([sigma2]), steps.u, np.array([error]))[0]
        assert cost == pytest.approx(expected, rel=1e-10)


def test_a_small_step_keeps_its_digits(linear):
    """Adjacent steps cost about 1e-9 beyond the 1/2 u M of `small`: r - 1 - log r must not cancel."""
    steps = process.pairs(linear, np.arange(1, 1000), np.arange(2, 1001))
    cost = tabulated.step_kl(steps.log_base - np.log(steps.b), steps.u, np.full(999, 0.5))
    expected = [
        bits.step_kl(pairs.pair(LINEAR, t - 1, t), pairs.pair(LINEAR, t - 1, t).b, 0.5) for t in range(2, 1001, 37)
    ]
    np.testing.assert_allclose(cost[np.arange(2, 1001, 37) - 2], expected, rtol=1e-8)


def test_closed_forms_of_three_choices(short):
    """small: 1/2 u M; large: 1/2 [rho (1 + u M) - 1 - log rho]; isotropic: 1/2 log(1 + u M)."""
    error = np.array([np.nan, 0.5, 0.4, 0.3, 0.2])
    steps = process.pairs(short, np.array([1, 1, 2]), np.array([2, 4, 3]))
    chain = [pairs.pair(SHORT, s, t) for s, t in ((1, 2), (1, 4), (2, 3))]
    u, rho, m = np.array([p.u for p in chain]), np.array([p.rho for p in chain]), error[steps.t]
    forms = {
        variances.small(): u * m / 2,
        variances.large(short): (rho * (1 + u * m) - 1 - np.log(rho)) / 2,
        variances.isotropic(error): np.log(1 + u * m) / 2,
    }
    for choice, expected in forms.items():
        np.testing.assert_allclose(step_kl(steps, choice, m), expected, rtol=1e-10)


def test_no_isotropic_variance_costs_less_than_isotropic(short):
    steps, error = two_times(short, 1, 4), 0.3
    best = float(steps.tb[0] + steps.gain[0] * error)
    found = [
        tabulated.step_kl(steps.log_base - np.log([best * factor]), steps.u, np.full(1, error))[0]
        for factor in np.geomspace(0.2, 5, 81)
    ]
    assert np.argmin(found) == 40


# ---------------------------------------------------------------- a network that is not exact, measured directly


def perturbed(tables, shape):
    """The exact denoiser of a Gaussian world with a wrong eps, x_0_hat in agreement."""
    exact = toy.gaussian(tables, np.zeros(shape), np.full(shape, 0.35)).denoiser
    ab = jnp.asarray(tables.alpha_bar, jnp.float32)
    noise = jnp.asarray(tables.one_minus_alpha_bar, jnp.float32)

    def denoiser(x_t, t):
        eps = exact(x_t, t).eps + 0.2 * jnp.sin(3 * x_t)
        column = t.reshape(-1, 1, 1, 1)
        h = ab[column] * (0.3 + 0.1 * jnp.sin(x_t))
        heads = dict(npr=h, sn=h + eps**2, ocm=h - 1, learned=jnp.log(0.4 + h), learned_range=jnp.sin(2 * x_t) + 0.3)
        return Prediction(eps, (x_t - jnp.sqrt(noise[column]) * eps) / jnp.sqrt(ab[column]), heads)

    return denoiser


CHAINS = {"T = 4": (SHORT, [1, 2, 3, 4]), "K = 10": (LINEAR, [int(t) for t in trajectories.even(1000, 10)])}
N, SHAPE = 3000, (2, 2, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (N, *SHAPE)).astype(np.uint8)
X_0 = jnp.asarray(IMAGES / 127.5 - 1, jnp.float32)


@pytest.fixture(scope="module", params=["T = 4", pytest.param("K = 10", marks=pytest.mark.slow)])
def measured(request):
    betas, times = CHAINS[request.param]
    tables = schedules.from_betas(betas)
    denoiser = perturbed(tables, SHAPE)
    clip = request.param == "K = 10"

    def look(known, names):
        rules = Rules(levels=256, clip_x_0=clip)
        fixed = {name: (name, known) for name in names}
        return moments.measure(jax.random.key(0), tables, denoiser, IMAGES, rules, np.array(times), tabulated=fixed)

    known = calibration(tables, look(None, ()))
    return tables, times, denoiser, clip, look(known, tuple(set(BOUNDED) - set(ONE_NUMBER)))


def calibration(tables, found):
    excess, error = moments.mean_excess(found), moments.mean_error(found)
    known = variances.Calibration(tables, variance=0.6, excess=excess, error=error)
    return known._replace(spectrum=found.spectrum, colours=found.colours)


def direct_bits(measured, choice, key):
    """Bits/dim of each image from fresh noise: the divergences themselves, no formula for them."""
    tables, times, denoiser, clip, found = measured
    nats, steps = np.array(found.prior), process.steps(tables, times)
    fixed = variances.table(choice, steps) if choice.headless else None
    for k, (s, t) in enumerate(zip([0, *times[:-1]], times, strict=True)):
        x_t = process.diffuse(tables, X_0, t, jax.random.normal(jax.random.fold_in(key, t), X_0.shape))
        prediction = denoiser(x_t, jnp.full(N, t))
        if clip:
            prediction = clip_x_0(x_t, prediction, steps.signal[k], steps.noise[k])
        x_0_hat = prediction.x_0
        if s == 0:
            sigma_dec = np.float32(np.log(pairs.pair(CHAINS["T = 4"][0] if tables.T == 4 else LINEAR, 1, 2).tb))
            nats -= np.asarray(
                gaussian.discretised_log_prob(gaussian.Gaussian(x_0_hat, jnp.asarray(sigma_dec)), X_0, 256)
            )
        else:
            mean = process.posterior(tables, x_0_hat, x_t, s, t).mean
            step = process.Steps(*(column[k] for column in steps))
            log_var = fixed[k] if choice.headless else choice.log_var(step, x_t, prediction)
            model = gaussian.Gaussian(mean, jnp.asarray(log_var, jnp.float32), choice.basis)
            nats += np.asarray(gaussian.kl(process.posterior(tables, X_0, x_t, s, t), model))
    return nats / LN_2


@pytest.mark.parametrize("name", BOUNDED)
def test_the_formula_agrees_with_direct_divergences_for_a_wrong_network(measured, name):
    """Two sets of noise for the same images: the mean difference is 0 within 4 standard errors."""
    tables, times, _, _, found = measured
    steps = process.steps(tables, times)
    choice = variances.build(name, calibration(tables, found))
    formula = likelihood.bits_per_dim(steps, choice, found, found.tables.get(name)).per_image
    gap = formula - direct_bits(measured, choice, jax.random.key(99))
    assert abs(gap.mean()) < 4 * gap.std(ddof=1) / np.sqrt(N)


def test_a_step_is_the_divergence_image_by_image(short):
    """With the same noise the formula is an identity, not a mean."""
    denoiser, (s, t) = perturbed(short, SHAPE), (1, 3)
    eps = jax.random.normal(jax.random.key(3), X_0.shape)
    x_t = process.diffuse(short, X_0, t, eps)
    prediction = denoiser(x_t, jnp.full(N, t))
    model = gaussian.Gaussian(process.posterior(short, prediction.x_0, x_t, s, t).mean, jnp.float32(np.log(0.4)))
    direct = gaussian.kl(process.posterior(short, X_0, x_t, s, t), model)
    error = np.asarray(((eps - prediction.eps) ** 2).mean((1, 2, 3)), float)
    expected = [bits.step_kl(pairs.pair(SHORT, s, t), 0.4, e) for e in error]
    np.testing.assert_allclose(direct, expected, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- sums and error bars


def made_up(T, n=40, seed=0):
    """Moments of no network, so that every number is free."""
    rng = np.random.default_rng(seed)
    error, excess, decoder = rng.uniform(0.05, 0.9, (3, n, T + 1))
    for values in (error, excess, decoder):
        values[:, 0] = np.nan
    return moments.Moments(error, excess, 4 * decoder, rng.uniform(0, 0.1, n), 0.3)


@pytest.mark.parametrize("times", [[1, 2, 3, 4], [1, 4], [2, 3, 4], [4]], ids=str)
@pytest.mark.parametrize("name", ONE_NUMBER)
def test_bits_per_dim_sums_the_definitions(short, name, times):
    found = made_up(4)
    steps = process.steps(short, times)
    choice = variances.build(name, calibration(short, found))
    log_var = variances.table(choice, steps)
    result = likelihood.bits_per_dim(steps, choice, found)
    chain = pairs.chain(SHORT, times)
    expected = bits.per_image(chain, np.exp(log_var), found.error, found.prior, found.decoder)
    np.testing.assert_allclose(result.per_image, expected, rtol=1e-10)
    assert result.total == pytest.approx(expected.mean(), rel=1e-10)
    assert result.standard_error == pytest.approx(expected.std(ddof=1) / np.sqrt(40), rel=1e-9)
    assert result.prior == pytest.approx(found.prior.mean() / LN_2, rel=1e-12)
    assert result.decoder == pytest.approx(found.decoder[:, times[0]].mean() / LN_2, rel=1e-12)
    assert result.prior + result.kl + result.decoder == pytest.approx(result.total, rel=1e-10, abs=1e-14)


def test_the_variance_of_the_last_step_is_not_read(short):
    found, steps, choice = made_up(4), process.steps(short, [1, 2, 4]), variances.large(short)
    spoiled = choice._replace(log_var=lambda step, *of: np.where(step.s == 0, -np.inf, choice.log_var(step, *of)))
    assert variances.table(spoiled, steps)[0] == -np.inf
    assert likelihood.bits_per_dim(steps, spoiled, found).total == likelihood.bits_per_dim(steps, choice, found).total


def test_a_decoder_of_another_variance_takes_the_place_of_the_papers(short):
    found, steps, choice = made_up(4), process.steps(short, [1, 2, 4]), variances.large(short)
    other = np.linspace(1, 2, 40)
    plain, changed = (
        likelihood.bits_per_dim(steps, choice, found),
        likelihood.bits_per_dim(steps, choice, found, decoder=other),
    )
    assert changed.decoder == pytest.approx(1.5 / LN_2)
    np.testing.assert_allclose(
        changed.per_image - plain.per_image, (other - found.decoder[:, 1]) / LN_2, rtol=1e-9, atol=1e-12
    )


def test_a_chain_without_noise_has_no_bound(short):
    found = made_up(4)
    for choice, kernel in ((variances.zero(), process.DDPM), (variances.large(short), process.ddim(0.0))):
        steps = process.steps(short, [1, 2, 4], kernel)
        with pytest.raises(ValueError, match="bound"):
            likelihood.bits_per_dim(steps, choice, found)


def test_a_chain_that_does_not_start_at_T_is_refused_with_its_start(short):
    """The prior term is measured at T."""
    steps = process.steps(short, [1, 3])
    with pytest.raises(ValueError, match="3"):
        likelihood.bits_per_dim(steps, variances.large(short), made_up(4))


def test_a_paired_standard_error_is_that_of_the_differences(short):
    found, steps = made_up(4), process.steps(short, [1, 2, 3, 4])
    known = calibration(short, found)
    a, b = (likelihood.bits_per_dim(steps, variances.build(name, known), found) for name in ("large", "isotropic"))
    difference = a.per_image - b.per_image
    expected = np.sqrt(np.sum((difference - difference.mean()) ** 2) / 39 / 40)
    assert likelihood.paired_standard_error(a, b) == pytest.approx(expected, rel=1e-10)
    assert likelihood.paired_standard_error(a, a) == 0
    assert likelihood.paired_standard_error(a, b) < np.hypot(a.standard_error, b.standard_error)


def test_large_less_isotropic_at_all_steps_is_the_sum_of_the_formulas_difference(linear):
    found = made_up(1000, n=5)
    steps = process.steps(linear, timesteps.even(1000, 1000))
    m = found.error.mean(0)
    a, b = (
        likelihood.bits_per_dim(steps, choice, found) for choice in (variances.large(linear), variances.isotropic(m))
    )
    total = 0.0
    for t in range(2, 1001):
        p = pairs.pair(LINEAR, t - 1, t)
        total += (p.rho * (1 + p.u * m[t]) - 1 - np.log(p.rho) - np.log(1 + p.u * m[t])) / 2
    assert a.total - b.total == pytest.approx(total / LN_2, rel=1e-7)


def test_a_time_that_was_not_measured_is_refused_with_its_value(short):
    found = made_up(4)
    found.error[:, 3] = np.nan
    steps = process.steps(short, [1, 2, 3, 4])
    with pytest.raises(ValueError, match="3"):
        likelihood.bits_per_dim(steps, variances.large(short), found)


# ---------------------------------------------------------------- orderings that are exact on the data that fixed them


@pytest.mark.parametrize("K", [2, 10, 50, 1000])
def test_isotropic_never_costs_more_than_any_other_on_its_own_data(linear, K):
    found = made_up(1000, n=3)
    found.excess[:, 1:] *= 0.7
    known, steps = calibration(linear, found), process.steps(linear, timesteps.even(1000, K))
    total = {name: likelihood.bits_per_dim(steps, variances.build(name, known), found).total for name in ONE_NUMBER}
    for name in ONE_NUMBER:
        assert total[name] >= total["isotropic"] - 1e-12
    assert total["analytic"] > total["isotropic"]


def smooth_error():
    """M_t of data with several variances, as images have: a mean of ab c/V over c."""
    ab = oracle_schedules.alpha_bar(LINEAR)
    c = np.array([[0.001], [0.02], [0.3], [3.0]])
    return np.mean(ab * c / (ab * c + 1 - ab), axis=0)


def only_errors(error):
    """Moments of one image."""
    return made_up(len(error) - 1, n=1)._replace(error=error[None])


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_the_optimal_trajectory_never_costs_more_than_the_even_one(linear, name):
    error = smooth_error()
    known = variances.Calibration(linear, variance=0.3, excess=1.2 * error, error=error)
    cost = likelihood.cost(linear, variances.build(name, known), only_errors(error))
    Ks = [2, 3, 10, 25, 50]
    paths = timesteps.cheapest_paths(cost, Ks)
    for K in Ks:
        best, even = (trajectories.path_cost(cost, list(times)) for times in (paths[K], timesteps.even(1000, K)))
        assert best <= even * (1 + 1e-12)
        assert paths[K][0] == 1 and paths[K][-1] == 1000


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_the_optimal_trajectory_of_ten_times_is_the_best_of_all(name):
    betas = list(np.linspace(0.05, 0.6, 10))
    tables = schedules.from_betas(betas)
    ab = tables.alpha_bar
    error = np.mean([ab * c / (ab * c + 1 - ab) for c in (0.01, 0.5, 2.0)], axis=0)
    known = variances.Calibration(tables, variance=0.3, excess=1.1 * error, error=error)
    cost = likelihood.cost(tables, variances.build(name, known), only_errors(error))
    for K in range(2, 11):
        least, _ = trajectories.cheapest(cost, K)
        assert trajectories.path_cost(cost, list(timesteps.optimal(cost, K))) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("name", ONE_NUMBER)
def test_the_cost_of_a_pair_is_its_divergence_and_the_data_are_reached_from_1_alone(short, name):
    error = np.array([np.nan, 0.5, 0.4, 0.3, 0.2])
    choice = variances.build(name, variances.Calibration(short, variance=0.6, excess=0.9 * error, error=error))
    cost = likelihood.cost(short, choice, only_errors(error))
    assert cost.shape == (5, 5)
    assert cost[0, 1] == 0 and (cost[0, 2:] == np.inf).all()
    for t in range(2, 5):
        for s in range(1, t):
            sigma2 = np.exp(variances.table(choice, two_times(short, s, t))[0])
            assert cost[s, t] == pytest.approx(bits.step_kl(pairs.pair(SHORT, s, t), sigma2, error[t]), rel=1e-10)


def test_the_cost_of_a_chain_is_its_kl_in_bits_per_dim(short):
    found = made_up(4, n=10)
    error = moments.mean_error(found)
    choice = variances.isotropic(error)
    cost = likelihood.cost(short, choice, found)
    steps = process.steps(short, [1, 3, 4])
    result = likelihood.bits_per_dim(steps, choice, found)
    assert trajectories.path_cost(cost, [1, 3, 4]) / LN_2 == pytest.approx(result.kl, rel=1e-10)


# ---------------------------------------------------------------- the negative control


LIMIT = 1.7 * np.log(1.7) / (1.7 - 1)


def loss_of_scaling(tables, s, t, error, factor=1.7):
    steps = two_times(tables, s, t)
    base = variances.large(tables)
    plain, tilted = (step_kl(steps, choice, np.array([error]))[0] for choice in (base, variances.scaled(base, factor)))
    return tilted - plain


def test_the_limit_of_the_control_is_1_2887():
    """With S = tb + v M a step costs 1/2 [S/sigma^2 - 1 - log(tb/sigma^2)]; from b to k b that changes by
    1/2 [log k - (S/b)(1 - 1/k)], positive exactly when S/b < k log k/(k - 1).
    """
    assert LIMIT == pytest.approx(1.2887, abs=5e-5)
    for k in (1.1, 1.7, 4.0):
        for ratio in np.linspace(0.1, 3, 30):
            change = 0.5 * (np.log(k) - ratio * (1 - 1 / k))
            assert (change > 0) == (ratio < k * np.log(k) / (k - 1))


@pytest.mark.parametrize(("s", "t"), [(1, 112), (334, 445), (499, 500), (889, 1000)])
@pytest.mark.parametrize("side", [-1, 1])
def test_scaling_large_by_1_7_loses_exactly_below_the_limit(linear, s, t, side):
    p = pairs.pair(LINEAR, s, t)
    error = (LIMIT * (1 + 0.01 * side) * p.b - p.tb) / p.v
    assert error > 0
    assert np.sign(loss_of_scaling(linear, s, t, error)) == -side


def test_scaling_large_wins_on_wide_gaussian_data_and_loses_on_narrow_data(linear):
    """Step 445 -> 334: Q(4) = 1.398457 b lies above the limit, Q(1) = b and Q(.25) = .845260 b below."""
    p = pairs.pair(LINEAR, 334, 445)
    for c, loses in ((4.0, False), (1.0, True), (0.25, True)):
        error = p.ab_t * c / (p.ab_t * c + p.noise_t)
        assert (loss_of_scaling(linear, 334, 445, error) > 0) == loses


def test_scaling_large_loses_in_total_on_image_like_data(linear):
    error = smooth_error()
    for K in (10, 50, 1000):
        times = timesteps.even(1000, K)
        steps = process.pairs(linear, times[:-1], times[1:])
        large = variances.large(linear)
        plain, tilted = (
            step_kl(steps, choice, error[steps.t]).sum() for choice in (large, variances.scaled(large, 1.7))
        )
        assert tilted > plain
