"""Draw images from a trained denoiser.

Writes samples.png, a grid, and samples.npz with the grey levels and everything that made them.
Command: python -m experiments.sample --workdir runs/digits --variance isotropic --K 50
"""

import json
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from matplotlib import pyplot as plt

from ddpm_jax import loop, process, sampler, trajectory, variance
from ddpm_jax.config import command_line
from ddpm_jax.eval import ablation, moments
from ddpm_jax.sampler import SAMPLERS, Rules
from ddpm_jax.train import to_levels
from ddpm_jax.variance import Calibration, ReverseVariance


@dataclass(frozen=True)
class Sample:
    """The options of this tool.

    Attributes:
      workdir: of a trained run.
      variance: a name of variance.VARIANCES.
      sampler: ddpm or ddim.
      eta: noise of ddim: 0 for none, 1 for DDPM's.
      trajectory: even or quadratic.
      times: explicit times, ascending to T, instead of a named trajectory.
      K: chain length.
      n: number of images.
      seed: of the noise.
      frac: of `interpolated`.
      c: of `family`.
      last_step: noise of the last step: mean (none) or noise.
      pixel_clip: bound on the noise of the step into tau_1, in grey levels; None for none.
      clip_x_0: clip predicted data to [-1, 1].
      clamp_cov: hold estimated covariances of the data within [0, 1].
      out: folder for the images; default workdir/samples.
      dry_run: print the resolved options and stop.
    """

    workdir: Path = Path("runs/digits")
    variance: str = "large"
    sampler: str = "ddpm"
    eta: float = 0.0
    trajectory: str = "even"
    times: tuple[int, ...] = ()
    K: int = 50
    n: int = 64
    seed: int = 0
    frac: float = 0.5
    c: float = 1.0
    last_step: str = "mean"
    pixel_clip: float | None = None
    clip_x_0: bool = True
    clamp_cov: bool = True
    out: Path | None = None
    dry_run: bool = False


def main(options: Sample) -> None:
    """Load the network, measure what the variance needs, sample, save."""
    if options.sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {options.sampler!r}: choose one of {', '.join(SAMPLERS)}")
    if options.n < 1:
        raise ValueError(f"n = {options.n}: it is at least 1")
    trained = loop.load(options.workdir)
    schedule, images = trained.run.schedule, trained.run.data
    times = (
        trajectory.explicit(schedule.T, options.times)
        if options.times
        else trajectory.named(options.trajectory, schedule.T, options.K)
    )
    steps = process.steps(schedule, times, SAMPLERS[options.sampler](options.eta))
    rules = Rules(options.last_step, options.pixel_clip, images.levels, options.clip_x_0, options.clamp_cov)
    resolved = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    if options.dry_run:
        print(json.dumps({**resolved, "times": times.tolist()}, indent=2))
        return
    choice = build(options, trained, times)
    x_0 = sampler.sample(
        jax.random.key(options.seed), steps, trained.denoiser, choice, (options.n, *images.shape), rules
    )
    out = options.out or options.workdir / "samples"
    out.mkdir(parents=True, exist_ok=True)
    levels = to_levels(x_0, images.levels)
    np.savez_compressed(out / "samples.npz", images=levels, options=json.dumps({**resolved, "times": times.tolist()}))
    draw_grid(levels, images.levels, out / "samples.png")
    print(out / "samples.png")


def build(options: Sample, trained: loop.Trained, times: np.ndarray) -> ReverseVariance:
    """The variance; those that need moments are measured on the calibration images at the times of the chain."""
    known = Calibration(trained.run.schedule, options.frac, options.c, clamp_cov=options.clamp_cov)
    try:
        return variance.build(options.variance, known)
    except variance.Unmeasured:
        measured = moments.measure(
            jax.random.fold_in(jax.random.key(options.seed), 1),
            trained.run.schedule,
            trained.denoiser,
            trained.run.data.calibration.images,
            trained.run.data.levels,
            clip_x_0=options.clip_x_0,
            times=times,
        )
        fixed = ablation.calibrate(trained.run.schedule, measured, options.frac, options.c, options.clamp_cov)
        return variance.build(options.variance, fixed)


def draw_grid(levels: np.ndarray, count: int, path: Path) -> None:
    """A square-ish grid of images, one grey level per value."""
    columns = int(np.ceil(np.sqrt(len(levels))))
    empty = np.zeros((-len(levels) % columns, *levels.shape[1:]), levels.dtype)
    tiles = np.concatenate([levels, empty]).reshape(-1, columns, *levels.shape[1:])
    rows, _, height, width, channels = tiles.shape
    grid = tiles.swapaxes(1, 2).reshape(rows * height, columns * width, channels) / (count - 1)
    plt.imsave(path, np.repeat(grid, 3 // channels, axis=-1).repeat(8, axis=0).repeat(8, axis=1))


if __name__ == "__main__":
    command_line(Sample, main, __doc__)
