"""What the figures draw: functions of t, against sums and closed forms."""

import numpy as np
import pytest

from ddpm_jax import process, trajectory, variance
from ddpm_jax.eval import ablation, curves, elbo
from tests.eval.conftest import NAMES, SCHEDULE, noisy_moments


def test_clamped_times_are_counted() -> None:
    moments = noisy_moments(0)
    moments.excess[:, 3], moments.excess[:, 7] = -0.1, 1e3
    row = curves.per_time(SCHEDULE, moments, clamp_cov=True)
    assert [t for t, share in zip(row["t"], row["clamped_share"], strict=True) if share] == [3, 7]
    assert sum(curves.per_time(SCHEDULE, moments, clamp_cov=False)["clamped_share"]) == 0
    assert row["error"] == pytest.approx(moments.error[:, 1:].mean(axis=0))


def test_all_but_zero_lie_on_the_chart_between_the_bounds(choices: ablation.Choices) -> None:
    chart = curves.between_the_bounds(choices, 10)
    assert set(chart["choices"]) == set(NAMES) - {"zero"}
    assert len(chart["t"]) == 9
    for name in ("small", "large", "family", "analytic"):
        found = np.array(chart["choices"][name])
        assert (found >= np.array(chart["lower"]) * (1 - 1e-9)).all()
        assert (found <= np.array(chart["upper"]) * (1 + 1e-9)).all()


def test_the_terms_of_a_chain_add_up_to_its_kl(choices: ablation.Choices) -> None:
    test = noisy_moments(1)
    for entry in curves.terms(choices, test, [5, 60]):
        steps = process.steps(SCHEDULE, trajectory.even(60, entry["K"]))
        assert entry["t"] == steps.t[1:].tolist()
        assert set(entry["choices"]) == set(NAMES) - {"zero"}
        for name, row in entry["choices"].items():
            bound = elbo.bits_per_dim(steps, variance.table(choices.variances[name], steps), test)
            assert sum(row["kl"]) == pytest.approx(bound.kl)
            assert all(error > 0 for error in row["standard_error"])


def test_a_single_term_is_the_closed_form_of_small(choices: ablation.Choices) -> None:
    test = noisy_moments(1)
    (entry,) = curves.terms(choices, test, [60])
    snr = SCHEDULE.alpha_bar[1:] / SCHEDULE.one_minus_alpha_bar[1:]
    for t in (2, 30, 60):
        u = snr[t - 2] / snr[t - 1] - 1
        wanted = 0.5 * u * test.error[:, t] / np.log(2)
        assert entry["choices"]["small"]["kl"][t - 2] == pytest.approx(wanted.mean())
        assert entry["choices"]["small"]["standard_error"][t - 2] == pytest.approx(wanted.std(ddof=1) / np.sqrt(40))


def test_the_rate_is_what_has_been_sent_and_the_distortion_what_x_0_hat_lacks(choices: ablation.Choices) -> None:
    test = noisy_moments(1)
    row = curves.rate_distortion(choices, test, 10)
    steps = process.steps(SCHEDULE, trajectory.even(60, 10))
    bound = elbo.bits_per_dim(steps, variance.table(choices.variances["isotropic"], steps), test)
    rate = row["choices"]["isotropic"]
    assert row["t"] == steps.t.tolist()
    assert rate[-1] == pytest.approx(bound.prior)
    assert rate[0] == pytest.approx(bound.prior + bound.kl)
    assert rate == sorted(rate, reverse=True)
    for t, distortion in zip(row["t"], row["distortion"], strict=True):
        ab = SCHEDULE.alpha_bar[t]
        assert distortion == pytest.approx(127.5 * np.sqrt((1 - ab) / ab * test.error[:, t].mean()))
