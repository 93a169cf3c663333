"""What `ddpm-jax ablate` is going to do: what its options mean together, and which are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.cli.arguments import Ablation
from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import DataSet
from ddpm_jax.diffusion import conventions, registry, timesteps, variances
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.evaluation import ablation
from ddpm_jax.evaluation.design import Design
from ddpm_jax.evaluation.fid.features import FEATURES
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.training import checkpoints, heads, setup
from ddpm_jax.training.config import Config, Heads, to_dict
from ddpm_jax.training.model import Model, Stored, check_clip, is_builtin, load_data, load_heads, of_module, read

RESULTS = "results.json"
OF_A_USE = {"workdir", "dry_run", "force"}  # options that leave no trace in the numbers
FREE_OF_A_DENOISER = {
    "data",
    *datasets.OPTIONS,
    "schedule",
    "T",
    "prediction",
    "parallel",
    "seed",
}  # training options that concern it


class Existing(NamedTuple):
    """A network that is given, with what is stored of it if it comes from a run."""

    model: Model
    stored: Stored | None = None


class Plan(NamedTuple):
    """What is going to be done.

    Attributes:
      options: with the training config that holds.
      given: the network, if one is given.
      data: the images.
      heads: to be trained on a network that is trained here; None for none.
      design: what is compared.
    """

    options: Ablation
    given: Existing | None
    data: DataSet
    heads: Heads | None
    design: Design


def resolve(options: Ablation) -> Plan:
    """The options with their names looked up.

    Raises:
      ValueError: an unknown name, a number out of range, options that exclude each other, or a workdir that is taken.
    """
    given, training = existing(options), options.training
    if given and given.stored:
        training = replace(given.stored.config, parallel=training.parallel)
        setup.check_given(
            options.training, training, {"parallel"}, f"the network of {options.checkpoint} is taken as it is"
        )
    options = replace(options, training=training)
    if options.training_seeds < 1 or (given and options.training_seeds > 1):
        raise ValueError(f"training_seeds = {options.training_seeds}: at least 1, more only of networks trained here")
    if given:
        data, schedule = load_data(given.model), given.model.schedule
        own, times = given.model.heads, given.model.learned_times
    else:
        run = setup.resolve(training)
        data, schedule = run.data, run.schedule
        in_loss = setup.in_loss(training, schedule)
        own, times = in_loss.heads, in_loss.times
    design, to_train = _compared(options, schedule, data, own, times, trained_here=not given)
    if given and variances.heads_of(design.variances):
        check_clip(given.model, design.rules.clip_x_0)
    sharding.check(training.parallel)
    check_workdir(options, given)
    return Plan(options, given, data, to_train, design)


def _compared(
    options: Ablation,
    schedule: Schedule,
    images: DataSet,
    own: tuple[str, ...],
    times: tuple[int, ...] | None,
    trained_here: bool,
) -> tuple[Design, Heads | None]:
    """What is compared, and the heads that have to be trained for it."""
    alone = {name: getattr(options, name) for name in ("last_step", "pixel_clip", "clip_x_0", "clamp_cov", "decoder")}
    rules = conventions.protocol(options.protocol, images.levels, **alone)
    design = Design(rules, **{name: getattr(options, name) for name in Design._fields if name != "rules"})
    every = heads.named(options.heads)
    if trained_here:
        heads.check(every, schedule, images.shape)
    possible = tuple(dict.fromkeys((*own, *every.heads))) if trained_here else own
    design = ablation.resolved(design, possible)
    if "learned" not in own:
        times = tuple(timesteps.even(schedule.T, every.chain or schedule.T).tolist())
    ablation.check(design, schedule, possible, times)
    registry.named(FEATURES, design.features, "features").check(images)
    if {*variances.heads_of(design.variances)} <= {*own}:
        if options.heads != Heads():
            raise ValueError("options of heads have no effect: no variance that is compared reads one; leave them out")
        return design, None
    if every.fit_clip_x_0 != rules.clip_x_0:
        raise ValueError(
            f"fit_clip_x_0 = {every.fit_clip_x_0} and clip_x_0 = {rules.clip_x_0}: heads are fitted to the mean that "
            "is used, set both alike"
        )
    return design, replace(every, heads=tuple(name for name in every.heads if name not in own))


def existing(options: Ablation) -> Existing | None:
    """The network that --checkpoint or --denoiser names, or None.

    Raises:
      ValueError: both do, or it does not fit, or there are heads for a network that is not there.
    """
    if not options.checkpoint:
        setup.check_unused(checkpoint_step=options.checkpoint_step, checkpoint_ema=options.checkpoint_ema)
    if options.checkpoint and options.denoiser:
        raise ValueError(f"--checkpoint {options.checkpoint} and --denoiser {options.denoiser}: give one of them")
    if not options.checkpoint and not options.denoiser:
        if options.head_checkpoint:
            raise ValueError(f"--head-checkpoint {options.head_checkpoint} needs the --checkpoint it was trained on")
        return None
    if options.heads != Heads():
        raise ValueError("options of heads have no effect: a network that is there gets none, see ddpm-jax heads")
    if options.denoiser:
        setup.check_given(options.training, Config(), FREE_OF_A_DENOISER, "a --denoiser is not trained")
        images = setup.load_images(options.training)
        stored, found = None, of_module(options.denoiser, options.training, images)
    else:
        assert options.checkpoint
        stored = read(options.checkpoint, options.checkpoint_step, options.checkpoint_ema)
        found = stored.model
    heads_of = options.head_checkpoint
    if heads_of is None and options.checkpoint and is_builtin(options.checkpoint):
        heads_of = options.checkpoint
    return Existing(load_heads(heads_of, found) if heads_of else found, stored)


def check_workdir(options: Ablation, given: Existing | None) -> None:
    """Refuse a workdir that cannot be written or that holds another experiment.

    Raises:
      ValueError: see above.
    """
    cache.check_writable(options.workdir)
    taken, path = None, options.workdir / RESULTS
    if given and options.workdir != options.checkpoint and checkpoints.steps(checkpoints.folder_of(options.workdir)):
        taken = "a training run"
    elif path.exists():
        try:
            network = json.loads(path.read_text(encoding="utf-8"))["network"]
            name, source, fingerprint = (network[part] for part in ("name", "source", "fingerprint"))
        except (ValueError, KeyError, TypeError):
            taken = "a results.json that is not of this experiment"
        else:
            if given and fingerprint != given.model.fingerprint:
                taken = f"results of another network, {name}"
            elif not given and source != "trained":
                taken = f"results of the network {name}"
    if taken:
        raise ValueError(f"{options.workdir} holds {taken}: choose another --workdir")


def plain(plan: Plan, shape: dict[str, Any] | None) -> dict[str, Any]:
    """The options that the numbers depend on, and the network's shape, as plain values."""
    options = plan.options
    values = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    kept = {name: value for name, value in values.items() if name not in OF_A_USE}
    training = to_dict(options.training)
    if options.denoiser:
        training = {name: training[name] for name in sorted(FREE_OF_A_DENOISER)}
    heads = to_dict(plan.heads) if plan.heads else None
    return {**kept, "variances": list(plan.design.variances), "training": training, "heads": heads, "network": shape}
