"""A perfect network's images in five steps and fewer: one variance a frequency beats one for all, too large too small.

The best denoiser of a finite set of images is known, and so are Cov[x_0 | x_t] in pixels and in frequencies. Every
variance is given what it would know at best: the exact moments, or the heads that perfect training would give. What is
left is the error of the variance and of the number of steps: the Frechet distance in classifier features; how often two
samples are the same image of the set, against draws from it; the mean squared distance to the nearest image of the set,
which is 0 for perfect samples.
Needs: a few minutes on two CPU cores for the default digits.
Command: python -m experiments.exact_finite --workdir runs/exact_finite
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tqdm import tqdm

from ddpm_jax.cli import betas
from ddpm_jax.cli.command import command_line
from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import DataSet, Split
from ddpm_jax.data.transforms import to_unit
from ddpm_jax.diffusion import bases, process, schedules, timesteps, toy
from ddpm_jax.diffusion import variances as reverse_variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.toy import ToyData
from ddpm_jax.diffusion.variances import VARIANCES, Calibration
from ddpm_jax.evaluation import ablation, likelihood, samples
from ddpm_jax.evaluation.ablation import Execution
from ddpm_jax.evaluation.design import Design
from ddpm_jax.evaluation.fid import classifier
from ddpm_jax.evaluation.likelihood import Choices
from ddpm_jax.runtime import cache
from ddpm_jax.training.model import Model
from experiments import exact_distances_report

Row = dict[str, Any]
VERSION = 1  # raised by hand when the numbers of the finite set's perfect denoiser change
MEASURES = {
    "frechet": "Frechet distance to the set",
    "repeats": "chance of a repeat, 1 for the set itself",
    "nearest": "squared distance to the nearest image, levels²",
}
DRAWS = 1000  # x_t at each time over which exact covariances are averaged


@dataclass(frozen=True)
class ExactFinite:
    """The options of this experiment.

    Attributes:
      workdir: where results.json, tables.md, figure.png and the cells go.
      data: a name of datasets.DATASETS.
      examples: images of the set, the first of the training images; default all.
      schedule: of the noise, see `schedules.build`; or a .json of betas.
      T: number of noise levels.
      variances: choices, numbers after colons (interpolated:0.7); default all.
      K: chain lengths.
      images: samples of each cell and seed.
      seeds: sampling seeds.
      last_step: noise of the last step: mean (none) or noise.
      pixel_clip: bound on the noise of the step into tau_1, in grey levels; 0 for none.
      seed: of the calibration.
      force: draw again what is in workdir/cells.
      dry_run: print the options and stop.
    """

    workdir: Path = Path("runs/exact_finite")
    data: str = "digits"
    examples: int | None = None
    schedule: str = "linear"
    T: int = 1000
    variances: tuple[str, ...] = tuple(VARIANCES)
    K: tuple[int, ...] = (2, 3, 5, 10, 25)
    images: int = 500
    seeds: int = 3
    last_step: str = "mean"
    pixel_clip: float = 0.0
    seed: int = 0
    force: bool = False
    dry_run: bool = False


def main(options: ExactFinite) -> None:
    """Calibrate, sample, measure, print and write."""
    images, tables, design = resolve(options)
    config = {**vars(options), "workdir": str(options.workdir), "examples": len(images.train.images)}
    if options.dry_run:
        print(betas.printed(config))
        return
    model, toy_data = model_of(images, tables)
    store = cache.Store(options.workdir / "cells", {"denoiser": model.fingerprint}, options.force, Counter())
    execution = Execution(keep=partial(cache.fetch, store))
    fixed = calibrate(images, tables, design, jax.random.key(options.seed))
    rows: list[Row] = []
    for K in options.K:
        steps = process.steps(tables, timesteps.even(tables.T, K))
        chain = model._replace(denoiser=toy.exact_heads(toy_data, steps))
        found, drawn = ablation.sample(
            chain, images, design._replace(sample_K=(K,)), choose(fixed, design, K), execution
        )
        rows += [row(one, drawn, images) for one in found["sample_cells"]]
    parts = dict(variances=list(options.variances), K=list(options.K), measures=MEASURES, rows=rows)
    write(options.workdir, {"config": config, "classifier": found["classifier"], **parts})


def resolve(options: ExactFinite) -> tuple[DataSet, Schedule, Design]:
    """The finite set as the training images of a data set, the schedule, and what is compared.

    Raises:
      ValueError: an unknown name, or a number out of range.
    """
    images, tables = datasets.load(options.data), schedules.build(options.schedule, options.T)
    classifier.check(images.name, images.test.labels)
    train = datasets.seen(images.train)
    there = len(train.images)
    if options.examples is not None and not 2 <= options.examples <= there:
        raise ValueError(f"examples = {options.examples}: {options.data} has 2 to {there}")
    assert train.labels is not None
    images = images._replace(train=Split(train.images[: options.examples], train.labels[: options.examples]))
    rules = Rules(options.last_step, options.pixel_clip or None, images.levels)
    K, n, seeds = options.K, options.images, options.seeds
    design = Design(rules, options.variances, ("even",), K, K, images=n, seeds=seeds)
    ablation.check(design, tables, reverse_variances.heads_of(options.variances))
    cache.check_writable(options.workdir)
    return images, tables, design


def model_of(images: DataSet, tables: Schedule) -> tuple[Model, ToyData]:
    """The perfect denoiser of the training images, and what else is known of them."""
    toy_data = toy.finite(tables, to_unit(jnp.asarray(images.train.images), images.levels))
    known = dict(images=np.asarray(images.train.images), levels=images.levels, schedule=tables)
    known["version"] = VERSION
    name, mark = f"finite set of {images.name}", cache.fingerprint(known)
    return Model("exact", name, toy_data.denoiser, tables, "x_0", images.shape, images.levels, mark), toy_data


def calibrate(data: DataSet, tables: Schedule, design: Design, key: Array) -> Calibration:
    """The exact moments at every time that a chain visits: M_(t,j) = alpha_bar/(1 - alpha_bar) E Cov_jj in the DCT.

    An orthonormal basis leaves the mean over j as it is in pixels, which is M_t, and 1 - Gamma_t for an exact network.
    """
    images = np.asarray(data.train.images)
    colours = bases.colour_axes(images)
    dct = bases.dct(colours)
    x_0 = to_unit(jnp.asarray(images), data.levels)
    toy_data, coefficients = toy.in_basis(tables, x_0, dct), dct.forward(x_0)
    cov = jax.jit(lambda of, x_t, t: of(x_t, t).mean(axis=0))
    spectrum = np.full((tables.T + 1, *images.shape[1:]), np.nan)
    for t in tqdm(sorted({int(t) for K in design.K for t in timesteps.even(tables.T, K)}), desc="exact moments"):
        which, noise = jax.random.split(jax.random.fold_in(key, t))
        drawn = coefficients[jax.random.randint(which, (DRAWS,), 0, len(images))]
        x_t = process.diffuse(tables, drawn, t, jax.random.normal(noise, drawn.shape))
        excess = tables.alpha_bar[t] / tables.one_minus_alpha_bar[t]
        spectrum[t] = excess * np.asarray(cov(toy_data.cov, x_t, jnp.full(DRAWS, t)), np.float64)
    moment = spectrum.mean(axis=(1, 2, 3))
    c = float(x_0.var(axis=0).mean())
    return Calibration(tables, c, moment, moment, spectrum, colours, design.rules.clamp_cov)


def choose(known: Calibration, design: Design, K: int) -> Choices:
    """Every variance on the even chain of K steps."""
    times = timesteps.even(known.schedule.T, K)
    variances = {name: reverse_variances.build(name, known) for name in design.variances}
    return Choices(known, variances, {(name, "even", K): times for name in variances})


def row(cell: Row, drawn: dict[likelihood.Cell, np.ndarray], images: DataSet) -> Row:
    """A cell's distances, with their deviations over seeds."""
    each = []
    for seed in drawn[cell["variance"], cell["trajectory"], cell["K"]]:
        index, distance = samples.nearest(seed, np.asarray(images.train.images))
        times, n = np.bincount(index), len(seed)
        repeats = (times * (times - 1)).sum() / (n * (n - 1))
        each.append((len(images.train.images) * repeats, (distance**2).mean()))
    found = {key: value for key, value in cell.items() if key in ("variance", "K")}
    found |= {"frechet": cell["mean"], "frechet_std": cell["std"]}
    for key, values in zip(("repeats", "nearest"), np.transpose(each), strict=True):
        deviation = float(values.std(ddof=1)) if len(values) > 1 else None
        found |= {key: float(values.mean()), f"{key}_std": deviation}
    return found


def write(folder: Path, results: Row) -> None:
    """results.json, tables.md and figure.png; the tables are printed too."""
    classifier, text = results["classifier"], exact_distances_report.text(results)
    text += f"\nof held-out images: Frechet distance {classifier['held_out_frechet']:.3g}; of "
    text += f"{results['config']['images']} of the set itself about {classifier['bias']:.3g}\n"
    folder.mkdir(parents=True, exist_ok=True)
    cache.write_json(folder / "results.json", results)
    cache.write_whole(folder / "tables.md", lambda file: file.write(text.encode()))
    cache.write_whole(folder / "figure.png", lambda file: exact_distances_report.draw(results).savefig(file, dpi=150))
    print(text)


if __name__ == "__main__":
    command_line(ExactFinite, main, __doc__)
