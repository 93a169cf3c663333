"""The checks that come with a likelihood table."""

import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules, timesteps, variances
from ddpm_jax.evaluation import diagnostics
from tests.evaluation.conftest import SCHEDULE, noisy_moments
from tests.oracle import bits, pairs


def test_the_negative_control_scales_the_variance(calibration: variances.Calibration) -> None:
    test = noisy_moments(1)
    (row,) = diagnostics.negative_control(SCHEDULE, test, [5])
    steps = process.steps(SCHEDULE, timesteps.even(60, 5))
    chain = [pairs.pair(SCHEDULE.beta[1:], int(s), int(t)) for s, t in zip(steps.s, steps.t, strict=True)]
    plain, larger = (
        bits.per_image(chain, [factor * p.b for p in chain], test.error, test.prior, test.decoder).mean()
        for factor in (1.0, 1.7)
    )
    assert row["large"] == pytest.approx(plain)
    assert row["difference"] == pytest.approx(larger - plain)


def test_the_gap_of_the_table_is_the_gap_of_the_formula(calibration: variances.Calibration) -> None:
    check = diagnostics.gap_check(calibration, noisy_moments(1))
    assert check["K"] == 60
    assert check["from_table"] == pytest.approx(check["from_formula"], abs=1e-9)


def test_the_gap_of_the_formula_is_finite_where_no_data_are_left_at_T() -> None:
    tables, test = schedules.zero_terminal(SCHEDULE), noisy_moments(1)
    known = variances.Calibration(tables, error=noisy_moments(0).error.mean(axis=0))
    check = diagnostics.gap_check(known, test)
    assert np.isfinite(check["from_formula"])
    assert check["from_table"] == pytest.approx(check["from_formula"], abs=1e-9)


def test_memorised_images_show_as_a_gap(calibration: variances.Calibration) -> None:
    test = noisy_moments(1)
    seen = test._replace(error=test.error / 2)
    row = diagnostics.memorising(calibration, seen, test, 10)
    assert row["gap"] == pytest.approx(row["test_bits_per_dim"] - row["train_bits_per_dim"])
    assert row["gap"] > 5 * row["gap_standard_error"] > 0
