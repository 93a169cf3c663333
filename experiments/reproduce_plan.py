"""The options of `reproduce_analytic_dpm`: what they mean together, and which are refused. Not a command."""

import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax import agreement, cells, checkpoint, head_run, places, protocols, run, sources
from ddpm_jax.cells import Store
from ddpm_jax.convert import diffusers, diffusers_scheduler, files, improved_diffusion
from ddpm_jax.data import DataSet
from ddpm_jax.eval import fid_protocol, study
from ddpm_jax.eval import judge as judges
from ddpm_jax.eval.judge import Judge, Reference
from ddpm_jax.eval.study import Design
from ddpm_jax.subject import Subject
from experiments import import_weights, reproduce_smoke
from experiments.import_weights import ImportWeights

PUBLISHED_WITH = "pytorch-fid"
IMPORTER = [cells.code_version(project.__name__) for project in (diffusers, improved_diffusion, diffusers_scheduler)]


@dataclass(frozen=True)
class Reproduce:
    """The options of this experiment.

    Attributes:
      workdir: where the imported network, the cells, results.json and tables.md go.
      checkpoint: workdir of a network, from experiments.import_weights or experiments.train.
      weights: in its place a network of another project, imported into workdir/network; see experiments.import_weights.
      description: of a state dict among --weights; see there.
      data: what the network of --weights was trained on; see there.
      image_size: see there.
      head_checkpoint: workdir of experiments.train_heads for this network.
      inception: path of the weights of FID's network; without it there is no FID table.
      reference: .npz of reference statistics; default the training images of the data set.
      fid_protocol: pytorch-fid, as Bao et al. measure; or ddpm, score_sde, improved-diffusion or edm.
      variances: names; default all that the network has heads for.
      trajectories: of the likelihood table, beside even.
      K: chain lengths of the likelihood table.
      sample_K: chain lengths that are sampled, on the even trajectory.
      n: samples of each cell and seed.
      seeds: sampling seeds; their spread is the standard error.
      test_images: of the likelihood; default all.
      pixel_clip: bound on the noise of the step into tau_1, in grey levels, 0 for none; default theirs, row by row.
      budget: hours of network evaluations on these devices, Inception not counted; default as many as it takes.
      smoke: the whole path on random weights and synthetic images, in workdir/smoke; force alone is read beside.
      force: measure and draw again what is in workdir/cells.
      dry_run: print the options and stop.
    """

    workdir: Path = Path("runs/reproduce")
    checkpoint: Path | None = None
    weights: Path | None = None
    description: Path | None = None
    data: str | None = None
    image_size: int | None = None
    head_checkpoint: Path | None = None
    inception: Path | None = None
    reference: Path | None = None
    fid_protocol: str = PUBLISHED_WITH
    variances: tuple[str, ...] = ()
    trajectories: tuple[str, ...] = ("optimal",)
    K: tuple[int, ...] = (10, 25, 50, 100, 200, 400, 1000)
    sample_K: tuple[int, ...] = (10, 25, 50, 100, 200, 400, 1000)
    n: int = 50_000
    seeds: int = 3
    test_images: int | None = None
    pixel_clip: float | None = None
    budget: float | None = None
    smoke: bool = False
    force: bool = False
    dry_run: bool = False


class Plan(NamedTuple):
    """What is going to be done.

    Attributes:
      options: with what --smoke makes of them.
      subject: the network and its images.
      design: what is compared.
      judge: of samples, with what they are compared with; None without --inception.
      schedule: the name of the network's noise schedule.
      made: what is known of the network, for the stamps.
    """

    options: Reproduce
    subject: Subject
    design: Design
    judge: tuple[Judge, Reference] | None
    schedule: str
    made: dict[str, Any]


def plain(options: Reproduce) -> dict[str, Any]:
    """For JSON."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def resolve(options: Reproduce) -> Plan:
    """The options with their names looked up and the network imported.

    Raises:
      ValueError: an unknown name, a number out of range, or a file that is missing or of another kind.
    """
    if options.smoke:
        options = smoke(options)
    if options.n < 2 or options.seeds < 1:
        raise ValueError(f"n = {options.n}, seeds = {options.seeds}: at least 2 samples and 1 seed")
    if options.budget is not None and options.budget <= 0:
        raise ValueError(f"budget = {options.budget:g} hours: it must be positive")
    if options.budget is not None and options.inception is None:
        raise ValueError(f"budget = {options.budget:g} has no effect without --inception: only samples are cut")
    protocol = fid_protocol.named(options.fid_protocol)
    trained = run.load(network(options))
    config = trained.run.config
    subject = sources.subject(trained, "checkpoint", str(options.weights or options.checkpoint))
    if options.head_checkpoint:
        subject = head_run.load(options.head_checkpoint, subject)
    if options.test_images is not None:
        subject = subject._replace(data=fewer(subject, options.test_images))
    clip = 2.0 if (run.data_of(config), config.schedule) == ("cifar10", "linear") else 1.0
    clip = clip if options.pixel_clip is None else options.pixel_clip
    rules = protocols.protocol("analytic-dpm", subject.data.levels, pixel_clip=clip, rounding=protocol.rounding)
    design = study.resolved(
        Design(rules, options.variances, options.trajectories, options.K, options.sample_K, options.n, options.seeds),
        subject.schedule,
        subject.heads,
    )
    study.check(design, subject.schedule, subject.data, subject.heads, subject.learned_times)
    made = dict(
        network=subject.fingerprint, name=subject.name, step=int(trained.state.step), average=config.ema_decay[0]
    )
    return Plan(options, subject, design, judge_of(options, trained.run.data), config.schedule, made)


def smoke(options: Reproduce) -> Reproduce:
    """Random weights, synthetic images, and as little of everything as shows that it works."""
    folder = options.workdir / "smoke"
    made = reproduce_smoke.write(folder)
    least = Reproduce(folder, smoke=True, sample_K=(10,), n=4, seeds=2, force=options.force)
    return replace(least, weights=made.weights, data=str(made.data), inception=made.inception)


def network(options: Reproduce) -> Path:
    """The workdir of the network; that of --weights is imported once.

    Raises:
      ValueError: none or two are named, it cannot be imported, or another one was imported here before.
    """
    if (options.checkpoint is None) == (options.weights is None):
        raise ValueError("give the network as --checkpoint or as --weights, one of them")
    if options.checkpoint is not None:
        agreement.check_unused(data=options.data, description=options.description, image_size=options.image_size)
        return options.checkpoint
    if options.data is None:
        raise ValueError(f"--weights {options.weights}: give --data, what the network was trained on")
    assert options.weights
    folder = options.workdir / "network"
    wanted = ImportWeights(options.weights, options.data, options.description, folder, options.image_size)
    taken, said = folder / "imported.json", contents(options)
    if not checkpoint.steps(places.checkpoints(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        cells.write_json(taken, said)
        import_weights.main(wanted)
    elif not taken.exists() or files.read_json(taken) != said:
        raise ValueError(f"{folder} holds another network than {options.weights}: choose another --workdir")
    return folder


def contents(options: Reproduce) -> dict[str, Any]:
    """A hash of every file that the network is imported from, and what it was trained on."""
    assert options.weights
    folder, more = options.weights, [options.description] if options.description else []
    given = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    hashes = {os.path.relpath(path, folder.parent): files.sha256(path) for path in (*given, *more) if path.is_file()}
    return {"files": hashes, "data": options.data, "image_size": options.image_size, "code": IMPORTER}


def fewer(subject: Subject, count: int) -> DataSet:
    """The data set with the first of its test images.

    Raises:
      ValueError: there are not as many.
    """
    test = subject.data.test
    if not 2 <= count <= len(test.images):
        raise ValueError(f"test_images = {count}: from 2 to {len(test.images)}, all of {subject.data.name}")
    return subject.data._replace(test=test._replace(images=test.images[:count], labels=None))


def judge_of(options: Reproduce, images: DataSet) -> tuple[Judge, Reference] | None:
    """The feature network and the reference statistics, computed once.

    Raises:
      ValueError: a file is missing or of another kind.
    """
    if options.inception is None:
        if options.reference is not None:
            raise ValueError(f"--reference {options.reference} has no effect without --inception")
        return None
    if images.levels != 256:
        raise ValueError(f"{images.name} has {images.levels} grey levels: Inception reads 256")
    protocol = fid_protocol.named(options.fid_protocol)
    judge = judges.of_inception(options.inception, protocol.preparation)
    keep = partial(cells.fetch, Store(options.workdir / "cells", {}, options.force, Counter()))
    if options.reference is not None:
        return judge, judges.of_file(options.reference, judge, keep)
    return judge, judges.of_data(images, judge, protocol.split, keep)
