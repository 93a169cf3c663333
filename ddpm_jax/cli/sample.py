"""`ddpm-jax sample`: draw images from a trained denoiser."""

import json
from collections import Counter
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from matplotlib import pyplot as plt

from ddpm_jax.cli import betas
from ddpm_jax.cli.arguments import Sample
from ddpm_jax.data import transforms
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

OF_THE_NETWORK = ("image_size", "ground", "schedule", "T", "prediction")
SHOWN = 400  # images of the grid, at most
TRAINED = {field.name for field in fields(Config)} - {*OF_THE_NETWORK}


def main(options: Sample) -> None:
    """Load the network, measure what the variance needs, sample, save."""
    if options.sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {options.sampler!r}: choose one of {', '.join(SAMPLERS)}")
    if options.n < 1:
        raise ValueError(f"n = {options.n}: it is at least 1")
    if options.variance is not None:
        variances.find(options.variance)
    out = options.out or model.writable(options.workdir) / "samples"
    cache.check_writable(out)
    network, config = network_of(options)
    options = as_the_network_says(options, network)
    assert options.variance and options.protocol
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
        print(betas.printed({**resolved, "times": times.tolist()}))
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


def as_the_network_says(options: Sample, network: Model) -> Sample:
    """The options with what is not given: an imported network's own, else DDPM's; a protocol given clips its way."""
    free = options.clip_x_0 is None and options.protocol is None
    theirs = network.sampling_variance if options.sampler == "ddpm" else None
    return replace(
        options,
        variance=options.variance or theirs or "large",
        clip_x_0=network.sampling_clip_x_0 if free else options.clip_x_0,
        protocol=options.protocol or "ddpm",
    )


def network_of(options: Sample) -> tuple[Model, Config]:
    """The denoiser of --denoiser, or that of the run in workdir, and the config that holds for it.

    Raises:
      ValueError: it does not fit, or an option disagrees with the run.
    """
    given = Config(data=options.data, **{name: getattr(options, name) for name in OF_THE_NETWORK})
    step, ema_decay, heads = options.checkpoint_step, options.checkpoint_ema, options.head_checkpoint
    if options.denoiser:
        setup.check_unused(checkpoint_step=step, checkpoint_ema=ema_decay)
        found = model.of_module(options.denoiser, given, setup.load_images(given))
        return model.load_heads(heads, found) if heads else found, given
    config = model.read(options.workdir, step, ema_decay).config
    setup.check_given(given, config, TRAINED, f"the network of {options.workdir} is taken as it is")
    return model.load(options.workdir, step, ema_decay, heads), config


def calibration(options: Sample, network: Model, rules: Rules, times: np.ndarray, keep: Keep) -> Calibration:
    """What fixes the variance; moments, if it needs any, from --moments, or calibration images at the chain's times.

    Raises:
      ValueError: the images are not there or do not fit, or --moments or --data would have no effect.
    """
    assert options.variance
    known = Calibration(network.schedule, clamp_cov=rules.clamp_cov, learned_times=network.learned_times)
    if options.moments:
        if options.data and not options.denoiser:
            raise ValueError(f"data = {options.data} has no effect beside --moments: leave one of them out")
        path = model.packaged(options.moments, "moments") if model.is_builtin(options.moments) else options.moments
        return likelihood.calibrate(known, moments.load(path, network.fingerprint, rules))
    if not variances.needs(options.variance):
        if options.data and not options.denoiser:
            raise ValueError(f"data = {options.data} has no effect: {options.variance} measures nothing, leave it out")
        return known
    try:
        images = model.load_data(network, options.data)
    except ValueError as error:
        raise ValueError(
            f"variance {options.variance!r} is measured on images, and {error}; give others of their shape with "
            "--data, or --moments of an ablation"
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
