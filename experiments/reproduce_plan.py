"""The options of `reproduce_analytic_dpm`: what they mean together, and which are refused. Not a command.

A budget of network evaluations cuts the number of samples first, then the longest chains. Chains of the likelihood
table cost nothing more: one pass over the images serves all of them.
"""

import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.cli import import_weights
from ddpm_jax.cli.arguments import ImportWeights
from ddpm_jax.data.datasets import DataSet
from ddpm_jax.diffusion import conventions
from ddpm_jax.evaluation import ablation
from ddpm_jax.evaluation.design import Design
from ddpm_jax.evaluation.fid import extractors, protocols
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor, Reference
from ddpm_jax.models.convert import files
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Store
from ddpm_jax.training import checkpoints, loop, setup
from ddpm_jax.training.model import Model, load_data, load_heads, read
from experiments import reproduce_smoke

ENOUGH = 2_048  # samples of a cell under which a chain length is given up instead: as many as Inception has features


class Work(NamedTuple):
    """What is to be done.

    Attributes:
      passes: evaluations of the passes over images, which are not cut.
      chains: sampled chains of each K: variances and kernels times seeds.
      n: samples of each.
    """

    passes: int
    chains: dict[int, int]
    n: int


def evaluations(work: Work) -> int:
    """Of the network, one image at one time each."""
    return work.passes + work.n * _steps(work)


def cut(work: Work, most: int) -> Work:
    """As much of the work as takes at most so many evaluations: the same number of samples in every cell that is left.

    Args:
      work: what is wanted.
      most: evaluations.

    Raises:
      ValueError: not even two samples of the shortest chain fit.
    """
    left, enough = dict(work.chains), min(work.n, ENOUGH)
    while len(left) > 1 and (most - work.passes) / _steps(work._replace(chains=left)) < enough:
        del left[max(left)]
    work = work._replace(chains=left)
    n = min(work.n, int((most - work.passes) // _steps(work)))
    if n < 2:
        least = evaluations(work._replace(n=2))
        raise ValueError(f"{most:.3g} network evaluations are fewer than {least:.3g}, the least: raise the budget")
    return work._replace(n=n)


def _steps(work: Work) -> int:
    return sum(K * count for K, count in work.chains.items())


PUBLISHED_WITH = "pytorch-fid"
VERSION = 2  # raised by hand when other parameters or settings are made of the same files: models.convert


@dataclass(frozen=True)
class Reproduce:
    """The options of this experiment.

    Attributes:
      workdir: where the imported network, the cells, results.json and tables.md go.
      checkpoint: workdir of a network, from ddpm-jax import or ddpm-jax train.
      weights: a network of another project instead, imported into workdir/network; see ddpm-jax import.
      description: of a state dict among --weights; see there.
      data: what the network of --weights was trained on; see there.
      image_size: see there.
      head_checkpoint: workdir of ddpm-jax heads for this network.
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
      model: the network.
      data: its images.
      design: what is compared.
      judged_by: the extractor of the samples' features, with what they are compared with; None without --inception.
      schedule: the name of the network's noise schedule.
      made: what is known of the network, for the stamps.
    """

    options: Reproduce
    model: Model
    data: DataSet
    design: Design
    judged_by: tuple[FeatureExtractor, Reference] | None
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
    protocol = protocols.named(options.fid_protocol)
    stored = read(network(options))
    config, every = stored.config, load_data(stored.model)
    model = stored.model._replace(name=str(options.weights or options.checkpoint))
    if options.head_checkpoint:
        model = load_heads(options.head_checkpoint, model)
    data = every if options.test_images is None else fewer(every, options.test_images)
    clip = 2.0 if (setup.data_of(config), config.schedule) == ("cifar10", "linear") else 1.0
    clip = clip if options.pixel_clip is None else options.pixel_clip
    rules = conventions.protocol("analytic-dpm", data.levels, pixel_clip=clip, rounding=protocol.rounding)
    design = ablation.resolved(
        Design(rules, options.variances, options.trajectories, options.K, options.sample_K, options.n, options.seeds),
        model.heads,
    )
    ablation.check(design, model.schedule, model.heads, model.learned_times)
    made = dict(network=model.fingerprint, name=model.name, step=stored.step, average=config.ema_decay[0])
    return Plan(options, model, data, design, judged_by(options, every), config.schedule, made)


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
        setup.check_unused(data=options.data, description=options.description, image_size=options.image_size)
        return options.checkpoint
    if options.data is None:
        raise ValueError(f"--weights {options.weights}: give --data, what the network was trained on")
    assert options.weights
    folder = options.workdir / "network"
    wanted = ImportWeights(options.weights, options.data, options.description, folder, options.image_size)
    taken, said = folder / "imported.json", contents(options)
    if not checkpoints.steps(checkpoints.folder_of(folder)):
        ready = import_weights.prepare(wanted)
        with loop.locked(options.workdir):
            folder.mkdir(exist_ok=True)
            cache.write_json(taken, said)
            import_weights.write(wanted, *ready)
    elif not taken.exists() or _importer_known(files.read_json(taken)) != said:
        raise ValueError(f"{folder} holds another network than {options.weights}: choose another --workdir")
    return folder


def _importer_known(stored: dict[str, Any]) -> dict[str, Any]:
    """What `contents` said, with the version 1 of the importers where their code was hashed instead."""
    return {"version": 1, **{name: value for name, value in stored.items() if name != "code"}}


def contents(options: Reproduce) -> dict[str, Any]:
    """A hash of every file that the network is imported from, and what it was trained on."""
    assert options.weights
    folder, more = options.weights, [options.description] if options.description else []
    given = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    hashes = {os.path.relpath(path, folder.parent): files.sha256(path) for path in (*given, *more) if path.is_file()}
    return {"files": hashes, "data": options.data, "image_size": options.image_size, "version": VERSION}


def fewer(data: DataSet, count: int) -> DataSet:
    """The data set with the first of its test images.

    Raises:
      ValueError: there are not as many.
    """
    test = data.test
    if not 2 <= count <= len(test.images):
        raise ValueError(f"test_images = {count}: from 2 to {len(test.images)}, all of {data.name}")
    return data._replace(test=test._replace(images=test.images[:count], labels=None))


def judged_by(options: Reproduce, images: DataSet) -> tuple[FeatureExtractor, Reference] | None:
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
    protocol = protocols.named(options.fid_protocol)
    extractor = extractors.of_inception(options.inception, protocol.preparation)
    keep = partial(cache.fetch, Store(options.workdir / "cells", {}, options.force, Counter()))
    if options.reference is not None:
        return extractor, extractors.of_file(options.reference, extractor, keep)
    return extractor, extractors.of_data(images, extractor, protocol.split, keep)
