"""Draw images from a trained denoiser.

Writes samples.png, a grid of the first, and samples.npz with all images (arr_0, grey levels 0 to 255, as evaluators of
other projects read them) and the options that made them. Thousands are drawn in shards: run again, it goes on where it
stopped.
Command: python -m ddpm_jax.cli.sample --workdir runs/digits --variance isotropic --K 50
"""

import json
from collections import Counter
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import jax
import numpy as np
from matplotlib import pyplot as plt

from ddpm_jax.cli.command import command_line
from ddpm_jax.data import datasets, transforms
from ddpm_jax.data.datasets import seen
from ddpm_jax.diffusion import bases, conventions, process, timesteps, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.sampler import SAMPLERS
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation import likelihood, moments, samples
from ddpm_jax.evaluation.likelihood import Choices
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Keep, Store
from ddpm_jax.training import model, setup
from ddpm_jax.training.config import Config
from ddpm_jax.training.model import Model

OF_THE_NETWORK = ("image_size", "schedule", "T", "prediction")
SHOWN = 400  # images of the grid, at most
TRAINED = {field.name for field in fields(Config)} - {*OF_THE_NETWORK}


@dataclass(frozen=True)
class Sample:
    """The options of this tool.

    Attributes:
      workdir: of a trained run.
      checkpoint_step: which of its checkpoints; default the newest.
      checkpoint_ema: which of its averages of the parameters, by rate; default the first.
      denoiser: module:function of your own network (x_t, t) -> what --prediction says, instead of a trained run.
      data: the images that a variance is measured on; default those the network was trained on, of a --denoiser digits.
      image_size: crop and shrink images to so many pixels; default as they are.
      schedule: the noise schedule it was trained for.
      T: number of noise levels.
      prediction: what it predicts: eps, x_0, v or mu.
      head_checkpoint: workdir of ddpm_jax.cli.heads for this network; default those of an ablation in workdir.
      moments: moments.npz of an ablation of the same network; default: measured for this chain on --data.
      variance: a choice of the reverse variance, its number and switches after colons (interpolated:0.7).
      sampler: ddpm or ddim.
      eta: noise of ddim: 0 for none, 1 for DDPM's.
      trajectory: even or quadratic.
      times: explicit times, ascending to T, instead of a named trajectory.
      K: chain length.
      n: number of images.
      seed: of the noise.
      protocol: the conventions of a paper: ddpm, analytic-dpm or iddpm; each can be set alone.
      last_step: noise of the last step: mean (none) or noise; default the protocol's.
      pixel_clip: bound on the noise of the step into tau_1, in grey levels; 0 for none; default the protocol's.
      clip_x_0: clip predicted data to [-1, 1]; default the protocol's.
      clamp_cov: hold estimated covariances of the data within [0, 1]; default the protocol's.
      rounding: of grey levels, nearest or down; default the protocol's.
      out: folder for the images; default workdir/samples.
      force: draw again what is in out/cells.
      dry_run: print the resolved options and stop.
    """

    workdir: Path = Path("runs/digits")
    checkpoint_step: int | None = None
    checkpoint_ema: float | None = None
    denoiser: str | None = None
    data: str | None = None
    image_size: int | None = None
    schedule: str = "linear"
    T: int = 1000
    prediction: str = "eps"
    head_checkpoint: Path | None = None
    moments: Path | None = None
    variance: str = "large"
    sampler: str = "ddpm"
    eta: float = 0.0
    trajectory: str = "even"
    times: tuple[int, ...] = ()
    K: int = 50
    n: int = 64
    seed: int = 0
    protocol: str = "ddpm"
    last_step: str | None = None
    pixel_clip: float | None = None
    clip_x_0: bool | None = None
    clamp_cov: bool | None = None
    rounding: str | None = None
    out: Path | None = None
    force: bool = False
    dry_run: bool = False


def main(options: Sample) -> None:
    """Load the network, measure what the variance needs, sample, save."""
    if options.sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {options.sampler!r}: choose one of {', '.join(SAMPLERS)}")
    if options.n < 1:
        raise ValueError(f"n = {options.n}: it is at least 1")
    variances.find(options.variance)
    out = options.out or options.workdir / "samples"
    cache.check_writable(out)
    network, config = network_of(options)
    schedule = network.schedule
    times = (
        timesteps.explicit(schedule.T, options.times)
        if options.times
        else timesteps.named(options.trajectory, schedule.T, options.K)
    )
    kernel = SAMPLERS[options.sampler](options.eta)
    steps = process.steps(schedule, times, kernel)
    alone = {name: getattr(options, name) for name in ("last_step", "pixel_clip", "clip_x_0", "clamp_cov", "rounding")}
    rules = conventions.protocol(options.protocol, network.levels, **alone)
    conventions.log_var_cap(rules, steps)
    transforms.check_rounding(rules.rounding)
    resolved = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    resolved |= {name: getattr(config, name) for name in OF_THE_NETWORK}
    if options.dry_run:
        print(json.dumps({**resolved, "times": times.tolist()}, indent=2))
        return
    keep = partial(cache.fetch, Store(out / "cells", {"denoiser": network.fingerprint}, options.force, Counter()))
    known = calibration(options, network, rules, times, keep)
    choice, cell = variances.build(options.variance, known), (options.variance, "given", len(times))
    if choice.heads:
        model.check_clip(network, rules.clip_x_0)
    choices = Choices(known, {options.variance: choice}, {cell: times}, kernel=kernel)
    draws = samples.Draws((options.seed,), options.n, network.shape)
    levels = samples.draw(choices, network.denoiser, [cell], rules, draws, keep=keep)[cell][0]
    shades = transforms.shades(levels, network.levels)
    made = {**resolved, "times": times.tolist(), "rules": rules._asdict(), "network": network.fingerprint}
    kept = dict(arr_0=shades, options=np.asarray(json.dumps(made)))
    cache.write_whole(out / "samples.npz", lambda file: np.savez_compressed(file, allow_pickle=False, **kept))
    draw_grid(shades[:SHOWN], out / "samples.png")
    print(out / "samples.png")


def network_of(options: Sample) -> tuple[Model, Config]:
    """The denoiser of --denoiser, or that of the run in workdir, and the config that holds for it.

    Raises:
      ValueError: it does not fit, or an option disagrees with the run.
    """
    given = Config(data=options.data, **{name: getattr(options, name) for name in OF_THE_NETWORK})
    step, ema_decay, heads = options.checkpoint_step, options.checkpoint_ema, options.head_checkpoint
    if options.denoiser:
        setup.check_unused(checkpoint_step=step, checkpoint_ema=ema_decay)
        found = model.of_module(options.denoiser, given, datasets.load(setup.data_of(given), given.image_size))
        return model.load_heads(heads, found) if heads else found, given
    config = model.read(options.workdir, step, ema_decay).config
    setup.check_given(given, config, TRAINED, f"the network of {options.workdir} is taken as it is")
    return model.load(options.workdir, step, ema_decay, heads), config


def calibration(options: Sample, network: Model, rules: Rules, times: np.ndarray, keep: Keep) -> Calibration:
    """What fixes the variance; moments, if it needs any, from --moments, or calibration images at the chain's times.

    Raises:
      ValueError: the images are not there or do not fit, or --moments or --data would have no effect.
    """
    known = Calibration(network.schedule, clamp_cov=rules.clamp_cov, learned_times=network.learned_times)
    if options.moments:
        if options.data and not options.denoiser:
            raise ValueError(f"data = {options.data} has no effect beside --moments: leave one of them out")
        return likelihood.calibrate(known, moments.load(options.moments, network.fingerprint, rules))
    if not variances.needs(options.variance):
        if options.data and not options.denoiser:
            raise ValueError(f"data = {options.data} has no effect: {options.variance} measures nothing, leave it out")
        return known
    try:
        images = model.load_data(network, options.data)
    except ValueError as error:
        raise ValueError(
            f"variance {options.variance!r} is measured on images, and {error}; or give --moments of an ablation"
        ) from error
    known = known._replace(colours=bases.colour_axes(seen(images.train).images))
    key = jax.random.fold_in(jax.random.key(options.seed), 1)
    measured = moments.measure(
        key,
        network.schedule,
        network.denoiser,
        images.calibration.images,
        rules,
        times,
        keep=keep,
        colours=known.colours,
    )
    return likelihood.calibrate(known, measured)


def draw_grid(shades: np.ndarray, path: Path) -> None:
    """A square-ish grid of images of grey levels 0..255."""
    columns = int(np.ceil(np.sqrt(len(shades))))
    empty = np.zeros((-len(shades) % columns, *shades.shape[1:]), shades.dtype)
    tiles = np.concatenate([shades, empty]).reshape(-1, columns, *shades.shape[1:])
    rows, _, height, width, channels = tiles.shape
    grid = tiles.swapaxes(1, 2).reshape(rows * height, columns * width, channels) / 255
    plt.imsave(path, np.repeat(grid, 3 // channels, axis=-1).repeat(8, axis=0).repeat(8, axis=1))


if __name__ == "__main__":
    command_line(Sample, main, __doc__)
