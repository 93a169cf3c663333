"""One denoiser under every variance: measured once, tabulated, sampled. What an ablation and a notebook both do.

Everything expensive goes through a `Keep` and is found again when nothing it depends on has changed.
"""

from contextlib import suppress
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Key

from ddpm_jax import basis, cells, process, protocols, reverse, trajectory, variance
from ddpm_jax import subject as subjects
from ddpm_jax.cells import Keep
from ddpm_jax.data import DataSet, seen
from ddpm_jax.devices import Layout
from ddpm_jax.eval import ablation, costs, moments
from ddpm_jax.eval.ablation import FREE, OPTIMAL, Choices, Row, Wanted
from ddpm_jax.eval.moments import Moments
from ddpm_jax.protocols import Rules
from ddpm_jax.schedule import Schedule
from ddpm_jax.subject import Subject
from ddpm_jax.variance import VARIANCES, Calibration, Fixed, Unmeasured

SPLITS = ("calibration", "test", "train")
GAP_K = 50  # steps of the chain on which training and test images are compared


class Design(NamedTuple):
    """What is compared.

    Attributes:
      rules: the conventions; its levels are the data's.
      variances: names, in the order of the tables; none for all that the denoiser has heads for.
      trajectories: quadratic, optimal or optimal_free, beside even.
      K: chain lengths of the likelihood table.
      sample_K: chain lengths that are sampled, on the even trajectory.
      images: samples of each cell and seed.
      seeds: sampling seeds.
      frac: of `interpolated`.
      c: of `family`; default the mean variance of the calibration images.
      clamp_head: hold the head of `learned_range` within [-1, 1].
    """

    rules: Rules
    variances: tuple[str, ...] = ()
    trajectories: tuple[str, ...] = ("even", OPTIMAL, FREE)
    K: tuple[int, ...] = (10, 25, 50, 100, 200, 400, 1000)
    sample_K: tuple[int, ...] = (10, 25, 50)
    images: int = 300
    seeds: int = 3
    frac: float = 0.5
    c: float | None = None
    clamp_head: bool = False


class Means(NamedTuple):
    """How the work is done; the numbers do not depend on it.

    Attributes:
      layout: of images on devices.
      keep: remembers results; it must know the denoiser.
    """

    layout: Layout = Layout()
    keep: Keep = cells.compute_always


def check(
    design: Design,
    schedule: Schedule,
    images: DataSet,
    heads: tuple[str, ...] = (),
    learned_times: tuple[int, ...] | None = None,
) -> None:
    """Refuse what cannot be compared, before anything is measured.

    Args:
      design: what is compared.
      schedule: the forward process.
      images: what is measured on.
      heads: of the denoiser.
      learned_times: see Subject; None where nothing will be sampled.

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
            trajectory.named("even" if path in (OPTIMAL, FREE) else path, schedule.T, K)
    c = 0.0 if design.c is None else design.c
    known = nothing_measured(schedule, images.shape)._replace(frac=design.frac, c=c, clamp_cov=design.rules.clamp_cov)
    known = known._replace(learned_times=learned_times)
    built = {name: variance.build(name, known) for name in design.variances}
    chains = [trajectory.even(schedule.T, K) for K in (min(design.sample_K), max(design.sample_K))]
    if built and not any(all(reverse.fits(one, chain) for chain in chains) for one in built.values()):
        raise ValueError(
            f"sample_K = {' '.join(map(str, design.sample_K))}: none of {', '.join(built)} is defined on such chains"
        )
    for name, one in built.items():
        for head in one.heads:
            if head not in heads:
                raise ValueError(
                    f"the variance {name!r} reads the head {head!r} and the denoiser has {', '.join(heads) or 'none'}: "
                    "train it with experiments.train_heads, or leave it out"
                )
    protocols.log_var_cap(design.rules, process.steps(schedule, [schedule.T]))


def nothing_measured(schedule: Schedule, shape: tuple[int, ...]) -> Calibration:
    """What builds every variance, with made-up moments."""
    nothing, axes = np.zeros(schedule.T + 1), tuple(map(tuple, np.eye(shape[-1]).tolist()))
    spectrum = np.zeros((schedule.T + 1, *shape))
    return Calibration(schedule, excess=nothing, error=nothing, spectrum=spectrum, colours=axes)


def needed(variances: tuple[str, ...], schedule: Schedule) -> tuple[str, ...]:
    """The heads that these variances read."""
    known = nothing_measured(schedule, (1, 1, 1))
    return tuple(dict.fromkeys(head for name in variances for head in variance.build(name, known).heads))


def resolved(design: Design, schedule: Schedule, heads: tuple[str, ...]) -> Design:
    """The design with its variances named."""
    every = tuple(name for name in VARIANCES if set(needed((name,), schedule)) <= set(heads))
    return design._replace(variances=design.variances or every)


def compare(subject: Subject, design: Design, key: Key[Array, ""] | None = None, means: Means = Means()) -> list[Row]:
    """The likelihood table of one denoiser: fixed by calibration images, judged on test images.

    Args:
      subject: the denoiser, its schedule and its images.
      design: what is compared; of it, what concerns the likelihood.
      key: of the noise; default key 0.
      means: how the work is done.

    Returns:
      Rows by (variance, trajectory, K), likelihoods in bits/dim.

    Raises:
      ValueError: see `check` and `measure`.
    """
    design = resolved(design._replace(sample_K=design.K), subject.schedule, subject.heads)
    check(design, subject.schedule, subject.data, subject.heads)
    key = jax.random.key(0) if key is None else key
    calibration = measure(subject, design, key, "calibration", means=means)
    choices = choose(subject, design, calibration, means.keep)
    test = measure(subject, design, key, "test", choices, means)
    return ablation.rows(ablation.likelihoods(choices, test, means.keep), "test")


def measure(
    subject: Subject,
    design: Design,
    key: Key[Array, ""],
    split: str,
    choices: Choices | None = None,
    means: Means = Means(),
) -> Moments:
    """The one pass over a split of SPLITS: at every time, over training images on a short chain only.

    Args:
      subject: the denoiser and its images.
      design: what is compared.
      key: of the noise.
      split: calibration images need nothing else; they tabulate the variances that look at x_t.
      choices: what the calibration images fixed; the variances among them that need a table are tabulated.
      means: how the work is done.

    Raises:
      ValueError: the rules are for another number of grey levels than the data have, or another clip than heads were
        fitted with.
    """
    if design.rules.levels != subject.data.levels:
        raise ValueError(f"levels = {design.rules.levels} in the rules: {subject.data.name} has {subject.data.levels}")
    if needed(design.variances, subject.schedule):
        subjects.check_clip(subject, design.rules.clip_x_0)
    chain = trajectory.even(subject.schedule.T, min(GAP_K, subject.schedule.T))
    known = _unmeasured(subject, design) if choices is None else choices.calibration
    return moments.measure(
        jax.random.fold_in(key, SPLITS.index(split)),
        subject.schedule,
        subject.denoiser,
        (seen(subject.data.train) if split == "train" else getattr(subject.data, split)).images,
        design.rules,
        chain if split == "train" else None,
        means.layout,
        means.keep,
        known.colours,
        {name: Fixed(name, known) for name in _tabulated(subject, design, choices) if split != "train"},
    )


def _unmeasured(subject: Subject, design: Design) -> Calibration:
    """What is known before any image is looked at; the colour axes are those of the training images."""
    return Calibration(
        subject.schedule,
        frac=design.frac,
        colours=basis.colour_axes(seen(subject.data.train).images),
        clamp_cov=design.rules.clamp_cov,
        clamp_head=design.clamp_head,
        learned_times=subject.learned_times,
    )


def _tabulated(subject: Subject, design: Design, choices: Choices | None) -> tuple[str, ...]:
    """The variances that are not one number a step; before calibration those that no moments fix."""
    if choices is not None:
        variances = choices.variances
    else:
        known, variances = _unmeasured(subject, design), {}
        for name in design.variances:
            with suppress(Unmeasured):
                variances[name] = variance.build(name, known)
    return tuple(name for name, one in variances.items() if costs.needs_table(one, subject.schedule))


def choose(subject: Subject, design: Design, calibration: Moments, keep: Keep = cells.compute_always) -> Choices:
    """The variances and trajectories that calibration images fix."""
    known = ablation.calibrate(_unmeasured(subject, design), calibration, design.c)
    wanted = Wanted(design.variances, paths(design), every_K(design), design.rules.decoder)
    return ablation.choose(known, wanted, calibration, keep)


def paths(design: Design) -> list[str]:
    """The trajectories of the table: even and what was asked for."""
    return list(dict.fromkeys(("even", *design.trajectories)))


def every_K(design: Design) -> list[int]:
    """The chain lengths of the likelihood table: those that are sampled are in it."""
    return sorted({*design.K, *design.sample_K})
