"""The tables of the ablation, in a Gaussian world whose moments are known and with a network that is not exact."""

import numpy as np
import pytest

from ddpm_jax.diffusion import process, variances
from ddpm_jax.evaluation import likelihood
from ddpm_jax.evaluation.likelihood import Comparison
from tests.evaluation.conftest import KS, NAMES, OWN_CHAIN, SCHEDULE, C, defined, noisy_moments, one_number


def test_family_takes_the_variance_of_the_calibration_images(calibration: variances.Calibration) -> None:
    moments = noisy_moments(0)
    assert calibration.variance == moments.variance == pytest.approx(C.mean(), rel=5 * np.sqrt(2 / 40 / C.size))
    assert likelihood.calibrate(calibration._replace(variance=2.0), moments).variance == moments.variance
    steps = process.steps(SCHEDULE, [1, 30, 60])
    measured, given, other = (
        variances.table(variances.build(name, calibration), steps)
        for name in ("family", f"family:{moments.variance!r}", "family:2")
    )
    np.testing.assert_array_equal(measured, given)
    assert (other > measured).all()


def test_calibration_moments_fix_what_the_choices_need_and_leave_what_was_known(
    calibration: variances.Calibration,
) -> None:
    moments = noisy_moments(0)
    np.testing.assert_array_equal(calibration.error, moments.error.mean(axis=0))
    np.testing.assert_array_equal(calibration.excess, moments.excess.mean(axis=0))
    # Two programs, with tables and without, round its sums each in its own way.
    np.testing.assert_allclose(calibration.spectrum, moments.spectrum, rtol=1e-4, atol=1e-6)
    assert calibration.colours == moments.colours == ((1.0,),)
    assert calibration.learned_times == OWN_CHAIN


def test_there_is_a_row_for_every_variance_trajectory_and_K(choices: likelihood.Choices) -> None:
    rows = likelihood.rows(likelihood.likelihoods(choices, noisy_moments(1)), "test")
    cells = {(row["variance"], row["trajectory"], row["K"]) for row in rows}
    wanted = {(name, path, K) for name in NAMES for path in ("even", "quadratic", "optimal") for K in KS}
    fitted = {("learned", path, K) for path in ("even", "quadratic", "optimal") for K in KS} - {("learned", "even", 10)}
    assert cells == wanted - {("zero", "optimal", K) for K in KS} - fitted
    assert all((row["bits_per_dim"] is None) == (row["variance"] == "zero") for row in rows)


def test_a_choice_whose_table_is_missing_has_no_bound_here(choices: likelihood.Choices) -> None:
    found = likelihood.likelihoods(choices, noisy_moments(1)._replace(tables={}))
    plain = one_number(choices.calibration)
    assert all((bound is None) == (cell[0] == "zero" or cell[0] not in plain) for cell, bound in found.items())


def test_a_row_is_the_bound_of_its_chain_with_differences_over_the_same_images(choices: likelihood.Choices) -> None:
    test = noisy_moments(1)
    rows = {
        (r["variance"], r["trajectory"], r["K"]): r for r in likelihood.rows(likelihood.likelihoods(choices, test), "x")
    }
    totals = {}
    for name, path in (("large", "optimal"), ("large", "even"), ("isotropic", "optimal")):
        steps = process.steps(SCHEDULE, choices.times[name, path, 5])
        totals[name, path] = likelihood.bits_per_dim(steps, choices.variances[name], test).per_image
    row = rows["large", "optimal", 5]
    assert row["bits_per_dim"] == pytest.approx(totals["large", "optimal"].mean())
    for key, error, other in (
        ("minus_isotropic", "paired_standard_error", totals["isotropic", "optimal"]),
        ("minus_even", "minus_even_standard_error", totals["large", "even"]),
    ):
        difference = totals["large", "optimal"] - other
        assert row[key] == pytest.approx(difference.mean())
        assert row[error] == pytest.approx(difference.std(ddof=1) / np.sqrt(len(difference)))


def test_on_calibration_images_isotropic_and_the_optimal_trajectory_are_least(choices: likelihood.Choices) -> None:
    """Isotropic among the choices of one number a step; the optimal trajectory among those of its own choice."""
    found, plain = likelihood.likelihoods(choices, noisy_moments(0)), one_number(choices.calibration)
    for (name, path, K), bound in found.items():
        if bound is None:
            continue
        if name in plain:
            assert bound.total >= found["isotropic", path, K].total - 1e-12
        if name != "learned":
            # The trajectory is chosen by interpolated means, the bound is a mean of interpolated costs.
            assert bound.total >= found[name, "optimal", K].total - (1e-12 if name in plain else 1e-5)


def test_on_calibration_images_spectral_is_never_above_isotropic(choices: likelihood.Choices) -> None:
    """Jensen's inequality, once for the bins and once for their averages: for every K and every chain alike."""
    schedule, moments = choices.schedule, noisy_moments(0)
    cost = {
        name: likelihood.cost(schedule, choices.variances[name], moments)
        for name in ("spectral", "spectral_radial", "isotropic", "analytic")
    }
    s, t = np.triu_indices(60, 1)
    full, radial, isotropic, analytic = (table[s + 1, t + 1] for table in cost.values())
    assert (full < radial * (1 + 1e-6)).all()  # float32 squares and the interpolation, where a step costs 1e-7
    assert (radial < isotropic * (1 + 1e-6)).all()
    assert (full.sum(), radial.sum()) < (radial.sum(), isotropic.sum())
    assert (isotropic <= analytic * (1 + 1e-12)).all()
    found = likelihood.likelihoods(choices, moments)
    for (name, path, K), bound in found.items():
        if name.startswith("spectral"):
            assert bound.total < found["isotropic", path, K].total


def test_the_costs_that_choose_a_chain_are_its_bound(choices: likelihood.Choices) -> None:
    """On calibration images, for spectral from the spectrum alone and for heads from their tables."""
    moments = noisy_moments(0)
    for name, choice in choices.variances.items():
        if not choice.bound or name == "learned":
            continue
        of_spectrum = choice.headless and name not in one_number(choices.calibration)
        cost = likelihood.cost(choices.schedule, choice, moments, None if of_spectrum else moments.tables.get(name))
        for K in (2, 10, 60):
            times = choices.times[name, "optimal", K]
            steps = process.steps(choices.schedule, times)
            bound = likelihood.bits_per_dim(steps, choice, moments, moments.tables.get(name))
            path = sum(cost[s, t] for s, t in zip(steps.s, steps.t, strict=True)) / np.log(2)
            assert path == pytest.approx(bound.kl, rel=1e-5)


def test_every_optimal_chain_ends_at_1_and_starts_at_T(choices: likelihood.Choices) -> None:
    for (_, path, K), times in choices.times.items():
        assert len(times) == K
        assert times[-1] == 60
        assert path != "optimal" or times[0] == 1


def test_a_choice_fitted_on_one_chain_has_cells_there_alone(choices: likelihood.Choices) -> None:
    (cell,) = [cell for cell in choices.times if cell[0] == "learned"]
    assert cell == ("learned", "even", 10)
    assert defined(choices, "learned", choices.times[cell])
    found = likelihood.likelihoods(choices, noisy_moments(1))[cell]
    assert found is not None and np.isfinite(found.total)
    steps, moments = process.steps(SCHEDULE, [1, 30, 60]), noisy_moments(1)
    with pytest.raises(ValueError, match="fitted on a chain of 10 steps"):
        likelihood.bits_per_dim(steps, choices.variances["learned"], moments, moments.tables["learned"])


def test_without_a_table_the_bound_of_a_head_is_refused(choices: likelihood.Choices) -> None:
    steps, moments = process.steps(SCHEDULE, [1, 30, 60]), noisy_moments(1)
    for name in ("npr", "spectral"):
        with pytest.raises(ValueError, match="tabulate it in the pass"):
            likelihood.bits_per_dim(steps, choices.variances[name], moments)
    for change in ({"spectrum": None}, {"colours": ((-1.0,),)}):
        with pytest.raises(ValueError, match="tabulate it in the pass"):
            likelihood.cost(SCHEDULE, choices.variances["spectral"], moments._replace(**change))


def test_unknown_names_are_refused(calibration: variances.Calibration) -> None:
    with pytest.raises(ValueError, match="unknown variance 'smal'"):
        likelihood.choose(calibration, Comparison(["smal"], ["even"], [5]), noisy_moments(0))
    with pytest.raises(ValueError, match="unknown trajectory 'evn'"):
        likelihood.choose(calibration, Comparison(["small"], ["evn"], [5]), noisy_moments(0))


def test_a_chain_of_one_step_has_no_optimal_trajectory(calibration: variances.Calibration) -> None:
    """It goes from T to the data, and an optimal chain ends at t = 1."""
    moments = noisy_moments(0)
    found = likelihood.choose(calibration, Comparison(["small", "large"], ["even", "optimal"], [1, 5]), moments)
    assert {cell[1:] for cell in found.times} == {("even", 1), ("even", 5), ("optimal", 5)}
    assert likelihood.choose(calibration, Comparison(["small"], ["optimal"], [1]), moments).times == {}
