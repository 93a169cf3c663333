"""Hugging Face diffusers' folders of a `UNet2DModel`, as of google/ddpm-cifar10-32, to and from ours.

A folder holds config.json and diffusion_pytorch_model.safetensors (or its variants or shards, see `weights`), or those
in unet/, as a pipeline has them, or unet_ema/, as checkpoints of its training scripts do. diffusers counts time from 0.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax import paths
from ddpm_jax.models import unet
from ddpm_jax.models.convert import files, tensors, values, weights
from ddpm_jax.models.convert.tensors import Module, Project, Tensors
from ddpm_jax.models.unet import UNetConfig
from ddpm_jax.paths import AnyPath

CONFIG, STEM, INDEX = "config.json", "diffusion_pytorch_model", "model_index.json"
INSIDE = ("", "unet_ema", "unet")  # where in a folder they may lie, the average before what it is of
# What a config.json leaves out: the defaults of UNet2DModel (diffusers 0.42).
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
}
# What our network cannot be otherwise.
FIXED: dict[str, tuple[Any, ...]] = {
    "_class_name": ("UNet2DModel",),
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
}
WIDTH = values.whole(1, 2**16)
DEEPEST = 16  # levels
KINDS = {
    "in_channels": WIDTH,
    "out_channels": WIDTH,
    "freq_shift": values.whole(0, 1),
    "flip_sin_to_cos": values.FLAG,
    "down_block_types": values.listed(values.TEXT, DEEPEST),
    "up_block_types": values.listed(values.TEXT, DEEPEST),
    "block_out_channels": values.listed(WIDTH, DEEPEST),
    "layers_per_block": values.whole(0, 64),
    "downsample_padding": values.one_of(0, 1),
    "dropout": values.number(0.0, 0.999),
    "attention_head_dim": values.or_none(WIDTH),
    "norm_num_groups": WIDTH,
    "norm_eps": values.number(1e-12, 1.0),
    "resnet_time_scale_shift": values.one_of("default", "scale_shift"),
    "time_embedding_dim": values.or_none(WIDTH),
    "attn_norm_num_groups": values.or_none(WIDTH),
}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load(folder: AnyPath) -> tuple[UNetConfig, dict[str, Any]]:
    """The network of a folder: its shape, and its parameters, float32.

    Args:
      folder: see above; local.

    Raises:
      ValueError: a file is missing or damaged, or the network is of a kind that ours cannot be.
    """
    folder = paths.local(folder)
    _check_pipeline(folder / INDEX)
    inside = _inside(folder)
    given = files.read_json(inside / CONFIG)
    with files.of(inside / CONFIG):
        config = read_config(given)
    found = weights.find(inside, STEM)
    return config, tensors.ours(_renamed(weights.read(found)), config, PROJECT, found.paths[0])


def told(folder: AnyPath) -> list[str]:
    """What was chosen in a folder that `load` has read, and what its config.json says without effect, a line each."""
    folder = paths.local(folder)
    there = [name for name in INSIDE if (folder / name / CONFIG).is_file()]
    inside, lines = _inside(folder), []
    if len(there) > 1:
        lines.append(f"network: {inside.relative_to(folder.parent)}; not taken: {', '.join(there[1:])}")
    given = files.read_json(inside / CONFIG)
    idle = [key for key in given if not key.startswith("_") and key not in {*DEFAULTS, *FIXED, *KINDS}]
    if idle:
        lines.append(f"{inside / CONFIG}: without effect here: {', '.join(idle)}")
    return lines + weights.told(weights.find(inside, STEM))


def _inside(folder: Path) -> Path:
    """The folder with the network, in a folder or itself."""
    found = [folder / name for name in INSIDE if (folder / name / CONFIG).is_file()]
    return found[0] if found else folder / "unet"


def _check_pipeline(path: Path) -> None:
    """Refuse the network of a pipeline that has other networks beside it: what it makes are no images.

    Raises:
      ValueError: names them.
    """
    parts = files.read_json(path) if path.is_file() else {}
    beside = [
        name
        for name, value in parts.items()
        if name not in ("unet", "scheduler") and isinstance(value, list) and any(value)
    ]
    if beside:
        raise ValueError(f"{path}: a pipeline with {', '.join(beside)}: its network makes no images by itself")


def read_config(given: Mapping[str, Any]) -> UNetConfig:
    """The shape of the network that a config.json describes.

    Raises:
      ValueError: it is of a kind that ours cannot be, or a value is of a wrong type.
    """
    settings = {**DEFAULTS, **given}
    for name, allowed in FIXED.items():
        if name in settings and settings[name] not in allowed:
            said = values.shown(settings[name])
            raise ValueError(f"{name} = {said}: this network cannot be imported, only {allowed[0]!r} can")
    values.check(settings, KINDS)
    widths = settings["block_out_channels"]
    if not len(widths) == len(settings["down_block_types"]) == len(settings["up_block_types"]):
        raise ValueError(f"block_out_channels {widths}: down_block_types and up_block_types are not as many")
    uneven = [width for width in widths if width % widths[0]]
    if uneven:
        raise ValueError(f"block_out_channels {widths}: {uneven[0]} is no multiple of the first, {widths[0]}")
    _check_optional(settings, widths[0])
    out_channels, in_channels = settings["out_channels"], settings["in_channels"]
    heads, rest = divmod(out_channels, in_channels)
    if rest or heads < 1:
        raise ValueError(f"out_channels = {out_channels}: no multiple of in_channels = {in_channels}")
    config = UNetConfig(
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=settings["layers_per_block"],
        attention_levels=_attention_levels(settings["down_block_types"], settings["up_block_types"]),
        attention_heads=1,
        head_channels=settings["attention_head_dim"],
        groups=settings["norm_num_groups"],
        norm_epsilon=float(settings["norm_eps"]),
        downsample_padding=settings["downsample_padding"],
        dropout=float(settings["dropout"]),
        scale_shift=settings["resnet_time_scale_shift"] == "scale_shift",
        image_channels=in_channels,
        heads=heads - 1,
        time_start=0,
        frequency_shift=settings["freq_shift"],
        cosine_first=settings["flip_sin_to_cos"],
    )
    unet.check(config, 2 ** (len(widths) - 1))  # of what is independent of the images
    return config


def _check_optional(settings: Mapping[str, Any], first: int) -> None:
    """Refuse what is allowed in one or two ways, given or not."""
    # With scale_shift, diffusers leaves the norm out in the middle's attention unless it is told its groups.
    groups = (settings["norm_num_groups"], *([] if settings["resnet_time_scale_shift"] == "scale_shift" else [None]))
    for name, allowed in (("time_embedding_dim", (None, 4 * first)), ("attn_norm_num_groups", groups)):
        if settings.get(name) not in allowed:
            raise ValueError(f"{name} = {settings.get(name)!r}: this network cannot be imported, only {allowed} can")


def _attention_levels(down: list[str], up: list[str]) -> tuple[int, ...]:
    """Where both ways attend.

    Raises:
      ValueError: a block is of an unknown kind, or the way up does not mirror the way down.
    """
    levels = tuple(level for level, kind in enumerate(down) if kind == "AttnDownBlock2D")
    if down != [("AttnDownBlock2D" if level in levels else "DownBlock2D") for level in range(len(down))]:
        raise ValueError(f"down_block_types {down}: only DownBlock2D and AttnDownBlock2D can be imported")
    if up != [("AttnUpBlock2D" if level in levels else "UpBlock2D") for level in reversed(range(len(down)))]:
        raise ValueError(f"up_block_types {up}: only those that mirror down_block_types {down} can be imported")
    return levels


def _place(module: Module, config: UNetConfig) -> str:
    depth = module.level if module.part == "down" else len(config.multipliers) - 1 - module.level
    part = "mid_block" if module.part == "middle" else f"{module.part}_blocks.{depth}"
    kind = module.name.partition("_")[0]
    if kind == "Convolution":
        return f"{part}.{module.part}samplers.0.conv"
    return f"{part}.{'resnets' if kind == 'ResidualBlock' else 'attentions'}.{module.number}"


PROJECT = Project(
    place=_place,
    residual={
        "GroupNorm_0": "norm1",
        "Convolution_0": "conv1",
        "Dense_0": "time_emb_proj",
        "GroupNorm_1": "norm2",
        "Convolution_1": "conv2",
        "Conv_0": "conv_shortcut",
    },
    attention={"GroupNorm_0": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"},
    ends=("time_embedding.linear_1", "time_embedding.linear_2", "conv_in", "conv_norm_out", "conv_out"),
)


def _renamed(found: Tensors) -> dict[str, np.ndarray]:
    """Today's names of attention's matrices, whatever the folder calls them."""

    def today(name: str) -> str:
        *module, layer, leaf = name.split(".")
        return ".".join([*module, OLD_ATTENTION.get(layer, layer), leaf])

    return {today(name) if ".attentions." in name else name: array for name, array in found.items()}


def save(folder: AnyPath, params: Mapping[str, Any], config: UNetConfig, image_size: int | None = None) -> None:
    """Write config.json and the weights, for `UNet2DModel.from_pretrained(folder)`.

    diffusers' network counts time from 0. That another one counts from elsewhere is worked into its first matrix: with
    a = t f and o = time_start f, sin(a + o) = sin(a) cos(o) + cos(a) sin(o), and so on.

    Args:
      folder: made where it is missing.
      params: of our network.
      config: its shape.
      image_size: of the data; diffusers' pipelines draw images of it.

    Raises:
      ValueError: diffusers has no such network.
      OSError: the folder cannot be written.
    """
    folder = paths.local(folder)
    described = {**write_config(config), "sample_size": image_size}
    arrays = tensors.theirs(params, config, PROJECT)
    first = f"{PROJECT.ends[0]}.weight"
    arrays[first] = _from_zero(arrays[first], config)
    files.write_json(folder / CONFIG, described)
    files.write_tensors(folder / f"{STEM}.safetensors", arrays)


def write_config(config: UNetConfig) -> dict[str, Any]:
    """The config.json of a network, all that matters said; the inverse of `read_config` but for where time starts.

    Raises:
      ValueError: diffusers has no such network.
    """
    if config.time_scale != 1:
        raise ValueError(f"time_scale = {config.time_scale:g}: diffusers' networks take the time as it is")
    levels = range(len(config.multipliers))
    attends = [level in config.attention_levels for level in levels]
    return {
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "add_attention": True,
        "attention_head_dim": _head_width(config),
        "attn_norm_num_groups": config.groups,
        "block_out_channels": [config.channels * multiplier for multiplier in config.multipliers],
        "center_input_sample": False,
        "down_block_types": ["AttnDownBlock2D" if here else "DownBlock2D" for here in attends],
        "downsample_padding": config.downsample_padding,
        "dropout": config.dropout,
        "flip_sin_to_cos": config.cosine_first,
        "freq_shift": config.frequency_shift,
        "in_channels": config.image_channels,
        "layers_per_block": config.blocks,
        "norm_eps": config.norm_epsilon,
        "norm_num_groups": config.groups,
        "out_channels": config.image_channels * (1 + config.heads),
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "time_embedding_type": "positional",
        "up_block_types": ["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)],
    }


def _head_width(config: UNetConfig) -> int | None:
    """Channels of a head, alike at all levels that attend; None for one head, however wide."""
    if config.head_channels or config.attention_heads == 1:
        return config.head_channels
    attending = {*config.attention_levels, len(config.multipliers) - 1}  # the middle, too
    widths = {config.channels * config.multipliers[level] // config.attention_heads for level in attending}
    if len(widths) > 1:
        raise ValueError(
            f"attention_heads = {config.attention_heads} at levels of different widths: diffusers' heads are of one "
            "width"
        )
    return widths.pop()


def _from_zero(weight: np.ndarray, config: UNetConfig) -> np.ndarray:
    """The time's first matrix (out, in), for a time that counts from 0."""
    half = config.channels // 2
    offset = config.time_start * 10_000.0 ** (-np.arange(half) / (half - config.frequency_shift))
    halves = np.split(weight.astype(np.float64), 2, axis=1)
    sine, cosine = halves[::-1] if config.cosine_first else halves
    turned = sine * np.cos(offset) - cosine * np.sin(offset), sine * np.sin(offset) + cosine * np.cos(offset)
    return np.concatenate(turned[::-1] if config.cosine_first else turned, axis=1).astype(np.float32)
