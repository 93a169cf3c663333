"""The checks that come with a likelihood table."""

import numpy as np
import pytest

from ddpm_jax import process, trajectory, variance
from ddpm_jax.eval import checks, elbo
from tests.eval.conftest import SCHEDULE, noisy_moments


def test_the_negative_control_scales_the_variance(calibration: variance.Calibration) -> None:
    test = noisy_moments(1)
    (row,) = checks.negative_control(SCHEDULE, test, [5])
    steps = process.steps(SCHEDULE, trajectory.even(60, 5))
    larger = elbo.bits_per_dim(steps, steps.log_b + np.log(1.7), test).total
    plain = elbo.bits_per_dim(steps, steps.log_b, test).total
    assert row["difference"] == pytest.approx(larger - plain)


def test_the_gap_of_the_table_is_the_gap_of_the_formula(calibration: variance.Calibration) -> None:
    check = checks.gap_check(calibration, noisy_moments(1))
    assert check["K"] == 60
    assert check["from_table"] == pytest.approx(check["from_formula"], abs=1e-9)


def test_memorised_images_show_as_a_gap(calibration: variance.Calibration) -> None:
    test = noisy_moments(1)
    seen = test._replace(error=test.error / 2)
    row = checks.memorising(calibration, seen, test, 10)
    assert row["gap"] == pytest.approx(row["test_bits_per_dim"] - row["train_bits_per_dim"])
    assert row["gap"] > 5 * row["gap_standard_error"] > 0
