"""The options of the variance ablation: what they mean together, and which are refused. Not a command."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_jax.data import datasets
from ddpm_jax.data.datasets import DataSet
from ddpm_jax.diffusion import conventions, timesteps, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.evaluation import ablation
from ddpm_jax.evaluation.ablation import Design
from ddpm_jax.evaluation.fid import classifier
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.training import checkpoints, heads, setup
from ddpm_jax.training.config import Config, Flat, FlatHeads, Heads, to_dict
from ddpm_jax.training.model import Model, Stored, check_clip, load_data, load_heads, of_module, read

RESULTS = "results.json"
DEFAULT = Design(Rules())
OF_A_USE = {"workdir", "dry_run", "force"}  # options that leave no trace in the numbers
FREE_OF_A_DENOISER = {
    "data",
    "image_size",
    "schedule",
    "T",
    "prediction",
    "parallel",
    "seed",
}  # training options that concern it


@dataclass(frozen=True)
class Ablation:
    """The options of this experiment.

    Attributes:
      training: the network's run.
      heads: that are trained on it, all of them if any variance that is compared reads one; none on a --checkpoint or
        --denoiser.
      workdir: where the run, the heads, the cells, the tables and the report go.
      checkpoint: workdir of a finished run whose network to take.
      checkpoint_step: which of its checkpoints; default the newest.
      checkpoint_ema: which of its averages of the parameters, by rate; default the first.
      denoiser: module:function of your own network (x_t, t) -> what --prediction says, trained for --schedule and --T.
      head_checkpoint: workdir of ddpm_jax.cli.heads, for the network of --checkpoint or --denoiser.
      training_seeds: networks to train, from seed upwards; the report shows their spread.
      variances: choices in the order of the tables, their numbers and switches after colons (interpolated:0.7); default
        all that the network has heads for.
      trajectories: quadratic, optimal or optimal_free, beside even.
      K: chain lengths of the likelihood table.
      sample_K: chain lengths that are sampled, on the even trajectory.
      images: samples of each cell and seed.
      seeds: sampling seeds.
      protocol: the conventions of a paper: ddpm, analytic-dpm or iddpm; each can be set alone.
      last_step: noise of the last step: mean (none) or noise; default the protocol's.
      pixel_clip: bound on the noise of the step into tau_1, in grey levels; 0 for none; default the protocol's.
      clip_x_0: clip predicted data to [-1, 1]; default the protocol's.
      clamp_cov: hold estimated covariances of the data within [0, 1]; default the protocol's.
      decoder: the variance of p(x_0 | x_tau_1): shared, tb(1, 2) for all, or own; default the protocol's.
      force: measure and draw again what is in workdir/cells.
      dry_run: print the resolved config and stop.
    """

    training: Flat = field(default_factory=Config)
    heads: FlatHeads = field(default_factory=Heads)
    workdir: Path = Path("runs/digits")
    checkpoint: Path | None = None
    checkpoint_step: int | None = None
    checkpoint_ema: float | None = None
    denoiser: str | None = None
    head_checkpoint: Path | None = None
    training_seeds: int = 1
    variances: tuple[str, ...] = DEFAULT.variances
    trajectories: tuple[str, ...] = DEFAULT.trajectories
    K: tuple[int, ...] = DEFAULT.K
    sample_K: tuple[int, ...] = DEFAULT.sample_K
    images: int = DEFAULT.images
    seeds: int = DEFAULT.seeds
    protocol: str = "analytic-dpm"
    last_step: str | None = None
    pixel_clip: float | None = None
    clip_x_0: bool | None = None
    clamp_cov: bool | None = None
    decoder: str | None = None
    force: bool = False
    dry_run: bool = False


class Existing(NamedTuple):
    """A network that is there already, with what is stored of it if it comes from a run."""

    model: Model
    stored: Stored | None = None


class Plan(NamedTuple):
    """What is going to be done.

    Attributes:
      options: with the training config that holds.
      there: the network, if it is there already.
      data: the images.
      heads: to be trained on a network that is trained here; None for none.
      design: what is compared.
    """

    options: Ablation
    there: Existing | None
    data: DataSet
    heads: Heads | None
    design: Design


def resolve(options: Ablation) -> Plan:
    """The options with their names looked up.

    Raises:
      ValueError: an unknown name, a number out of range, options that exclude each other, or a workdir that is taken.
    """
    there, training = existing(options), options.training
    if there and there.stored:
        training = replace(there.stored.config, parallel=training.parallel)
        setup.check_given(
            options.training, training, {"parallel"}, f"the network of {options.checkpoint} is taken as it is"
        )
    options = replace(options, training=training)
    if options.training_seeds < 1 or (there and options.training_seeds > 1):
        raise ValueError(f"training_seeds = {options.training_seeds}: at least 1, more only of networks trained here")
    if there:
        data, schedule = load_data(there.model), there.model.schedule
        own, times = there.model.heads, there.model.learned_times
    else:
        run = setup.resolve(training)
        data, schedule = run.data, run.schedule
        in_loss = setup.in_loss(training, schedule)
        own, times = in_loss.heads, in_loss.times
    design, to_train = _compared(options, schedule, data, own, times, trained_here=not there)
    if there and variances.heads_of(design.variances):
        check_clip(there.model, design.rules.clip_x_0)
    sharding.check(training.parallel)
    check_workdir(options, there)
    return Plan(options, there, data, to_train, design)


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
    classifier.check(images.name, images.test.labels)
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
        raise ValueError("options of heads have no effect: a network that is there gets none, see ddpm_jax.cli.heads")
    if options.denoiser:
        setup.check_given(options.training, Config(), FREE_OF_A_DENOISER, "a --denoiser is not trained")
        images = datasets.load(setup.data_of(options.training), options.training.image_size)
        stored, found = None, of_module(options.denoiser, options.training, images)
    else:
        assert options.checkpoint
        stored = read(options.checkpoint, options.checkpoint_step, options.checkpoint_ema)
        found = stored.model
    return Existing(load_heads(options.head_checkpoint, found) if options.head_checkpoint else found, stored)


def check_workdir(options: Ablation, there: Existing | None) -> None:
    """Refuse a workdir that cannot be written or that holds another experiment.

    Raises:
      ValueError: see above.
    """
    cache.check_writable(options.workdir)
    taken, path = None, options.workdir / RESULTS
    if there and options.workdir != options.checkpoint and checkpoints.steps(checkpoints.folder_of(options.workdir)):
        taken = "a training run"
    elif path.exists():
        try:
            network = json.loads(path.read_text(encoding="utf-8"))["network"]
        except (ValueError, KeyError, TypeError):
            network, taken = {}, "a results.json that is not of this experiment"
        if there and network and network["fingerprint"] != there.model.fingerprint:
            taken = f"results of another network, {network['name']}"
        elif not there and network and network["source"] != "trained":
            taken = f"results of the network {network['name']}"
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
