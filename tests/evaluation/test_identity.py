"""What results are known by: a variance of the package by its version, one of a user's by what it does."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import process, schedules, timesteps, variances
from ddpm_jax.diffusion.variances import VARIANCES, Calibration, Variance, from_excess
from ddpm_jax.evaluation import likelihood
from ddpm_jax.evaluation.moments import variance_identity
from ddpm_jax.runtime import cache

KNOWN = Calibration(schedules.linear(20), colours=((1.0,),))


def identity(name: str, known: Calibration = KNOWN) -> str:
    return cache.fingerprint(variance_identity(name, known, variances.build(name, known)))


def test_a_variance_of_the_package_is_known_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity("npr")
    assert identity("npr") == before != identity("sn")
    monkeypatch.setattr(variances, "VERSION", variances.VERSION + 1)
    assert identity("npr") != before


@pytest.mark.parametrize("looks", [False, True])
def test_a_variance_from_outside_is_known_by_what_it_does(monkeypatch: pytest.MonkeyPatch, looks: bool) -> None:
    def entry(share: float) -> Variance:
        def h(step, x_t, prediction):
            return share * jnp.abs(x_t) if looks else np.full_like(step.base, share)

        return Variance(lambda known: from_excess(h, headless=not looks))

    found = []
    for share in (0.3, 0.3, 0.4):
        monkeypatch.setitem(VARIANCES, "mine", entry(share))
        found.append(identity("mine"))
    assert found[0] == found[1] != found[2]


def test_one_from_outside_may_be_undefined_at_times_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments that were measured at some times have no number at the others, and a fitted choice has a chain."""
    error = np.where(np.arange(21) % 5, np.nan, 0.3)
    known = KNOWN._replace(error=error)

    def entry(times: tuple[int, ...] | None, share: float) -> Variance:
        def h(step, x_t, prediction):
            assert times is None or step.base.shape == (len(times),)
            return share * known.error[step.t]

        return Variance(lambda known: from_excess(h, times=times), moments=("error",))

    for times in (None, (5, 10, 20)):
        found = []
        for share in (0.5, 0.5, 0.6):
            monkeypatch.setitem(VARIANCES, "mine", entry(times, share))
            found.append(identity("mine", known))
        assert found[0] == found[1] != found[2]


def test_one_from_outside_that_looks_at_x_t_is_known_by_the_moments_that_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(known: Calibration) -> variances.ReverseVariance:
        return from_excess(lambda step, x_t, prediction: jnp.abs(x_t) * known.error[step.t], headless=False)

    monkeypatch.setitem(VARIANCES, "mine", Variance(build, moments=("error",)))
    found = []
    for t in (2, 5):  # no probe visits them
        assert t not in timesteps.even(20, 8)
        known = KNOWN._replace(error=np.where(np.arange(21) == t, 0.9, 0.5))
        choices = likelihood.Choices(known, {"mine": build(known)}, {})
        found.append(cache.fingerprint(likelihood.identity(choices, "mine", process.steps(known.schedule, [10, 20]))))
    assert found[0] != found[1]
