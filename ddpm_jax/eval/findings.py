"""What is found about one denoiser: its tables, its samples, and the pictures of them."""

from functools import partial
from typing import Any

import numpy as np

from ddpm_jax import cells, records
from ddpm_jax.cells import Keep
from ddpm_jax.data import seen
from ddpm_jax.eval import ablation, checks, classifier, costs, curves, distances, fid, quality
from ddpm_jax.eval import judge as judges
from ddpm_jax.eval.ablation import REFERENCE, Choices
from ddpm_jax.eval.costs import Table
from ddpm_jax.eval.judge import Judge
from ddpm_jax.eval.moments import Moments
from ddpm_jax.eval.study import GAP_K, Design, Means, every_K, paths
from ddpm_jax.subject import Subject

SHOWN = 12  # images in a row of the report
FEW_STEPS = 10  # steps of the short chain whose terms are shown


def tabulate(
    subject: Subject, design: Design, choices: Choices, measured: dict[str, Moments], keep: Keep = cells.compute_always
) -> dict[str, Any]:
    """Everything that follows from the moments alone; plain values."""
    schedule, Ks, clamp_cov = subject.schedule, every_K(design), design.rules.clamp_cov
    shown = list(dict.fromkeys([FEW_STEPS if FEW_STEPS in Ks else min(Ks), max(Ks)]))
    return {
        "K": Ks,
        "sample_K": list(design.sample_K),
        "variances": list(design.variances),
        "kinds": curves.kinds(choices),
        "trajectories": paths(design),
        "likelihood": [
            *ablation.rows(ablation.likelihoods(choices, measured["test"], keep), "test"),
            *_on_calibration(choices, measured["calibration"], keep),
        ],
        "evaluations": curves.evaluations(choices, measured),
        "negative_control": checks.negative_control(schedule, measured["test"], [K for K in Ks if K > 1]),
        "gap_check": checks.gap_check(choices.calibration, measured["test"]),
        "memorising": checks.memorising(
            choices.calibration, measured["train"], measured["test"], min(GAP_K, schedule.T)
        ),
        "per_time": curves.per_time(schedule, measured["calibration"], clamp_cov),
        "clamped": curves.clamped(measured["test"]),
        "spectrum": curves.spectrum(measured["calibration"]),
        "sigma2": curves.between_the_bounds(choices, design.sample_K[len(design.sample_K) // 2], measured["test"]),
        "trajectories_chosen": curves.chosen(choices),
        "terms": curves.terms(choices, measured["test"], shown),
        "rate_distortion": curves.rate_distortion(choices, measured["test"], max(Ks)),
    }


def _on_calibration(choices: Choices, moments: Moments, keep: Keep) -> list[ablation.Row]:
    """The rows of calibration images. Variances that the spectrum fixes were not known when these images were looked
    at: their mean cost follows from the spectrum, its spread over images does not, and is None.
    """
    schedule, spectrum = choices.schedule, moments.spectrum
    tables = dict(moments.tables)
    for name, choice in choices.variances.items():
        if spectrum is not None and choice.headless and choice.basis.name == "dct" and name not in tables:
            mean = costs.of_spectrum(schedule, choice, spectrum)
            nothing = np.full_like(mean, np.nan)
            tables[name] = Table(costs.nodes(schedule), mean[None].astype(np.float32), nothing, nothing[:, 0])
    rows = ablation.rows(ablation.likelihoods(choices, moments._replace(tables=tables), keep), "calibration")
    known = moments.tables.keys() | (choices.variances.keys() - tables.keys())
    return [row if row["variance"] in known else row | _without_errors(row) for row in rows]


def _without_errors(row: ablation.Row) -> ablation.Row:
    return {key: None for key in row if key.endswith("standard_error")}


def sample(
    subject: Subject, design: Design, choices: Choices, means: Means = Means()
) -> tuple[dict[str, Any], dict[ablation.Cell, np.ndarray]]:
    """Samples of every variance x K on even chains with their Frechet distances, and the images.

    Raises:
      ValueError: the images have no labels.
    """
    images, test = subject.data, subject.data.test
    classifier.check(images.name, test.labels)
    train = seen(images.train)
    assert train.labels is not None and test.labels is not None
    even = [(name, "even", K) for K in design.sample_K for name in design.variances]
    wanted = [cell for cell in even if cell in choices.times]
    draws = quality.Draws(range(design.seeds), design.images, images.shape)
    drawn = quality.draw(choices, subject.denoiser, wanted, design.rules, draws, means.layout, means.keep)
    network = classifier.fit(train.images, train.labels, images.levels, keep=means.keep)
    judge = judge_of(network)
    held_out = np.concatenate([images.calibration.images, test.images])
    reference = judges.of_images(f"{images.name}, images that the network learned", train.images, judge)
    single, over_seeds = distances.tabulate(drawn, judge, reference)
    results = {
        "samples": single,
        "sample_cells": over_seeds,
        "classifier": {
            "name": "multilayer perceptron, 128 and 32 hidden units, features of the last",
            "features": judge.size,
            "train_accuracy": classifier.accuracy(network, train.images, train.labels),
            "test_accuracy": classifier.accuracy(network, test.images, test.labels),
            "bias": fid.finite_sample_bias(reference.target.fit.cov, design.images),
            "held_out_frechet": fid.distance(reference.target, fid.fit(judges.summed(judge, held_out))),
            "held_out_images": len(held_out),
            "measure": judges.measure(judge, reference, design.rules.rounding, design.images)._asdict(),
        },
    }
    return results, drawn


def judge_of(network: classifier.Classifier) -> Judge:
    """A classifier's features, for distances that are not the FID."""
    name = f"multilayer perceptron {cells.fingerprint(network._asdict())[:12]}"
    features = partial(classifier.features, network)
    return Judge(name, f"grey levels over {network.levels - 1}", len(network.biases[-2]), features)


def pictures(
    subject: Subject, design: Design, choices: Choices, drawn: dict[ablation.Cell, np.ndarray], keep: Keep
) -> dict[str, np.ndarray]:
    """The small images of the report, as grey levels 0..255, with the times and distances that stand beside them."""
    images, train = subject.data, seen(subject.data.train).images
    K, short, shown = max(design.sample_K), min(design.sample_K), min(SHOWN, design.images)
    both = [name for name in design.variances if (name, "even", K) in drawn and (name, "even", short) in drawn]
    best = REFERENCE if REFERENCE in both else both[0]
    long = drawn[best, "even", K][0, :shown]
    index, distance = quality.nearest(long, train)
    cell, shape = (best, "even", short), (4, *images.shape)
    of_grid = [name for name in design.variances if (name, "even", K) in drawn]
    levels = {
        "grid": np.stack([drawn[name, "even", K][0, :shown] for name in of_grid]),
        "grid_real": images.test.images[:shown],
        "strip": quality.strip(choices, subject.denoiser, cell, design.rules, shape, keep),
        "neighbours": np.stack([long, train[index]], axis=1),
    }
    shades = {name: records.shades(rows, images.levels) for name, rows in levels.items()}
    shades["grid_names"] = np.asarray(of_grid)
    return {**shades, "strip_t": choices.times[cell][::-1], "neighbours_distance": distance}
