"""openai/improved-diffusion's state dicts (Nichol & Dhariwal 2021), model or average of it, as our network.

The file holds arrays alone; a JSON file says how the network was made, in one of two ways: by the arguments of its
`UNetModel`, where attention_resolutions are factors by which an image is smaller, or by the flags of that project's
scripts, where they are sizes of images. Beside either stand the flags of the chain. Values may be texts, as a command
line has them. Time counts from 0; the network is told it rescaled to 0..1000 unless rescale_timesteps is false.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax.models import unet
from ddpm_jax.models.convert import files, tensors, values
from ddpm_jax.models.convert.schedulers import LONGEST, Scheduler
from ddpm_jax.models.convert.tensors import Module, Project, Tensors
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.paths import AnyPath

RESCALED_TO = 1000
NEEDED = ("in_channels", "model_channels", "out_channels", "num_res_blocks", "attention_resolutions")
# With UNetModel's defaults.
OPTIONAL: dict[str, Any] = {
    "dropout": 0.0,
    "channel_mult": [1, 2, 4, 8],
    "num_heads": 1,
    "num_heads_upsample": -1,
    "use_scale_shift_norm": False,
    "conv_resample": True,
    "dims": 2,
    "num_classes": None,
    "image_size": None,
}
# The scripts' flags of the network, with their defaults; their networks are of colour images.
FLAGS: dict[str, Any] = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_heads_upsample": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "dropout": 0.0,
    "learn_sigma": False,
    "class_cond": False,
    "use_scale_shift_norm": True,
}
# Their flags of the chain.
CHAIN: dict[str, Any] = {
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "rescale_timesteps": True,
    "predict_xstart": False,
    "sigma_small": False,
    "clip_denoised": True,
}
# Flags of how it was trained and sampled, which leave network and chain as they are.
IDLE = (
    "use_checkpoint", "timestep_respacing", "use_kl", "rescale_learned_sigmas", "use_fp16", "fp16_scale_growth",
    "data_dir", "schedule_sampler", "lr", "weight_decay", "lr_anneal_steps", "batch_size", "microbatch", "ema_rate",
    "log_interval", "save_interval", "resume_checkpoint", "num_samples", "use_ddim", "model_path",
)  # fmt: skip
WIDTHS = {32: [1, 2, 2, 2], 64: [1, 2, 3, 4], 256: [1, 1, 2, 2, 4, 4]}  # channel_mult, by image_size
GUIDED = ("resblock_updown", "use_new_attention_order", "num_head_channels")  # guided-diffusion's own
COUNT = values.whole(1, 2**16)
SIZES = values.listed(COUNT, 16)
KINDS = {
    "in_channels": COUNT,
    "model_channels": COUNT,
    "num_channels": COUNT,
    "out_channels": COUNT,
    "num_res_blocks": values.whole(0, 64),
    "attention_resolutions": values.Kind(
        "a list of whole numbers", lambda value: value == [] or values.listed(values.whole(0, 2**16), 16).fits(value)
    ),
    "channel_mult": SIZES,
    "image_size": values.or_none(COUNT),
    "dropout": values.number(0.0, 0.999),
    "num_heads": COUNT,
    "num_heads_upsample": values.whole(-1, 2**16),
    "use_scale_shift_norm": values.FLAG,
    "learn_sigma": values.FLAG,
    "class_cond": values.FLAG,
    "diffusion_steps": values.whole(1, LONGEST),
    "noise_schedule": values.one_of("linear", "cosine"),
    "rescale_timesteps": values.FLAG,
    "predict_xstart": values.FLAG,
    "sigma_small": values.FLAG,
    "clip_denoised": values.FLAG,
}
TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


def load(weights: AnyPath, description: AnyPath) -> tuple[UNetConfig, dict[str, Any]]:
    """The network of a state dict: its shape, and its parameters, float32.

    Args:
      weights: .pt, for which PyTorch must be installed, or the same arrays as .safetensors.
      description: JSON of UNetModel's arguments, or of the scripts' flags.

    Raises:
      ValueError: a file is missing or damaged, or the network is of a kind that ours cannot be.
    """
    given = files.read_json(description)
    with files.of(description):
        config = read_config(given)
    return config, read_tensors(files.read_tensors(weights), config, weights)


def load_chain(description: AnyPath) -> Scheduler:
    """The chain that a description says.

    Raises:
      ValueError: see `read_chain`.
    """
    given = files.read_json(description)
    with files.of(description):
        return read_chain(given)


def told(given: Mapping[str, Any]) -> list[str]:
    """What a description that was read says without effect, in a line."""
    idle = [name for name in given if name in IDLE]
    sized = _of_flags(given) or given.get("channel_mult") == "" or isinstance(given["attention_resolutions"], str)
    if "image_size" in given and not sized:
        idle.append("image_size")
    return [f"without effect here: {', '.join(idle)}"] if idle else []


def read_config(given: Mapping[str, Any]) -> UNetConfig:
    """The shape of the network that UNetModel makes of these arguments.

    Raises:
      ValueError: one is missing, unknown or of a wrong type, or the network is of a kind that ours cannot be.
    """
    settings = _settings(given)
    out_channels, in_channels = settings["out_channels"], settings["in_channels"]
    heads, rest = divmod(out_channels, in_channels)
    if rest or heads not in (1, 2):
        raise ValueError(f"out_channels = {out_channels}: in_channels = {in_channels} or twice as many")
    depth = len(settings["channel_mult"])
    config = UNetConfig(
        channels=settings["model_channels"],
        multipliers=tuple(settings["channel_mult"]),
        blocks=settings["num_res_blocks"],
        attention_levels=tuple(level for level in range(depth) if 2**level in settings["attention_resolutions"]),
        attention_heads=settings["num_heads"],
        groups=32,
        norm_epsilon=1e-5,
        downsample_padding=1,
        dropout=float(settings["dropout"]),
        scale_shift=settings["use_scale_shift_norm"],
        image_channels=in_channels,
        heads=heads - 1,
        time_start=0,
        time_scale=RESCALED_TO / settings["diffusion_steps"] if settings["rescale_timesteps"] else 1.0,
        frequency_shift=0,
        cosine_first=True,
    )
    unet.check(config, 2 ** (depth - 1))  # of what is independent of the images
    return config


def read_chain(given: Mapping[str, Any]) -> Scheduler:
    """The chain that a description says; its schedules are called linear or cosine there and here.

    Raises:
      ValueError: see `read_config`.
    """
    settings = _settings(given)
    variance = "small" if settings["sigma_small"] else "large"
    return Scheduler(
        schedule=settings["noise_schedule"],
        T=settings["diffusion_steps"],
        prediction="x_0" if settings["predict_xstart"] else "eps",
        variance="learned_range" if settings["out_channels"] > settings["in_channels"] else variance,
        clip_x_0=settings["clip_denoised"],
    )


def _of_flags(given: Mapping[str, Any]) -> bool:
    """Whether these are the scripts' flags: no name is that of an argument of UNetModel alone."""
    return not any(name in given for name in (*NEEDED[:3], "conv_resample", "dims", "num_classes"))


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """UNetModel's arguments and the flags of the chain, in types of their own, with their defaults.

    Raises:
      ValueError: see `read_config`.
    """
    guided = [name for name in GUIDED if name in given]
    if guided:
        raise ValueError(
            f"{guided[0]}: this is a network of guided-diffusion; those of improved-diffusion are imported"
        )
    flags = _of_flags(given)
    known = {**(FLAGS if flags else OPTIONAL), **CHAIN}
    missing = [] if flags else [name for name in NEEDED if name not in given]
    unknown = [name for name in given if name not in (*known, *IDLE, *(() if flags else NEEDED))]
    for kind, found in (("missing", missing), ("unknown", unknown)):
        if found:
            of = "the scripts' flags" if flags else "the arguments of UNetModel"
            raise ValueError(f"of {of} {kind}: {', '.join(found)}")
    settings = {**known, **{name: _plain(name, given[name]) for name in given if name not in IDLE}}
    settings = _resolved(settings, flags)
    values.check(settings, KINDS)
    _check(settings)
    return _of_script(settings) if flags else settings


def _plain(name: str, value: Any) -> Any:
    """A flag's text as what it means; a text that means nothing stays, and is refused by its kind."""
    if not isinstance(value, str) or name not in KINDS or name == "noise_schedule":
        return value
    word, kind = value.strip(), KINDS[name]
    if kind is values.FLAG:
        return word.lower() in TRUE if word.lower() in (*TRUE, *FALSE) else value
    if name in ("attention_resolutions", "channel_mult"):
        return word
    for read in (int, float):
        try:
            return read(word)
        except ValueError:
            continue
    return value


def _resolved(settings: Mapping[str, Any], flags: bool) -> dict[str, Any]:
    """With channel_mult and attention_resolutions as UNetModel takes them, whose texts depend on image_size."""
    size, widths, attended = (settings[name] for name in ("image_size", "channel_mult", "attention_resolutions"))
    values.check({"image_size": size}, KINDS)
    if flags and size is None:
        raise ValueError("image_size = None: a whole number is wanted")
    if isinstance(widths, str):
        widths = _numbers("channel_mult", widths) if widths else _usual(size)
    if isinstance(attended, str):
        if size is None:
            raise ValueError(
                f"attention_resolutions = {values.shown(attended)}: a text means sizes of images: add image_size "
                "or give UNetModel's argument, a list of factors"
            )
        attended = [size // number for number in _numbers("attention_resolutions", attended)]
    elif flags:
        raise ValueError(
            f"attention_resolutions = {values.shown(attended)}: as a flag it is a text of sizes of images, '16,8'"
        )
    return {**settings, "channel_mult": widths, "attention_resolutions": attended}


def _usual(size: int | None) -> list[int]:
    """The scripts' channel_mult for images of a size."""
    if size not in WIDTHS:
        raise ValueError(
            f"channel_mult = '' at image_size = {size}: the scripts have one for {', '.join(map(str, WIDTHS))} alone, "
            "write it out"
        )
    return WIDTHS[size]


def _numbers(name: str, text: str) -> list[int]:
    """Whole numbers, at least 1, with commas between them."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"{name} = {values.shown(text)}: whole numbers with commas between them are wanted")
    return found


def _of_script(settings: Mapping[str, Any]) -> dict[str, Any]:
    """UNetModel's arguments, as the scripts make them of their flags."""
    outputs = 6 if settings["learn_sigma"] else 3
    return {**settings, "model_channels": settings["num_channels"], "in_channels": 3, "out_channels": outputs}


def _check(settings: Mapping[str, Any]) -> None:
    """Refuse networks that ours cannot be."""
    for name, absent in (("num_classes", None), ("class_cond", False)):
        if settings.get(name, absent) != absent:
            said = values.shown(settings[name])
            raise ValueError(f"{name} = {said}: a class-conditional network cannot be imported")
    fixed = {"conv_resample": (True,), "dims": (2,), "num_heads_upsample": (-1, settings["num_heads"])}
    for name, allowed in fixed.items():
        if settings.get(name, allowed[0]) not in allowed:
            said = values.shown(settings[name])
            raise ValueError(f"{name} = {said}: this network cannot be imported, only {allowed[0]} can")


def read_tensors(found: Tensors, config: UNetConfig, source: object) -> dict[str, Any]:
    """Our parameters of a state dict's arrays.

    Args:
      found: the arrays by name.
      config: the shape of the network.
      source: what they were read from, for messages.

    Raises:
      ValueError: they belong to another kind of network, or see `tensors.ours`.
    """
    if any(name.startswith("label_emb.") for name in found):
        raise ValueError(f"{source} has label_emb: a class-conditional network cannot be imported")
    halved = f"input_blocks.{1 + config.blocks}.0.in_layers."  # by a residual block, where ours has a convolution
    if not any(".op." in name for name in found) and any(name.startswith(halved) for name in found):
        raise ValueError(f"{source}: this is a network of guided-diffusion; those of improved-diffusion are imported")
    return tensors.ours(_apart(found, config), config, PROJECT, source)


def _apart(found: Tensors, config: UNetConfig) -> dict[str, np.ndarray]:
    """q, k and v, which lie in one array: of each head its rows for q, then those for k, then those for v."""
    parts: dict[str, np.ndarray] = {}
    for name, array in found.items():
        module, _, leaf = name.rpartition(".qkv.")
        if module and array.ndim and len(array) % (3 * config.attention_heads) == 0:
            by_head = array.reshape(config.attention_heads, 3, -1, *array.shape[1:2])
            for index, letter in enumerate("qkv"):
                parts[f"{module}.{letter}.{leaf}"] = by_head[:, index].reshape(-1, *array.shape[1:2])
        else:
            parts[name] = array[..., 0] if name.endswith(".proj_out.weight") and array.ndim == 3 else array
    return parts


def _place(module: Module, config: UNetConfig) -> str:
    """Both ways' lists are numbered through; a block, its attention and a doubling share a number."""
    kind = module.name.partition("_")[0]
    per_level = config.blocks + 1
    attends = module.level in config.attention_levels
    if module.part == "middle":
        return f"middle_block.{1 if kind == 'Attention' else 2 * module.number}"
    if module.part == "down":
        number = 1 + per_level * module.level + module.number
        return f"input_blocks.{number}.{'0.op' if kind == 'Convolution' else int(kind == 'Attention')}"
    number = per_level * (len(config.multipliers) - 1 - module.level) + module.number
    return f"output_blocks.{number}.{f'{1 + attends}.conv' if kind == 'Convolution' else int(kind == 'Attention')}"


PROJECT = Project(
    place=_place,
    residual={
        "GroupNorm_0": "in_layers.0",
        "Convolution_0": "in_layers.2",
        "Dense_0": "emb_layers.1",
        "GroupNorm_1": "out_layers.0",
        "Convolution_1": "out_layers.3",
        "Conv_0": "skip_connection",
    },
    attention={"GroupNorm_0": "norm", "q": "q", "k": "k", "v": "v", "out": "proj_out"},
    ends=("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2"),
)
