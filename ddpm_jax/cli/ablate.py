"""`ddpm-jax ablate`: compare reverse variances by likelihood and by samples; a page tells what was found."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from ddpm_jax.cli import betas, provenance
from ddpm_jax.cli.arguments import Ablation
from ddpm_jax.cli.plan import RESULTS, Plan, plain, resolve
from ddpm_jax.evaluation import ablation, moments
from ddpm_jax.evaluation.ablation import Execution
from ddpm_jax.report import claims, page
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Store
from ddpm_jax.runtime.sharding import Layout
from ddpm_jax.training import heads, loop, metrics, setup
from ddpm_jax.training.config import to_dict
from ddpm_jax.training.model import HEADS, Model, Stored

R = TypeVar("R")
Seconds = dict[str, float]


class Network(NamedTuple):
    """A denoiser, its shape and how it came about; None where it was not trained here."""

    model: Model
    shape: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    images_per_second: float | None = None


class Evaluated(NamedTuple):
    """What one network gave."""

    results: dict[str, Any]
    shown: dict[str, np.ndarray]
    calibration: moments.Moments


def main(options: Ablation) -> None:
    """Train, measure, tabulate, sample, judge, report."""
    plan = resolve(options)
    options, design = plan.options, plan.design
    given = taken(plan)
    config = plain(plan, given.shape if given else to_dict(setup.shape(options.training)))
    if options.dry_run:
        print(betas.printed(config))
        return
    seconds, used = (
        dict.fromkeys(("train", "heads", "moments", "likelihood", "sample"), 0.0),
        Counter[tuple[str, str]](),
    )
    seeds = [options.training.seed + i for i in range(options.training_seeds)]
    networks, evaluated = [], []
    for seed in seeds:
        networks.append(given or train(plan, seed, seconds))
        store = Store(options.workdir / "cells", {"denoiser": networks[-1].model.fingerprint}, options.force, used)
        evaluated.append(evaluate(plan, networks[-1], store, seconds))
    results = {**evaluated[0].results, "config": config, "rules": design.rules._asdict(), "training_seeds": seeds}
    tables, samples = ([one.results[name] for one in evaluated] for name in ("likelihood", "sample_cells"))
    results["spread"] = ablation.over_networks(tables, samples) if len(evaluated) > 1 else []
    results["claims"] = claims.verdicts(results)
    about = {"about": provenance.about(seconds, networks[0].images_per_second), "forced": options.force}
    moments.save(options.workdir / "moments.npz", evaluated[0].calibration, networks[0].model.fingerprint, design.rules)
    write(options.workdir, results, {**about, "cells": cache.tally(used)}, evaluated[0].shown)
    print("\n".join(claims.lines(results["claims"])))
    print(f"report: {options.workdir / 'report.html'}")


def taken(plan: Plan) -> Network | None:
    """The network that is given."""
    if plan.given is None:
        return None
    if plan.given.stored is None:
        return Network(plan.given.model)
    assert plan.options.checkpoint
    return of_training(plan.given.stored, plan.given.model, plan.options.checkpoint)


def train(plan: Plan, seed: int, seconds: Seconds) -> Network:
    """The network of one training seed and its heads, trained as far as they are not yet; the first lies in workdir."""
    options = plan.options
    folder, config = options.workdir, replace(options.training, seed=seed)
    if seed != options.training.seed:
        folder, elsewhere = folder / f"seed-{seed}", config.checkpoints
        config = replace(config, checkpoints=elsewhere and f"{elsewhere}-seed-{seed}")
    stored = timed(seconds, "train", partial(loop.fit, config, folder))
    model = stored.model
    if plan.heads:
        fit_heads = partial(heads.fit, plan.heads, config, model, plan.data, folder / HEADS)
        model = timed(seconds, "heads", fit_heads)
    return of_training(stored, model, folder)


def of_training(stored: Stored, model: Model, folder: Path) -> Network:
    """The network of a run, with what its log says; an imported one has none."""
    log = folder / metrics.METRICS
    if not log.exists():
        return Network(model, to_dict(stored.network))
    training = provenance.training(log, stored)
    return Network(model, to_dict(stored.network), training, provenance.training_rate(log))


def evaluate(plan: Plan, network: Network, store: Store, seconds: Seconds) -> Evaluated:
    """Everything about one network, as far as it is not in the store yet."""
    model, data, design, training = network.model, plan.data, plan.design, plan.options.training
    keep, key = partial(cache.fetch, store), jax.random.key(training.seed)
    execution = Execution(Layout(training.parallel), keep)
    look = partial(ablation.measure, model, data, design, key, execution=execution)
    calibration = timed(seconds, "moments", lambda: look("calibration"))
    choices = timed(seconds, "likelihood", lambda: ablation.choose(model, data, design, calibration, keep))
    measured = timed(
        seconds,
        "moments",
        lambda: {"calibration": calibration, "test": look("test", choices), "train": look("train")},
    )
    results = timed(seconds, "likelihood", lambda: ablation.tabulate(model, data, design, choices, measured, keep))
    quality, drawn = timed(seconds, "sample", lambda: ablation.sample(model, data, design, choices, execution))
    results |= {**quality, "training": network.training}
    results["network"] = dict(
        source=model.source, name=model.name, fingerprint=model.fingerprint, heads=list(model.heads)
    )
    results["data"] = provenance.images(data, calibration.variance)
    return Evaluated(results, ablation.pictures(model, data, design, choices, drawn, keep), calibration)


def timed(seconds: Seconds, part: str, work: Callable[[], R]) -> R:
    """What `work` returns; its duration is added to the part's."""
    started = time.perf_counter()
    result = work()
    seconds[part] += time.perf_counter() - started
    return result


def write(folder: Path, results: dict[str, Any], use: dict[str, Any], shown: dict[str, np.ndarray]) -> None:
    """results.json, which two runs of one command share; run.json, in which they differ; the pictures and the page."""
    cache.write_json(folder / RESULTS, results)
    cache.write_json(folder / "run.json", use)
    cache.write_whole(folder / "pictures.npz", lambda file: np.savez_compressed(file, allow_pickle=False, **shown))
    page.write(folder, results, use, shown)
