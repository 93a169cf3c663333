"""Which variance should the reverse step have? The article's open question, answered for one data set.

Trains a denoiser (or takes one), measures its moments once, and compares every variance at every chain length by
likelihood and by samples. The report says which claims of the literature hold.
Needs: minutes on two CPU cores for the default digits.
Command: python -m experiments.variance_ablation --workdir runs/digits
"""

import json
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax import loop, process, sampler, trajectory
from ddpm_jax.config import Config, Flat, command_line, to_dict
from ddpm_jax.data import DataSet
from ddpm_jax.eval import ablation, classifier, fid, moments, quality
from ddpm_jax.eval.ablation import OPTIMAL
from ddpm_jax.eval.moments import Moments
from ddpm_jax.report import claims, page, provenance
from ddpm_jax.sampler import Rules
from ddpm_jax.train import to_levels
from ddpm_jax.variance import VARIANCES

SHOWN = 12  # images in a row of the report
GAP_K = 50  # steps of the chain on which training and test images are compared


@dataclass(frozen=True)
class Ablation:
    """The options of this experiment.

    Attributes:
      training: the network's run; ignored where --checkpoint is given.
      workdir: where the run, the tables and the report go.
      checkpoint: workdir of a finished run whose network to take.
      variances: names, in the order of the tables.
      trajectories: quadratic or optimal, beside even.
      K: chain lengths of the likelihood table.
      sample_K: chain lengths that are sampled, on the even trajectory.
      images: samples of each cell and seed.
      seeds: sampling seeds.
      frac: of `interpolated`.
      c: of `family`; default the mean variance of the calibration images.
      last_step: noise of the last step: mean (none) or noise.
      pixel_clip: bound on the noise of the step into tau_1, in grey levels; None for none.
      clip_x_0: clip predicted data to [-1, 1].
      clamp_cov: hold estimated covariances of the data within [0, 1].
      dry_run: print the resolved config and stop.
    """

    training: Flat = field(default_factory=Config)
    workdir: Path = Path("runs/digits")
    checkpoint: Path | None = None
    variances: tuple[str, ...] = tuple(VARIANCES)
    trajectories: tuple[str, ...] = ("even", OPTIMAL)
    K: tuple[int, ...] = (10, 25, 50, 100, 200, 400, 1000)
    sample_K: tuple[int, ...] = (10, 25, 50)
    images: int = 300
    seeds: int = 3
    frac: float = 0.5
    c: float | None = None
    last_step: str = "mean"
    pixel_clip: float | None = 1.0
    clip_x_0: bool = True
    clamp_cov: bool = True
    dry_run: bool = False


def main(options: Ablation) -> None:
    """Train, measure, tabulate, sample, judge, report."""
    options, run = resolve(options)
    resolved = {**plain(options), "network": to_dict(run.network)}
    if options.dry_run:
        print(json.dumps(resolved, indent=2))
        return
    options.workdir.mkdir(parents=True, exist_ok=True)
    marks = [time.perf_counter()]
    trained = loop.load(options.checkpoint) if options.checkpoint else loop.fit(options.training, options.workdir)
    marks.append(time.perf_counter())
    measured = measure(options, trained)
    marks.append(time.perf_counter())
    choices, results = tabulate(options, trained, measured)
    marks.append(time.perf_counter())
    quality_results, shown = sample(options, trained, choices)
    marks.append(time.perf_counter())
    seconds = dict(zip(("train", "moments", "likelihood", "sample"), np.diff(marks).tolist(), strict=True))
    results |= {**quality_results, "config": resolved, "rules": rules(options, run.data)._asdict()}
    results["data"] = provenance.images(run.data, measured["calibration"].variance)
    results["training"] = provenance.training((options.checkpoint or options.workdir) / loop.METRICS, trained.state)
    results["about"] = provenance.about(seconds)
    results["claims"] = claims.judge(results)
    write(options.workdir, results, shown)
    for claim in results["claims"]:
        verdict = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}[claim["holds"]]
        print(f"{verdict}: {claim['claim']} ({claim['figures']})")
    print(f"report: {options.workdir / 'report.html'}")


def resolve(options: Ablation) -> tuple[Ablation, loop.Run]:
    """The options with the checkpoint's own training config; refuses what cannot work.

    Raises:
      ValueError: an unknown name, or a number out of range.
    """
    run = loop.load(options.checkpoint).run if options.checkpoint else loop.resolve(options.training)
    unknown = [name for name in options.variances if name not in VARIANCES]
    if unknown:
        raise ValueError(f"unknown variance {unknown[0]!r}: choose from {', '.join(VARIANCES)}")
    for name in options.trajectories:
        for K in (*options.K, *options.sample_K):
            trajectory.named("even" if name == OPTIMAL else name, run.schedule.T, K)
    for name, least in (("images", 2), ("seeds", 1)):
        if getattr(options, name) < least:
            raise ValueError(f"{name} = {getattr(options, name)}: it is at least {least}")
    sampler.log_var_cap(rules(options, run.data), process.steps(run.schedule, [1, run.schedule.T]))
    return replace(options, training=run.config), run


def plain(options: Ablation) -> dict[str, Any]:
    """The options as plain values, the training config's among them."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    return {**values, "training": to_dict(options.training)}


def rules(options: Ablation, images: DataSet) -> Rules:
    """The conventions, with the data's own level spacing."""
    return Rules(options.last_step, options.pixel_clip, images.levels, options.clip_x_0, options.clamp_cov)


def measure(options: Ablation, trained: loop.Trained) -> dict[str, Moments]:
    """The one pass over calibration and test images at every time, and over training images on a short chain."""
    run, root = trained.run, jax.random.key(options.training.seed)
    chain = trajectory.even(run.schedule.T, min(GAP_K, run.schedule.T))
    return {
        split: moments.measure(
            jax.random.fold_in(root, index),
            run.schedule,
            trained.denoiser,
            getattr(run.data, split).images,
            run.data.levels,
            clip_x_0=options.clip_x_0,
            times=chain if split == "train" else None,
        )
        for index, split in enumerate(("calibration", "test", "train"))
    }


def tabulate(
    options: Ablation, trained: loop.Trained, measured: dict[str, Moments]
) -> tuple[ablation.Choices, dict[str, Any]]:
    """Everything that follows from the moments alone."""
    schedule = trained.run.schedule
    known = ablation.calibrate(schedule, measured["calibration"], options.frac, options.c, options.clamp_cov)
    Ks = sorted({*options.K, *options.sample_K})
    paths = list(dict.fromkeys(("even", *options.trajectories)))
    choices = ablation.choose(known, options.variances, paths, Ks)
    results = {
        "K": Ks,
        "sample_K": list(options.sample_K),
        "variances": list(options.variances),
        "trajectories": paths,
        "likelihood": [
            row
            for split in ("test", "calibration")
            for row in ablation.rows(ablation.likelihoods(choices, measured[split]), split)
        ],
        "negative_control": ablation.negative_control(schedule, measured["test"], [K for K in Ks if K > 1]),
        "gap_check": ablation.gap_check(known, measured["test"]),
        "per_time": ablation.per_time(schedule, measured["calibration"], options.clamp_cov),
        "sigma2": ablation.between_the_bounds(choices, options.sample_K[len(options.sample_K) // 2]),
        "trajectories_chosen": ablation.chosen(choices),
        "memorising": ablation.memorising(known, measured["train"], measured["test"], min(GAP_K, schedule.T)),
    }
    return choices, results


def sample(
    options: Ablation, trained: loop.Trained, choices: ablation.Choices
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Samples of every variance x K with their Frechet distances, and the pictures of the report."""
    images, conventions = trained.run.data, rules(options, trained.run.data)
    shape = (options.images, *images.shape)
    cells = [(name, "even", K) for K in options.sample_K for name in options.variances]
    drawn = quality.draw(choices, trained.denoiser, cells, conventions, options.seeds, shape)
    judge = classifier.fit(images.train.images, images.train.labels, images.levels)
    features = partial(classifier.features, judge)
    held_out = np.concatenate([images.calibration.images, images.test.images])
    target = fid.gaussian_fit(features(images.train.images))
    single, means = quality.distances(drawn, features, images.train.images)
    results = {
        "samples": single,
        "sample_cells": means,
        "classifier": {
            "name": "multilayer perceptron, 128 and 32 hidden units, features of the last",
            "features": int(target[0].size),
            "train_accuracy": classifier.accuracy(judge, *images.train),
            "test_accuracy": classifier.accuracy(judge, *images.test),
            "bias": fid.finite_sample_bias(target[1], options.images),
            "held_out_frechet": fid.frechet_distance(*fid.gaussian_fit(features(held_out)), *target),
            "held_out_images": len(held_out),
        },
    }
    return results, pictures(options, trained, choices, drawn)


def pictures(
    options: Ablation, trained: loop.Trained, choices: ablation.Choices, drawn: dict[ablation.Cell, np.ndarray]
) -> dict[str, np.ndarray]:
    """The small images of the report, as grey levels 0..255."""
    images = trained.run.data
    K, shown = max(options.sample_K), min(SHOWN, options.images)
    best = "isotropic" if "isotropic" in options.variances else options.variances[0]
    long = drawn[best, "even", K][0, :shown]
    index, distance = quality.nearest(long, images.train.images)
    strip = sampler.sample_path(
        jax.random.key(0),
        process.steps(choices.schedule, choices.times[best, "even", min(options.sample_K)]),
        trained.denoiser,
        choices.variances[best],
        (4, *images.shape),
        rules(options, images),
    )
    levels = {
        "grid": np.stack([drawn[name, "even", K][0, :shown] for name in options.variances]),
        "grid_real": images.test.images[:shown],
        "strip": to_levels(np.asarray(strip.x_0_hat), images.levels).swapaxes(0, 1),
        "neighbours": np.stack([long, images.train.images[index]], axis=1),
    }
    shades = {name: np.round(rows * (255 / (images.levels - 1))).astype(np.uint8) for name, rows in levels.items()}
    times = choices.times[best, "even", min(options.sample_K)][::-1]
    return {**shades, "strip_t": times, "neighbours_distance": distance}


def write(folder: Path, results: dict[str, Any], shown: dict[str, np.ndarray]) -> None:
    """results.json and pictures.npz, and the page with its figures and results.csv."""
    (folder / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    np.savez_compressed(folder / "pictures.npz", allow_pickle=False, **shown)
    page.write(folder, results, shown)


if __name__ == "__main__":
    command_line(Ablation, main, __doc__)
