"""A study end to end on a closed-form denoiser: the table, what is remembered of it, and what one more K costs."""

import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from ddpm_jax import cells, data, schedule, subject
from ddpm_jax.eval import study
from ddpm_jax.eval.study import Design, Means
from ddpm_jax.sampler import Rules
from ddpm_jax.subject import Subject

FEW = data.DataSet(
    "few", "twelve, six and seven digits", 17, False,
    *(data.Split(*(part[:n] for part in split)) for split, n in zip(data.digits()[4:], (12, 6, 7), strict=True)),
)  # fmt: skip
LINEAR = schedule.linear(40)
DESIGN = Design(Rules(levels=17), ("small", "large", "isotropic", "zero"), ("even", "optimal"), (3, 10), (3,), 4, 2)


def shrink(x_t, t):
    """The best linear guess of the noise in data of variance .3."""
    ab = np.asarray(LINEAR.alpha_bar, np.float32)[np.arange(41)]
    column = jax.numpy.asarray(ab)[t][:, None, None, None]
    return jax.numpy.sqrt(1 - column) / (0.3 * column + 1 - column) * x_t


@pytest.fixture(scope="module")
def own() -> Subject:
    return subject.of(shrink, LINEAR, "eps", FEW)


def everything(own: Subject, design: Design, folder: Path, force: bool = False) -> tuple[dict, dict]:
    """All the results, and how many cells were computed and reused."""
    used: Counter = Counter()
    keep = partial(cells.fetch, cells.Store(folder, {"denoiser": own.fingerprint}, force, used))
    means, key = Means(keep=keep), jax.random.key(0)
    measured = {split: study.measure(own, design, key, split, means) for split in study.SPLITS}
    choices = study.choose(own, design, measured["calibration"], keep)
    results = study.tabulate(own, design, choices, measured, keep)
    quality, drawn = study.sample(own, design, choices, means)
    shown = study.pictures(own, design, choices, drawn, keep)
    return results | quality | {"strip": shown["strip"].tolist()}, cells.tally(used)


@pytest.fixture(scope="module")
def first(own: Subject, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    folder = tmp_path_factory.mktemp("cells")
    return folder, *everything(own, DESIGN, folder)


def computed(used: dict) -> dict:
    return {kind: counts["computed"] for kind, counts in used.items() if counts["computed"]}


def test_a_second_study_computes_nothing_and_finds_the_same(own: Subject, first: tuple[Path, dict, dict]) -> None:
    folder, results, used = first
    again, then = everything(own, DESIGN, folder)
    assert again == results
    assert computed(then) == {}
    assert sum(counts["reused"] for counts in used.values()) == 0
    assert {kind: counts["computed"] for kind, counts in used.items()} == {
        kind: counts["reused"] for kind, counts in then.items()
    }


@pytest.mark.parametrize(
    ("change", "cost"),
    [
        ({"K": (3, 10, 20)}, {"trajectories": 3, "likelihood": 2 * 2 * 3}),
        ({"variances": (*DESIGN.variances, "family")}, {"trajectories": 2, "likelihood": 2 * 2 * 2, "samples": 2}),
        ({"seeds": 3}, {"samples": 4}),
        ({"sample_K": (3, 10)}, {"samples": 8}),
        ({"rules": DESIGN.rules._replace(last_step="noise")}, {"samples": 8, "strips": 1}),
    ],
    ids=["K", "variance", "seed", "sampled K", "rules"],
)
def test_what_is_new_costs_only_itself(
    own: Subject, first: tuple[Path, dict, dict], change: dict, cost: dict, tmp_path: Path
) -> None:
    _, used = everything(own, DESIGN._replace(**change), copied(first[0], tmp_path / "cells"))
    assert computed(used) == cost


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_another_network_or_clip_is_measured_anew(own: Subject, first: tuple[Path, dict, dict], tmp_path: Path) -> None:
    folder, _, used = first
    other = subject.of(lambda x_t, t: 0.9 * shrink(x_t, t), LINEAR, "eps", FEW)
    _, then = everything(other, DESIGN, copied(folder, tmp_path / "a"))
    assert computed(then)["moments"] == used["moments"]["computed"]
    free = DESIGN._replace(rules=DESIGN.rules._replace(clip_x_0=False))
    _, then = everything(own, free, copied(folder, tmp_path / "b"))
    assert computed(then)["moments"] == used["moments"]["computed"]


def test_force_computes_everything_again(own: Subject, first: tuple[Path, dict, dict], tmp_path: Path) -> None:
    folder, results, used = first
    again, then = everything(own, DESIGN, copied(folder, tmp_path / "cells"), force=True)
    assert again == results
    assert then == used


def test_compare_is_the_table_of_the_study(own: Subject, first: tuple[Path, dict, dict]) -> None:
    rows = study.compare(own, DESIGN)
    assert rows == [row for row in first[1]["likelihood"] if row["split"] == "test"]
    assert len(rows) == (4 + 3) * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 1}, "images = 1: it is at least 2"),
        ({"seeds": 0}, "seeds = 0: it is at least 1"),
        ({"K": (3, 41)}, "K = 41 steps: choose 1 to 40"),
        ({"sample_K": (0,)}, "K = 0 steps: choose 1 to 40"),
        ({"variances": ("smal",)}, "unknown variance 'smal'"),
        ({"trajectories": ("evn",)}, "unknown trajectory 'evn'"),
        ({"rules": Rules("none")}, "unknown last_step 'none'"),
        ({"rules": Rules(pixel_clip=0.0)}, "pixel_clip = 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study.check(DESIGN._replace(**change), LINEAR)
