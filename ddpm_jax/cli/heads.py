"""Train the heads of the variances that look at x_t, on a network that stays as it is.

For ddpm_jax.cli.ablate --head-checkpoint. Run again with the same --workdir to go on where it stopped.
Needs: minutes on two CPU cores for a network of digits.
Command: python -m ddpm_jax.cli.heads --checkpoint runs/digits --workdir runs/digits-heads
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from ddpm_jax.cli.command import command_line
from ddpm_jax.data import datasets
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.training import heads, model, setup
from ddpm_jax.training.config import Config, FlatHeads, Heads, to_dict


@dataclass(frozen=True)
class TrainHeads:
    """The options of this tool.

    Attributes:
      training: which heads, and how long.
      workdir: folder of the heads' checkpoints, metrics.jsonl and TensorBoard files.
      checkpoint: workdir of the run whose network is frozen.
      checkpoint_step: which of its checkpoints; default the newest.
      checkpoint_ema: which of its averages of the parameters, by rate; default the first.
      denoiser: module:function of your own network (x_t, t) -> what --prediction says, in place of --checkpoint.
      data: of a --denoiser; default digits.
      image_size: crop and shrink images to so many pixels; default as they are.
      schedule: of a --denoiser.
      T: of a --denoiser.
      prediction: of a --denoiser.
      seed: of everything random.
      parallel: how a step is spread over devices: pmap or shard_map.
      save_every: steps between checkpoints.
      dry_run: print the resolved config and stop.
    """

    training: FlatHeads = field(default_factory=Heads)
    workdir: Path = Path("runs/heads")
    checkpoint: Path | None = None
    checkpoint_step: int | None = None
    checkpoint_ema: float | None = None
    denoiser: str | None = None
    data: str | None = None
    image_size: int | None = None
    schedule: str = "linear"
    T: int = 1000
    prediction: str = "eps"
    seed: int = 0
    parallel: str = "pmap"
    save_every: int = 500
    dry_run: bool = False


OF_A_DENOISER = ("data", "image_size", "schedule", "T", "prediction")


def main(options: TrainHeads) -> None:
    """Train, or print what would be trained."""
    if (options.checkpoint is None) == (options.denoiser is None):
        raise ValueError(f"--checkpoint {options.checkpoint} and --denoiser {options.denoiser}: give one of them")
    given = Config(**{name: getattr(options, name) for name in OF_A_DENOISER})
    if options.denoiser:
        setup.check_unused(checkpoint_step=options.checkpoint_step, checkpoint_ema=options.checkpoint_ema)
        data = datasets.load(setup.data_of(given), given.image_size)
        network = model.of_module(options.denoiser, given, data)
    else:
        assert options.checkpoint
        stored = model.read(options.checkpoint, options.checkpoint_step, options.checkpoint_ema)
        why = f"the network of {options.checkpoint} is taken as it is"
        setup.check_given(given, stored.config, set(vars(given)) - set(OF_A_DENOISER), why)
        network, data = stored.model, model.load_data(stored.model)
    if options.save_every < 1:
        raise ValueError(f"save_every = {options.save_every}: it is at least 1")
    if options.workdir == options.checkpoint:
        raise ValueError(f"--workdir {options.workdir} holds the network: choose another folder for its heads")
    sharding.check(options.parallel)
    cache.check_writable(options.workdir)
    wanted = heads.resolve(options.training, network, data)
    if options.dry_run:
        print(json.dumps({**to_dict(wanted.config), "network": to_dict(wanted.network)}, indent=2))
        return
    pace = Config(seed=options.seed, parallel=options.parallel, save_every=options.save_every)
    heads.fit(options.training, pace, network, data, options.workdir)
    print(f"{options.workdir}: {', '.join(wanted.config.heads)} trained to step {options.training.head_steps}")


if __name__ == "__main__":
    command_line(TrainHeads, main, __doc__)
