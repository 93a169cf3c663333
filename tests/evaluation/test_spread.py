"""Means and deviations over networks, by hand."""

import pytest

from ddpm_jax.evaluation import ablation


def row(bits, difference, split="test", name="large"):
    return dict(variance=name, trajectory="even", K=10, split=split, bits_per_dim=bits, minus_isotropic=difference)


def test_means_and_deviations_are_over_networks_and_of_test_images() -> None:
    tables = [[row(3.0, 0.5), row(9.0, 9.0, "calibration")], [row(5.0, 0.1), row(9.0, 9.0, "calibration")]]
    sampled = dict(variance="large", trajectory="even", K=10)
    (found,) = ablation.over_networks(tables, [[sampled | dict(mean=2.0)], [sampled | dict(mean=8.0)]])
    assert found["values"] == [3.0, 5.0]
    assert (found["mean"], found["std"]) == pytest.approx((4.0, 2**0.5))
    assert (found["minus_isotropic"], found["minus_isotropic_std"]) == pytest.approx((0.3, 0.4 / 2**0.5))
    assert (found["frechet_mean"], found["frechet_std"]) == pytest.approx((5.0, 18**0.5))


def test_what_one_network_lacks_has_no_mean() -> None:
    (found,) = ablation.over_networks([[row(3.0, None)], [row(5.0, None)]], [[], []])
    assert found["mean"] == 4.0
    assert found["minus_isotropic"] is found["frechet_mean"] is found["frechet_std"] is None
