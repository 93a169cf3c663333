"""The tables of the ablation, in a Gaussian world whose moments are known and with a network that is not exact."""

import numpy as np
import pytest

from ddpm_jax import process, variance
from ddpm_jax.eval import ablation, elbo
from tests.eval.conftest import KS, NAMES, SCHEDULE, noisy_moments


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


def test_unknown_names_are_refused(calibration: variance.Calibration) -> None:
    with pytest.raises(ValueError, match="unknown variance 'smal'"):
        ablation.choose(calibration, ["smal"], ["even"], [5])
    with pytest.raises(ValueError, match="unknown trajectory 'evn'"):
        ablation.choose(calibration, ["small"], ["evn"], [5])


def test_a_chain_of_one_step_has_no_optimal_trajectory(calibration: variance.Calibration) -> None:
    """It goes from T to the data, and an optimal chain ends at t = 1."""
    found = ablation.choose(calibration, ["small", "large"], ["even", "optimal"], [1, 5])
    assert {cell[1:] for cell in found.times} == {("even", 1), ("even", 5), ("optimal", 5)}
    assert ablation.choose(calibration, ["small"], ["optimal"], [1]).times == {}
