"""An ablation of the reverse variance: one denoiser under every choice, measured once, tabulated, sampled.

`check` and `measure` begin it, `choose` fixes variances and trajectories by calibration images, `tabulate`, `sample`
and `pictures` give what a report shows; `compare` is the likelihood table alone. `evaluate_whole_chain` is one variance
on all T steps, without calibration, and `over_networks` the spread over networks trained alike. Everything expensive
is cached by a `Keep` and reused while nothing it depends on has changed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax.data import transforms
from ddpm_jax.data.datasets import DataSet, Split, seen
from ddpm_jax.diffusion import bases, conventions, process, timesteps
from ddpm_jax.diffusion import variances as reverse_variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.random_keys import OneKey
from ddpm_jax.diffusion.registry import named
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.variances import VARIANCES, Calibration, heads_of, needs
from ddpm_jax.evaluation import diagnostics, likelihood, moments, samples, step_kl
from ddpm_jax.evaluation.design import Design
from ddpm_jax.evaluation.fid import extractors, frechet
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor
from ddpm_jax.evaluation.fid.features import FEATURES
from ddpm_jax.evaluation.likelihood import FREE, OPTIMAL, REFERENCE, Cell, Choices, Comparison, Row
from ddpm_jax.evaluation.moments import Moments
from ddpm_jax.evaluation.step_kl import Table
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Keep
from ddpm_jax.runtime.sharding import Layout
from ddpm_jax.training.model import Model, check_clip

SPLITS = ("calibration", "test", "train")
GAP_K = 50  # steps of the chain on which training and test images are compared


class Execution(NamedTuple):
    """How the work is done; the numbers do not depend on it.

    Attributes:
      layout: of images on devices.
      keep: remembers results; it must know the denoiser.
    """

    layout: Layout = Layout()
    keep: Keep = cache.compute_always


def check(
    design: Design,
    schedule: Schedule,
    heads: tuple[str, ...] = (),
    learned_times: tuple[int, ...] | None = None,
) -> None:
    """Refuse what cannot be compared, before anything is measured.

    Args:
      design: what is compared.
      schedule: the forward process.
      heads: of the denoiser.
      learned_times: see Model; None where nothing will be sampled.

    Raises:
      ValueError: an unknown name, nothing to sample at all of sample_K, a variance whose head the denoiser lacks, K
        outside 1..T, another number out of range, or fewer than 2 images or 1 seed.
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
            timesteps.named("even" if path in (OPTIMAL, FREE) else path, schedule.T, K)
    known = Calibration(schedule, clamp_cov=design.rules.clamp_cov, learned_times=learned_times)
    built = [reverse_variances.build(name, known) for name in design.variances if not needs(name)]
    chains = [timesteps.even(schedule.T, K) for K in (min(design.sample_K), max(design.sample_K))]
    if len(built) == len(design.variances) and not any(
        all(reverse_variances.fits(one, chain) for chain in chains) for one in built
    ):
        raise ValueError(
            f"sample_K = {' '.join(map(str, design.sample_K))}: none of {', '.join(design.variances)} is defined on "
            "such chains"
        )
    for name in design.variances:
        for head in heads_of([name]):
            if head not in heads:
                raise ValueError(
                    f"the variance {name!r} reads the head {head!r} and the denoiser has {', '.join(heads) or 'none'}: "
                    "train it with ddpm-jax heads, or leave it out"
                )
    conventions.log_var_cap(design.rules, process.steps(schedule, [schedule.T]))


def resolved(design: Design, heads: tuple[str, ...]) -> Design:
    """The design with its variances named: without any, all whose heads the denoiser has."""
    every = tuple(name for name in VARIANCES if {*heads_of([name])} <= {*heads})
    return design._replace(variances=design.variances or every)


def compare(
    model: Model, data: DataSet, design: Design, key: OneKey | None = None, execution: Execution = Execution()
) -> list[Row]:
    """The likelihood table of one denoiser: fixed by calibration images, judged on test images.

    Args:
      model: the denoiser.
      data: its images.
      design: what is compared; of it, what concerns the likelihood.
      key: of the noise; default key 0.
      execution: how the work is done.

    Returns:
      Rows by (variance, trajectory, K), likelihoods in bits/dim.

    Raises:
      ValueError: see `check` and `measure`.
    """
    design = resolved(design._replace(sample_K=design.K), model.heads)
    check(design, model.schedule, model.heads)
    key = jax.random.key(0) if key is None else key
    calibration = measure(model, data, design, key, "calibration", execution=execution)
    choices = choose(model, data, design, calibration, execution.keep)
    test = measure(model, data, design, key, "test", choices, execution)
    return likelihood.rows(likelihood.likelihoods(choices, test, execution.keep), "test")


def measure(
    model: Model,
    data: DataSet,
    design: Design,
    key: OneKey,
    split: str,
    choices: Choices | None = None,
    execution: Execution = Execution(),
) -> Moments:
    """The one pass over a split of SPLITS: at every time, over training images on a short chain only.

    Args:
      model: the denoiser.
      data: its images.
      design: what is compared.
      key: of the noise.
      split: calibration images need nothing else; they tabulate the variances that look at x_t.
      choices: what the calibration images fixed; the variances among them that need a table are tabulated.
      execution: how the work is done.

    Raises:
      ValueError: the rules are for another number of grey levels than the data have, or another clip than heads were
        fitted with.
    """
    if design.rules.levels != data.levels:
        raise ValueError(f"levels = {design.rules.levels} in the rules: {data.name} has {data.levels}")
    if heads_of(design.variances):
        check_clip(model, design.rules.clip_x_0)
    chain = timesteps.even(model.schedule.T, min(GAP_K, model.schedule.T))
    known = _unmeasured(model, data, design) if choices is None else choices.calibration
    return moments.measure(
        jax.random.fold_in(key, SPLITS.index(split)),
        model.schedule,
        model.denoiser,
        (seen(data.train) if split == "train" else getattr(data, split)).images,
        design.rules,
        chain if split == "train" else None,
        execution.layout,
        execution.keep,
        known.colours,
        {name: (name, known) for name in _tabulated(design, known, choices) if split != "train"},
    )


def _unmeasured(model: Model, data: DataSet, design: Design) -> Calibration:
    """What is known before any image is looked at; the colour axes are those of the training images."""
    return Calibration(
        model.schedule,
        colours=bases.colour_axes(seen(data.train).images),
        clamp_cov=design.rules.clamp_cov,
        learned_times=model.learned_times,
    )


def _tabulated(design: Design, known: Calibration, choices: Choices | None) -> tuple[str, ...]:
    """The variances that are not one number a step; before calibration those that no moments fix."""
    names = [name for name in design.variances if choices is not None or not needs(name)]
    built = {name: reverse_variances.build(name, known) for name in names}
    return tuple(name for name, one in built.items() if step_kl.needs_table(one, known.schedule))


def choose(
    model: Model, data: DataSet, design: Design, calibration: Moments, keep: Keep = cache.compute_always
) -> Choices:
    """The variances and trajectories that calibration images fix."""
    known = likelihood.calibrate(_unmeasured(model, data, design), calibration)
    comparison = Comparison(design.variances, paths(design), every_K(design), design.rules.decoder)
    return likelihood.choose(known, comparison, calibration, keep)


def paths(design: Design) -> list[str]:
    """The trajectories of the table: even and what was asked for."""
    return list(dict.fromkeys(("even", *design.trajectories)))


def every_K(design: Design) -> list[int]:
    """The chain lengths of the likelihood table: those that are sampled are in it."""
    return sorted({*design.K, *design.sample_K})


SHOWN = 12  # images in a row of the report
FEW_STEPS = 10  # steps of the short chain whose terms are shown


def tabulate(
    model: Model,
    data: DataSet,
    design: Design,
    choices: Choices,
    measured: dict[str, Moments],
    keep: Keep = cache.compute_always,
) -> dict[str, Any]:
    """Everything that follows from the moments alone; plain values."""
    schedule, Ks, clamp_cov = model.schedule, every_K(design), design.rules.clamp_cov
    shown = list(dict.fromkeys([FEW_STEPS if FEW_STEPS in Ks else min(Ks), max(Ks)]))
    return {
        "K": Ks,
        "sample_K": list(design.sample_K),
        "variances": list(design.variances),
        "kinds": diagnostics.kinds(choices),
        "trajectories": paths(design),
        "likelihood": [
            *likelihood.rows(likelihood.likelihoods(choices, measured["test"], keep), "test"),
            *_on_calibration(choices, measured["calibration"], keep),
        ],
        "evaluations": diagnostics.evaluations(choices, measured),
        "negative_control": diagnostics.negative_control(schedule, measured["test"], [K for K in Ks if K > 1]),
        "gap_check": diagnostics.gap_check(choices.calibration, measured["test"]),
        "memorising": diagnostics.memorising(
            choices.calibration, measured["train"], measured["test"], min(GAP_K, schedule.T)
        ),
        "per_time": diagnostics.per_time(schedule, measured["calibration"], clamp_cov),
        "clamped": diagnostics.clamped(measured["test"]),
        "spectrum": diagnostics.spectrum(measured["calibration"]),
        "sigma2": diagnostics.between_the_bounds(choices, design.sample_K[len(design.sample_K) // 2], measured["test"]),
        "trajectories_chosen": diagnostics.chosen(choices),
        "terms": diagnostics.terms(choices, measured["test"], shown),
        "rate_distortion": diagnostics.rate_distortion(choices, measured["test"], max(Ks)),
    }


def _on_calibration(choices: Choices, moments: Moments, keep: Keep) -> list[likelihood.Row]:
    """The rows of calibration images. Variances that the spectrum fixes were not known when these images were looked
    at: their mean cost follows from the spectrum, its spread over images does not, and is None.
    """
    schedule, spectrum = choices.schedule, moments.spectrum
    tables = dict(moments.tables)
    for name, choice in choices.variances.items():
        if spectrum is not None and choice.headless and choice.basis.name == "dct" and name not in tables:
            mean = step_kl.of_spectrum(schedule, choice, spectrum)
            nothing = np.full_like(mean, np.nan)
            tables[name] = Table(step_kl.nodes(schedule), mean[None].astype(np.float32), nothing, nothing[:, 0])
    rows = likelihood.rows(likelihood.likelihoods(choices, moments._replace(tables=tables), keep), "calibration")
    known = moments.tables.keys() | (choices.variances.keys() - tables.keys())
    return [row if row["variance"] in known else row | _without_errors(row) for row in rows]


def _without_errors(row: likelihood.Row) -> likelihood.Row:
    return {key: None for key in row if key.endswith("standard_error")}


def sample(
    model: Model, data: DataSet, design: Design, choices: Choices, execution: Execution = Execution()
) -> tuple[dict[str, Any], dict[likelihood.Cell, np.ndarray]]:
    """Samples of every variance x K on even chains with their Frechet distances, and the images.

    Raises:
      ValueError: the features are unknown or cannot be had of these images.
    """
    named(FEATURES, design.features, "features").check(data)
    test, train = data.test, seen(data.train)
    even = [(name, "even", K) for K in design.sample_K for name in design.variances]
    wanted = [cell for cell in even if cell in choices.times]
    draws = samples.Draws(range(design.seeds), design.images, data.shape)
    drawn = samples.draw(choices, model.denoiser, wanted, design.rules, draws, execution.layout, execution.keep)
    extractor = FEATURES[design.features].build(data, execution.keep)
    held_out = np.concatenate([data.calibration.images, test.images])
    reference = extractors.of_images(f"{data.name}, images that the network learned", train.images, extractor)
    single, over_seeds = samples.distances(drawn, extractor, reference)
    results = {
        "samples": single,
        "sample_cells": over_seeds,
        "classifier": {
            "name": extractor.description or extractor.name,
            "features": extractor.size,
            "train_accuracy": _accuracy(extractor, train),
            "test_accuracy": _accuracy(extractor, test),
            "bias": frechet.finite_sample_bias(reference.target.fit.cov, design.images),
            "held_out_frechet": frechet.distance(reference.target, frechet.fit(extractors.summed(extractor, held_out))),
            "held_out_images": len(held_out),
            "measure": extractors.measure(extractor, reference, design.rules.rounding, design.images)._asdict(),
        },
    }
    return results, drawn


def _accuracy(extractor: FeatureExtractor, split: Split) -> float | None:
    known = extractor.accuracy is not None and split.labels is not None
    return extractor.accuracy(split.images, split.labels) if known else None  # type: ignore[misc, arg-type]


def pictures(
    model: Model, data: DataSet, design: Design, choices: Choices, drawn: dict[likelihood.Cell, np.ndarray], keep: Keep
) -> dict[str, np.ndarray]:
    """The small images of the report, as grey levels 0..255, with the times and distances that stand beside them."""
    train = seen(data.train).images
    K, short, shown = max(design.sample_K), min(design.sample_K), min(SHOWN, design.images)
    both = [name for name in design.variances if (name, "even", K) in drawn and (name, "even", short) in drawn]
    best = REFERENCE if REFERENCE in both else both[0]
    long = drawn[best, "even", K][0, :shown]
    index, distance = samples.nearest(long, train)
    cell, shape = (best, "even", short), (4, *data.shape)
    of_grid = [name for name in design.variances if (name, "even", K) in drawn]
    levels = {
        "grid": np.stack([drawn[name, "even", K][0, :shown] for name in of_grid]),
        "grid_real": data.test.images[:shown],
        "strip": samples.strip(choices, model.denoiser, cell, design.rules, shape, keep),
        "neighbours": np.stack([long, train[index]], axis=1),
    }
    shades = {name: transforms.shades(rows, data.levels) for name, rows in levels.items()}
    shades["grid_names"] = np.asarray(of_grid)
    return {**shades, "strip_t": choices.times[cell][::-1], "neighbours_distance": distance}


def whole_chain_design(name: str, rules: Rules, schedule: Schedule, images: int, seeds: int) -> Design:
    """One variance on all T steps.

    Args:
      name: of VARIANCES.
      rules: the conventions.
      schedule: the forward process.
      images: samples of each seed.
      seeds: sampling seeds.
    """
    return Design(rules, (name,), ("even",), (schedule.T,), (schedule.T,), images, seeds)


def _whole_chain_choices(wanted: Design, known: Calibration) -> Choices:
    """The one variance on the one chain."""
    (name,), (K,) = wanted.variances, wanted.K
    times = {(name, "even", K): timesteps.even(known.schedule.T, K)}
    return Choices(known, {name: reverse_variances.build(name, known)}, times, decoder=wanted.rules.decoder)


def evaluate_whole_chain(
    model: Model, data: DataSet, wanted: Design, key: OneKey, execution: Execution = Execution()
) -> tuple[Row, Row]:
    """The bound and its parts, bits/dim, with the standard error over images, and the Frechet distances of samples.

    Args:
      model: the network.
      data: its images.
      wanted: from `whole_chain_design`.
      key: of the noise on test images.
      execution: how the work is done.

    Returns:
      These, and a description of the feature extractor.

    Raises:
      ValueError: the variance has to be measured first, or does not fit the network.
    """
    choices = _whole_chain_choices(wanted, Calibration(model.schedule, learned_times=model.learned_times))
    test = measure(model, data, wanted, key, "test", choices, execution)
    (bound,) = likelihood.rows(likelihood.likelihoods(choices, test, execution.keep), "test")
    found, _ = sample(model, data, wanted, choices, execution)
    (over_seeds,) = found["sample_cells"]
    row = {name: bound[name] for name in ("bits_per_dim", "standard_error", "prior", "kl", "decoder")}
    row |= {"frechet": over_seeds["mean"], "frechet_std": over_seeds["std"]}
    return row | {"frechet_by_seed": [one["frechet"] for one in found["samples"]]}, found["classifier"]


def over_networks(tables: Sequence[list[Row]], samples: Sequence[list[Row]]) -> list[Row]:
    """Mean and standard deviation of the test likelihoods and Frechet distances over networks, m = sum of x_i / n.

    Args:
      tables: the likelihood rows of each network, in bits/dim; those of the test split are read.
      samples: the rows by (variance, trajectory, K) of each network, from `samples.distances`.

    Returns:
      One row a cell: mean and standard deviation over networks, None where nothing was measured.
    """
    test = [{_cell(row): row for row in table if row["split"] == "test"} for table in tables]
    drawn = [{_cell(row): row for row in rows} for rows in samples]
    found = []
    for cell in test[0]:
        row: Row = dict(zip(("variance", "trajectory", "K"), cell, strict=True))
        row["values"] = [table[cell]["bits_per_dim"] for table in test]
        row["mean"], row["std"] = _summary(row["values"])
        differences = [table[cell]["minus_isotropic"] for table in test]
        row["minus_isotropic"], row["minus_isotropic_std"] = _summary(differences)
        row["frechet_mean"], row["frechet_std"] = _summary([rows.get(cell, {}).get("mean") for rows in drawn])
        found.append(row)
    return found


def _cell(row: Row) -> Cell:
    return row["variance"], row["trajectory"], row["K"]


def _summary(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None, None
    return float(np.mean(numbers)), float(np.std(numbers, ddof=1))
