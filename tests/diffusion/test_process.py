"""Forward noise, Bayes' posterior and the coefficients of chains, against the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules, timesteps
from tests.oracle import pairs
from tests.oracle import schedules as oracle_schedules

SHORT = [0.1, 0.3, 0.5, 0.7]
ALL_PAIRS = [(s, t) for t in range(1, 5) for s in range(t)]
SHAPE = (5, 2, 2, 1)
BETAS = {"linear": oracle_schedules.linear(1000), "cosine": oracle_schedules.cosine(1000)}


def draws(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def oracle_steps(betas, times, eta=None):
    """The fields of Steps by the oracle, with log 0 = -inf."""
    chain = pairs.chain(betas, times)
    kernels = [pairs.kernel(p, eta) for p in chain]
    stand_in = pairs.pair(betas, 1, 2).tb
    fields = {
        "a": [p.a for p in chain],
        "b": [p.b for p in chain],
        "tb": [p.tb for p in chain],
        "base": [k.base for k in kernels],
        "gain": [k.gain for k in kernels],
        "log_b": [np.log(p.b) for p in chain],
        "log_base": [np.log(k.base) if k.base > 0 else -np.inf for k in kernels],
        "log_tb": [np.log(p.tb) if p.s else -np.inf for p in chain],
        "log_tb_floored": [np.log(p.tb if p.s else stand_in) for p in chain],
        # mean = mean_x_0 x_0_hat + mean_eps eps_hat, and eps_hat = (x_t - sqrt(ab_t) x_0_hat)/sqrt(noise_t)
        "mean_x_0": [
            k.mean_x_0 - k.mean_eps * np.sqrt(p.ab_t / p.noise_t) for p, k in zip(chain, kernels, strict=True)
        ],
        "mean_x_t": [k.mean_eps / np.sqrt(p.noise_t) for p, k in zip(chain, kernels, strict=True)],
        "excess_max": [p.ab_t / p.noise_t for p in chain],
        "signal": [np.sqrt(p.ab_t) for p in chain],
        "noise": [np.sqrt(p.noise_t) for p in chain],
    }
    return {name: np.array(values, float) for name, values in fields.items()}


# ---------------------------------------------------------------- the forward process


@pytest.mark.parametrize("t", range(5))
def test_diffuse_mixes_data_and_noise(short, t):
    x_0, eps = draws(0), draws(1)
    signal, noise = oracle_schedules.alpha_bar(SHORT)[t] ** 0.5, oracle_schedules.one_minus_alpha_bar(SHORT)[t] ** 0.5
    np.testing.assert_allclose(process.diffuse(short, x_0, t, eps), signal * x_0 + noise * eps, rtol=1e-5, atol=1e-6)


def test_diffuse_takes_one_time_per_example(short):
    x_0, eps, t = draws(0), draws(1), jnp.asarray([4, 0, 2, 1, 3])
    together = process.diffuse(short, x_0, t, eps)
    for i in range(5):
        alone = process.diffuse(short, x_0[i : i + 1], int(t[i]), eps[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-6)


def test_time_0_is_the_data_itself_and_does_not_wrap_to_T(short, linear):
    for tables in (short, linear):
        np.testing.assert_array_equal(process.diffuse(tables, draws(0), jnp.zeros(5, int), draws(1)), draws(0))


# ---------------------------------------------------------------- the posterior


@pytest.mark.parametrize(("s", "t"), ALL_PAIRS)
def test_posterior_is_bayes_rule_on_the_joint_gaussian(short, s, t):
    x_0, x_t = draws(0), draws(1)
    g = process.posterior(short, x_0, x_t, s, t)
    p = pairs.pair(SHORT, s, t)
    expected = [pairs.posterior(p, float(x), float(y)) for x, y in zip(np.ravel(x_0), np.ravel(x_t), strict=True)]
    np.testing.assert_allclose(np.ravel(g.mean), [mean for mean, _ in expected], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.exp(g.log_var), p.tb, rtol=1e-6)
    assert expected[0][1] == pytest.approx(p.tb, abs=1e-15)


@pytest.mark.parametrize(("s", "t"), [(499, 500), (1, 112), (1, 2), (334, 445), (999, 1000), (0, 1000)])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_posterior_keeps_float32_precision_where_1_minus_a_is_small(name, s, t):
    g = process.posterior(schedules.SCHEDULES[name](1000), jnp.ones((1, 1)), jnp.zeros((1, 1)), s, t)
    p = pairs.pair(BETAS[name], s, t)
    assert float(g.mean[0, 0]) == pytest.approx(pairs.posterior(p, 1.0, 0.0)[0], rel=1e-6)
    if s:
        assert float(jnp.asarray(g.log_var).reshape(())) == pytest.approx(np.log(p.tb), rel=1e-6)


def test_posterior_at_time_0_is_the_point_x_0(short, linear):
    for tables in (short, linear):
        g = process.posterior(tables, draws(0), draws(1), 0, tables.T)
        np.testing.assert_allclose(g.mean, draws(0), rtol=1e-6)
        assert np.all(np.exp(g.log_var) == 0)


@pytest.mark.parametrize(("s", "t"), [(2, 2), (3, 1), (-1, 2), (0, 5)])
def test_a_posterior_of_times_out_of_order_or_range_is_refused_with_the_times(short, s, t):
    with pytest.raises(ValueError, match=rf"(?s){t}.*{s}|{s}.*{t}"):
        process.posterior(short, draws(0), draws(1), s, t)


# ---------------------------------------------------------------- chains


@pytest.mark.parametrize("eta", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("times", [[4], [1, 2, 3, 4], [2, 4], [1, 4], [3]])
def test_coefficients_of_a_short_chain_equal_the_oracle(short, times, eta):
    steps = process.steps(short, times, process.DDPM if eta is None else process.ddim(eta))
    for name, expected in oracle_steps(SHORT, times, eta).items():
        np.testing.assert_allclose(getattr(steps, name), expected, rtol=1e-12, atol=1e-15, err_msg=name)
    assert steps.K == len(times)
    assert list(steps.t) == times and list(steps.s) == [0, *times[:-1]]


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("eta", [None, 0.0, 0.5])
@pytest.mark.parametrize("K", [4, 10, 1000])
def test_coefficients_of_a_long_chain_equal_the_oracle(name, K, eta):
    times = timesteps.even(1000, K)
    steps = process.steps(schedules.SCHEDULES[name](1000), times, process.DDPM if eta is None else process.ddim(eta))
    for field, expected in oracle_steps(BETAS[name], [int(t) for t in times], eta).items():
        # 1 - a loses 1/b < 1e5 of 1e-16, a difference of square roots in `gain` as much again, and squares it.
        np.testing.assert_allclose(getattr(steps, field), expected, rtol=1e-7, atol=1e-15, err_msg=field)


def test_every_field_of_a_chain_is_checked_here():
    assert set(oracle_steps(SHORT, [4])) | {"s", "t", "u"} == set(process.Steps._fields)


def test_u_is_gain_over_base_and_the_ratio_of_signal_to_noise_ratios(linear):
    steps = process.steps(linear, timesteps.even(1000, 50))
    expected = [p.u for p in pairs.chain(BETAS["linear"], [int(t) for t in steps.t])]
    np.testing.assert_allclose(steps.u, expected, rtol=1e-9)
    assert steps.u[0] == np.inf


def test_eta_1_is_ddpm(linear):
    ddim, ddpm = (process.steps(linear, [1, 50, 1000], kernel) for kernel in (process.ddim(1.0), process.DDPM))
    for field in ("base", "gain", "u", "mean_x_0", "mean_x_t"):
        np.testing.assert_allclose(getattr(ddim, field), getattr(ddpm, field), rtol=1e-12, err_msg=field)


def test_without_noise_an_exact_ddim_step_lands_on_the_diffused_data(short):
    """eta = 0: x_s = sqrt(ab_s) x_0_hat + sqrt(1 - ab_s) eps_hat."""
    x_0, eps = draws(0), draws(1)
    steps = process.steps(short, [2, 4], process.ddim(0.0))
    x_4, x_2 = (process.diffuse(short, x_0, t, eps) for t in (4, 2))
    np.testing.assert_allclose(steps.mean_x_0[1] * x_0 + steps.mean_x_t[1] * x_4, x_2, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("K", [4, 10, 50, 100, 250, 1000])
def test_coefficients_cast_to_float32_keep_six_digits_through_jit(name, K):
    steps = process.steps(schedules.SCHEDULES[name](1000), timesteps.even(1000, K))
    cast = jax.jit(lambda leaves: leaves)(steps)
    for field in steps._fields:
        exact = np.asarray(getattr(steps, field))
        np.testing.assert_allclose(np.asarray(getattr(cast, field), np.float64), exact, rtol=1e-6, err_msg=field)
        if field in ("s", "t"):
            assert getattr(cast, field).dtype == jnp.int32
        else:
            assert exact.dtype == np.float64 and getattr(cast, field).dtype == jnp.float32


def test_float32_tables_would_not_do(linear):
    """Why chains are built in float64: the same difference from float32 tables is wrong in the fourth digit."""
    ab = linear.alpha_bar.astype(np.float32)
    error = np.abs((1 - ab[2:] / ab[1:-1]) / linear.beta[2:] - 1)
    assert error.max() > 1e-4


def test_all_times_visited_gives_the_adjacent_steps(short, linear):
    for tables in (short, linear):
        steps = process.steps(tables, timesteps.even(tables.T, tables.T))
        np.testing.assert_array_equal(steps.s, steps.t - 1)
        np.testing.assert_allclose(steps.b, tables.beta[1:], rtol=1e-10)


def test_pairs_takes_any_pairs(short):
    s, t = np.array([0, 1, 0, 3]), np.array([3, 2, 1, 4])
    result = process.pairs(short, s, t)
    for i in range(4):
        alone = process.pairs(short, s[i : i + 1], t[i : i + 1])
        assert result.gain[i] == alone.gain[0] and result.mean_x_0[i] == alone.mean_x_0[0]


@pytest.mark.parametrize("times", [[2, 1, 4], [2, 2, 4], [0, 4], [1, 5]])
def test_a_chain_out_of_order_or_range_is_refused(short, times):
    with pytest.raises(ValueError, match=r"step|times"):
        process.steps(short, times)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_an_eta_outside_its_bounds_is_refused_with_the_value(eta):
    with pytest.raises(ValueError, match=str(eta)):
        process.ddim(eta)


# ---------------------------------------------------------------- golden numbers


def test_golden_coefficients_linear_1_112(linear):
    steps = process.pairs(linear, np.array([1]), np.array([112]))
    assert steps.b[0] == pytest.approx(0.12630764, abs=5e-9)
    assert steps.tb[0] == pytest.approx(9.993088e-5, rel=1e-6)
    assert steps.b[0] / steps.a[0] == pytest.approx(0.14456763, abs=5e-9)
    assert steps.u[0] + 1 == pytest.approx(1446.676342, abs=5e-7)
    assert steps.gain[0] == pytest.approx(0.14446770, abs=5e-9)


def test_golden_coefficients_cosine_1_112():
    steps = process.pairs(schedules.cosine(), np.array([1]), np.array([112]))
    assert steps.u[0] + 1 == pytest.approx(863.236722, abs=5e-7)


def test_golden_decoder_variance(linear):
    steps = process.steps(linear, [1, 1000])
    assert np.exp(steps.log_tb_floored[0]) == pytest.approx(5.453188e-5, rel=1e-6)


@pytest.mark.parametrize(
    ("K", "lower", "upper"),
    [(10, 9.99e-5, 1.45e-1), (25, 9.96e-5, 2.24e-2), (50, 9.84e-5, 6.20e-3), (100, 9.55e-5, 2.10e-3)],
)
def test_golden_bounds_of_the_first_step(linear, K, lower, upper):
    """tb and tb + ab_s b^2/(1-ab_t)^2, the bounds of the step tau_2 -> tau_1 for data in [-1, 1], three digits."""
    times = timesteps.even(1000, K)
    steps = process.pairs(linear, times[:1], times[1:2])
    assert steps.tb[0] == pytest.approx(lower, abs=0.005 * 10 ** np.floor(np.log10(lower)))
    top = steps.tb[0] + steps.gain[0] * steps.excess_max[0]
    others = {"b/a": steps.b[0] / steps.a[0], "data in [-1, 1]": top}
    assert min(others.values()) == pytest.approx(upper, abs=0.005 * 10 ** np.floor(np.log10(upper)))


# ---------------------------------------------------------------- no data left at T, and pairs between times

ENDED = {
    "jsd": oracle_schedules.jsd(20),
    "linear_zero_terminal": oracle_schedules.zero_terminal(oracle_schedules.linear(20, 0.005, 0.5)),
}


@pytest.mark.parametrize("times", [[20], [1, 20], [1, 5, 12, 20], list(range(1, 21))], ids=str)
@pytest.mark.parametrize("of", ENDED)
def test_a_chain_from_where_no_data_are_left_is_finite_and_counts_in_x_0(of, times):
    betas = [*ENDED[of][:-1], 1.0]
    steps = process.steps(schedules.from_betas(betas), times)
    p = pairs.chain(betas, times)[-1]
    on_x_0, on_x_t = pairs.posterior_coefficients(p)
    assert p.ab_t == 0 and (on_x_0, on_x_t) == (pytest.approx(np.sqrt(p.ab_s)), 0)
    last = {name: float(getattr(steps, name)[-1]) for name in steps._fields}
    wanted = {"a": 0, "b": 1, "tb": p.noise_s, "base": p.noise_s, "gain": p.ab_s, "signal": 0, "noise": 1}
    wanted |= {"mean_x_0": on_x_0, "mean_x_t": 0, "excess_max": 1, "log_b": 0}
    for name, value in wanted.items():
        assert last[name] == pytest.approx(value, rel=1e-9, abs=1e-15), name
    if len(times) > 1:
        assert last["u"] == pytest.approx(p.ab_s / p.noise_s, rel=1e-9)
        assert last["log_tb"] == last["log_tb_floored"] == pytest.approx(np.log(p.noise_s), rel=1e-9)
    for name in set(steps._fields) - {"u", "log_tb", "log_base"}:
        assert np.isfinite(getattr(steps, name)).all(), name
    assert not np.isnan(np.array([steps.u, steps.log_tb, steps.log_base])).any()


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_ddim_step_from_there_keeps_its_share_of_the_noise(eta):
    """x_s = sqrt(ab_s) x_0_hat + sqrt(1 - ab_s - lambda^2) eps_hat, and x_T is eps."""
    betas = ENDED["jsd"]
    steps = process.steps(schedules.from_betas(betas), [10, 20], process.ddim(eta))
    p = pairs.pair(betas, 10, 20)
    base = eta**2 * p.noise_s
    assert steps.base[1] == pytest.approx(base, abs=1e-15)
    assert steps.mean_x_0[1] == pytest.approx(np.sqrt(p.ab_s), rel=1e-12)
    assert steps.mean_x_t[1] == pytest.approx(np.sqrt(p.noise_s - base), rel=1e-12)
    assert steps.gain[1] == pytest.approx(p.ab_s, rel=1e-12)


@pytest.mark.parametrize("of", ["linear", "cosine", "jsd"])
def test_every_step_is_the_adjacent_chain(of):
    tables = schedules.SCHEDULES[of](50)
    steps, wanted = process.every_step(tables), process.steps(tables, list(range(1, 51)))
    assert steps.K == 50 and steps.s[0] == 0 and steps.t[-1] == 50
    for name in steps._fields:
        np.testing.assert_array_equal(getattr(steps, name), getattr(wanted, name))


@pytest.mark.parametrize("of", ["linear", "cosine", "jsd"])
def test_between_finds_the_pairs_of_the_schedule_at_their_own_u(of):
    """u = SNR(s)/SNR(t) - 1, or SNR(s) where no data are left: the same coefficients as of the pair itself."""
    tables = schedules.SCHEDULES[of](100)
    rng = np.random.default_rng(0)
    t = np.append(rng.integers(2, 101, 30), 100)
    s = rng.integers(1, t)
    there = process.pairs(tables, s, t)
    ratio = tables.alpha_bar[s] / tables.one_minus_alpha_bar[s]
    with np.errstate(divide="ignore"):
        snr = tables.alpha_bar[t] / tables.one_minus_alpha_bar[t]
        u = np.where(snr > 0, ratio / snr - 1, ratio)
    found = process.between(tables, t, u)
    for name in set(found._fields) - {"s"}:
        np.testing.assert_allclose(getattr(found, name), getattr(there, name), rtol=1e-7, atol=1e-12, err_msg=name)
    assert (found.s == -1).all()
    np.testing.assert_allclose(found.u, u, rtol=1e-7)


def test_a_step_to_between_two_times_lies_between_theirs(linear):
    """Halfway between two times of the schedule the coefficients lie between theirs."""
    t = np.array([500, 500, 500])
    snr_399, snr_400, snr_500 = (linear.alpha_bar / (1 - linear.alpha_bar + (linear.alpha_bar == 1)))[[399, 400, 500]]
    u = np.array([snr_400, np.sqrt(snr_400 * snr_399), snr_399]) / snr_500 - 1
    found = process.between(linear, t, u)
    for name in ("a", "b", "tb", "gain", "mean_x_0", "mean_x_t"):
        low, middle, high = getattr(found, name)
        assert min(low, high) < middle < max(low, high), name
