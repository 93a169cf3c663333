"""Which variance should the reverse step have? The article's open question, answered for one data set.

Trains a denoiser (or takes one), measures its moments once, and compares every variance at every chain length by
likelihood and by samples. The report says which claims of the literature hold. Everything measured or drawn is kept in
workdir/cells under the hash of what it depends on: run again, it goes on where it stopped, and computes what is new.
Needs: minutes on two CPU cores for the default digits.
Command: python -m experiments.variance_ablation --workdir runs/digits
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from ddpm_jax import cells, loop, parallel, run
from ddpm_jax.cells import Store
from ddpm_jax.config import Config, Flat, command_line, to_dict
from ddpm_jax.eval import ablation, moments, study
from ddpm_jax.eval.study import Design, Means
from ddpm_jax.parallel import Layout
from ddpm_jax.report import claims, page, provenance
from ddpm_jax.run import Trained
from ddpm_jax.sampler import Rules
from ddpm_jax.subject import Subject

R = TypeVar("R")
Seconds = dict[str, float]
RESULTS = "results.json"
DEFAULT = Design(Rules(pixel_clip=1.0))
OF_A_USE = {"workdir", "dry_run", "force"}  # options that leave no trace in the numbers
FREE_OF_A_DENOISER = {"data", "schedule", "T", "prediction", "parallel", "seed"}  # training options that concern it


@dataclass(frozen=True)
class Ablation:
    """The options of this experiment.

    Attributes:
      training: the network's run.
      workdir: where the run, the cells, the tables and the report go.
      checkpoint: workdir of a finished run whose network to take.
      denoiser: module:function of your own network (x_t, t) -> what --prediction says, trained for --schedule and --T.
      training_seeds: networks to train, from seed upwards; the report shows their spread.
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
      force: measure and draw again what is in workdir/cells.
      dry_run: print the resolved config and stop.
    """

    training: Flat = field(default_factory=Config)
    workdir: Path = Path("runs/digits")
    checkpoint: Path | None = None
    denoiser: str | None = None
    training_seeds: int = 1
    variances: tuple[str, ...] = DEFAULT.variances
    trajectories: tuple[str, ...] = DEFAULT.trajectories
    K: tuple[int, ...] = DEFAULT.K
    sample_K: tuple[int, ...] = DEFAULT.sample_K
    images: int = DEFAULT.images
    seeds: int = DEFAULT.seeds
    frac: float = DEFAULT.frac
    c: float | None = DEFAULT.c
    last_step: str = DEFAULT.rules.last_step
    pixel_clip: float | None = DEFAULT.rules.pixel_clip
    clip_x_0: bool = DEFAULT.rules.clip_x_0
    clamp_cov: bool = DEFAULT.rules.clamp_cov
    force: bool = False
    dry_run: bool = False


class Network(NamedTuple):
    """A denoiser, its shape and how it came about; None where it was not trained here."""

    subject: Subject
    shape: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    images_per_second: float | None = None


class Judged(NamedTuple):
    """What one network gave."""

    results: dict[str, Any]
    shown: dict[str, np.ndarray]
    calibration: moments.Moments


def main(options: Ablation) -> None:
    """Train, measure, tabulate, sample, judge, report."""
    options, there, design = resolve(options)
    config = plain(options, there.shape if there else to_dict(run.shape(options.training)))
    if options.dry_run:
        print(json.dumps(config, indent=2))
        return
    seconds, used = dict.fromkeys(("train", "moments", "likelihood", "sample"), 0.0), Counter[tuple[str, str]]()
    seeds = [options.training.seed + i for i in range(options.training_seeds)]
    networks, judged = [], []
    for seed in seeds:
        networks.append(there or timed(seconds, "train", partial(train, options, seed)))
        store = Store(options.workdir / "cells", {"denoiser": networks[-1].subject.fingerprint}, options.force, used)
        judged.append(judge(options, networks[-1], design, store, seconds))
    results = {**judged[0].results, "config": config, "rules": design.rules._asdict(), "training_seeds": seeds}
    tables, samples = ([one.results[name] for one in judged] for name in ("likelihood", "sample_cells"))
    results["spread"] = ablation.spread(tables, samples) if len(judged) > 1 else []
    results["claims"] = claims.judge(results)
    about = {"about": provenance.about(seconds, networks[0].images_per_second), "forced": options.force}
    moments.save(options.workdir / "moments.npz", judged[0].calibration, networks[0].subject.fingerprint, design.rules)
    write(options.workdir, results, {**about, "cells": cells.tally(used)}, judged[0].shown)
    print("\n".join(claims.lines(results["claims"])))
    print(f"report: {options.workdir / 'report.html'}")


def resolve(options: Ablation) -> tuple[Ablation, Network | None, Design]:
    """The options with the training config that holds, the network if it is there already, and what is compared.

    Raises:
      ValueError: an unknown name, a number out of range, options that exclude each other, or a workdir that is taken.
    """
    there, training = existing(options), options.training
    if options.checkpoint:
        training = replace(run.load(options.checkpoint).run.config, parallel=training.parallel)
        run.check_given(
            options.training, training, {"parallel"}, f"the network of {options.checkpoint} is taken as it is"
        )
    options = replace(options, training=training)
    found = there.subject if there else run.resolve(training)
    if options.training_seeds < 1 or (there and options.training_seeds > 1):
        raise ValueError(f"training_seeds = {options.training_seeds}: at least 1, more only of networks trained here")
    rules = Rules(options.last_step, options.pixel_clip, found.data.levels, options.clip_x_0, options.clamp_cov)
    shared = {name: getattr(options, name) for name in Design._fields if name != "rules"}
    design = Design(rules, **shared)
    study.check(design, found.schedule)
    parallel.check(training.parallel)
    check_workdir(options, there)
    return options, there, design


def existing(options: Ablation) -> Network | None:
    """The network that --checkpoint or --denoiser names, or None.

    Raises:
      ValueError: both do, or it does not fit.
    """
    if options.checkpoint and options.denoiser:
        raise ValueError(f"--checkpoint {options.checkpoint} and --denoiser {options.denoiser}: give one of them")
    if options.denoiser:
        run.check_given(options.training, Config(), FREE_OF_A_DENOISER, "a --denoiser is not trained")
        return Network(run.own(options.denoiser, options.training))
    if options.checkpoint:
        return of_training(run.load(options.checkpoint), "checkpoint", options.checkpoint)
    return None


def train(options: Ablation, seed: int) -> Network:
    """The network of one training seed, trained as far as it is not yet; the first lies in workdir itself."""
    folder = options.workdir if seed == options.training.seed else options.workdir / f"seed-{seed}"
    return of_training(loop.fit(replace(options.training, seed=seed), folder), "trained", folder)


def of_training(trained: Trained, source: str, folder: Path) -> Network:
    """The network of a run, with what its log says."""
    log, name = folder / loop.METRICS, trained.run.config.preset if source == "trained" else str(folder)
    subject, training = run.subject(trained, source, name), provenance.training(log, trained.state)
    return Network(subject, to_dict(trained.run.network), training, provenance.training_rate(log))


def check_workdir(options: Ablation, there: Network | None) -> None:
    """Refuse a workdir that cannot be written or that holds another experiment.

    Raises:
      ValueError: see above.
    """
    cells.check_writable(options.workdir)
    taken, path = None, options.workdir / RESULTS
    if there and options.workdir != options.checkpoint and (options.workdir / run.CHECKPOINTS).exists():
        taken = "a training run"
    elif path.exists():
        try:
            network = json.loads(path.read_text(encoding="utf-8"))["network"]
        except (ValueError, KeyError, TypeError):
            network, taken = {}, "a results.json that is not of this experiment"
        if there and network and network["fingerprint"] != there.subject.fingerprint:
            taken = f"results of another network, {network['name']}"
        elif not there and network and network["source"] != "trained":
            taken = f"results of the network {network['name']}"
    if taken:
        raise ValueError(f"{options.workdir} holds {taken}: choose another --workdir")


def plain(options: Ablation, shape: dict[str, Any] | None) -> dict[str, Any]:
    """The options that the numbers depend on, and the network's shape, as plain values."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    kept = {name: value for name, value in values.items() if name not in OF_A_USE}
    training = to_dict(options.training)
    if options.denoiser:
        training = {name: training[name] for name in sorted(FREE_OF_A_DENOISER)}
    return {**kept, "training": training, "network": shape}


def judge(options: Ablation, network: Network, design: Design, store: Store, seconds: Seconds) -> Judged:
    """Everything about one network, as far as it is not in the store yet."""
    subject, keep = network.subject, partial(cells.fetch, store)
    means, key = Means(Layout(options.training.parallel), keep), jax.random.key(options.training.seed)
    measured = timed(
        seconds, "moments", lambda: {split: study.measure(subject, design, key, split, means) for split in study.SPLITS}
    )
    choices = timed(seconds, "likelihood", lambda: study.choose(subject, design, measured["calibration"], keep))
    results = timed(seconds, "likelihood", lambda: study.tabulate(subject, design, choices, measured, keep))
    quality, drawn = timed(seconds, "sample", lambda: study.sample(subject, design, choices, means))
    results |= {**quality, "training": network.training}
    results["network"] = dict(source=subject.source, name=subject.name, fingerprint=subject.fingerprint)
    results["data"] = provenance.images(subject.data, measured["calibration"].variance)
    return Judged(results, study.pictures(subject, design, choices, drawn, keep), measured["calibration"])


def timed(seconds: Seconds, part: str, work: Callable[[], R]) -> R:
    """What `work` returns; its duration is added to the part's."""
    started = time.perf_counter()
    result = work()
    seconds[part] += time.perf_counter() - started
    return result


def write(folder: Path, results: dict[str, Any], use: dict[str, Any], shown: dict[str, np.ndarray]) -> None:
    """results.json, which two runs of one command share; run.json, in which they differ; the pictures and the page."""
    cells.write_json(folder / RESULTS, results)
    cells.write_json(folder / "run.json", use)
    cells.write_whole(folder / "pictures.npz", lambda file: np.savez_compressed(file, allow_pickle=False, **shown))
    page.write(folder, results, use, shown)


if __name__ == "__main__":
    command_line(Ablation, main, __doc__)
