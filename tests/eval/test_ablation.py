"""The tables of the ablation, in a Gaussian world whose moments are known and with a network that is not exact."""

import numpy as np
import pytest

from ddpm_jax import process, schedule, trajectory, variance
from ddpm_jax.eval import ablation, elbo
from ddpm_jax.eval.moments import Moments
from ddpm_jax.variance import VARIANCES

SCHEDULE = schedule.linear(60)
KS = (2, 5, 10, 60)
NAMES = tuple(VARIANCES)


def noisy_moments(seed: int, n: int = 40) -> Moments:
    """Per-image errors around those of Gaussian data with c = .4, the network a tenth worse than exact."""
    draw = np.random.default_rng(seed)
    ab, noise = SCHEDULE.alpha_bar, SCHEDULE.one_minus_alpha_bar
    with np.errstate(invalid="ignore"):
        exact = ab * 0.4 / (ab * 0.4 + noise)
    error = 1.1 * exact * draw.gamma(20, 1 / 20, (n, 61))
    excess = exact * draw.gamma(20, 1 / 20, (n, 61))
    error[:, 0] = excess[:, 0] = np.nan
    decoder = np.where(np.arange(61) > 0, draw.gamma(20, 0.05, (n, 61)), np.nan)
    return Moments(error, excess, decoder, draw.gamma(20, 1e-4, n), 0.4)


@pytest.fixture(scope="module")
def calibration() -> variance.Calibration:
    return ablation.calibrate(SCHEDULE, noisy_moments(0), 0.5, None, clamp_cov=True)


@pytest.fixture(scope="module")
def choices(calibration: variance.Calibration) -> ablation.Choices:
    return ablation.choose(calibration, NAMES, ("even", "quadratic", "optimal"), KS)


def test_family_takes_the_variance_of_the_calibration_images(calibration: variance.Calibration) -> None:
    assert calibration.c == 0.4
    assert ablation.calibrate(SCHEDULE, noisy_moments(0), 0.5, 2.0, True).c == 2.0


def test_there_is_a_row_for_every_variance_trajectory_and_K(choices: ablation.Choices) -> None:
    rows = ablation.rows(ablation.likelihoods(choices, noisy_moments(1)), "test")
    cells = {(row["variance"], row["trajectory"], row["K"]) for row in rows}
    wanted = {(name, path, K) for name in NAMES for path in ("even", "quadratic", "optimal") for K in KS}
    assert cells == wanted - {("zero", "optimal", K) for K in KS}
    assert all(row["bits_per_dim"] is None for row in rows if row["variance"] == "zero")


def test_a_row_is_the_bound_of_its_chain_with_differences_over_the_same_images(choices: ablation.Choices) -> None:
    test = noisy_moments(1)
    rows = {
        (r["variance"], r["trajectory"], r["K"]): r for r in ablation.rows(ablation.likelihoods(choices, test), "x")
    }
    totals = {}
    for name, path in (("large", "optimal"), ("large", "even"), ("isotropic", "optimal")):
        steps = process.steps(SCHEDULE, choices.times[name, path, 5])
        totals[name, path] = elbo.bits_per_dim(steps, variance.table(choices.variances[name], steps), test).per_image
    row = rows["large", "optimal", 5]
    assert row["bits_per_dim"] == pytest.approx(totals["large", "optimal"].mean())
    for key, error, other in (
        ("minus_isotropic", "paired_standard_error", totals["isotropic", "optimal"]),
        ("minus_even", "minus_even_standard_error", totals["large", "even"]),
    ):
        difference = totals["large", "optimal"] - other
        assert row[key] == pytest.approx(difference.mean())
        assert row[error] == pytest.approx(difference.std(ddof=1) / np.sqrt(len(difference)))


def test_on_calibration_images_isotropic_and_the_optimal_trajectory_are_least(choices: ablation.Choices) -> None:
    found = ablation.likelihoods(choices, noisy_moments(0))
    for (name, path, K), bound in found.items():
        if bound is None:
            continue
        assert bound.total >= found["isotropic", path, K].total - 1e-12
        assert bound.total >= found[name, "optimal", K].total - 1e-12


def test_every_optimal_chain_ends_at_1_and_starts_at_T(choices: ablation.Choices) -> None:
    for (_, path, K), times in choices.times.items():
        assert len(times) == K
        assert times[-1] == 60
        assert path != "optimal" or times[0] == 1


def test_the_negative_control_scales_the_variance(calibration: variance.Calibration) -> None:
    test = noisy_moments(1)
    (row,) = ablation.negative_control(SCHEDULE, test, [5])
    steps = process.steps(SCHEDULE, trajectory.even(60, 5))
    larger = elbo.bits_per_dim(steps, steps.log_b + np.log(1.7), test).total
    plain = elbo.bits_per_dim(steps, steps.log_b, test).total
    assert row["difference"] == pytest.approx(larger - plain)


def test_the_gap_of_the_table_is_the_gap_of_the_formula(calibration: variance.Calibration) -> None:
    check = ablation.gap_check(calibration, noisy_moments(1))
    assert check["K"] == 60
    assert check["from_table"] == pytest.approx(check["from_formula"], abs=1e-9)


def test_memorised_images_show_as_a_gap(calibration: variance.Calibration) -> None:
    test = noisy_moments(1)
    seen = test._replace(error=test.error / 2)
    row = ablation.memorising(calibration, seen, test, 10)
    assert row["gap"] == pytest.approx(row["test_bits_per_dim"] - row["train_bits_per_dim"])
    assert row["gap"] > 5 * row["gap_standard_error"] > 0


def test_clamped_times_are_counted() -> None:
    moments = noisy_moments(0)
    moments.excess[:, 3], moments.excess[:, 7] = -0.1, 1e3
    row = ablation.per_time(SCHEDULE, moments, clamp_cov=True)
    assert [t for t, share in zip(row["t"], row["clamped_share"], strict=True) if share] == [3, 7]
    assert sum(ablation.per_time(SCHEDULE, moments, clamp_cov=False)["clamped_share"]) == 0
    assert row["error"] == pytest.approx(moments.error[:, 1:].mean(axis=0))


def test_all_but_zero_lie_on_the_chart_between_the_bounds(choices: ablation.Choices) -> None:
    chart = ablation.between_the_bounds(choices, 10)
    assert set(chart["choices"]) == set(NAMES) - {"zero"}
    assert len(chart["t"]) == 9
    for name in ("small", "large", "family", "analytic"):
        found = np.array(chart["choices"][name])
        assert (found >= np.array(chart["lower"]) * (1 - 1e-9)).all()
        assert (found <= np.array(chart["upper"]) * (1 + 1e-9)).all()


def test_unknown_names_are_refused(calibration: variance.Calibration) -> None:
    with pytest.raises(ValueError, match="unknown variance 'smal'"):
        ablation.choose(calibration, ["smal"], ["even"], [5])
    with pytest.raises(ValueError, match="unknown trajectory 'evn'"):
        ablation.choose(calibration, ["small"], ["evn"], [5])
