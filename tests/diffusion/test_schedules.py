"""The tables against plain loops and the published values."""

import numpy as np
import pytest

from ddpm_jax.diffusion import schedules
from tests.oracle import schedules as oracle_schedules

NAMES = ["linear", "cosine", "quadratic", "sigmoid", "constant", "jsd", "linear_zero_terminal", "cosine_zero_terminal"]


def test_the_registry_holds_every_schedule():
    assert sorted(schedules.SCHEDULES) == sorted(NAMES)


CASES = {
    "linear": (schedules.linear(4, 0.1, 0.7), oracle_schedules.linear(4, 0.1, 0.7)),
    "quadratic": (schedules.quadratic(4, 0.1, 0.7), oracle_schedules.quadratic(4, 0.1, 0.7)),
    "sigmoid": (schedules.sigmoid(4, 0.1, 0.7), oracle_schedules.sigmoid(4, 0.1, 0.7)),
    "constant": (schedules.constant(4, 0.3), oracle_schedules.constant(4, 0.3)),
    "cosine": (schedules.cosine(4), oracle_schedules.cosine(4)),
    "jsd": (schedules.jsd(4), oracle_schedules.jsd(4)),
    "zero-terminal": (
        schedules.zero_terminal(schedules.from_betas([0.1, 0.3, 0.5, 0.7])),
        oracle_schedules.zero_terminal([0.1, 0.3, 0.5, 0.7]),
    ),
    "array": (schedules.from_betas([0.1, 0.3, 0.5, 0.7]), [0.1, 0.3, 0.5, 0.7]),
} | {name + "-1000": (schedules.SCHEDULES[name](1000), getattr(oracle_schedules, name)(1000)) for name in NAMES}


@pytest.mark.parametrize("case", CASES)
def test_tables_equal_plain_loops(case):
    built, betas = CASES[case]
    # A product of T factors rounds by at most T eps = 2e-13, the 1 - cos^2 ratio by 1e-16/beta_1 < 1e-11.
    np.testing.assert_allclose(built.beta[1:], betas, rtol=1e-10)
    np.testing.assert_allclose(built.alpha_bar, oracle_schedules.alpha_bar(betas), rtol=1e-10)
    np.testing.assert_allclose(built.one_minus_alpha_bar, oracle_schedules.one_minus_alpha_bar(betas), rtol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_tables_are_float64_numpy_and_row_0_is_the_data(name):
    built = schedules.SCHEDULES[name](1000)
    assert built.T == 1000
    for table in built:
        assert isinstance(table, np.ndarray) and table.dtype == np.float64 and table.shape == (1001,)
    assert (built.beta[0], built.alpha_bar[0], built.one_minus_alpha_bar[0]) == (0, 1, 0)


def test_golden_alpha_bars():
    linear, cosine = schedules.linear(), schedules.cosine()
    assert linear.alpha_bar[500] == pytest.approx(7.858724e-2, rel=1e-6)
    assert linear.alpha_bar[1000] == pytest.approx(4.035830e-5, rel=1e-6)
    assert cosine.alpha_bar[1] == pytest.approx(0.99995872, abs=5e-9)
    assert cosine.alpha_bar[500] == pytest.approx(0.4938436, abs=5e-8)
    assert cosine.alpha_bar[1000] == pytest.approx(2.428767e-9, rel=1e-6)
    assert cosine.beta[1000] == pytest.approx(0.999, rel=1e-12)


def test_default_ends_scale_with_T_and_given_ends_do_not():
    assert schedules.linear(500).beta[[1, 500]] == pytest.approx([2e-4, 0.04], rel=1e-12)
    assert schedules.linear(500, beta_1=1e-4, beta_T=0.02).beta[[1, 500]] == pytest.approx([1e-4, 0.02], rel=1e-12)


def test_jsd_ends_with_no_data_left():
    assert schedules.jsd(10).alpha_bar[10] == 0 and schedules.jsd(10).one_minus_alpha_bar[10] == 1


@pytest.mark.parametrize(("betas", "value"), [([0.1, 1.0, 0.2], "1"), ([0.1, 1.5], "1.5"), ([-0.25, 0.1], "-0.25")])
def test_a_beta_outside_its_bounds_is_refused_with_its_value(betas, value):
    with pytest.raises(ValueError, match=value):
        schedules.from_betas(betas)


@pytest.mark.parametrize("beta", [0.0, float("nan"), float("inf")])
def test_zero_and_non_finite_betas_are_refused(beta):
    with pytest.raises(ValueError, match="beta_2"):
        schedules.from_betas([0.1, beta, 0.2])


def test_a_default_that_exceeds_1_at_small_T_is_refused():
    with pytest.raises(ValueError, match="beta_"):
        schedules.linear(4)


def test_beta_1_at_the_last_time_is_allowed():
    assert schedules.from_betas([0.5, 1.0]).alpha_bar[2] == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("T", [0, -3])
def test_a_schedule_without_times_is_refused_with_the_value(name, T):
    with pytest.raises(ValueError, match=str(T)):
        schedules.SCHEDULES[name](T)


@pytest.mark.parametrize("T", [2, 40, 4000])
@pytest.mark.parametrize("name", ["cosine", "quadratic"])
def test_zero_terminal_ends_at_0_and_keeps_alpha_bar_1(name, T):
    before = getattr(schedules, name)(T) if T > 2 else schedules.from_betas([0.2, 0.6])
    after = schedules.zero_terminal(before)
    assert (after.beta[T], after.alpha_bar[T], after.one_minus_alpha_bar[T]) == (1, 0, 1)
    assert (after.beta[1], after.alpha_bar[1]) == (before.beta[1], before.alpha_bar[1])
    assert (np.diff(after.alpha_bar) < 0).all()
    # Every time between loses data: sqrt(alpha_bar) = s goes to s_1 (s - s_T)/(s_1 - s_T) <= s.
    s = np.sqrt(before.alpha_bar[1:])
    # s - s_T errs by 1e-16 and s falls by 3e-6 or more a time
    np.testing.assert_allclose(np.sqrt(after.alpha_bar[1:]), s[0] * (s - s[-1]) / (s[0] - s[-1]), rtol=1e-9)


def test_zero_terminal_is_exact_where_hardly_any_noise_is():
    before = schedules.from_betas(np.linspace(1e-9, 1e-7, 1000))
    expected = oracle_schedules.zero_terminal(before.beta[1:])
    after = schedules.zero_terminal(before)
    np.testing.assert_allclose(after.beta[1:], expected, rtol=1e-12)
    np.testing.assert_allclose(after.one_minus_alpha_bar, oracle_schedules.one_minus_alpha_bar(expected), rtol=1e-12)


def test_zero_terminal_leaves_a_schedule_that_ends_at_0_as_it_is():
    before = schedules.jsd(10)
    assert schedules.zero_terminal(before) is before


def test_zero_terminal_needs_two_times():
    with pytest.raises(ValueError, match="T = 1"):
        schedules.zero_terminal(schedules.from_betas([0.5]))


@pytest.mark.parametrize(
    ("name", "T", "betas"),
    [
        ("linear:0.1,0.7", 4, oracle_schedules.linear(4, 0.1, 0.7)),
        ("quadratic:1e-1,.7", 4, oracle_schedules.quadratic(4, 0.1, 0.7)),
        ("sigmoid:0.1,0.7", 4, oracle_schedules.sigmoid(4, 0.1, 0.7)),
        ("constant:0.3", 4, oracle_schedules.constant(4, 0.3)),
        ("jsd", 4, oracle_schedules.jsd(4)),
        ("betas:0.3,0.1,1", 3, [0.3, 0.1, 1.0]),
        ("betas:0.5", 1, [0.5]),
    ],
)
def test_a_name_with_its_numbers_is_a_schedule(name, T, betas):
    np.testing.assert_allclose(schedules.build(name, T).beta[1:], betas, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lin:1", "unknown schedule 'lin': choose one of linear"),
        ("betas", "unknown schedule 'betas'"),
        ("betas.json", "unknown schedule 'betas.json'"),
        ("linear:0.1", "schedule 'linear:0.1': write linear:beta_1,beta_T or linear"),
        ("linear:", "schedule 'linear:': numbers, with commas between them"),
        ("linear:a,b", "schedule 'linear:a,b': numbers, with commas"),
        ("constant:0.1,0.2", "write constant:beta or constant"),
        ("cosine:0.1", "cosine takes no numbers"),
        ("quadratic:-1,0.5", "beta_1 = nan is outside"),
        ("linear:nan,0.5", "its numbers are finite"),
        ("sigmoid:0.1,inf", "its numbers are finite"),
        ("betas:0.1,0.2,0.3", "T = 4: the schedule is a table of 3 betas, give T = 3"),
        ("betas:0.1,2,0.3,0.4", "beta_2 = 2 is outside"),
        ("betas:0.1,nan,0.3,0.4", "beta_2 = nan is outside"),
    ],
)
def test_a_name_that_says_no_schedule_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        schedules.build(name, 4)


@pytest.mark.parametrize("betas", [[0.1], [0.1 + 0.2, 1 / 3, 1.0], np.random.default_rng(0).uniform(0, 1, 1000)])
def test_a_table_keeps_every_bit(betas):
    built = schedules.build(schedules.table(betas), len(betas))
    assert built.beta[1:].tolist() == [float(beta) for beta in betas]


@pytest.mark.parametrize(
    ("betas", "name"),
    [
        (oracle_schedules.linear(1000), "linear"),
        (oracle_schedules.cosine(50), "cosine"),
        (oracle_schedules.linear(10, 1e-4, 0.02), "linear:0.0001,0.02"),
        (oracle_schedules.quadratic(1000, 0.00085, 0.012), "quadratic:0.00085,0.012"),
        (oracle_schedules.sigmoid(1000, 1e-5, 0.03), "sigmoid:1e-05,0.03"),
        (oracle_schedules.constant(7, 0.3), "constant:0.3"),
        ([0.1, 0.5, 0.2], "betas:0.1,0.5,0.2"),
    ],
)
def test_betas_get_their_shortest_name(betas, name):
    assert schedules.name_of(betas) == name


def test_a_thousand_numbers_are_shown_as_a_title():
    table = schedules.table([0.1 + i / 10_000 for i in range(1000)])
    assert schedules.title(table) == "betas (1000 numbers, 0.1 to 0.19990000000000002)"
    assert schedules.title("linear:1e-4,0.02") == "linear:1e-4,0.02" and schedules.title("jsd") == "jsd"
    for T, name in ((999, table), (1000, table.replace("betas", "linear")), (1000, table + ",x")):
        with pytest.raises(ValueError) as error:  # noqa: PT011, whose words are judged below
            schedules.build(name, T)
        assert len(str(error.value)) < 200


def test_a_schedule_from_outside_may_need_a_number_that_is_no_beta(monkeypatch):
    monkeypatch.setitem(schedules.SCHEDULES, "mine", lambda T, power: schedules.from_betas(np.full(T, 0.1**power)))
    np.testing.assert_allclose(schedules.build("mine:2", 3).beta[1:], 0.01)
    for name in ("mine", "mine:1,2"):
        with pytest.raises(ValueError, match=r"write mine:power$"):
            schedules.build(name, 3)
    assert schedules.name_of([0.5, 0.4, 0.45]).startswith("betas:")
