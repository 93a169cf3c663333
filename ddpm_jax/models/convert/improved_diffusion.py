"""openai/improved-diffusion's state dicts (Nichol & Dhariwal 2021), model or average of it, as our network.

The file holds arrays alone; a JSON file says with which arguments its `UNetModel` was made, and may say
diffusion_steps, noise_schedule and rescale_timesteps as that project's commands take them. Time counts from 0; the
network is told it rescaled to 0..1000 unless rescale_timesteps is false.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.models.convert import files, tensors
from ddpm_jax.models.convert.tensors import Module, Project, Tensors
from ddpm_jax.models.unet import UNetConfig

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
    "use_checkpoint": False,
    "diffusion_steps": 1000,
    "rescale_timesteps": True,
    "noise_schedule": "linear",
}
GUIDED = ("resblock_updown", "use_new_attention_order", "num_head_channels", "use_fp16")  # guided-diffusion's own


def load(weights: Path, description: Path) -> tuple[UNetConfig, dict[str, Any]]:
    """The network of a state dict: its shape, and its parameters, float32.

    Args:
      weights: .pt, for which PyTorch must be installed, or the same arrays as .safetensors.
      description: JSON of UNetModel's arguments.

    Raises:
      ValueError: a file is missing or damaged, or the network is of a kind that ours cannot be.
    """
    config = read_config(files.read_json(description))
    return config, read_tensors(files.read_tensors(weights), config, weights)


def read_config(given: Mapping[str, Any]) -> UNetConfig:
    """The shape of the network that UNetModel makes of these arguments.

    Raises:
      ValueError: one is missing or unknown, or the network is of a kind that ours cannot be.
    """
    _check(given)
    settings = {**OPTIONAL, **given}
    out_channels, in_channels = settings["out_channels"], settings["in_channels"]
    heads, rest = divmod(out_channels, in_channels)
    if rest or heads not in (1, 2):
        raise ValueError(f"out_channels = {out_channels}: in_channels = {in_channels} or twice as many")
    depth = len(settings["channel_mult"])
    return UNetConfig(
        channels=settings["model_channels"],
        multipliers=tuple(settings["channel_mult"]),
        blocks=settings["num_res_blocks"],
        attention_levels=tuple(level for level in range(depth) if 2**level in settings["attention_resolutions"]),
        attention_heads=settings["num_heads"],
        groups=32,
        norm_epsilon=1e-5,
        downsample_padding=1,
        dropout=settings["dropout"],
        scale_shift=settings["use_scale_shift_norm"],
        image_channels=in_channels,
        heads=heads - 1,
        time_start=0,
        time_scale=RESCALED_TO / settings["diffusion_steps"] if settings["rescale_timesteps"] else 1.0,
        frequency_shift=0,
        cosine_first=True,
    )


def read_chain(given: Mapping[str, Any]) -> tuple[str, int]:
    """Name and T of the noise schedule, which is called linear or cosine there and here."""
    settings = {**OPTIONAL, **given}
    return settings["noise_schedule"], settings["diffusion_steps"]


def _check(given: Mapping[str, Any]) -> None:
    guided = [name for name in GUIDED if name in given]
    if guided:
        raise ValueError(
            f"{guided[0]}: this is a network of guided-diffusion; those of improved-diffusion are imported"
        )
    if given.get("num_classes") is not None:
        raise ValueError(f"num_classes = {given['num_classes']}: a class-conditional network cannot be imported")
    missing = [name for name in NEEDED if name not in given]
    unknown = [name for name in given if name not in (*NEEDED, *OPTIONAL)]
    for kind, found in (("missing", missing), ("unknown", unknown)):
        if found:
            raise ValueError(f"arguments of UNetModel {kind}: {', '.join(found)}")
    fixed = {"conv_resample": (True,), "dims": (2,), "num_heads_upsample": (-1, given.get("num_heads", 1))}
    for name, allowed in fixed.items():
        if given.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{name} = {given[name]}: this network cannot be imported, only {allowed[0]} can")


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
    if len(config.multipliers) > 1 and not any(".op." in name for name in found):  # it halves by residual blocks
        raise ValueError(f"{source}: this is a network of guided-diffusion; those of improved-diffusion are imported")
    return tensors.ours(_apart(found, config), config, PROJECT, source)


def _apart(found: Tensors, config: UNetConfig) -> dict[str, np.ndarray]:
    """q, k and v, which lie in one array: of each head its rows for q, then those for k, then those for v."""
    parts: dict[str, np.ndarray] = {}
    for name, array in found.items():
        module, _, leaf = name.rpartition(".qkv.")
        if module and len(array) % (3 * config.attention_heads) == 0:
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
