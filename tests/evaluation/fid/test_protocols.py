"""Presets name what there is, and figures that do not compare are marked."""

import numpy as np
import pytest

from ddpm_jax.data.transforms import ROUNDINGS
from ddpm_jax.evaluation.fid import frechet, protocols
from ddpm_jax.evaluation.fid.protocols import FID_PROTOCOLS, Measure
from ddpm_jax.models import inception

ONE = Measure("Inception a", "pytorch-fid", "nearest", "cifar10, train images, b", 50_000)


@pytest.mark.parametrize("name", FID_PROTOCOLS)
def test_presets_name_what_there_is(name: str) -> None:
    found = protocols.named(name)
    assert found.preparation in inception.PREPARATIONS and found.rounding in ROUNDINGS and found.split == "train"


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown FID protocol 'clean': choose one of pytorch-fid, ddpm, score_sde"):
        protocols.named("clean")


@pytest.mark.parametrize("field", Measure._fields)
def test_a_figure_that_differs_in_anything_is_marked(field: str) -> None:
    other = ONE._replace(**{field: 5_000 if field == "n" else "other"})
    marks, lines = protocols.marks([ONE, other, ONE, other])
    assert marks == ["", "*", "", "*"]
    assert lines == [f"* does not compare: {field} {getattr(other, field)} and not {getattr(ONE, field)}"]


def test_each_other_measure_has_a_mark_of_its_own() -> None:
    several = [ONE._replace(n=n) for n in range(2, 9)]
    marks, lines = protocols.marks([ONE, *several])
    assert marks[0] == "" and len(set(marks)) == len(marks) and len(lines) == len(several)


def test_figures_that_compare_have_none() -> None:
    assert protocols.marks([ONE, ONE]) == (["", ""], [])


def test_few_samples_are_warned_of_with_the_bias_that_samples_of_a_perfect_model_have() -> None:
    """Of d independent features of variance 1: tr S = d, and the pairs give d (d + 1)/4."""
    d, n = 6, 500
    said = protocols.warning(frechet.Fit(np.zeros(d), np.eye(d)), n)
    assert said is not None and f"{(d + d * (d + 1) / 4) / n:.3g}, not 0" in said and "N = 500" in said
    assert protocols.warning(frechet.Fit(np.zeros(d), np.eye(d)), 10_000) is None


def test_a_stamp_is_plain() -> None:
    assert protocols.plain(protocols.Stamp(ONE, {"K": 10})) == {"measure": ONE._asdict(), "samples": {"K": 10}}
