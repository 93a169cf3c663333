"""A study end to end on a closed-form denoiser: the table, what is remembered of it, and what one more K costs."""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import DataSet, Split
from ddpm_jax.data.sources.records import OnDemand, Records
from ddpm_jax.diffusion import process, schedules, timesteps, toy, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.evaluation import ablation, likelihood, moments
from ddpm_jax.evaluation.ablation import Execution
from ddpm_jax.evaluation.design import Design
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.training import model
from ddpm_jax.training.model import Model

FEW = datasets.DataSet(
    "few", "twelve, six and seven digits", 17, False,
    *(Split(*(part[:n] for part in split)) for split, n in zip(datasets.digits()[4:], (12, 6, 7), strict=True)),
)  # fmt: skip
LINEAR = schedules.linear(40)
DESIGN = Design(Rules(levels=17), ("small", "large", "isotropic", "zero"), ("even", "optimal"), (3, 10), (3,), 4, 2)


def shrink(x_t, t):
    """The best linear guess of the noise in data of variance .3."""
    ab = np.asarray(LINEAR.alpha_bar, np.float32)[np.arange(41)]
    column = jax.numpy.asarray(ab)[t][:, None, None, None]
    return jax.numpy.sqrt(1 - column) / (0.3 * column + 1 - column) * x_t


def of_few(function) -> Model:
    return model.of_function(function, LINEAR, "eps", FEW.shape, FEW.levels)


@pytest.fixture(scope="module")
def own() -> Model:
    return of_few(shrink)


def everything(own: Model, design: Design, folder: Path, force: bool = False, data: DataSet = FEW) -> tuple[dict, dict]:
    """All the results, and how many cells were computed and reused."""
    used: Counter = Counter()
    keep = partial(cache.fetch, cache.Store(folder, {"denoiser": own.fingerprint}, force, used))
    execution, key = Execution(keep=keep), jax.random.key(0)
    measured = {"calibration": ablation.measure(own, data, design, key, "calibration", execution=execution)}
    choices = ablation.choose(own, data, design, measured["calibration"], keep)
    measured |= {
        split: ablation.measure(own, data, design, key, split, choices, execution) for split in ("test", "train")
    }
    results = ablation.tabulate(own, data, design, choices, measured, keep)
    quality, drawn = ablation.sample(own, data, design, choices, execution)
    shown = ablation.pictures(own, data, design, choices, drawn, keep)
    return results | quality | {"strip": shown["strip"].tolist()}, cache.tally(used)


@pytest.fixture(scope="module")
def first(own: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict]:
    folder = tmp_path_factory.mktemp("cells")
    return folder, *everything(own, DESIGN, folder)


def computed(used: dict) -> dict:
    return {kind: counts["computed"] for kind, counts in used.items() if counts["computed"]}


def test_a_second_study_computes_nothing_and_finds_the_same(own: Model, first: tuple[Path, dict, dict]) -> None:
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
    own: Model, first: tuple[Path, dict, dict], change: dict, cost: dict, tmp_path: Path
) -> None:
    _, used = everything(own, DESIGN._replace(**change), copied(first[0], tmp_path / "cells"))
    assert computed(used) == cost


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


@pytest.mark.slow
def test_another_network_or_clip_is_measured_anew(own: Model, first: tuple[Path, dict, dict], tmp_path: Path) -> None:
    folder, _, used = first
    other = of_few(lambda x_t, t: 0.9 * shrink(x_t, t))
    _, then = everything(other, DESIGN, copied(folder, tmp_path / "a"))
    assert computed(then)["moments"] == used["moments"]["computed"]
    free = DESIGN._replace(rules=DESIGN.rules._replace(clip_x_0=False))
    _, then = everything(own, free, copied(folder, tmp_path / "b"))
    assert computed(then)["moments"] == used["moments"]["computed"]


def test_training_images_on_demand_give_the_same_study(
    own: Model, first: tuple[Path, dict, dict], tmp_path: Path
) -> None:
    """Same images, so the same cells are found."""
    (images, labels), n = FEW.train, len(FEW.train.images)
    lying = Records(n, FEW.shape, list, lambda number: images[number], lambda number: int(labels[number]))
    large = FEW._replace(train=datasets.Large(OnDemand(lying, np.arange(n))))
    again, then = everything(own, DESIGN, copied(first[0], tmp_path / "cells"), data=large)
    assert again == first[1]
    assert computed(then) == {}


def test_images_without_labels_are_measured_and_not_sampled(own: Model) -> None:
    unlabelled = FEW._replace(**{part: getattr(FEW, part)._replace(labels=None) for part in datasets.PARTS})
    rows = ablation.compare(own, unlabelled, DESIGN)
    assert rows == ablation.compare(own, FEW, DESIGN)
    choices = ablation.choose(own, FEW, DESIGN, ablation.measure(own, FEW, DESIGN, jax.random.key(0), "calibration"))
    with pytest.raises(ValueError, match="few has no labels"):
        ablation.sample(own, unlabelled, DESIGN, choices)


def test_force_computes_everything_again(own: Model, first: tuple[Path, dict, dict], tmp_path: Path) -> None:
    folder, results, used = first
    again, then = everything(own, DESIGN, copied(folder, tmp_path / "cells"), force=True)
    assert again == results
    assert then == used


def test_compare_is_the_table_of_the_study(own: Model, first: tuple[Path, dict, dict]) -> None:
    rows = ablation.compare(own, FEW, DESIGN)
    assert rows == [row for row in first[1]["likelihood"] if row["split"] == "test"]
    assert len(rows) == (4 + 3) * 2
    assert first[1]["evaluations"]["counted"] == {"calibration": 6 * 40, "test": 7 * 40, "train": 12 * 40}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 1}, "images = 1: it is at least 2"),
        ({"seeds": 0}, "seeds = 0: it is at least 1"),
        ({"K": (3, 41)}, "K = 41 steps: choose 1 to 40"),
        ({"sample_K": (0,)}, "K = 0 steps: choose 1 to 40"),
        ({"variances": ("smal",)}, "unknown variance 'smal'"),
        ({"variances": ("small", "large", "small")}, "variances = small large small repeats one"),
        ({"variances": ()}, "variances is empty: give at least one"),
        ({"variances": ("interpolated:2",)}, "frac = 2 is outside"),
        ({"variances": ("family:-1",)}, "c = -1: a variance of the data"),
        ({"variances": ("learned_range:clamp",)}, "learned_range knows clamped, not 'clamp'"),
        ({"variances": ("learned_range:clamped",)}, "reads the head 'learned_range' and the denoiser has none"),
        ({"trajectories": ("evn",)}, "unknown trajectory 'evn'"),
        ({"rules": Rules("none")}, "unknown last_step 'none'"),
        ({"rules": Rules(pixel_clip=0.0)}, "pixel_clip = 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ablation.check(DESIGN._replace(**change), LINEAR)


# ---------------------------------------------------------------- a denoiser with heads

OWN_CHAIN = tuple(timesteps.even(40, 10).tolist())
POINTS = np.asarray(FEW.train.images, np.float64) / 8 - 1


@pytest.fixture(scope="module")
def headed(own: Model) -> Model:
    """The exact denoiser of the training images, with every head; `learned` is of the even chain of ten steps."""
    world = toy.finite(LINEAR, POINTS)
    denoiser = toy.exact_heads(world, process.steps(LINEAR, list(OWN_CHAIN)))
    heads = variances.heads_of(variances.VARIANCES)
    return own._replace(denoiser=denoiser, heads=heads, learned_times=OWN_CHAIN)


def test_an_empty_list_of_variances_means_all_that_the_denoiser_has_heads_for(own: Model, headed: Model) -> None:
    empty = DESIGN._replace(variances=())
    assert ablation.resolved(empty, headed.heads).variances == tuple(variances.VARIANCES)
    headless = ablation.resolved(empty, own.heads).variances
    assert set(variances.VARIANCES) - set(headless) == {"npr", "sn", "ocm", "learned", "learned_range"}
    assert set(ablation.resolved(empty, ("npr",)).variances) == {*headless, "npr"}
    assert ablation.resolved(DESIGN, headed.heads) == DESIGN


def test_a_choice_whose_head_the_denoiser_lacks_is_refused_before_anything_is_measured(
    own: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "measure", lambda *of, **more: pytest.fail("measured"))
    message = "the variance 'sn' reads the head 'sn' and the denoiser has none: train it with"
    with pytest.raises(ValueError, match=message):
        ablation.compare(own, FEW, DESIGN._replace(variances=("small", "sn")))
    with pytest.raises(ValueError, match="the denoiser has npr"):
        ablation.compare(own._replace(heads=("npr",)), FEW, DESIGN._replace(variances=("npr", "learned")))


def test_rules_for_other_grey_levels_are_refused(own: Model) -> None:
    with pytest.raises(ValueError, match="levels = 256 in the rules: few has 17"):
        ablation.compare(own, FEW, DESIGN._replace(rules=Rules(levels=256)))


@pytest.mark.slow
def test_all_choices_come_out_of_images_times_T_evaluations(headed: Model) -> None:
    """Counted inside the denoiser: calibration and test images, once at every time, whatever is tabulated."""
    ran = []

    def counting(x_t, t):
        jax.debug.callback(lambda t: ran.append(len(t)), t)
        return headed.denoiser(x_t, t)

    design = Design(Rules(levels=17), trajectories=("even", "optimal"), K=(3, 10))
    counted = headed._replace(denoiser=counting)
    execution = Execution(sharding.Layout(devices=(jax.local_devices()[0],)))
    rows = ablation.compare(counted, FEW, design, execution=execution)
    jax.effects_barrier()
    assert sum(ran) == (6 + 7) * 40
    cells_of = {(row["variance"], row["trajectory"], row["K"]) for row in rows}
    free = set(variances.VARIANCES) - {"zero", "learned"}
    assert cells_of == {(name, path, K) for name in free for path in ("even", "optimal") for K in (3, 10)} | {
        ("learned", "even", 10), ("zero", "even", 3), ("zero", "even", 10),
    }  # fmt: skip
    assert all((row["bits_per_dim"] is None) == (row["variance"] == "zero") for row in rows)


# ---------------------------------------------------------------- a variance from outside the package

MINE = '''"""Variances of somebody else, in one file."""

import jax.numpy as jnp

from ddpm_jax.diffusion import variances
from ddpm_jax.diffusion.variances import Number, Variance


def partway(schedule, share):
    """h a share of that of `large`."""
    return variances.from_excess(lambda step, x_t, prediction: share * schedule.alpha_bar[step.t])


def bending():
    """h that looks at x_t and needs no head."""
    h = lambda step, x_t, prediction: step.excess_max * (0.1 + 0.05 * jnp.sin(x_t))
    return variances.from_excess(h, headless=False)


variances.VARIANCES["partway"] = Variance(
    lambda known, share: partway(known.schedule, share), "a share of large", number=Number("share", 0.5)
)
variances.VARIANCES["bending"] = Variance(lambda known: bending(), "looks at x_t")
'''
THEIRS = ("partway", "partway:0.25", "bending")


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file is written and imported, and everything undone afterwards."""
    (tmp_path / "somebodys_variances.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(variances.VARIANCES)
    importlib.import_module("somebodys_variances")
    yield
    del sys.modules["somebodys_variances"]
    variances.VARIANCES.clear()
    variances.VARIANCES.update(before)


@pytest.mark.usefixtures("outside")
def test_a_variance_from_outside_has_its_rows(own: Model) -> None:
    rows = ablation.compare(own, FEW, DESIGN._replace(variances=("isotropic", *THEIRS)))
    bits = {(row["variance"], row["trajectory"], row["K"]): row["bits_per_dim"] for row in rows}
    assert set(bits) == {
        (name, path, K) for name in ("isotropic", *THEIRS) for path in ("even", "optimal") for K in (3, 10)
    }
    assert np.isfinite(list(bits.values())).all()
    assert len({bits[name, "even", 3] for name in ("isotropic", *THEIRS)}) == 4
    everything = ablation.resolved(DESIGN._replace(variances=()), ()).variances
    assert {"partway", "bending"} < set(everything) and "partway:0.25" not in everything
    with pytest.raises(ValueError, match="variance 'partway:half': share is a number, not 'half'"):
        ablation.compare(own, FEW, DESIGN._replace(variances=("partway:half",)))


@pytest.mark.slow
def test_every_number_and_switch_of_a_choice_has_rows_and_cells_of_its_own(headed: Model, tmp_path: Path) -> None:
    """`family` is the number that the calibration images say, 1 is `large`, and the head leaves its range."""

    def leaving(x_t, t):
        said = headed.denoiser(x_t, t)
        return said._replace(heads={**said.heads, "learned_range": 3 * said.heads["learned_range"]})

    bent, used = headed._replace(denoiser=leaving), Counter()
    execution = Execution(keep=partial(cache.fetch, cache.Store(tmp_path, {"denoiser": "exact"}, False, used)))
    names = ("large", "family", "family:1", "interpolated:0.2", "interpolated:0.7", "learned_range",
             "learned_range:clamped")  # fmt: skip
    design = DESIGN._replace(variances=names, trajectories=("even",), K=(3,))
    rows, again = (
        {row["variance"]: row["bits_per_dim"] for row in ablation.compare(bent, FEW, design, execution=execution)}
        for _ in range(2)
    )
    assert tuple(rows) == names
    assert again == rows
    # A table of numbers is known by these: 1 and `large` share a cell.
    assert cache.tally(used)["likelihood"] == {"computed": len(names) - 1, "reused": len(names) + 1}
    assert rows["family:1"] == pytest.approx(rows["large"], rel=1e-9)
    levels = FEW.calibration.images / 8.0 - 1
    of_data = design._replace(variances=(f"family:{float(levels.var(axis=0).mean())!r}",))
    (row,) = ablation.compare(bent, FEW, of_data, execution=execution)
    assert row["bits_per_dim"] == pytest.approx(rows["family"], rel=1e-9)
    assert len({round(value, 6) for value in rows.values()}) == len(names) - 1


@pytest.mark.usefixtures("outside")
def test_a_variance_is_known_by_its_name_and_a_version_or_its_file(tmp_path: Path) -> None:
    known = variances.Calibration(LINEAR)
    of = {
        name: moments.variance_identity(name, known, variances.build(name, known))
        for name in ("partway", "partway:0.25", "bending", "small")
    }
    assert len({cache.fingerprint(identity) for identity in of.values()}) == 4
    assert of["small"]["version"] == variances.VERSION
    file = hashlib.sha256((tmp_path / "somebodys_variances.py").read_bytes()).hexdigest()
    assert of["partway"]["file"] == of["bending"]["file"] == file
    assert not any("version" in of[name] for name in THEIRS)


@pytest.mark.slow
def test_a_variance_from_outside_is_in_the_command_line_and_the_report(tmp_path: Path) -> None:
    """In a process of its own, as its author would run it."""
    (tmp_path / "somebodys_variances.py").write_text(MINE)
    root = Path(__file__).parents[2]
    command = "-m ddpm_jax --import somebodys_variances ablate".split()
    few = "--denoiser experiments.denoisers.by_hand:eps --T 100 --K 3 --sample-K 3 --images 4 --seeds 1".split()
    names = ["--variances", "isotropic", *THEIRS, "--workdir", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"}

    def run(*more: str) -> subprocess.CompletedProcess:
        argv = [sys.executable, *command, *few, *names, *more]
        return subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True, check=False)

    dry = run("--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert set(THEIRS) <= set(json.loads(dry.stdout)["variances"])
    whole = run()
    assert whole.returncode == 0, whole.stderr
    rows = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["likelihood"]
    test = {row["variance"]: row["bits_per_dim"] for row in rows if row["split"] == "test"}
    assert set(test) == {"isotropic", *THEIRS}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for name in THEIRS:
        assert name in page
        assert f"{test[name]:.2f}" in page


def test_pictures_are_of_a_variance_that_was_drawn_at_both_ends(own: Model) -> None:
    """The first by name is defined on one chain alone."""
    known = variances.Calibration(LINEAR)
    first = variances.large(LINEAR)._replace(times=tuple(range(1, 41)))
    cells_of = [("first", 40), ("second", 3), ("second", 40)]
    times = {(name, "even", K): timesteps.even(40, K) for name, K in cells_of}
    choices = likelihood.Choices(known, {"first": first, "second": variances.small()}, times)
    drawn = {cell: np.zeros((2, 4, 8, 8, 1), np.uint8) for cell in times}
    design = DESIGN._replace(variances=("first", "second"), sample_K=(3, 40))
    shown = ablation.pictures(own, FEW, design, choices, drawn, cache.compute_always)
    assert shown["strip_t"].tolist() == timesteps.even(40, 3)[::-1].tolist()
    assert shown["grid_names"].tolist() == ["first", "second"]


def test_what_cannot_be_sampled_can_be_compared() -> None:
    """A choice of one chain has no samples on shorter ones; `compare` draws none and gives its row."""
    world = toy.gaussian(LINEAR, np.zeros((8, 8, 1)), np.full((8, 8, 1), 0.3))
    whole = process.every_step(LINEAR)
    own = (toy.exact_heads(world, whole), LINEAR, "eps", FEW.shape, FEW.levels)
    learned = Model("exact", "gaussian", *own, "g", ("learned",), tuple(whole.t.tolist()))
    design = DESIGN._replace(variances=("learned",), trajectories=("even",), K=(10, 40), sample_K=(10, 40))
    with pytest.raises(ValueError, match="none of learned is defined on such chains"):
        ablation.check(design, LINEAR, learned.heads, learned.learned_times)
    (row,) = ablation.compare(learned, FEW, design)
    assert (row["variance"], row["K"]) == ("learned", 40)
    assert np.isfinite(row["bits_per_dim"])
