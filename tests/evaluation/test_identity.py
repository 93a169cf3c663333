"""What results are known by: a variance of the package by its version, one of a user's by what it does."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.diffusion import schedules, variances
from ddpm_jax.diffusion.variances import VARIANCES, Calibration, Variance, from_excess
from ddpm_jax.evaluation.moments import variance_identity
from ddpm_jax.runtime import cache

KNOWN = Calibration(schedules.linear(20), colours=((1.0,),))


def identity(name: str) -> str:
    return cache.fingerprint(variance_identity(name, KNOWN, variances.build(name, KNOWN)))


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
