"""Chains on Gaussian data: the recursion, its affine form, and scores, against linear algebra and quadrature."""

import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules, timesteps, variances
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation import likelihood
from ddpm_jax.evaluation.exact import gaussian_chain
from ddpm_jax.evaluation.exact.gaussian_chain import Final
from ddpm_jax.evaluation.fid import frechet
from tests.oracle import bits, gaussian_paths, gaussian_world, pairs, trajectories
from tests.oracle import schedules as oracle_schedules
from tests.oracle import variances as oracle_variances

SHORT = [0.1, 0.3, 0.5, 0.7]
C = np.array([0.0, 0.05, 0.25, 1.0, 4.0, 100.0])
MEAN = np.array([0.3, -0.5, 0.0, 1.0, 2.0, -1.0])
CHAINS = {"T = 4": (SHORT, [1, 2, 3, 4]), "two steps": (SHORT, [2, 4]), "one": (SHORT, [4])}
CHAINS["K = 10"] = (oracle_schedules.linear(1000), trajectories.even(1000, 10))


@pytest.fixture(params=CHAINS)
def chain(request):
    """A schedule, its chain, and the oracle's pairs."""
    betas, times = CHAINS[request.param]
    tables = schedules.from_betas(betas)
    return tables, process.steps(tables, np.asarray(times)), pairs.chain(betas, times)


def random_variances(K, *shape):
    return np.random.default_rng(0).uniform(0.01, 2.0, (K, *shape))


# ---------------------------------------------------------------- the tables


def test_excess_is_the_conditional_variance_of_the_noise(short):
    table = gaussian_chain.excess(short, C)
    assert table.shape == (5, 6)
    assert np.isnan(table[0]).all()
    for t in range(1, 5):
        expected = [oracle_variances.noise_variance(pairs.pair(SHORT, 0, t), c) for c in C]
        np.testing.assert_allclose(table[t], expected, rtol=1e-12, atol=1e-15)


def test_the_true_variance_is_bayes_rule_with_the_data_integrated_out(chain):
    tables, steps, oracle = chain
    found = np.exp(gaussian_chain.true_log_var(tables, steps, C))
    expected = [[oracle_variances.true_variance(p, c) for c in C] for p in oracle]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_family_at_one_step_of_the_linear_schedule(linear):
    """Q/b of the step 445 -> 334, computed elsewhere: c = 0, .25, 1, 4, 100, and its limit 1/a."""
    steps = process.pairs(linear, np.array([334]), np.array([445]))
    c = np.array([0.0, 0.25, 1.0, 4.0, 100.0, 1e12])
    ratio = np.exp(gaussian_chain.true_log_var(linear, steps, c))[0] / steps.b
    np.testing.assert_allclose(ratio, [0.785777, 0.845260, 1, 1.398457, 2.299332, 2.398113], atol=5e-7)
    assert 1 / steps.a[0] == pytest.approx(2.398113, abs=5e-7)


def test_moments_are_those_of_endless_images(short):
    c = C.reshape(1, 2, 3)
    found = gaussian_chain.moments(short, c)
    for t in range(1, 5):
        h = [oracle_variances.noise_variance(pairs.pair(SHORT, 0, t), x) for x in C]
        np.testing.assert_allclose(found.spectrum[t].ravel(), h, rtol=1e-12, atol=1e-15)
        assert found.error[0, t] == found.excess[0, t] == pytest.approx(np.mean(h), rel=1e-12)
    last = pairs.pair(SHORT, 0, 4)
    assert found.prior[0] == pytest.approx(bits.prior_kl(np.sqrt(C), last.ab_t, last.noise_t), rel=1e-12)
    assert found.variance == pytest.approx(C.mean())
    np.testing.assert_array_equal(found.colours, np.eye(3))


# ---------------------------------------------------------------- where a chain ends


@pytest.mark.parametrize("eta", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("each", [False, True])
def test_the_recursion_is_the_oracles(chain, eta, each):
    tables, steps, oracle = chain
    kernel = process.DDPM if eta is None else process.ddim(eta)
    steps = process.steps(tables, steps.t, kernel)
    sigma2 = random_variances(len(oracle), *C.shape * each)
    end = gaussian_chain.final(tables, steps, np.log(sigma2), C, MEAN)
    for j, (c, m) in enumerate(zip(C, MEAN, strict=True)):
        of_one = sigma2[:, j] if each else sigma2
        mean, var = gaussian_world.sample_moments(oracle, of_one, m, c, eta)
        assert end.variance[j] == pytest.approx(var, rel=1e-9)
        assert end.error[j] == pytest.approx(mean - m, rel=1e-9, abs=1e-12)


def test_a_step_without_noise_adds_none(chain):
    tables, steps, oracle = chain
    end = gaussian_chain.final(tables, steps, np.full(len(oracle), -np.inf), C, MEAN)
    expected = [gaussian_world.sample_moments(oracle, np.zeros(len(oracle)), 0.0, c)[1] for c in C]
    np.testing.assert_allclose(end.variance, expected, rtol=1e-9, atol=1e-15)


def test_the_end_is_affine_in_the_variances(chain):
    tables, steps, oracle = chain
    offset, weights = gaussian_chain.affine(tables, steps, C)
    sigma2 = random_variances(len(oracle))
    end = gaussian_chain.final(tables, steps, np.log(sigma2), C)
    np.testing.assert_allclose(offset + np.tensordot(sigma2, weights, 1), end.variance, rtol=1e-9)


def test_the_end_is_the_datas_variance_and_what_each_step_misses(chain):
    """P_0 = c + (ab_T c^2/V_T^2)(1 - V_T) + sum_k (ab_s c^2/V_s^2)(sigma_k^2 - Q_k), mean error -ab_T c m/V_T."""
    tables, steps, oracle = chain
    sigma2 = random_variances(len(oracle))
    end = gaussian_chain.final(tables, steps, np.log(sigma2), C, MEAN)
    for j, (c, m) in enumerate(zip(C[1:], MEAN[1:], strict=True), start=1):
        ab_T = oracle[-1].ab_t
        V = lambda p, c=c: p.ab_s * c + p.noise_s  # noqa: E731
        V_T = ab_T * c + oracle[-1].noise_t
        misses = (
            p.ab_s * c**2 / V(p) ** 2 * (s - oracle_variances.true_variance(p, c))
            for p, s in zip(oracle, sigma2, strict=True)
        )
        expected = c + ab_T * c**2 / V_T**2 * (1 - V_T) + sum(misses)
        assert end.variance[j] == pytest.approx(expected, rel=1e-8)
        assert end.error[j] == pytest.approx(-ab_T * c * m / V_T, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("K", [1, 2, 10])
def test_the_true_variance_in_every_direction_is_exact_for_any_number_of_steps(linear, K):
    """Off by what x_T ~ N(0, 1) is off: (ab_T c^2/V_T^2)(1 - V_T)."""
    steps = process.steps(linear, timesteps.even(1000, K))
    end = gaussian_chain.final(linear, steps, gaussian_chain.true_log_var(linear, steps, C), C)
    ab_T = 4.035830e-5
    V_T = ab_T * C + 1 - ab_T
    np.testing.assert_allclose(end.variance - C, ab_T * C**2 / V_T**2 * (1 - V_T), rtol=1e-4, atol=1e-11)
    assert gaussian_chain.frechet(end, C) < 1e-4


def test_only_the_ddpm_kernel_has_these_weights(short):
    with pytest.raises(ValueError, match="use `final`"):
        gaussian_chain.affine(short, process.steps(short, [1, 4], process.ddim(0.5)), C)


# ---------------------------------------------------------------- scores

CS, PS, ERRORS = np.array([0.25, 1.0, 4.0]), np.array([0.5, 0.9, 5.0]), np.array([0.2, 0.0, -1.0])


def test_the_divergence_is_the_integral():
    found = gaussian_chain.data_kl(Final(ERRORS, PS), CS)
    expected = [gaussian_paths.divergence(*one) for one in zip(CS, PS, ERRORS, strict=True)]
    assert found == pytest.approx(np.mean(expected), rel=1e-8)


def test_samples_without_variance_are_infinitely_far():
    assert gaussian_chain.data_kl(Final(np.zeros(2), np.array([1.0, 0.0])), np.ones(2)) == np.inf


def test_the_frechet_distance_is_the_general_one():
    found = gaussian_chain.frechet(Final(ERRORS, PS), CS)
    assert found == pytest.approx(frechet.frechet_distance(ERRORS, np.diag(PS), np.zeros(3), np.diag(CS)), rel=1e-10)


def test_the_path_kl_is_that_of_the_joint_gaussians(chain):
    tables, steps, oracle = chain
    sigma2 = random_variances(len(oracle))
    found = gaussian_chain.path_kl(tables, steps, np.log(sigma2), C)
    assert found.shape == (len(oracle) - 1,)
    if len(oracle) < 10:  # the determinant of a longer path's covariance is too near 0
        expected = np.mean([gaussian_paths.path_kl(oracle, sigma2, c) for c in C])
        assert found.sum() == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_a_silent_step_makes_the_path_infinitely_unlikely(short):
    steps = process.steps(short, [1, 2, 4])
    found = gaussian_chain.path_kl(short, steps, np.array([0.0, -np.inf, -1.0]), C)
    assert found[0] == np.inf
    assert np.isfinite(found[1])


@pytest.mark.parametrize("each", [False, True])
def test_a_step_of_the_bound_is_the_divergence_of_two_gaussians(chain, each):
    tables, steps, oracle = chain
    sigma2 = random_variances(len(oracle), *C.shape * each)
    found = gaussian_chain.step_kl(tables, steps, np.log(sigma2), C)
    for k, p in enumerate(oracle[1:]):
        var = np.broadcast_to(sigma2[k + 1], C.shape)
        error = [max(oracle_variances.noise_variance(p, c), 0.0) for c in C]  # rounding may leave -2e-16 at c = 0
        expected = [bits.step_kl(p, v, e) for v, e in zip(var, error, strict=True)]
        assert found[k] == pytest.approx(np.mean(expected), rel=1e-9)


@pytest.mark.parametrize("name", ["small", "large", "interpolated", "analytic", "isotropic"])
def test_the_bound_is_the_one_from_the_worlds_moments(chain, name):
    tables, steps, _ = chain
    c = C.reshape(1, 2, 3)
    moments = gaussian_chain.moments(tables, c)
    choice = variances.build(name, likelihood.calibrate(Calibration(tables, clamp_cov=False), moments))
    nats = gaussian_chain.step_kl(tables, steps, variances.table(choice, steps), c).sum()
    assert nats / np.log(2) == pytest.approx(likelihood.bits_per_dim(steps, choice, moments).kl, rel=1e-9, abs=1e-12)


def test_what_no_variance_saves_is_the_same_for_every_trajectory(linear):
    """With Q in every direction the terms telescope to 1/2 log(SNR-like ratio) between tau_1 and T."""
    totals = []
    for K in (2, 3, 10, 1000):
        steps = process.steps(linear, timesteps.even(1000, K))
        totals.append(gaussian_chain.step_kl(linear, steps, gaussian_chain.true_log_var(linear, steps, C), C).sum())
    np.testing.assert_allclose(totals, totals[0], rtol=1e-9)
