"""What every command reads from its command line: one frozen dataclass a command, whose docstring --help shows.

Read before anything that takes long to import: no Flax, Orbax, Optax or Matplotlib here.
"""

from dataclasses import dataclass, field
from pathlib import Path

from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.evaluation.design import Design
from ddpm_jax.training.config import Config, Flat, FlatHeads, Heads

DEFAULT = Design(Rules())


@dataclass(frozen=True)
class Train:
    """Train a denoiser.

    Run again with the same --workdir to go on where it stopped, or with more --steps to prolong it.

    Needs: minutes on two CPU cores for the default digits.

    Command: ddpm-jax train --workdir runs/digits

    Attributes:
      training: the run.
      workdir: folder of checkpoints, metrics.jsonl and TensorBoard files.
      coordinator: host:port of the first of several processes; default what the cluster says (Cloud TPU, SLURM, GKE).
      processes: number of processes.
      process: index of this process, from 0.
      dry_run: print the resolved config and stop.
    """

    training: Flat = field(default_factory=Config)
    workdir: Path = Path("runs/digits")
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Sample:
    """Draw images from a trained denoiser.

    Writes samples.png, a grid of the first, and samples.npz with all images (arr_0, grey levels 0 to 255, as evaluators
    of other projects read them) and the options that made them. Thousands are drawn in shards: run again, it goes on
    where it stopped.

    Command: ddpm-jax sample --workdir runs/digits --variance isotropic --K 50

    Attributes:
      workdir: of a trained run.
      checkpoint_step: training step of the checkpoint; default the newest.
      checkpoint_ema: decay rate of the EMA to use; default the run's first.
      denoiser: module:function of a custom denoiser f(x_t, t) that predicts --prediction, instead of a trained run.
      data: the images that a variance is measured on; default those the network was trained on, of a --denoiser digits.
      image_size: side length in pixels that images are cropped and shrunk to; default unchanged.
      ground: the colour that shows where pictures of a folder are transparent, a name or #rrggbb; default white.
      schedule: the noise schedule it was trained for; numbers after a colon (linear:1e-4,0.02), or a .json of betas.
      T: number of noise levels.
      prediction: what it predicts: eps, x_0, v or mu.
      head_checkpoint: workdir of ddpm-jax heads for this network; default those of an ablation in workdir.
      moments: moments.npz of an ablation of the same network; default: measured for this chain on --data.
      variance: a choice of the reverse variance, its number and switches after colons (interpolated:0.7); default what
        the project of an imported network says of ddpm, else large.
      sampler: ddpm or ddim.
      eta: noise of ddim: 0 for none, 1 for DDPM's.
      trajectory: even or quadratic.
      times: explicit times, ascending to T, instead of a named trajectory.
      K: chain length.
      n: number of images.
      seed: of the noise.
      protocol: conventions of a paper: ddpm, analytic-dpm or iddpm; the options below override single ones; default
        ddpm.
      last_step: the final step: mean (no noise) or noise (sampled); default the protocol's.
      pixel_clip: largest noise of the step to the first time of the chain, in grey levels (Analytic-DPM); 0 for none;
        default the protocol's.
      clip_x_0: clip predicted data to [-1, 1]; default what an imported run says where no protocol is given, else the
        protocol's.
      clamp_cov: clamp estimates of Cov[x_0 | x_t] to [0, 1]; default the protocol's.
      rounding: of samples to grey levels, nearest or down; default the protocol's.
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
    ground: str | None = None
    schedule: str = "linear"
    T: int = 1000
    prediction: str = "eps"
    head_checkpoint: Path | None = None
    moments: Path | None = None
    variance: str | None = None
    sampler: str = "ddpm"
    eta: float = 0.0
    trajectory: str = "even"
    times: tuple[int, ...] = ()
    K: int = 50
    n: int = 64
    seed: int = 0
    protocol: str | None = None
    last_step: str | None = None
    pixel_clip: float | None = None
    clip_x_0: bool | None = None
    clamp_cov: bool | None = None
    rounding: str | None = None
    out: Path | None = None
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class TrainHeads:
    """Train the heads of state-dependent variances on a frozen network.

    For ddpm-jax ablate --head-checkpoint. Run again with the same --workdir to go on where it stopped.

    Needs: minutes on two CPU cores for a network of digits.

    Command: ddpm-jax heads --checkpoint runs/digits --workdir runs/digits-heads

    Attributes:
      training: which heads, and how long.
      workdir: folder of the heads' checkpoints, metrics.jsonl and TensorBoard files.
      checkpoint: workdir of the run whose network is frozen.
      checkpoint_step: training step of the checkpoint; default the newest.
      checkpoint_ema: decay rate of the EMA to use; default the run's first.
      denoiser: module:function of a custom denoiser f(x_t, t) that predicts --prediction, instead of --checkpoint.
      data: with --denoiser: its data set; default digits.
      image_size: side length in pixels that images are cropped and shrunk to; default unchanged.
      mirror: whether a mirrored image is as likely as the image; default by data set.
      ground: the colour that shows where pictures of a folder are transparent, a name or #rrggbb; default white.
      schedule: with --denoiser: its noise schedule; numbers after a colon (linear:1e-4,0.02), or a .json of betas.
      T: with --denoiser: its number of noise levels.
      prediction: with --denoiser: what it predicts.
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
    mirror: bool | None = None
    ground: str | None = None
    schedule: str = "linear"
    T: int = 1000
    prediction: str = "eps"
    seed: int = 0
    parallel: str = "pmap"
    save_every: int = 500
    dry_run: bool = False


@dataclass(frozen=True)
class Ablation:
    """Which variance should the reverse step have? The article's open question, answered for one data set.

    Trains a denoiser and the heads of the variances that need training (or takes them), measures its moments once, and
    compares every variance at every chain length by likelihood and by samples. The report says which claims of the
    literature hold. Everything measured or drawn is kept in workdir/cells under the hash of what it depends on: run
    again, it goes on where it stopped, and computes what is new.

    Needs: minutes on two CPU cores for the default digits.

    Command: ddpm-jax ablate --workdir runs/digits

    Attributes:
      training: the network's run.
      heads: to train for the variances that read them; none with --checkpoint or --denoiser.
      workdir: where the run, the heads, the cells, the tables and the report go.
      checkpoint: workdir of a finished run whose network to take.
      checkpoint_step: training step of the checkpoint; default the newest.
      checkpoint_ema: decay rate of the EMA to use; default the run's first.
      denoiser: module:function of a custom denoiser f(x_t, t) that predicts --prediction, for --schedule and --T.
      head_checkpoint: workdir of ddpm-jax heads, for the network of --checkpoint or --denoiser.
      training_seeds: number of networks to train, from seed upwards; the report shows their spread.
      variances: choices in the order of the tables, their numbers and switches after colons (interpolated:0.7); default
        all that the network has heads for.
      trajectories: quadratic, optimal or optimal_free, beside even.
      K: chain lengths of the likelihood table.
      sample_K: chain lengths that are sampled, on the even trajectory.
      images: samples per variance, K and seed.
      seeds: sampling seeds.
      features: feature extractor for the Frechet distance of samples.
      protocol: conventions of a paper: ddpm, analytic-dpm or iddpm; the options below override single ones.
      last_step: the final step: mean (no noise) or noise (sampled); default the protocol's.
      pixel_clip: largest noise of the step to the first time of the chain, in grey levels (Analytic-DPM); 0 for none;
        default the protocol's.
      clip_x_0: clip predicted data to [-1, 1]; default the protocol's.
      clamp_cov: clamp estimates of Cov[x_0 | x_t] to [0, 1]; default the protocol's.
      decoder: variance of the decoder p(x_0 | x_tau_1): shared (tb(1, 2) for all) or own (each choice's); default the
        protocol's.
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
    features: str = DEFAULT.features
    protocol: str = "analytic-dpm"
    last_step: str | None = None
    pixel_clip: float | None = None
    clip_x_0: bool | None = None
    clamp_cov: bool | None = None
    decoder: str | None = None
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Fid:
    """The FID and related metrics of saved samples, with everything that they depend on.

    Reads an .npz of images (arr_0, as ddpm-jax sample and others write it) and compares it with a data set or with an
    .npz of reference statistics (pytorch-fid, guided-diffusion, EDM, score_sde). Nothing is downloaded.

    Command: ddpm-jax fid --samples runs/cifar10/samples/samples.npz --reference cifar10 --inception
    pt_inception-2015-12-05-6726825d.pth

    Attributes:
      samples: .npz with the images arr_0.
      reference: .npz of reference statistics, or the name of a data set.
      inception: path of the weights of FID's network.
      fid_protocol: preprocessing and rounding of a project: pytorch-fid, ddpm, score_sde, improved-diffusion or edm.
      split: of the data set, train or test; default the protocol's.
      image_size: side length in pixels that its images are cropped and shrunk to; default unchanged.
      ground: the colour that shows where pictures of a folder are transparent, a name or #rrggbb; default white.
      n: take the first so many samples; default all.
      against_images: number of reference images for KID, precision and recall; 0 for none of these.
      seed: of the subsets.
      workdir: where fid.json goes, the metrics with their settings; reference statistics are cached in workdir/cells.
      dry_run: print the options and stop.
    """

    samples: Path
    reference: str
    inception: Path
    fid_protocol: str = "pytorch-fid"
    split: str | None = None
    image_size: int | None = None
    ground: str | None = None
    n: int | None = None
    against_images: int = 0
    seed: int = 0
    workdir: Path = Path("runs/fid")
    dry_run: bool = False


@dataclass(frozen=True)
class ImportWeights:
    """Import the weights of another project: Hugging Face diffusers, or openai/improved-diffusion.

    Writes a workdir with a checkpoint, which ddpm-jax sample, heads and ablate take. Nothing in a file is executed.

    Command: ddpm-jax import --weights ddpm-cifar10-32 --data cifar10 --workdir runs/imported

    Attributes:
      weights: a folder of diffusers (UNet2DModel), or a state dict of improved-diffusion (.pt, or .safetensors).
      data: what the network was trained on: a data set by name, any image set of TFDS, a folder, or an .npz.
      description: of a state dict: JSON of UNetModel's arguments with diffusion_steps and rescale_timesteps, or of the
        flags of that project's scripts.
      workdir: where the checkpoint goes.
      image_size: side length in pixels that images are cropped and shrunk to; default unchanged.
      mirror: whether a mirrored image is as likely as the image; default by data set.
      ground: the colour that shows where pictures of a folder are transparent, a name or #rrggbb; default white.
      schedule: the noise schedule it was trained for; numbers after a colon (linear:1e-4,0.02), or a .json of betas;
        default what the scheduler or description says, or linear.
      T: number of noise levels; default what the folder says, or 1000; with --description its diffusion_steps.
      prediction: what it predicts: eps, x_0 or v; default what the scheduler or description says, or eps.
      clip_x_0: whether sampling clips predicted data to [-1, 1]; default what the scheduler or description says.
      average: EMA decay rate recorded for the weights; metadata only.
      dry_run: print what would be imported and stop.
    """

    weights: Path
    data: str
    description: Path | None = None
    workdir: Path = Path("runs/imported")
    image_size: int | None = None
    mirror: bool | None = None
    ground: str | None = None
    schedule: str | None = None
    T: int | None = None
    prediction: str | None = None
    clip_x_0: bool | None = None
    average: float = 0.9999
    dry_run: bool = False


@dataclass(frozen=True)
class ExportWeights:
    """Write a trained network as a folder of Hugging Face diffusers: a DDPMPipeline with its UNet2DModel and scheduler.

    There `DDPMPipeline.from_pretrained(folder)` and `UNet2DModel.from_pretrained(folder, subfolder="unet")` read it.

    Command: ddpm-jax export --workdir runs/digits --out runs/digits/diffusers

    Attributes:
      workdir: of a trained run.
      checkpoint_step: training step of the checkpoint; default the newest.
      checkpoint_ema: decay rate of the EMA to use; default the run's first.
      out: the folder; default workdir/diffusers.
      dry_run: print the descriptions that would be written and stop.
    """

    workdir: Path = Path("runs/digits")
    checkpoint_step: int | None = None
    checkpoint_ema: float | None = None
    out: Path | None = None
    dry_run: bool = False
