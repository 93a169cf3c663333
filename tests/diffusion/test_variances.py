"""Every reverse variance against the oracle, over the registry."""

import inspect
import re

import numpy as np
import pytest

from ddpm_jax.diffusion import bases, denoiser, process, schedules, timesteps, variances
from tests.oracle import pairs
from tests.oracle import schedules as oracle_schedules
from tests.oracle import variances as oracle_variances

SHORT = [0.1, 0.3, 0.5, 0.7]
LINEAR = oracle_schedules.linear(1000)
BETAS = {name: getattr(oracle_schedules, name)(1000) for name in ("linear", "cosine", "quadratic")}
NAMES = sorted(variances.VARIANCES)
NUMBERS = {"interpolated": "interpolated:0.3", "family": "family:0.6"}
EVERY_CHAIN = [[4], [1, 4], [2, 3, 4], [1, 2, 3, 4], [3]]
IMAGE = (3, 2)  # height and width


def axes(colours, seed=3):
    """Made-up orthonormal colour axes."""
    turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(colours, colours)))[0]
    return tuple(map(tuple, turned.tolist()))


def measured(T, colours=1, seed=0):
    """Made-up 1 - Gamma_t, M_t and M_{t,j} in (0, 1); the row of the data is never read."""
    rng = np.random.default_rng(seed)
    excess, error = rng.uniform(0.05, 0.95, (2, T + 1))
    spectrum = rng.uniform(0.05, 0.95, (T + 1, *IMAGE, colours))
    excess[0] = error[0] = spectrum[0] = np.nan
    return {"excess": excess, "error": error, "spectrum": spectrum}


def calibration(tables, colours=1, **changes):
    numbers = measured(tables.T, colours)
    known = variances.Calibration(tables, variance=0.8, colours=axes(colours), clamp_cov=False, **numbers)
    return known._replace(**changes)


def built(name, known):
    """The entry of this name, with the numbers that the oracle is given."""
    return variances.build(NUMBERS.get(name, name), known)


def with_a_table(tables):
    """The names of the choices that are fixed before sampling."""
    return [name for name in NAMES if built(name, calibration(tables)).headless]


TABLED = with_a_table(schedules.from_betas(SHORT))
READING = sorted(set(NAMES) - set(TABLED))


def oracle_log_var(name, betas, of_pairs, eta=None, colours=1):
    known = {"c": 0.6, "frac": 0.3, **measured(len(betas), colours)}
    values = [oracle_variances.variance(name, p, betas, eta=eta, **known) for p in of_pairs]
    with np.errstate(divide="ignore"):
        return np.log(values)


def chain(betas, times):
    return pairs.chain(betas, [int(t) for t in times])


def random_pairs(seed, n, T=1000):
    rng = np.random.default_rng(seed)
    t = rng.integers(1, T + 1, n)
    return rng.integers(0, t), t


def read_at(choice, steps, head, eps_hat):
    """log sigma^2 of a choice that looks at x_t, one example a step."""
    step = process.Steps(*(column.reshape(-1, 1, 1, 1) for column in steps))
    names = choice.heads
    return choice.log_var(step, None, denoiser.Prediction(eps_hat, eps_hat, dict.fromkeys(names, head)))


def made_up_heads(name, n, colours, seed=1):
    """Heads that keep sigma^2 positive: sn is at least eps_hat^2 and ocm at least -1."""
    rng = np.random.default_rng(seed)
    eps_hat = rng.normal(size=(n, *IMAGE, colours))
    head = rng.uniform(0.05, 0.95, eps_hat.shape)
    return {"sn": head + eps_hat**2, "ocm": head - 1, "learned": np.log(head)}.get(name, head), eps_hat


def test_the_registry_is_what_the_oracle_knows():
    known = calibration(schedules.from_betas(SHORT))
    assert {name for name in NAMES if built(name, known).every_kernel} == {
        *oracle_variances.HAS_EXCESS,
        "zero",
    }
    assert set(NAMES) - set(oracle_variances.HAS_EXCESS) == {"interpolated", "learned", "learned_range", "zero"}
    assert {name: built(name, known).heads for name in READING} == {name: (name,) for name in READING}
    assert all(built(name, known).heads == () for name in TABLED)


@pytest.mark.parametrize("times", EVERY_CHAIN, ids=str)
@pytest.mark.parametrize("name", TABLED)
def test_every_choice_equals_the_oracle_on_short_chains(short, name, times):
    log_var = variances.table(built(name, calibration(short)), process.steps(short, times))
    assert len(log_var) == len(times) and log_var.dtype == np.float64
    np.testing.assert_allclose(log_var, oracle_log_var(name, SHORT, chain(SHORT, times)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("K", [1, 10, 1000])
@pytest.mark.parametrize("name", TABLED)
def test_every_choice_equals_the_oracle_on_long_chains(linear, name, K):
    times = timesteps.even(1000, K)
    log_var = variances.table(built(name, calibration(linear)), process.steps(linear, times))
    np.testing.assert_allclose(log_var, oracle_log_var(name, LINEAR, chain(LINEAR, times)), rtol=1e-8)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("of", BETAS)
@pytest.mark.parametrize("name", NAMES)
def test_every_choice_equals_the_oracle_at_random_pairs(name, of, colours):
    """Any s < t, three schedules, grey and coloured images."""
    tables, (s, t) = schedules.SCHEDULES[of](1000), random_pairs(2, 20)
    s[0] = 0
    steps, of_pairs = process.pairs(tables, s, t), [pairs.pair(BETAS[of], *st) for st in zip(s, t, strict=True)]
    choice = built(name, calibration(tables, colours, learned_times=None))
    if choice.headless:
        got, wanted = variances.table(choice, steps), oracle_log_var(name, BETAS[of], of_pairs, colours=colours)
    else:
        head, eps_hat = made_up_heads(name, len(t), colours)
        got = read_at(choice, steps, head, eps_hat)
        sigma2 = [
            oracle_variances.variance(name, p, BETAS[of], head=one, eps_hat=e)
            for p, one, e in zip(of_pairs, head, eps_hat, strict=True)
        ]
        wanted = np.log(sigma2)
    np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", [name for name in TABLED if name in oracle_variances.HAS_EXCESS])
def test_choices_with_an_h_are_base_plus_gain_h_for_every_kernel(short, name, eta):
    for times in EVERY_CHAIN:
        log_var = variances.table(built(name, calibration(short)), process.steps(short, times, process.ddim(eta)))
        wanted = oracle_log_var(name, SHORT, chain(SHORT, times), eta)
        np.testing.assert_allclose(log_var, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", [name for name in READING if name in oracle_variances.HAS_EXCESS])
def test_heads_with_an_h_are_base_plus_gain_h_for_every_kernel(short, name, eta):
    head, eps_hat = made_up_heads(name, 1, 3)
    choice = built(name, calibration(short))
    for times in EVERY_CHAIN:
        steps = process.steps(short, times, process.ddim(eta))
        got = read_at(choice, steps, head, eps_hat)
        wanted = [
            oracle_variances.variance(name, p, SHORT, eta=eta, head=head[0], eps_hat=eps_hat[0])
            for p in chain(SHORT, times)
        ]
        np.testing.assert_allclose(np.exp(got), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_choices_without_an_h_are_refused_with_a_ddim_type_kernel(short, name):
    choice = built(name, calibration(short))
    steps = process.steps(short, [1, 2, 4], process.ddim(0.5))
    if choice.every_kernel:
        variances.check_steps(choice, steps)
    else:
        with pytest.raises(ValueError, match=r"(?i)ddim|kernel"):
            variances.check_steps(choice, steps)


def test_interpolated_has_no_h():
    assert not variances.interpolated(0.5).every_kernel


# ---------------------------------------------------------------- the family that holds the article's two answers


def test_large_is_exactly_b(linear):
    for K in (1, 10, 1000):
        steps = process.steps(linear, timesteps.even(1000, K))
        np.testing.assert_allclose(
            variances.table(variances.large(linear), steps), np.log(steps.b), rtol=1e-12, atol=1e-12
        )


def test_small_is_exactly_tb(linear):
    steps = process.steps(linear, timesteps.even(1000, 10))
    np.testing.assert_array_equal(
        variances.table(variances.small(), steps), np.log(steps.tb, where=steps.tb > 0, out=np.full(10, -np.inf))
    )


def test_family_0_is_small_and_family_1_is_large(short):
    steps = process.steps(short, [1, 2, 3, 4])
    for c, other in ((0.0, variances.small()), (1.0, variances.large(short))):
        np.testing.assert_allclose(
            variances.table(variances.family(c, short), steps), variances.table(other, steps), rtol=1e-12
        )


@pytest.mark.parametrize("c", [0.25, 1.0, 4.0, 100.0])
@pytest.mark.parametrize(("s", "t"), [(0, 1), (1, 3), (0, 4), (2, 4)])
def test_family_is_the_variance_of_the_true_reverse_kernel(short, c, s, t):
    steps = process.pairs(short, np.array([s]), np.array([t]))
    log_var = variances.table(variances.family(c, short), steps)[0]
    assert np.exp(log_var) == pytest.approx(oracle_variances.true_variance(pairs.pair(SHORT, s, t), c), rel=1e-12)


def test_golden_family_linear_445_334(linear):
    steps = process.pairs(linear, np.array([334]), np.array([445]))
    expected = {0: 0.785777, 0.25: 0.845260, 1: 1.0, 4: 1.398457, 100: 2.299332, 1e12: 2.398113}
    for c, ratio in expected.items():
        sigma2 = np.exp(variances.table(variances.family(float(c), linear), steps)[0])
        assert sigma2 / steps.b[0] == pytest.approx(ratio, abs=5e-7)


@pytest.mark.parametrize("c", [-2.0, np.nan, np.inf])
def test_a_c_that_is_no_variance_is_refused_with_the_value(short, c):
    with pytest.raises(ValueError, match=f"c = {c:g}: a variance of the data is finite and at least 0"):
        variances.family(c, short)


# ---------------------------------------------------------------- analytic


def test_four_forms_of_the_analytic_variance_agree():
    """At every kind of step of two schedules, float64."""
    rng = np.random.default_rng(0)
    for tables in (schedules.linear(), schedules.cosine()):
        t = rng.integers(2, 1001, 300)
        s = rng.integers(1, t)
        gamma = rng.uniform(0.01, 0.99, 1001)
        p = process.pairs(tables, s, t)
        noise_s, noise_t, ab_s = tables.one_minus_alpha_bar[s], tables.one_minus_alpha_bar[t], tables.alpha_bar[s]
        g, b, a = gamma[t], p.b, p.a
        cov_x_0 = noise_t / tables.alpha_bar[t] * (1 - g)
        ours = np.exp(variances.table(variances.analytic(1 - gamma, clamp_cov=False), p))
        np.testing.assert_allclose(p.tb + b**2 / (a * noise_t) * (1 - g), ours, rtol=1e-9)
        np.testing.assert_allclose(b / a * (1 - b * g / noise_t), ours, rtol=1e-9)
        ddim_gain = (np.sqrt(noise_t / a) - np.sqrt(noise_s - p.tb)) ** 2
        np.testing.assert_allclose(p.tb + ddim_gain * (1 - g), ours, rtol=1e-9)
        np.testing.assert_allclose(p.tb + ab_s * b**2 / noise_t**2 * cov_x_0, ours, rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "cosine", "quadratic"])
def test_the_analytic_variance_keeps_its_bounds(name):
    """tb <= sigma^2 <= b/a, and of data in [-1, 1] <= tb + ab_s b^2/(1 - ab_t)^2, at all s < t."""
    rng = np.random.default_rng(1)
    tables = schedules.SCHEDULES[name](1000)
    s, t = np.triu_indices(1001, 1)
    steps = process.pairs(tables, s, t)
    data_bound = steps.tb + tables.alpha_bar[s] * steps.b**2 / tables.one_minus_alpha_bar[t] ** 2
    slack = 1 + 1e-9
    for _ in range(2):
        excess = rng.uniform(0, 1, 1001)
        free = np.exp(variances.table(variances.analytic(excess, clamp_cov=False), steps))
        assert (steps.tb <= free * slack).all() and (free <= steps.b / steps.a * slack).all()
        clamped = np.exp(variances.table(variances.analytic(excess, clamp_cov=True), steps))
        assert (steps.tb <= clamped * slack).all() and (clamped <= data_bound * slack).all()


def test_the_clamp_holds_the_covariance_of_x_0_in_0_1(short):
    steps = process.steps(short, [1, 2, 3, 4])
    excess = np.array([np.nan, -0.2, 0.1, 50.0, 0.3])
    sigma2 = np.exp(variances.table(variances.analytic(excess, clamp_cov=True), steps))
    cov_x_0 = [0.0, 0.1 * 0.37 / 0.63, 1.0, 0.3 * (1 - 0.0945) / 0.0945]
    cov_x_0[3] = min(cov_x_0[3], 1.0)
    for k, p in enumerate(pairs.chain(SHORT, [1, 2, 3, 4])):
        assert sigma2[k] == pytest.approx(p.tb + p.ab_s * p.b**2 / p.noise_t**2 * cov_x_0[k], rel=1e-12, abs=1e-15)


def test_an_estimate_that_makes_the_variance_negative_is_refused_with_its_time(short):
    excess = np.array([np.nan, 0.5, 0.5, -40.0, 0.5])
    with pytest.raises(ValueError, match="3"):
        variances.table(variances.analytic(excess, clamp_cov=False), process.steps(short, [1, 2, 3, 4]))


def test_an_unmeasured_time_is_refused_with_its_time(short):
    error = np.array([np.nan, 0.5, np.nan, 0.5, 0.5])
    with pytest.raises(ValueError, match="2"):
        variances.table(variances.isotropic(error), process.steps(short, [1, 2, 3, 4]))


# ---------------------------------------------------------------- interpolated, zero, scaled


@pytest.mark.parametrize("frac", [0.0, 0.5, 1.0])
def test_interpolated_is_finite_in_the_last_step_too(short, linear, frac):
    for tables in (short, linear):
        for times in ([1, 2, tables.T], [tables.T]):
            assert np.isfinite(variances.table(variances.interpolated(frac), process.steps(tables, times))).all()


def test_interpolated_ends_at_small_and_large(linear):
    steps = process.steps(linear, timesteps.even(1000, 10))
    np.testing.assert_allclose(variances.table(variances.interpolated(1.0), steps), np.log(steps.b), rtol=1e-12)
    low = variances.table(variances.interpolated(0.0), steps)
    np.testing.assert_allclose(low[1:], np.log(steps.tb[1:]), rtol=1e-12)
    assert np.exp(low[0]) == pytest.approx(5.453188e-5, rel=1e-6)


@pytest.mark.parametrize("frac", [-0.25, 1.5])
def test_a_fraction_outside_its_bounds_is_refused_with_the_value(frac):
    with pytest.raises(ValueError, match=str(frac)):
        variances.interpolated(frac)


def test_only_zero_has_no_likelihood_bound(short):
    known = calibration(short)
    assert [name for name in NAMES if not built(name, known).bound] == ["zero"]


def test_zero_adds_no_noise_with_any_kernel(short):
    for kernel in (process.DDPM, process.ddim(0.0), process.ddim(0.5)):
        assert (variances.table(variances.zero(), process.steps(short, [1, 4], kernel)) == -np.inf).all()


def test_scaled_multiplies_the_variance_and_keeps_its_properties(short):
    steps = process.steps(short, [1, 2, 4])
    for base in (variances.large(short), variances.interpolated(0.5)):
        tilted = variances.scaled(base, 1.7)
        np.testing.assert_allclose(
            np.exp(variances.table(tilted, steps) - variances.table(base, steps)), 1.7, rtol=1e-12
        )
        assert (tilted.every_kernel, tilted.bound, tilted.headless) == (base.every_kernel, base.bound, base.headless)


# ---------------------------------------------------------------- choices by name


def test_an_unknown_name_lists_what_there_is(short):
    for choice in ("medium", "medium:0.5", ""):
        with pytest.raises(ValueError, match=f"unknown variance '{choice.partition(':')[0]}'") as caught:
            variances.build(choice, calibration(short))
        assert all(name in str(caught.value) for name in NAMES)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("choice", "equal"),
    [
        ("interpolated", lambda tables: variances.interpolated(0.5)),
        ("interpolated:0.5", lambda tables: variances.interpolated(0.5)),
        ("interpolated:.7", lambda tables: variances.interpolated(0.7)),
        ("interpolated:0", lambda tables: variances.interpolated(0.0)),
        ("interpolated:1", lambda tables: variances.large(tables)),
        ("family", lambda tables: variances.family(0.8, tables)),
        ("family:0", lambda tables: variances.small()),
        ("family:1", lambda tables: variances.large(tables)),
        ("family:2.5e-1", lambda tables: variances.family(0.25, tables)),
        ("family:100", lambda tables: variances.family(100.0, tables)),
    ],
)
def test_a_choice_carries_its_number_in_its_name(short, choice, equal):
    """Without one: halfway, and the variance of the data, .8 in this file."""
    steps = process.steps(short, [1, 2, 4])
    found, expected = (
        variances.table(one, steps) for one in (variances.build(choice, calibration(short)), equal(short))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_switch_follows_the_name_and_is_off_without_it(short):
    known, steps = calibration(short), process.steps(short, [1, 2, 4])
    head = np.full((3, *IMAGE, 1), 2.5)
    free, clamped = (
        read_at(variances.build(choice, known), steps, head, head)[:, 0, 0, 0]
        for choice in ("learned_range", "learned_range:clamped")
    )
    np.testing.assert_allclose(clamped, steps.log_b, rtol=1e-12, atol=1e-12)
    assert (free > clamped).all()


def test_what_a_choice_says_of_itself_is_found_without_building_it():
    entry, arguments = variances.find("interpolated:0.7")
    assert entry is variances.VARIANCES["interpolated"]
    assert arguments == {"frac": 0.7}
    assert variances.find("interpolated")[1] == {"frac": 0.5}
    assert variances.find("family")[1] == {"c": "variance"}
    assert variances.find("learned_range")[1] == {"clamped": False}
    assert variances.find("learned_range:clamped")[1] == {"clamped": True}
    assert variances.find("small")[1] == {}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("small:0.5", "variance 'small:0.5': small takes nothing after its name, not '0.5'"),
        ("small:", "variance 'small:': small takes nothing after its name, not ''"),
        ("npr:clamped", "variance 'npr:clamped': npr takes nothing after its name, not 'clamped'"),
        ("interpolated:", "variance 'interpolated:': frac is a number, not ''"),
        ("interpolated:half", "variance 'interpolated:half': frac is a number, not 'half'"),
        ("family:1,5", "variance 'family:1,5': c is a number, not '1,5'"),
        ("family:0.2:0.3", "variance 'family:0.2:0.3': give c once"),
        ("learned_range:clamp", "variance 'learned_range:clamp': learned_range knows clamped, not 'clamp'"),
        ("learned_range:0.5", "variance 'learned_range:0.5': learned_range knows clamped, not '0.5'"),
        ("learned_range:clamped:clamped", "variance 'learned_range:clamped:clamped': give clamped once"),
        ("interpolated:1.5", "frac = 1.5 is outside"),
        ("interpolated:-0.25", "frac = -0.25 is outside"),
        ("interpolated:nan", "frac = nan is outside"),
        ("family:-1", "c = -1: a variance of the data is finite and at least 0"),
        ("family:inf", "c = inf: a variance of the data is finite and at least 0"),
    ],
)
def test_a_wrong_number_or_switch_is_one_line_that_names_it(short, choice, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        variances.build(choice, calibration(short))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- what the records say

MOMENTS = ("variance", "excess", "error", "spectrum")


def test_every_record_says_what_its_choice_needs_and_reads(short):
    """Built from exactly what the record asks for, and refused without any one of these."""
    for name, entry in variances.VARIANCES.items():
        needed, known = variances.needs(name), calibration(short)
        least = known._replace(**dict.fromkeys(set(MOMENTS) - set(needed)))
        choice = variances.build(name, least)
        assert choice.heads == entry.heads == variances.heads_of([name]), name
        assert (entry.kind == "trained") == bool(choice.heads), name
        assert (entry.kind in ("measured", "frequencies")) == bool(entry.moments), name
        assert (entry.kind == "frequencies") == (choice.basis.name == "dct"), name
        for missing in needed:
            words = f"variance '{name}' needs {variances.MOMENTS[missing]}: measure"
            with pytest.raises(ValueError, match=re.escape(words)) as caught:
                variances.build(name, known._replace(**{missing: None}))
            assert "\n" not in str(caught.value)


def test_the_records_are_complete():
    entries = variances.VARIANCES
    assert {entry.kind for entry in entries.values()} == {"fixed", "measured", "frequencies", "trained"}
    assert all(entry.summary and "\n" not in entry.summary for entry in entries.values())
    assert set(variances.MOMENTS) == set(MOMENTS) < set(variances.Calibration._fields)
    assert {name: variances.needs(name) for name in NAMES if variances.needs(name)} == {
        "family": ("variance",),
        "analytic": ("excess",),
        "isotropic": ("error",),
        "spectral": ("spectrum",),
        "spectral_radial": ("spectrum",),
    }


def test_a_number_in_the_name_takes_the_place_of_a_measurement(short):
    nothing = variances.Calibration(short)
    assert variances.needs("family:0.25") == variances.needs("interpolated") == ()
    with pytest.raises(ValueError, match="variance 'family' needs the variance of the data: measure the moments"):
        variances.build("family", nothing)
    steps = process.steps(short, [1, 2, 4])
    of_number, of_data = (
        variances.table(variances.build(*fixed), steps)
        for fixed in (("family:0.25", nothing), ("family", nothing._replace(variance=0.25)))
    )
    np.testing.assert_array_equal(of_number, of_data)
    other = variances.build("family:0.25", nothing._replace(variance=4.0))
    np.testing.assert_array_equal(variances.table(other, steps), of_number)


def test_the_heads_of_several_choices_are_listed_once_in_their_order():
    names = ["sn", "small", "learned_range:clamped", "npr", "learned_range", "sn"]
    assert variances.heads_of(names) == ("sn", "learned_range", "npr")
    assert variances.heads_of([]) == variances.heads_of(["zero"]) == ()
    for asked in (variances.needs, lambda name: variances.heads_of([name])):
        with pytest.raises(ValueError, match="unknown variance 'smal'"):
            asked("smal")


@pytest.mark.parametrize(
    ("name", "missing"),
    [("analytic", "excess"), ("isotropic", "error"), ("spectral", "spectrum"), ("spectral_radial", "spectrum")],
)
def test_a_table_of_another_schedule_is_refused(short, name, missing):
    with pytest.raises(ValueError, match=f"^{re.escape(variances.MOMENTS[missing])} has 4 rows and the schedule 5: "):
        variances.build(name, calibration(short, **{missing: measured(3)[missing]}))


# ---------------------------------------------------------------- an entry from outside


@pytest.fixture
def outside(monkeypatch):
    """A registry with one more entry, which has a number of its own, a switch, a head and a moment."""

    def tilted(known, share, doubled):
        h = lambda step, x_t, prediction: (1 + doubled) * share * known.error[step.t]  # noqa: E731
        return variances.from_excess(h, heads=("mine",))

    number = variances.Number("share", 0.5)
    entry = variances.Variance(tilted, "a share of M_t", "measured", ("mine",), ("error",), number, ("doubled",))
    monkeypatch.setitem(variances.VARIANCES, "tilted", entry)


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("choice", "share"),
    [("tilted", 0.5), ("tilted:0.25", 0.25), ("tilted:doubled", 1.0), ("tilted:doubled:0.1", 0.2),
     ("tilted:0.1:doubled", 0.2)],
)  # fmt: skip
def test_an_entry_from_outside_is_built_with_its_number_and_switch(short, choice, share):
    steps, known = process.steps(short, [1, 2, 4]), calibration(short)
    expected = steps.base + steps.gain * share * known.error[steps.t]
    np.testing.assert_allclose(np.exp(variances.table(variances.build(choice, known), steps)), expected, rtol=1e-12)
    assert variances.heads_of([choice]) == ("mine",)
    assert variances.needs(choice) == ("error",)
    with pytest.raises(ValueError, match=f"variance '{choice}' needs M_t"):
        variances.build(choice, known._replace(error=None))


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("tilted:dubbled", "variance 'tilted:dubbled': share is a number and doubled a switch, not 'dubbled'"),
        ("tilted:0.1:0.2", "variance 'tilted:0.1:0.2': give share once"),
    ],
)
def test_of_an_entry_with_a_number_and_a_switch_the_message_knows_both(choice, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        variances.find(choice)


# ---------------------------------------------------------------- spectral


def test_the_spectral_choices_are_diagonal_in_the_dct_of_the_given_colours(short):
    for name in ("spectral", "spectral_radial"):
        assert variances.build(name, calibration(short, 3)).basis is bases.dct(axes(3))


@pytest.mark.parametrize("binned", ["spectral", "spectral_radial"])
def test_spectral_never_costs_more_than_isotropic_on_the_moments_that_fixed_both(linear, binned):
    """1/2 mean_j log(1 + u M_j) <= 1/2 log(1 + u mean_j M_j): Jensen, at any step and any spectrum."""
    rng = np.random.default_rng(5)
    s, t = random_pairs(6, 50)
    steps = process.pairs(linear, np.maximum(s, 1), np.maximum(t, 2))
    spectrum = rng.gamma(0.3, size=(1001, 4, 4, 3))
    moments = {"spectrum": spectrum, "error": spectrum.mean((1, 2, 3))}
    known = calibration(linear, 3, **moments)
    costs = {}
    for name in ("isotropic", binned):
        log_var = variances.table(variances.build(name, known), steps).reshape(50, -1)
        inverse_ratio = np.exp(np.log(steps.tb)[:, None] - log_var)
        grown = 1 + steps.u[:, None] * spectrum[steps.t].reshape(50, -1)
        costs[name] = 0.5 * (inverse_ratio * grown - 1 - np.log(inverse_ratio)).mean(1)
    assert (costs[binned] <= costs["isotropic"] * (1 + 1e-12)).all()
    assert (costs[binned] < 0.95 * costs["isotropic"]).mean() > 0.5
    if binned == "spectral":
        least = 0.5 * np.log1p(steps.u[:, None] * spectrum[steps.t].reshape(50, -1)).mean(1)
        np.testing.assert_allclose(costs[binned], least, rtol=1e-9)


# ---------------------------------------------------------------- no data left at T

ENDED = {
    "jsd": oracle_schedules.jsd(20),
    "linear_zero_terminal": oracle_schedules.zero_terminal(oracle_schedules.linear(20, 0.005, 0.5)),
}


@pytest.mark.parametrize("of", ENDED)
@pytest.mark.parametrize("s", [0, 1, 10, 19])
def test_where_no_data_are_left_uncertainty_is_counted_in_x_0(of, s):
    """x_T says nothing of x_0: q(x_s | x_T) = q(x_s) has variance ab_s c + 1 - ab_s for data of variance c."""
    tables = schedules.from_betas(ENDED[of])
    assert tables.alpha_bar[-1] == 0
    steps, p = process.pairs(tables, np.array([s]), np.array([20])), pairs.pair([*ENDED[of][:-1], 1.0], s, 20)
    for c in (0.0, 0.25, 1.0, 4.0):
        wanted = oracle_variances.from_data_uncertainty(p, c)
        assert wanted == pytest.approx(p.ab_s * c + p.noise_s, rel=1e-9)
        assert wanted == pytest.approx(oracle_variances.true_variance(p, c), rel=1e-9)
        at_T = np.full(21, c)
        for choice in (
            variances.family(c, tables),
            variances.analytic(at_T, clamp_cov=False),
            variances.isotropic(at_T),
        ):
            np.testing.assert_allclose(np.exp(variances.table(choice, steps)), wanted, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(np.exp(variances.table(variances.large(tables), steps)), steps.b, rtol=1e-12)
    clamped = np.exp(variances.table(variances.analytic(np.full(21, 4.0), clamp_cov=True), steps))
    np.testing.assert_allclose(clamped, oracle_variances.from_data_uncertainty(p, 1.0), rtol=1e-9)


@pytest.mark.parametrize("of", ENDED)
def test_before_the_end_of_such_a_schedule_nothing_changes(of):
    tables = schedules.from_betas(ENDED[of])
    s, t = np.triu_indices(20, 1)
    for c in (0.25, 4.0):
        got = np.exp(variances.table(variances.family(c, tables), process.pairs(tables, s, t)))
        wanted = [oracle_variances.true_variance(pairs.pair(ENDED[of], *st), c) for st in zip(s, t, strict=True)]
        np.testing.assert_allclose(got, wanted, rtol=1e-9)


def test_a_choice_that_looks_at_x_t_has_no_table(short):
    looks = variances.from_excess(lambda step, x_t, prediction: prediction.eps**2, headless=False)
    with pytest.raises(ValueError, match="x_t"):
        variances.table(looks, process.steps(short, [1, 4]))


def test_factories_do_not_share_state(short):
    assert len(inspect.signature(variances.small).parameters) == 0
    first, second = variances.family(0.5, short), variances.family(2.0, short)
    steps = process.steps(short, [4])
    assert variances.table(first, steps) != variances.table(second, steps)
