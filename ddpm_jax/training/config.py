"""What a run is made of: frozen dataclasses of plain values, JSON both ways.

Choices are names that the registries resolve.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import tyro

C = TypeVar("C")


class Stopped(Exception):
    """SIGTERM or a notice of preemption came and everything is stored: the command line ends with exit code 143."""


@dataclass(frozen=True)
class Config:
    """A training run.

    Attributes:
      data: a data set by name, any image set of TFDS (lsun/bedroom), a folder of images, or an .npz; default the
        preset's.
      image_size: side length in pixels that images are cropped and shrunk to; default unchanged, 64 for celeb_a.
      mirror: whether a mirrored image is as likely as the image; default yes for folders and sets of TFDS, no for
        mnist, fashion_mnist, digits and .npz files.
      ground: the colour that shows where pictures of a folder are transparent, a name or #rrggbb; default white.
      preset: the shape of the U-Net.
      schedule: the noise schedule; numbers after a colon (linear:1e-4,0.02), or on a command line a .json of betas, in
        Python schedules.table(betas).
      T: number of noise levels.
      prediction: what the network predicts: eps, x_0, v or mu.
      objective: simple, mu_mse, vlb or hybrid.
      variance: the reverse variance in the bound of vlb and hybrid; the heads it reads become outputs of the network.
      weighting: of the error over times: uniform, min_snr or truncated_snr.
      time_sampler: how training draws times: uniform, antithetic or loss_second_moment.
      steps: training steps.
      batch: images a step, over all devices of all processes.
      microbatches: gradient accumulation steps on each device, to save memory; default as few as fit.
      remat: rematerialise each block in the backward pass: less memory, more work.
      optimizer: adam, adamw, lookahead (slow steps over adam's) or sgd.
      learning_rate: the largest, after warm-up.
      rate_schedule: of the learning rate after warm-up: constant, or falling to 0 at the last step: cosine or linear.
      warmup: steps over which the learning rate grows from 0.
      clip_norm: largest norm of a gradient.
      weight_decay: of adamw; default 0.01.
      slow_period: of lookahead, fast steps to one slow step; default 5.
      slow_step: of lookahead, share of the way from the slow parameters to the fast ones; default 0.5.
      ema_decay: EMA decay rates of the parameters, one or more; the first is evaluated.
      activations: precision in training: float32 or bfloat16; parameters and statistics stay float32.
      seed: of everything random.
      parallel: how a step is spread over devices: pmap or shard_map.
      steps_per_call: training steps in one program call; default 1 on CPUs and 10 on accelerators.
      log_every: steps between lines of metrics.jsonl.
      save_every: steps between checkpoints, each with the loss of held-out images.
      keep: number of newest checkpoints to keep.
      keep_every: also keep the checkpoints of the multiples of so many steps; 0 for none.
      keep_best: number of checkpoints of the least held-out loss to keep as well.
      checkpoints: folder of the checkpoints, local or in a bucket (gs://bucket/run); default workdir/checkpoints.
      sample_every: steps between sample grids; 0 for none.
      wandb: project of Weights & Biases, which must be installed; default none.
      profile: first and last step of which a trace is written, for TensorBoard or Perfetto; default none.
      sampling_variance: of an imported network, the reverse variance that its project samples with; None: not known.
      sampling_clip_x_0: of an imported network, whether its project clips predicted data; None: not known.
    """

    data: str | None = None
    image_size: int | None = None
    mirror: bool | None = None
    ground: str | None = None
    preset: str = "digits"
    schedule: str = "linear"
    T: int = 1000
    prediction: str = "eps"
    objective: str = "simple"
    variance: str = "large"
    weighting: str = "uniform"
    time_sampler: str = "uniform"
    steps: int = 2600
    batch: int = 128
    microbatches: int | None = None
    remat: bool = False
    optimizer: str = "adam"
    learning_rate: float = 2e-3
    rate_schedule: str = "constant"
    warmup: int = 100
    clip_norm: float = 1.0
    weight_decay: float | None = None
    slow_period: int | None = None
    slow_step: float | None = None
    ema_decay: tuple[float, ...] = (0.998,)
    activations: str = "float32"
    seed: int = 0
    parallel: str = "pmap"
    steps_per_call: int | None = None
    log_every: int = 50
    save_every: int = 500
    keep: int = 2
    keep_every: int = 0
    keep_best: int = 1
    checkpoints: str | None = None
    sample_every: int = 1000
    wandb: str | None = None
    profile: tuple[int, int] | None = None
    sampling_variance: Annotated[str | None, tyro.conf.Suppress] = None
    sampling_clip_x_0: Annotated[bool | None, tyro.conf.Suppress] = None


@dataclass(frozen=True)
class Heads:
    """The training of heads on a frozen denoiser.

    Attributes:
      heads: which: npr, sn, ocm, learned, learned_range; default all.
      size: width of their network: narrow or wide.
      chain: train on the times of an even chain of so many steps; default all of 1..T. `learned` is then defined on
        that chain alone.
      fit_clip_x_0: fit the error of predicted data clipped to [-1, 1], as sampling clips them.
      head_steps: training steps.
      head_batch: images a step, over all devices.
      head_learning_rate: Adam's, after warm-up.
      head_ema_decay: EMA decay rate of the parameters.
    """

    heads: tuple[str, ...] = ()
    size: str = "narrow"
    chain: int | None = None
    fit_clip_x_0: bool = True
    head_steps: int = 1000
    head_batch: int = 128
    head_learning_rate: float = 2e-3
    head_ema_decay: float = 0.998


Flat = Annotated[Config, tyro.conf.OmitArgPrefixes]
FlatHeads = Annotated[Heads, tyro.conf.OmitArgPrefixes]


# fmt: off
FORMER_DEFAULTS: dict[str, dict[str, Any]] = {
    "Config": dict(
        data=None, image_size=None, preset="digits", schedule="linear", T=1000, prediction="eps", objective="simple",
        variance="large", weighting="uniform", time_sampler="uniform", steps=2600, batch=128, microbatches=None,
        remat=False, optimizer="adam", learning_rate=2e-3, rate_schedule="constant", warmup=100, clip_norm=1.0,
        weight_decay=None, slow_period=None, slow_step=None, ema_decay=(0.998,), activations="float32", seed=0,
        parallel="pmap", steps_per_call=None, log_every=50, save_every=500, keep=2, keep_every=0, keep_best=1,
        checkpoints=None, sample_every=1000, wandb=None, profile=None, mirror=None, ground=None,
        sampling_variance=None, sampling_clip_x_0=None,
    ),
    "Heads": dict(
        heads=(), size="narrow", chain=None, fit_clip_x_0=True, head_steps=1000, head_batch=128,
        head_learning_rate=2e-3, head_ema_decay=0.998,
    ),
    "UNetConfig": dict(
        channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention_levels=(1,), attention_heads=1, head_channels=None,
        groups=32, norm_epsilon=1e-6, downsample_padding=0, time_start=1, time_scale=1.0, frequency_shift=1,
        cosine_first=False, dropout=0.1, scale_shift=False, image_channels=3, heads=0, activations="float32",
    ),
}
"""By class and field: the default with which the field was added, which makes what was made before it.

A checkpoint from before the field is read with this value, even when today's default is another. A new field gets a
line here; no line ever changes.
"""
# fmt: on


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values only, as JSON keeps them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type[C], values: dict[str, Any]) -> C:
    """The dataclass of `kind` that `to_dict` came from, perhaps before it had all of today's fields.

    Args:
      kind: Config, Heads or UNetConfig.
      values: by field; a field that is absent takes its value in FORMER_DEFAULTS.

    Raises:
      ValueError: a field is unknown.
    """
    fields = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = [f"{name} = {values[name]!r}" for name in sorted(values.keys() - set(fields))]
    if unknown:
        raise ValueError(f"{kind.__name__} has no {', '.join(unknown)}: made by a newer version, update ddpm_jax")
    known = {name: values[name] if name in values else FORMER_DEFAULTS[kind.__name__][name] for name in fields}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})


def completed(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Plain values with every field of `kind`, those that are absent as `from_dict` has them.

    Raises:
      ValueError: a field is unknown.
    """
    return to_dict(from_dict(kind, values))


def check_config(config: Config) -> None:
    """Refuse numbers that are out of range.

    Raises:
      ValueError: names one.
    """
    for name in ("steps", "batch", "log_every", "save_every", "keep"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} = {getattr(config, name)}: it is at least 1")
    for name in ("seed", "keep_every", "keep_best", "sample_every"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name} = {getattr(config, name)}: it is at least 0")
    for name in ("microbatches", "steps_per_call"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise ValueError(f"{name} = {getattr(config, name)}: it is at least 1")
    rates = config.ema_decay
    if not rates or len(set(rates)) < len(rates) or not all(0 <= rate < 1 for rate in rates):
        raise ValueError(f"ema_decay = {rates}: give one rate or more, each once, from 0 to below 1")
    first, last = config.profile or (1, 1)
    if not 1 <= first <= last:
        raise ValueError(f"profile = {first} {last}: give the first and the last step, from 1")
