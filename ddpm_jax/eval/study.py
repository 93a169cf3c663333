"""One denoiser under every variance: measured once, tabulated, sampled. What an ablation and a notebook both do.

Everything expensive goes through a `Keep` and is found again when nothing it depends on has changed.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Key

from ddpm_jax import cells, process, sampler, trajectory, variance
from ddpm_jax.cells import Keep
from ddpm_jax.eval import ablation, checks, classifier, curves, fid, moments, quality
from ddpm_jax.eval.ablation import OPTIMAL, REFERENCE, Choices, Row
from ddpm_jax.eval.moments import Moments
from ddpm_jax.parallel import Layout
from ddpm_jax.sampler import Rules
from ddpm_jax.schedule import Schedule
from ddpm_jax.subject import Subject
from ddpm_jax.variance import VARIANCES, Calibration

SPLITS = ("calibration", "test", "train")
SHOWN = 12  # images in a row of the report
GAP_K = 50  # steps of the chain on which training and test images are compared
FEW_STEPS = 10  # steps of the short chain whose terms are shown


class Design(NamedTuple):
    """What is compared.

    Attributes:
      rules: the conventions; its levels are the data's.
      variances: names, in the order of the tables.
      trajectories: quadratic or optimal, beside even.
      K: chain lengths of the likelihood table.
      sample_K: chain lengths that are sampled, on the even trajectory.
      images: samples of each cell and seed.
      seeds: sampling seeds.
      frac: of `interpolated`.
      c: of `family`; default the mean variance of the calibration images.
    """

    rules: Rules
    variances: tuple[str, ...] = tuple(VARIANCES)
    trajectories: tuple[str, ...] = ("even", OPTIMAL)
    K: tuple[int, ...] = (10, 25, 50, 100, 200, 400, 1000)
    sample_K: tuple[int, ...] = (10, 25, 50)
    images: int = 300
    seeds: int = 3
    frac: float = 0.5
    c: float | None = None


class Means(NamedTuple):
    """How the work is done; the numbers do not depend on it.

    Attributes:
      layout: of images on devices.
      keep: remembers results; it must know the denoiser.
    """

    layout: Layout = Layout()
    keep: Keep = cells.compute_always


def check(design: Design, schedule: Schedule) -> None:
    """Refuse what cannot be compared, before anything is measured.

    Raises:
      ValueError: an unknown name, K outside 1..T, another number out of range, or fewer than 2 images or 1 seed.
    """
    for name in ("variances", "K", "sample_K"):
        values = getattr(design, name)
        if not values:
            raise ValueError(f"{name} is empty: give at least one")
        if len(set(values)) < len(values):
            raise ValueError(f"{name} = {' '.join(map(str, values))} repeats one: give each once")
    for name, value, least in (("images", design.images, 2), ("seeds", design.seeds, 1)):
        if value < least:
            raise ValueError(f"{name} = {value}: it is at least {least}")
    for path in paths(design):
        for K in every_K(design):
            trajectory.named("even" if path == OPTIMAL else path, schedule.T, K)
    nothing = np.zeros(schedule.T + 1)
    c = 0.0 if design.c is None else design.c
    for choice in design.variances:
        variance.build(choice, Calibration(schedule, design.frac, c, nothing, nothing, design.rules.clamp_cov))
    sampler.log_var_cap(design.rules, process.steps(schedule, [schedule.T]))


def compare(subject: Subject, design: Design, key: Key[Array, ""] | None = None, means: Means = Means()) -> list[Row]:
    """The likelihood table of one denoiser: fixed by calibration images, judged on test images.

    Args:
      subject: the denoiser, its schedule and its images.
      design: what is compared; of it, what concerns the likelihood.
      key: of the noise; default key 0.
      means: how the work is done.

    Returns:
      Rows by (variance, trajectory, K), likelihoods in bits/dim.

    Raises:
      ValueError: see `check` and `measure`.
    """
    design = design._replace(sample_K=design.K)
    check(design, subject.schedule)
    key = jax.random.key(0) if key is None else key
    calibration, test = (measure(subject, design, key, split, means) for split in SPLITS[:2])
    choices = choose(subject, design, calibration, means.keep)
    return ablation.rows(ablation.likelihoods(choices, test, means.keep), "test")


def measure(subject: Subject, design: Design, key: Key[Array, ""], split: str, means: Means = Means()) -> Moments:
    """The one pass over a split of SPLITS: at every time, over training images on a short chain only.

    Raises:
      ValueError: the rules are for another number of grey levels than the data have.
    """
    if design.rules.levels != subject.data.levels:
        raise ValueError(f"levels = {design.rules.levels} in the rules: {subject.data.name} has {subject.data.levels}")
    chain = trajectory.even(subject.schedule.T, min(GAP_K, subject.schedule.T))
    return moments.measure(
        jax.random.fold_in(key, SPLITS.index(split)),
        subject.schedule,
        subject.denoiser,
        getattr(subject.data, split).images,
        design.rules,
        chain if split == "train" else None,
        means.layout,
        means.keep,
    )


def choose(subject: Subject, design: Design, calibration: Moments, keep: Keep = cells.compute_always) -> Choices:
    """The variances and trajectories that calibration images fix."""
    known = ablation.calibrate(subject.schedule, calibration, design.frac, design.c, design.rules.clamp_cov)
    return ablation.choose(known, design.variances, paths(design), every_K(design), keep)


def paths(design: Design) -> list[str]:
    """The trajectories of the table: even and what was asked for."""
    return list(dict.fromkeys(("even", *design.trajectories)))


def every_K(design: Design) -> list[int]:
    """The chain lengths of the likelihood table: those that are sampled are in it."""
    return sorted({*design.K, *design.sample_K})


def tabulate(
    subject: Subject, design: Design, choices: Choices, measured: dict[str, Moments], keep: Keep = cells.compute_always
) -> dict[str, Any]:
    """Everything that follows from the moments alone; plain values."""
    schedule, Ks, clamp_cov = subject.schedule, every_K(design), design.rules.clamp_cov
    known = ablation.calibrate(schedule, measured["calibration"], design.frac, design.c, clamp_cov)
    shown = list(dict.fromkeys([FEW_STEPS if FEW_STEPS in Ks else min(Ks), max(Ks)]))
    return {
        "K": Ks,
        "sample_K": list(design.sample_K),
        "variances": list(design.variances),
        "trajectories": paths(design),
        "likelihood": [
            row
            for split in ("test", "calibration")
            for row in ablation.rows(ablation.likelihoods(choices, measured[split], keep), split)
        ],
        "negative_control": checks.negative_control(schedule, measured["test"], [K for K in Ks if K > 1]),
        "gap_check": checks.gap_check(known, measured["test"]),
        "memorising": checks.memorising(known, measured["train"], measured["test"], min(GAP_K, schedule.T)),
        "per_time": curves.per_time(schedule, measured["calibration"], clamp_cov),
        "sigma2": curves.between_the_bounds(choices, design.sample_K[len(design.sample_K) // 2]),
        "trajectories_chosen": curves.chosen(choices),
        "terms": curves.terms(choices, measured["test"], shown),
        "rate_distortion": curves.rate_distortion(choices, measured["test"], max(Ks)),
    }


def sample(
    subject: Subject, design: Design, choices: Choices, means: Means = Means()
) -> tuple[dict[str, Any], dict[ablation.Cell, np.ndarray]]:
    """Samples of every variance x K on even chains with their Frechet distances, and the images."""
    images, wanted = subject.data, [(name, "even", K) for K in design.sample_K for name in design.variances]
    shape = (design.seeds, design.images, *images.shape)
    drawn = quality.draw(choices, subject.denoiser, wanted, design.rules, shape, means.layout, means.keep)
    judge = classifier.fit(images.train.images, images.train.labels, images.levels, keep=means.keep)
    features = partial(classifier.features, judge)
    held_out = np.concatenate([images.calibration.images, images.test.images])
    target = fid.gaussian_fit(features(images.train.images))
    single, over_seeds = quality.distances(drawn, features, images.train.images)
    results = {
        "samples": single,
        "sample_cells": over_seeds,
        "classifier": {
            "name": "multilayer perceptron, 128 and 32 hidden units, features of the last",
            "features": int(target[0].size),
            "train_accuracy": classifier.accuracy(judge, *images.train),
            "test_accuracy": classifier.accuracy(judge, *images.test),
            "bias": fid.finite_sample_bias(target[1], design.images),
            "held_out_frechet": fid.frechet_distance(*fid.gaussian_fit(features(held_out)), *target),
            "held_out_images": len(held_out),
        },
    }
    return results, drawn


def pictures(
    subject: Subject, design: Design, choices: Choices, drawn: dict[ablation.Cell, np.ndarray], keep: Keep
) -> dict[str, np.ndarray]:
    """The small images of the report, as grey levels 0..255, with the times and distances that stand beside them."""
    images = subject.data
    K, short, shown = max(design.sample_K), min(design.sample_K), min(SHOWN, design.images)
    best = REFERENCE if REFERENCE in design.variances else design.variances[0]
    long = drawn[best, "even", K][0, :shown]
    index, distance = quality.nearest(long, images.train.images)
    cell, shape = (best, "even", short), (4, *images.shape)
    levels = {
        "grid": np.stack([drawn[name, "even", K][0, :shown] for name in design.variances]),
        "grid_real": images.test.images[:shown],
        "strip": quality.strip(choices, subject.denoiser, cell, design.rules, shape, keep),
        "neighbours": np.stack([long, images.train.images[index]], axis=1),
    }
    shades = {name: np.round(rows * (255 / (images.levels - 1))).astype(np.uint8) for name, rows in levels.items()}
    return {**shades, "strip_t": choices.times[cell][::-1], "neighbours_distance": distance}
