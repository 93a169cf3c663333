"""One variance for every frequency, measured and not trained, beats one for all where the data have a spectrum.

Takes trained networks of one or more data sets. Calibration images fix a variance for all coefficients (`isotropic`),
for every colour axis, for every radius of a frequency (`spectral_radial`) and for every frequency (`spectral`); test
images judge them, bits/dim, with paired standard errors. Full tables rest on few images, so they are fixed by fewer
ones as well. Only the times that an even chain visits and some more are measured, and optimal trajectories are chosen
among these. x_0_hat is clipped, and the decoder shared, as in the papers.
Needs: trained networks (ddpm-jax train); minutes each on two CPU cores for small networks of 32 x 32 pixels.
Command: python -m experiments.spectral_gain --checkpoints runs/digits runs/mnist --workdir runs/spectral_gain
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax.cli import provenance
from ddpm_jax.cli.command import command_line
from ddpm_jax.data.datasets import DataSet, seen
from ddpm_jax.diffusion import bases, timesteps
from ddpm_jax.diffusion import variances as reverse_variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation import diagnostics, likelihood, moments
from ddpm_jax.evaluation.likelihood import OPTIMAL, REFERENCE, Choices
from ddpm_jax.evaluation.moments import Moments
from ddpm_jax.models import unet
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Keep
from ddpm_jax.runtime.sharding import Layout
from ddpm_jax.training import model, setup
from ddpm_jax.training.model import Model, Stored
from experiments import spectral_gain_report

Row = dict[str, Any]
COLOURS, RADIAL, FULL = "one a colour axis", "one a radius", "one a frequency"
BETWEEN = 40  # times measured beside those of even chains, evenly in log t
FEWER = (4, 16)  # the share of the calibration images that fix a variance, one in so many


@dataclass(frozen=True)
class SpectralGain:
    """The options of this experiment.

    Attributes:
      checkpoints: workdirs of trained networks, each judged on its own data set.
      workdir: where results.json, tables.md, the figures and the cells go.
      K: chain lengths.
      images: calibration images, and as many test images: the first of either.
      seed: of the noise.
      force: measure again what is in workdir/cells.
      dry_run: print the options and stop.
    """

    checkpoints: tuple[Path, ...] = (Path("runs/digits"),)
    workdir: Path = Path("runs/spectral_gain")
    K: tuple[int, ...] = (10, 25, 100)
    images: int = 256
    seed: int = 0
    force: bool = False
    dry_run: bool = False


class Measured(NamedTuple):
    """The variances of one network, what fixed them and what judges them."""

    choices: Choices
    calibration: Moments
    test: Moments


def main(options: SpectralGain) -> None:
    """Measure, compare, print and write."""
    networks = resolve(options)
    config = {**vars(options), "workdir": str(options.workdir), "checkpoints": list(map(str, options.checkpoints))}
    if options.dry_run:
        print(json.dumps(config, indent=2))
        return
    results = {"config": config, "K": list(options.K), "networks": [evaluate(options, *one) for one in networks]}
    text = spectral_gain_report.text(results)
    cache.write_json(options.workdir / "results.json", results)
    cache.write_whole(options.workdir / "tables.md", lambda file: file.write(text.encode()))
    for name, figure in spectral_gain_report.pictures(results).items():
        cache.write_whole(options.workdir / f"{name}.png", partial(figure.savefig, dpi=150))
    print(text)


def resolve(options: SpectralGain) -> list[tuple[Stored, DataSet]]:
    """The networks and their images.

    Raises:
      ValueError: one is not there or there twice, K is out of range, or there are too few images.
    """
    for name in ("checkpoints", "K"):
        values = getattr(options, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} = {' '.join(map(str, values))}: give at least one, and each once")
    stored = [model.read(folder) for folder in options.checkpoints]
    names = [setup.data_of(one.config) for one in stored]
    if len(set(names)) < len(names):
        raise ValueError(f"the checkpoints are of {', '.join(names)}: give one network a data set")
    networks = [(one, model.load_data(one.model)) for one in stored]
    for one, data in networks:
        most = min(len(data.calibration.images), len(data.test.images))
        if not max(FEWER) < options.images <= most:
            raise ValueError(f"images = {options.images}: of {data.name} {max(FEWER) + 1} to {most} can be taken")
        for K in options.K:
            if K < 2:
                raise ValueError(
                    f"K = {K}: a chain of one step has no variance but that of its decoder; give 2 or more"
                )
            timesteps.even(one.model.schedule.T, K)
    cache.check_writable(options.workdir)
    return networks


def evaluate(options: SpectralGain, stored: Stored, images: DataSet) -> Row:
    """Everything about one network; plain values."""
    store = cache.Store(options.workdir / "cells", {"denoiser": stored.model.fingerprint}, options.force, Counter())
    found = measure(options, stored.model, images, partial(cache.fetch, store))
    likelihoods = likelihood.likelihoods(found.choices, found.test)
    return {
        "data": provenance.images(images, found.calibration.variance),
        "training": {
            "steps": stored.step,
            "batch": stored.config.batch,
            "parameters": unet.parameter_count(stored.params),
        },
        "images": options.images,
        "variances": list(found.choices.variances),
        "rows": likelihood.rows(likelihoods, "test"),
        "spectrum": diagnostics.spectrum(found.calibration),
    }


def measure(options: SpectralGain, network: Model, images: DataSet, keep: Keep) -> Measured:
    """Calibration images fix the variances, test images tabulate them: one pass over either, and one over fewer."""
    schedule, n = network.schedule, options.images
    times, colours = visited(schedule.T, options.K), bases.colour_axes(seen(images.train).images)
    keys = dict(zip(("calibration", "test"), jax.random.split(jax.random.key(options.seed)), strict=True))

    def look(split: str, count: int, tabulated: dict[str, tuple[str, Calibration]]) -> Moments:
        some, rules = getattr(images, split).images[:count], Rules(levels=images.levels)
        here = (keys[split], schedule, network.denoiser, some, rules, times, Layout(), keep)
        return moments.measure(*here, colours=colours, tabulated=tabulated)

    def fixed_by(count: int) -> tuple[Calibration, Moments]:
        found = look("calibration", count, {})
        return likelihood.calibrate(Calibration(schedule, colours=colours), found), found

    known, calibration = fixed_by(n)
    named = {REFERENCE: (REFERENCE, known), **spectra(known)}
    few = {
        f"{name}, {n // share} images": fixed
        for share in FEWER
        for name, fixed in spectra(fixed_by(n // share)[0]).items()
        if name in (RADIAL, FULL)
    }
    test = look("test", n, {name: fixed for name, fixed in {**named, **few}.items() if name != REFERENCE})
    variances = {name: reverse_variances.build(*fixed) for name, fixed in {**named, **few}.items()}
    even = {(name, "even", K): timesteps.even(schedule.T, K) for name in variances for K in options.K}
    best = {
        (name, OPTIMAL, K): chain
        for name in named
        for K, chain in timesteps.cheapest_paths(
            likelihood.cost(schedule, variances[name], calibration), options.K
        ).items()
    }
    return Measured(Choices(known, variances, even | best), calibration, test)


def visited(T: int, Ks: tuple[int, ...]) -> np.ndarray:
    """The times of all even chains, those whose spectra are shown, and BETWEEN more."""
    even = [timesteps.even(T, K) for K in Ks]
    return np.unique(
        np.concatenate([*even, diagnostics.shown_times(T), np.geomspace(1, T, min(BETWEEN, T)).round()])
    ).astype(int)


def spectra(known: Calibration) -> dict[str, tuple[str, Calibration]]:
    """One number a colour axis (of images in colour), a radius, a frequency."""
    assert known.spectrum is not None
    shape = known.spectrum.shape[1:]
    of_axes = bases.averaged(known.spectrum, np.broadcast_to(np.arange(shape[-1]), shape))
    axes = {COLOURS: ("spectral", known._replace(spectrum=of_axes))} if shape[-1] > 1 else {}
    return {**axes, RADIAL: ("spectral_radial", known), FULL: ("spectral", known)}


if __name__ == "__main__":
    command_line(SpectralGain, main, __doc__)
