"""The reverse chain: exact in Gaussian worlds, and the promises about noise, clips, compilation and precision."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.fft import dctn, idctn

from ddpm_jax.diffusion import conventions, process, sampler, schedules, timesteps, toy, variances
from ddpm_jax.diffusion.denoiser import Prediction, make_denoiser
from tests.oracle import gaussian_world, pairs
from tests.oracle import schedules as oracle_schedules
from tests.oracle import variances as oracle_variances

BETAS = oracle_schedules.linear(1000)
LINEAR = schedules.linear()
FREE = conventions.Rules(last_step="noise", pixel_clip=None, clip_x_0=False, clamp_cov=False)
MEAN = 0.3
SHAPE = (3_125, 8, 8, 1)
N = 200_000  # independent scalars
NAMES = sorted(variances.VARIANCES)
READING = [name for name in NAMES if name in ("npr", "sn", "ocm", "learned", "learned_range")]
NO_NOISE = variances.zero()


def oracle_chain(K, betas=BETAS):
    return pairs.chain(betas, [int(t) for t in timesteps.even(len(betas), K)])


@cache
def exact_h(c):
    """M_t and 1 - Gamma_t of the exact denoiser, at every time."""
    ab, noise = oracle_schedules.alpha_bar(BETAS), oracle_schedules.one_minus_alpha_bar(BETAS)
    h = ab * c / (ab * c + noise)
    middle = oracle_variances.noise_variance(pairs.pair(BETAS, 0, 500), c)
    assert h[500] == pytest.approx(middle, rel=1e-12)
    h[0] = np.nan
    return h


@cache
def gaussian_world_of(c):
    return toy.gaussian(LINEAR, np.full(SHAPE[1:], MEAN), np.full(SHAPE[1:], c))


@cache
def built(name, c, family_c=0.6):
    """A choice with the moments of the exact denoiser; those that read heads do not need them, and stay one object."""
    h = exact_h(c)
    known = variances.Calibration(LINEAR, variance=family_c, excess=h, error=h, clamp_cov=False)
    choice = variances.build(
        name, known._replace(spectrum=np.broadcast_to(h[:, None, None, None], (1001, *SHAPE[1:])), colours=((1.0,),))
    )
    return built(name, 1.0) if choice.heads and c != 1.0 else choice


def saying(denoiser, table, x_t, t):
    """A denoiser with heads, one number a time; `sn` says h + eps_hat^2."""
    prediction = denoiser(x_t, t)
    rows = {name: jnp.broadcast_to(row[t].reshape(-1, 1, 1, 1), x_t.shape) for name, row in table.items()}
    return prediction._replace(heads={**rows, "sn": rows["sn"] + prediction.eps**2})


def headed(c, K):
    """The exact denoiser with the heads that the oracle computes for the pairs of a chain."""
    table = {name: np.full(1001, np.nan, np.float32) for name in READING}
    for p in oracle_chain(K):
        for name, row in table.items():
            row[p.t] = oracle_variances.gaussian_head(name, p, BETAS, c)
    return Partial(saying, gaussian_world_of(c).denoiser, jax.tree.map(jnp.asarray, table))


def oracle_sigma2(name, c, K, eta=None, family_c=0.6):
    chain = oracle_chain(K)
    if name in READING:
        heads = [{"head": oracle_variances.gaussian_head(name, p, BETAS, c)} for p in chain]
        return [
            oracle_variances.variance(name, p, BETAS, eta=eta, **head) for p, head in zip(chain, heads, strict=True)
        ]
    h = exact_h(c)
    known = {"c": family_c, "excess": h, "error": h, "spectrum": h[:, None, None, None]}
    return [np.squeeze(oracle_variances.variance(name, p, BETAS, eta=eta, **known)) for p in chain]


def sampled(choice, c, K, eta=None, seed=0):
    steps = process.steps(LINEAR, timesteps.even(1000, K), process.DDPM if eta is None else process.ddim(eta))
    denoiser = headed(c, K) if choice.heads else gaussian_world_of(c).denoiser
    return np.asarray(sampler.sample(jax.random.key(seed), steps, denoiser, choice, SHAPE, FREE), np.float64)


def assert_moments(x, mean, var):
    """Within 5 standard errors: sqrt(P/n) of a mean, P sqrt(2/n) of a variance; float32 adds about 1e-6."""
    assert x.size == N
    assert x.mean() == pytest.approx(mean, abs=5 * np.sqrt(var / N) + 1e-6)
    assert x.var() == pytest.approx(var, abs=5 * var * np.sqrt(2 / N) + 1e-9)


# ---------------------------------------------------------------- Gaussian worlds


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("K", [*(pytest.param(K, marks=pytest.mark.slow) for K in (1, 4)), 10])
@pytest.mark.parametrize("c", [pytest.param(0.25, marks=pytest.mark.slow), 4.0])
@pytest.mark.parametrize("name", NAMES)
def test_samples_with_the_ddpm_kernel_follow_the_recursion(name, c, K):
    x = sampled(built(name, c), c, K)
    assert_moments(x, *gaussian_world.sample_moments(oracle_chain(K), oracle_sigma2(name, c, K), MEAN, c))


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("K", [1, pytest.param(4, marks=pytest.mark.slow), 10])
@pytest.mark.parametrize("c", [0.25, 4.0])
@pytest.mark.parametrize("name", [name for name in NAMES if built(name, 1.0).every_kernel])
def test_samples_with_a_ddim_kernel_follow_the_recursion(name, c, K, eta):
    x = sampled(built(name, c), c, K, eta)
    sigma2 = oracle_sigma2(name, c, K, eta)
    assert_moments(x, *gaussian_world.sample_moments(oracle_chain(K), sigma2, MEAN, c, eta))


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("K", [1, 4])
def test_without_noise_in_the_last_step_the_recursion_holds_with_a_zero_there(K):
    c = 4.0
    steps = process.steps(LINEAR, timesteps.even(1000, K))
    rules = FREE._replace(last_step="mean")
    x = sampler.sample(jax.random.key(1), steps, gaussian_world_of(c).denoiser, variances.large(LINEAR), SHAPE, rules)
    sigma2 = [0.0, *oracle_sigma2("large", c, K)[1:]]
    assert_moments(np.asarray(x, float), *gaussian_world.sample_moments(oracle_chain(K), sigma2, MEAN, c))


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("c", [0.25, 4.0])
@pytest.mark.parametrize("K", [1, 10])
def test_the_family_at_the_datas_own_variance_is_exact_even_in_one_step(c, K):
    """P_0 = c + ab_T c^2/V_T^2 (1 - V_T): off by what x_T ~ N(0, 1) is off, under 1e-4 c here."""
    x = sampled(variances.family(c, LINEAR), c, K)
    assert_moments(x, MEAN, c)


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("K", [1, 10])
def test_standard_normal_data_make_large_exact(K):
    x = sampled(variances.large(LINEAR), 1.0, K)
    assert_moments(x, MEAN, 1.0)


@pytest.mark.parametrize("K", [1, 2, 10])
def test_one_point_makes_small_exact(K):
    x = np.array([0.5, -1.0, 0.0, 0.25]).reshape(2, 2, 1)
    steps = process.steps(LINEAR, timesteps.even(1000, K))
    samples = sampler.sample(
        jax.random.key(0), steps, toy.point(LINEAR, x).denoiser, variances.small(), (8, 2, 2, 1), FREE
    )
    np.testing.assert_allclose(samples, np.broadcast_to(x, samples.shape), atol=1e-6)


def test_on_the_way_to_one_point_small_keeps_every_marginal():
    """x_s ~ N(sqrt(ab_s) x, 1 - ab_s) at all s if x_t is: the oracle's recursion at c = 0 with this variance."""
    chain = oracle_chain(10)
    sigma2 = np.exp(variances.table(variances.small(), process.steps(LINEAR, timesteps.even(1000, 10))))
    for stop in range(1, 10):
        var = chain[-1].noise_t
        for p, noise_var in reversed(list(zip(chain[stop:], sigma2[stop:], strict=True))):
            var = gaussian_world.mean_slope(p, 0.0) ** 2 * var + noise_var
        assert var == pytest.approx(chain[stop].noise_s, rel=1e-9)


@pytest.mark.usefixtures("optimised")
def test_a_wrong_variance_is_seen_at_this_sample_size():
    """The negative control of the tests above: 1.7 x large misses by far more than 5 standard errors."""
    _, var = gaussian_world.sample_moments(oracle_chain(4), oracle_sigma2("large", 0.25, 4), MEAN, 0.25)
    x = sampled(variances.scaled(variances.large(LINEAR), 1.7), 0.25, 4)
    assert abs(x.var() - var) > 20 * var * np.sqrt(2 / N)


# ---------------------------------------------------------------- a chain by hand, noise as promised

SMALL_SHAPE = (4, 2, 2, 1)


def crooked(x_t, t):
    """A wrong denoiser that looks at t, so that a time off by one is seen."""
    x_0 = jnp.tanh(x_t) + 0.01 * t.reshape(-1, 1, 1, 1)
    return Prediction(x_t - x_0, x_0)


def saying_nothing(x_t, t):
    """x_0_hat = 0."""
    return Prediction(x_t, jnp.zeros_like(x_t))


def stretching(at_4, elsewhere):
    """x_0_hat = x_t times a number, one at t = 4 and another at earlier times."""

    def denoiser(x_t, t):
        return Prediction(x_t, jnp.where(t.reshape(-1, 1, 1, 1) == 4, at_4, elsewhere) * x_t)

    return denoiser


def noise(key, t, shape=SMALL_SHAPE):
    return np.stack(
        [jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, i), t), shape[1:]) for i in range(shape[0])]
    )


def by_hand(key, betas, times, sigma2):
    """The documented chain: sample i's noise at time t from fold_in(fold_in(key, i), t), x_T from t = 0."""
    x = noise(key, 0)
    for p, var in zip(reversed(pairs.chain(betas, times)), reversed(sigma2), strict=True):
        x_0 = np.tanh(x) + 0.01 * p.t
        on_x_0, on_x_t = pairs.posterior_coefficients(p)
        x = on_x_0 * x_0 + on_x_t * x + np.sqrt(var) * noise(key, p.t)
    return x


@pytest.mark.parametrize("times", [[1, 2, 3, 4], [1, 4], [2, 3, 4], [4]], ids=str)
@pytest.mark.parametrize("last_step", ["mean", "noise"])
def test_the_chain_is_the_one_written_by_hand(short, times, last_step):
    key, steps = jax.random.key(5), process.steps(short, times)
    betas = [0.1, 0.3, 0.5, 0.7]
    x_0 = sampler.sample(key, steps, crooked, variances.large(short), SMALL_SHAPE, FREE._replace(last_step=last_step))
    sigma2 = [p.b for p in pairs.chain(betas, times)]
    if last_step == "mean":
        sigma2[0] = 0.0
    np.testing.assert_allclose(x_0, by_hand(key, betas, times, sigma2), atol=1e-5)


def test_the_noise_depends_on_the_time_and_not_on_the_steps_index():
    """Time 500 is the first, second and third step of three chains; the noise added there is the same."""
    key, large = jax.random.key(0), variances.large(LINEAR)
    ends = [
        sampler.sample(key, process.steps(LINEAR, times), saying_nothing, large, SMALL_SHAPE, FREE)
        for times in ([500], [500, 1000], [500, 750, 1000])
    ]
    # at s = 0 the mean is x_0_hat = 0 alone, so what is left is sigma_500 times the noise of t = 500
    expected = np.sqrt(pairs.pair(BETAS, 0, 500).b) * noise(jax.random.key(0), 500)
    for end in ends:
        np.testing.assert_allclose(end, expected, atol=1e-5)


@pytest.fixture(scope="module")
def four_steps(short):
    return process.steps(short, [1, 2, 3, 4])


def draw(steps, choice, shape=SMALL_SHAPE, rules=FREE, key=None, **more):
    return np.asarray(
        sampler.sample(jax.random.key(2) if key is None else key, steps, crooked, choice, shape, rules, **more)
    )


def test_sample_i_is_the_same_for_any_batch_size(short, four_steps):
    few, many = (draw(four_steps, variances.large(short), (n, 2, 2, 1)) for n in (4, 8))
    np.testing.assert_allclose(many[:4], few, atol=1e-6)
    assert np.abs(many[4:] - few).min() > 1e-4


def test_a_sample_alone_is_the_same_as_in_a_batch(short, four_steps):
    batch = draw(four_steps, variances.large(short))
    for i in range(4):
        alone = draw(
            four_steps, variances.large(short), (1, 2, 2, 1), key=jax.random.fold_in(jax.random.key(2), i)[None]
        )
        np.testing.assert_allclose(alone[0], batch[i], atol=1e-6)


def short_calibration(short):
    excess = np.array([np.nan, 0.5, 0.4, 0.3, 0.2])
    spectrum = np.broadcast_to(excess[:, None, None, None], (5, *SMALL_SHAPE[1:]))
    moments = dict(variance=0.6, excess=excess, error=excess, spectrum=spectrum)
    return variances.Calibration(short, colours=((1.0,),), **moments)


def crooked_with_heads(x_t, t):
    prediction = crooked(x_t, t)
    return prediction._replace(heads={name: jnp.full_like(x_t, 0.1) for name in READING})


def test_the_names_that_read_heads_are_all_here(short):
    assert [name for name in NAMES if variances.build(name, short_calibration(short)).heads] == READING


def test_x_T_is_the_same_for_every_variance(short, four_steps):
    """The first prediction of a path is of x_T alone, but for the rounding of programs that differ."""
    known = short_calibration(short)
    first = [
        sampler.sample_path(
            jax.random.key(0), four_steps, crooked_with_heads, variances.build(name, known), SMALL_SHAPE, FREE
        )
        for name in NAMES
    ]
    for path in first:
        np.testing.assert_allclose(path.x_0_hat[0], first[0].x_0_hat[0], atol=1e-6)
    np.testing.assert_allclose(first[0].x_0_hat[0], np.tanh(noise(jax.random.key(0), 0)) + 0.04, atol=1e-5)


def test_a_given_x_T_replaces_the_drawn_one(short, four_steps):
    x_T = noise(jax.random.key(2), 0)
    given = draw(four_steps, variances.large(short), x_T=jnp.asarray(x_T))
    np.testing.assert_allclose(given, draw(four_steps, variances.large(short)), atol=1e-6)
    assert not np.allclose(given, draw(four_steps, variances.large(short), x_T=jnp.zeros(SMALL_SHAPE)))


def test_a_path_ends_where_the_sample_does_and_holds_each_prediction(short, four_steps):
    path = sampler.sample_path(jax.random.key(2), four_steps, crooked, variances.small(), SMALL_SHAPE, FREE)
    assert path.x_0_hat.shape == (4, *SMALL_SHAPE)
    np.testing.assert_allclose(path.x_0, draw(four_steps, variances.small()), atol=1e-6)
    # tb = 0 at s = 0 and the posterior's mean is x_0 itself: the sample is the last prediction.
    np.testing.assert_allclose(path.x_0, path.x_0_hat[-1], atol=1e-6)


# ---------------------------------------------------------------- rules


def test_clipping_x_0_changes_the_mean(short, four_steps):
    """One step from a large x_T: the clipped chain ends at the clipped prediction, the free one does not."""
    one = process.steps(short, [4])
    x_T = 2 * jnp.ones(SMALL_SHAPE)
    ends = [
        sampler.sample(
            jax.random.key(0), one, stretching(3.0, 3.0), NO_NOISE, SMALL_SHAPE, FREE._replace(clip_x_0=clip), x_T
        )
        for clip in (False, True)
    ]
    np.testing.assert_allclose(ends[0], 6.0, rtol=1e-6)
    np.testing.assert_allclose(ends[1], 1.0, rtol=1e-6)


def test_clipping_x_0_acts_before_the_mean_is_formed_in_an_inner_step(short):
    pair = pairs.pair([0.1, 0.3, 0.5, 0.7], 2, 4)
    x_T = 2 * jnp.ones(SMALL_SHAPE)
    rules = FREE._replace(clip_x_0=True)
    denoiser, steps = stretching(3.0, 0.1), process.steps(short, [2, 4])
    end = sampler.sample(jax.random.key(0), steps, denoiser, NO_NOISE, SMALL_SHAPE, rules, x_T)
    on_x_0, on_x_t = pairs.posterior_coefficients(pair)
    np.testing.assert_allclose(end, 0.1 * (on_x_0 * 1.0 + on_x_t * 2.0), rtol=1e-5)


def test_the_default_rules_add_no_noise_in_the_last_step_and_clip_x_0(short, four_steps):
    assert conventions.Rules() == ("mean", None, 256, True, True, "shared", "nearest")
    path = sampler.sample_path(jax.random.key(0), four_steps, crooked, variances.large(short), SMALL_SHAPE)
    np.testing.assert_allclose(path.x_0, path.x_0_hat[-1], atol=1e-6)
    assert np.abs(path.x_0_hat).max() <= 1


@pytest.mark.parametrize(("y", "levels", "golden"), [(1.0, 256, 9.66e-5), (2.0, 256, 3.87e-4), (1.0, 17, None)])
def test_the_pixel_clip_bounds_the_step_into_the_first_time(y, levels, golden):
    """E|sigma eps| = sigma sqrt(2/pi) <= y spacings of 2/(levels - 1)."""
    steps = process.steps(LINEAR, timesteps.even(1000, 10))
    cap = conventions.log_var_cap(FREE._replace(pixel_clip=y, levels=levels), steps)
    assert np.exp(cap[1] / 2) * np.sqrt(2 / np.pi) == pytest.approx(y * 2 / (levels - 1), rel=1e-12)
    if golden:
        assert np.exp(cap[1]) == pytest.approx(golden, abs=0.005 * 10 ** np.floor(np.log10(golden)))
    assert (cap[[0, *range(2, 10)]] == np.inf).all()


def test_the_last_step_rule_caps_the_first_row_alone():
    steps = process.steps(LINEAR, [1, 500, 1000])
    np.testing.assert_array_equal(conventions.log_var_cap(conventions.Rules(), steps), [-np.inf, np.inf, np.inf])
    np.testing.assert_array_equal(conventions.log_var_cap(FREE, steps), [np.inf] * 3)


def test_the_pixel_clip_reaches_the_samples(short):
    """With one colour level of noise allowed into tau_1 the inner step's noise is scaled to the cap."""
    steps = process.steps(short, [1, 4])
    rules = FREE._replace(pixel_clip=2.0, last_step="mean")
    x_T = jnp.zeros(SMALL_SHAPE)
    denoiser = stretching(0.0, 1.0)
    end = sampler.sample(jax.random.key(0), steps, denoiser, variances.large(short), SMALL_SHAPE, rules, x_T)
    sigma = 4 / 255 * np.sqrt(np.pi / 2)
    np.testing.assert_allclose(end, sigma * noise(jax.random.key(0), 4), atol=1e-6)


def test_unknown_rules_are_refused_with_the_value(short, four_steps):
    with pytest.raises(ValueError, match="sometimes"):
        draw(four_steps, variances.small(), rules=FREE._replace(last_step="sometimes"))
    with pytest.raises(ValueError, match="-1"):
        draw(four_steps, variances.small(), rules=FREE._replace(pixel_clip=-1.0))


def test_keys_that_are_not_one_per_sample_are_refused(short, four_steps):
    with pytest.raises(ValueError, match=r"3.*4|4.*3"):
        draw(four_steps, variances.small(), key=jax.random.split(jax.random.key(0), 3))


@pytest.mark.parametrize("shape", [(3, 2, 2, 1), (4, 2, 2, 3)])
def test_an_x_T_of_another_shape_is_refused(short, four_steps, shape):
    with pytest.raises(ValueError, match="x_T"):
        draw(four_steps, variances.small(), x_T=jnp.zeros(shape))


def test_a_choice_without_an_h_is_refused_with_a_ddim_kernel(short):
    steps = process.steps(short, [1, 4], process.ddim(0.0))
    with pytest.raises(ValueError, match=r"(?i)ddim|kernel"):
        draw(steps, variances.interpolated(0.5))


def test_the_registry_of_kernels():
    assert sampler.SAMPLERS["ddpm"](0.3) is process.DDPM
    assert sampler.SAMPLERS["ddim"](0.5).noise(np.float64(0.4)) == pytest.approx(0.1)


# ---------------------------------------------------------------- variances that look at x_t


def test_a_state_dependent_variance_is_evaluated_in_the_loop(short):
    """h = x_0_hat^2 by hand, one step to s = 2 and then none."""
    looks = variances.from_excess(lambda step, x_t, prediction: prediction.x_0**2, headless=False)
    pair = pairs.pair([0.1, 0.3, 0.5, 0.7], 2, 4)
    rules = FREE._replace(last_step="mean")
    path = sampler.sample_path(jax.random.key(2), process.steps(short, [2, 4]), crooked, looks, SMALL_SHAPE, rules)
    x_T = noise(jax.random.key(2), 0)
    x_0_hat = np.tanh(x_T) + 0.04
    on_x_0, on_x_t = pairs.posterior_coefficients(pair)
    x_2 = on_x_0 * x_0_hat + on_x_t * x_T + np.sqrt(pair.tb + pair.v * x_0_hat**2) * noise(jax.random.key(2), 4)
    np.testing.assert_allclose(path.x_0_hat[1], np.tanh(x_2) + 0.02, atol=1e-5)


# ---------------------------------------------------------------- compilation and precision


def counting():
    traces = []

    def network(params, x_t, t):
        traces.append(x_t.shape)
        return params * x_t

    return traces, network


def test_one_compilation_serves_every_fixed_variance_at_a_given_K(short):
    """One for all that are diagonal in pixels, one for all in the frequencies of equal colours."""
    traces, network = counting()
    known = short_calibration(short)
    fixed = [variances.build(name, known) for name in NAMES if name not in READING]
    steps = process.steps(short, [1, 2, 4])
    denoiser = make_denoiser(network, jnp.float32(0.5), short, "eps")
    draws = []
    for choice in fixed:
        x = sampler.sample(jax.random.key(0), steps, denoiser, choice, SMALL_SHAPE, FREE)
        draws.append(np.asarray(x))
        assert np.isfinite(draws[-1]).all()
    first = len(traces)
    assert first >= 1
    for choice in [variances.build(name, known) for name in NAMES if name not in READING]:
        sampler.sample(jax.random.key(1), steps, denoiser, choice, SMALL_SHAPE, FREE)
    assert len(traces) == first
    assert len({x.tobytes() for x in draws}) > 4
    only_one, single = counting()
    denoiser = make_denoiser(single, jnp.float32(0.5), short, "eps")
    shapes = {(choice.basis.name, choice.log_var(steps, None, None).ndim): choice for choice in fixed}
    assert len(shapes) == 2
    for choice in shapes.values():
        sampler.sample(jax.random.key(0), steps, denoiser, choice, SMALL_SHAPE, FREE)
    assert first == len(only_one)


def test_schedules_of_equal_length_kernels_and_parameters_share_one_compilation(short):
    traces, network = counting()
    after_first = None
    for betas in ([0.1, 0.3, 0.5, 0.7], [0.05, 0.1, 0.2, 0.9]):
        tables = schedules.from_betas(betas)
        for kernel in (process.DDPM, process.ddim(0.0), process.ddim(0.5)):
            for scale in (0.5, 0.7):
                denoiser = make_denoiser(network, jnp.float32(scale), tables, "eps")
                steps = process.steps(tables, [1, 2, 4], kernel)
                sampler.sample(jax.random.key(0), steps, denoiser, variances.large(tables), SMALL_SHAPE, FREE)
                after_first = after_first or len(traces)
    assert len(traces) == after_first


@pytest.mark.parametrize("default", ["default", "bfloat16", None])
def test_sampling_uses_full_precision_products_whatever_the_default(short, default):
    def multiplying(x_t, t):
        flat = x_t.reshape(x_t.shape[0], -1)
        return Prediction(x_t, (flat @ jnp.ones((4, 4))).reshape(x_t.shape))

    steps = process.steps(short, [1, 4])
    with jax.default_matmul_precision(default) if default else jax.default_matmul_precision("default"):
        text = (
            jax.jit(lambda key: sampler.sample(key, steps, multiplying, variances.large(short), SMALL_SHAPE, FREE))
            .lower(jax.random.key(0))
            .as_text()
        )
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    for line in products:
        assert "HIGHEST" in line and "DEFAULT" not in line


@pytest.mark.parametrize("channels", [1, 3])
def test_a_variance_that_reads_heads_needs_a_network_that_has_them(short, channels):
    """The head is log sigma^2 itself; the chain's one step draws with it."""
    shape, steps = (6, 2, 2, channels), process.steps(short, [4])
    learned = variances.build("learned", variances.Calibration(short))
    plain = make_denoiser(lambda params, x_t, t: x_t, None, short, "x_0")
    with pytest.raises(ValueError, match="'learned' reads a head of that name and the denoiser has none"):
        sampler.sample(jax.random.key(0), steps, plain, learned, shape, FREE)

    def with_heads(params, x_t, t):
        return jnp.concatenate([0 * x_t, jnp.full_like(x_t, params)], axis=-1)

    drawn = []
    for log_var in (0.0, 2.0):
        denoiser = make_denoiser(with_heads, jnp.float32(log_var), short, "x_0", ("learned",))
        drawn.append(sampler.sample(jax.random.key(0), steps, denoiser, learned, shape, FREE, x_T=jnp.zeros(shape)))
    np.testing.assert_allclose(drawn[1], np.e * drawn[0], rtol=1e-5)
    assert np.abs(drawn[0]).max() > 0.1


# ---------------------------------------------------------------- noise shaped in frequencies

COLOURS = tuple(map(tuple, np.linalg.qr(np.random.default_rng(8).normal(size=(3, 3)))[0].tolist()))
SPECTRUM = np.random.default_rng(9).gamma(0.5, 2.0, (2, 3, 3))  # c_j: from .002 to 8
DRAWN = 30_000


def coefficients(x):
    """The DCT along the made-up colour axes, by SciPy."""
    return dctn(np.asarray(x, float) @ np.array(COLOURS).T, axes=(1, 2), norm="ortho").reshape(len(x), -1)


def of_a_spectrum(x_t, t):
    """The exact denoiser of data N(.3, B' diag(c) B): x_0_hat - m = B' diag(sqrt(ab) c/V) B (x_t - sqrt(ab) m)."""
    ab, gone = (jnp.asarray(table(BETAS), x_t.dtype)[t].reshape(-1, 1, 1, 1) for table in TABLES)
    shrink = jnp.sqrt(ab) * SPECTRUM.astype(np.float32) / (ab * SPECTRUM.astype(np.float32) + gone)
    unit = np.eye(SPECTRUM.size).reshape(-1, *SPECTRUM.shape)
    rows = idctn(unit, axes=(1, 2), norm="ortho") @ np.array(COLOURS)  # row j: the j-th basis image
    matrix = jnp.asarray(rows.reshape(SPECTRUM.size, -1), x_t.dtype)
    residual = (x_t - jnp.sqrt(ab) * MEAN).reshape(len(x_t), -1)
    x_0 = MEAN + ((residual @ matrix.T) * shrink.reshape(-1, SPECTRUM.size) @ matrix).reshape(x_t.shape)
    return Prediction((x_t - jnp.sqrt(ab) * x_0) / jnp.sqrt(gone), x_0)


TABLES = (oracle_schedules.alpha_bar, oracle_schedules.one_minus_alpha_bar)


def spectral_calibration():
    ab, gone = (table(BETAS)[:, None, None, None] for table in TABLES)
    moments = ab * SPECTRUM / (ab * SPECTRUM + gone)
    return variances.Calibration(LINEAR, error=moments.mean((1, 2, 3)), spectrum=moments, colours=COLOURS)


def drawn_coefficients(name, K):
    choice = variances.build(name, spectral_calibration())
    steps, shape = process.steps(LINEAR, timesteps.even(1000, K)), (DRAWN, *SPECTRUM.shape)
    return coefficients(sampler.sample(jax.random.key(4), steps, of_a_spectrum, choice, shape, FREE))


@pytest.mark.parametrize("K", [1, 4])
def test_spectral_is_exact_where_the_data_are_diagonal_in_its_basis(K):
    """The covariance of the coefficients is diag(c) even after one step: within 5 standard errors,
    c sqrt(2/n) of a variance and sqrt(c_i c_j/n) of a covariance.
    """
    found, c = np.cov(drawn_coefficients("spectral", K).T), SPECTRUM.ravel()
    error = np.sqrt(np.outer(c, c) * (1 + np.eye(c.size)) / DRAWN)
    # what x_T ~ N(0, 1) is off moves P_0 by less than 4.1e-5 c^2
    assert (np.abs(found - np.diag(c)) < 5 * error + 4.1e-5 * np.diag(c**2)).all()


def test_an_isotropic_variance_misses_that_covariance():
    """The negative control: in one step every coefficient gets the same noise."""
    found, c = drawn_coefficients("isotropic", 1).var(0), SPECTRUM.ravel()
    assert (np.abs(found - c) > 20 * c * np.sqrt(2 / DRAWN)).mean() > 0.8


def test_radial_bins_give_every_coefficient_the_mean_of_its_bin():
    """In one step from x_T the noise of the frequencies that share a bin is the same."""
    choice = variances.build("spectral_radial", spectral_calibration())
    steps, shape = process.steps(LINEAR, [1000]), (DRAWN, *SPECTRUM.shape)
    x_T = jnp.full(shape, MEAN * np.sqrt(LINEAR.alpha_bar[1000]), jnp.float32)
    x = coefficients(sampler.sample(jax.random.key(5), steps, of_a_spectrum, choice, shape, FREE, x_T))
    p = pairs.pair(BETAS, 0, 1000)
    wanted = p.v * oracle_variances.radial_means(spectral_calibration().spectrum[1000]).ravel()
    np.testing.assert_allclose(x.var(0), wanted, rtol=5 * np.sqrt(2 / DRAWN))


# ---------------------------------------------------------------- no data left at T


@pytest.mark.parametrize("of", ["jsd", "linear_zero_terminal"])
@pytest.mark.parametrize("kind", ["x_0", "v"])
@pytest.mark.parametrize("times", [[50], [1, 20, 50]], ids=str)
def test_chains_start_where_no_data_are_left(of, kind, times):
    """A network that says the exact x_0 or v of data N(.3, .25) and the family of that variance: exact in any K."""
    c, tables = 0.25, schedules.SCHEDULES[of](50)
    assert tables.alpha_bar[50] == 0

    def network(params, x_t, t):
        ab, gone = (jnp.asarray(table, x_t.dtype)[t].reshape(-1, 1, 1, 1) for table in tables[1:])
        x_0 = MEAN + jnp.sqrt(ab) * c / (ab * c + gone) * (x_t - jnp.sqrt(ab) * MEAN)
        eps = (x_t - jnp.sqrt(ab) * x_0) / jnp.sqrt(gone)
        return {"x_0": x_0, "v": jnp.sqrt(ab) * eps - jnp.sqrt(gone) * x_0}[kind]

    denoiser = make_denoiser(network, None, tables, kind)
    x = sampler.sample(
        jax.random.key(6), process.steps(tables, times), denoiser, variances.family(c, tables), SHAPE, FREE
    )
    assert_moments(np.asarray(x, np.float64), MEAN, c)


# ---------------------------------------------------------------- protocols


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddpm", conventions.Rules("mean", None, 17, True, True)),
        ("analytic-dpm", conventions.Rules("mean", 1.0, 17, True, True)),
        ("iddpm", conventions.Rules("mean", None, 17, True, True, "own", "down")),
    ],
)
def test_a_protocol_is_its_papers_rules_for_the_datas_levels(name, expected):
    assert conventions.protocol(name, 17) == expected
    assert conventions.protocol(name, 17, last_step=None, pixel_clip=None, clip_x_0=None, clamp_cov=None) == expected


def test_every_protocol_is_checked_here():
    assert set(conventions.PROTOCOLS) == {"ddpm", "analytic-dpm", "iddpm"}


@pytest.mark.parametrize("name", conventions.PROTOCOLS)
@pytest.mark.parametrize(
    ("rule", "value"), [("last_step", "noise"), ("pixel_clip", 2.0), ("clip_x_0", False), ("clamp_cov", False)]
)
def test_a_rule_can_be_set_alone(name, rule, value):
    changed, plain = conventions.protocol(name, 256, **{rule: value}), conventions.protocol(name, 256)
    assert getattr(changed, rule) == value
    assert changed._replace(**{rule: getattr(plain, rule)}) == plain


def test_a_pixel_clip_of_0_is_none():
    assert conventions.protocol("analytic-dpm", 256, pixel_clip=0.0).pixel_clip is None
    assert conventions.protocol("ddpm", 256, pixel_clip=0).pixel_clip is None


def test_an_unknown_protocol_lists_what_there_is():
    with pytest.raises(ValueError, match=r"unknown protocol 'edm': choose one of ddpm, analytic-dpm, iddpm"):
        conventions.protocol("edm", 256)


# ---------------------------------------------------------------- under jit, vmap and grad, in either precision

TIMES, C = [10, 200, 600, 1000], 0.25
CHAIN = process.steps(LINEAR, TIMES)
WORLD = toy.gaussian(LINEAR, np.full(SMALL_SHAPE[1:], MEAN), np.full(SMALL_SHAPE[1:], C))
SQUARE = variances.from_excess(lambda step, x_t, prediction: prediction.x_0**2, headless=False)


def exact_mean(p, x_t):
    """The mean of a DDPM step with the exact denoiser, and what that denoiser says; NumPy, float64."""
    x_0 = MEAN + np.sqrt(p.ab_t) * C / (p.ab_t * C + p.noise_t) * (x_t - np.sqrt(p.ab_t) * MEAN)
    on_x_0, on_x_t = pairs.posterior_coefficients(p)
    return on_x_0 * x_0 + on_x_t * x_t, x_0


def in_numpy(key, x_T, variance):
    """The chain in float64, its noise drawn as the precision of x_T has it; variance(pair, x_0_hat) -> sigma^2."""
    x = np.asarray(x_T, np.float64)
    for p in reversed(pairs.chain(BETAS, TIMES)):
        mean, x_0 = exact_mean(p, x)
        keys = [jax.random.fold_in(jax.random.fold_in(key, i), p.t) for i in range(len(x))]
        drawn = np.stack([jax.random.normal(each, x.shape[1:], x_T.dtype) for each in keys])
        x = mean + np.sqrt(variance(p, x_0)) * np.asarray(drawn, np.float64)
    return x


IN_EITHER_PRECISION = [
    (variances.large(LINEAR), lambda p, x_0: p.b),
    (variances.spectral(np.full((1001, *SMALL_SHAPE[1:]), 0.5), ((1.0,),)), lambda p, x_0: p.tb + p.v * 0.5),
    (SQUARE, lambda p, x_0: p.tb + p.v * x_0**2),
]


@pytest.mark.parametrize(("choice", "variance"), IN_EITHER_PRECISION, ids=["large", "spectral", "of_x_t"])
@pytest.mark.parametrize(("x64", "dtype"), [(False, np.float32), (True, np.float32), (True, np.float64)])
def test_all_of_a_chain_is_in_the_precision_of_x_T(choice, variance, x64, dtype):
    seen, key = set(), jax.random.key(3)

    def denoiser(x_t, t):
        seen.add(x_t.dtype)
        return WORLD.denoiser(x_t, t)

    with jax.enable_x64(x64):
        x_T = jnp.asarray(noise(key, 0), dtype)
        path = sampler.sample_path(key, CHAIN, denoiser, choice, SMALL_SHAPE, FREE, x_T)
        expected = in_numpy(key, x_T, variance)
    assert {path.x_0.dtype, path.x_0_hat.dtype, *seen} == {np.dtype(dtype)}
    np.testing.assert_allclose(path.x_0, expected, atol=1e-12 if dtype == np.float64 else 1e-5)


def test_without_x_T_a_chain_is_in_float32():
    key = jax.random.key(3)
    x_T = jnp.asarray(noise(key, 0))
    for x64 in (False, True):
        with jax.enable_x64(x64):
            found = sampler.sample(key, CHAIN, WORLD.denoiser, variances.large(LINEAR), SMALL_SHAPE, FREE)
            expected = in_numpy(key, x_T, lambda p, x_0: p.b)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("x64", [False, True])
def test_a_network_of_float32_is_sampled_in_either_precision(x64, short):
    """Whatever the network computes in, x_t keeps its precision."""

    def network(params, x_t, t):
        return (params * x_t).astype(jnp.float32)

    with jax.enable_x64(x64):
        denoiser = make_denoiser(network, jnp.float32(0.5), short, "x_0")
        steps, x_T = process.steps(short, [1, 4]), jnp.ones(SMALL_SHAPE)
        found = sampler.sample(jax.random.key(0), steps, denoiser, NO_NOISE, SMALL_SHAPE, FREE, x_T)
    assert found.dtype == x_T.dtype
    np.testing.assert_allclose(found, np.prod(slopes(steps, 0.5)), rtol=1e-6)


def slopes(steps, scale):
    """d mean/d x_t of every step where x_0_hat = scale x_t; of float64 coefficients."""
    return steps.mean_x_0 * scale + steps.mean_x_t


@pytest.mark.parametrize("choice", [variances.large(LINEAR), SQUARE], ids=["large", "of_x_t"])
def test_a_jitted_sampler_draws_the_same(choice):
    def drawn(key, x_T):
        return sampler.sample(key, CHAIN, WORLD.denoiser, choice, SMALL_SHAPE, FREE, x_T)

    key, x_T = jax.random.key(1), jnp.asarray(noise(jax.random.key(7), 0))
    np.testing.assert_allclose(jax.jit(drawn)(key, x_T), drawn(key, x_T), atol=1e-6)


def test_a_sampler_is_mapped_over_keys():
    def drawn(key):
        return sampler.sample(key, CHAIN, WORLD.denoiser, variances.large(LINEAR), SMALL_SHAPE, FREE)

    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.vmap(drawn)(keys)
    assert len(np.unique(np.asarray(together).reshape(12, -1), axis=0)) == 12
    for one, key in zip(together, keys, strict=True):
        np.testing.assert_allclose(one, drawn(key), atol=1e-6)


PRECISIONS = pytest.mark.parametrize(("x64", "rtol"), [(False, 1e-5), (True, 1e-12)], ids=["float32", "float64"])


@PRECISIONS
@pytest.mark.parametrize("rules", [FREE, FREE._replace(last_step="mean", pixel_clip=1.0)], ids=["noise", "mean"])
def test_the_gradient_by_x_T_is_the_product_of_the_slopes(x64, rtol, rules):
    """x_0 is linear in x_T where data are Gaussian: d x_0/d x_T = prod of d mean/d x_t."""

    def end(x_T):
        return sampler.sample(
            jax.random.key(0), CHAIN, WORLD.denoiser, variances.large(LINEAR), SMALL_SHAPE, rules, x_T
        ).sum()

    with jax.enable_x64(x64):
        found = jax.grad(end)(jnp.asarray(noise(jax.random.key(7), 0)))
    expected = np.prod([gaussian_world.mean_slope(p, C) for p in pairs.chain(BETAS, TIMES)])
    np.testing.assert_allclose(found, np.full(SMALL_SHAPE, expected), rtol=rtol)


@PRECISIONS
def test_the_gradient_by_the_denoisers_parameters_is_the_product_rules(x64, rtol, short):
    """x_0_hat = p x_t and no noise: x_0 = prod (p mean_x_0 + mean_x_t) x_T."""
    steps = process.steps(short, [1, 3, 4])

    def end(scale):
        denoiser = make_denoiser(lambda params, x_t, t: params * x_t, scale, short, "x_0")
        x_T = jnp.ones(SMALL_SHAPE, scale.dtype)
        return sampler.sample(jax.random.key(0), steps, denoiser, NO_NOISE, SMALL_SHAPE, FREE, x_T).mean()

    with jax.enable_x64(x64):
        value, slope = jax.value_and_grad(end)(jnp.asarray(0.7))
    each = slopes(steps, 0.7)
    assert float(value) == pytest.approx(np.prod(each), rel=rtol)
    assert float(slope) == pytest.approx(np.prod(each) * (steps.mean_x_0 / each).sum(), rel=rtol)


@PRECISIONS
def test_the_gradient_by_the_numbers_of_a_fixed_variance(x64, rtol, short):
    """x_0_hat = x_t/2: d x_0/d M_t = gain eps/(2 sigma_t) carried on by the slopes of the steps after it."""
    steps, key, shape = process.steps(short, [2, 4]), jax.random.key(0), (1, 1, 1, 1)

    def end(error):
        denoiser = make_denoiser(lambda params, x_t, t: x_t / 2, None, short, "x_0")
        x_T = jnp.zeros(shape, error.dtype)
        return sampler.sample(key, steps, denoiser, variances.isotropic(error), shape, FREE, x_T).sum()

    with jax.enable_x64(x64):
        h = jnp.asarray([np.nan, 0.5, 0.4, 0.3, 0.2])
        value, found = jax.value_and_grad(end)(h)
        eps = np.array([noise(key, t, shape).item() for t in (2, 4)], np.float64)
    sigma = np.sqrt(steps.base + steps.gain * [0.4, 0.2])
    carried = [1, slopes(steps, 0.5)[0]]
    assert float(value) == pytest.approx((carried * sigma * eps).sum(), rel=rtol)
    expected = np.zeros(5)
    expected[[2, 4]] = carried * steps.gain * eps / (2 * sigma)
    np.testing.assert_allclose(found, expected, rtol=rtol)


def test_the_gradient_by_one_of_several_variances_leaves_the_others_alone(short):
    """The two halves of the sampler: choices side by side, each with numbers of its own."""
    steps, shape = process.steps(short, [2, 4]), (2, 1, 1, 1)
    denoiser = make_denoiser(lambda params, x_t, t: x_t / 2, None, short, "x_0")

    def ends(errors):
        choices = [variances.isotropic(error) for error in errors] + [variances.large(short)]
        shared, chains, static = sampler.prepare(jax.random.key(0), steps, denoiser, choices, shape, FREE)
        x_0, _ = sampler.scan(shared, chains, **static, record=False)
        return x_0.reshape(3, 2).sum(1)

    found = jax.jacobian(ends)(jnp.asarray([[np.nan, 0.5, 0.4, 0.3, 0.2]] * 2))
    moved = np.abs(np.asarray(found)).sum(2) > 0
    np.testing.assert_array_equal(moved, [[True, False], [False, True], [False, False]])


def test_choices_that_cannot_share_a_scan_are_refused(short, four_steps):
    large, key = variances.large(short), jax.random.key(0)
    spectral = variances.build("spectral", short_calibration(short))
    for choices, x_T in (((large, spectral), None), ((large, SQUARE), None), ((large, large), jnp.ones(SMALL_SHAPE))):
        with pytest.raises(ValueError, match="2 variances in one scan: give fixed ones of one basis, and no x_T"):
            sampler.prepare(key, four_steps, crooked, choices, SMALL_SHAPE, FREE, x_T)
