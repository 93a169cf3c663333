"""Which files of a folder hold the weights: one file, a variant of it in another precision, or its shards.

diffusers writes `stem.safetensors`, before that `stem.bin`; `stem.fp16.safetensors` is a variant, and
`stem-00001-of-00002.safetensors` the first of two shards. Shards are known by their names; the index beside them says
no more.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddpm_jax.models.convert import files

PREFERRED = ("", "fp32", "ema", "fp16", "bf16")  # variants, the best first; others after them by name
VARIANT = r"(?:\.(?P<{}>[A-Za-z0-9_]+))?"
REST = re.compile(
    f"{VARIANT.format('variant')}(?:-(?P<shard>[0-9]+)-of-(?P<shards>[0-9]+))?{VARIANT.format('behind')}"
    r"\.(?P<ending>safetensors|bin)"
)


class Weights(NamedTuple):
    """Files that together hold one network.

    Attributes:
      paths: one, or all shards in order.
      variant: in the name, such as fp16; empty for none.
      others: names of files that hold the network, too, and are not taken.
    """

    paths: tuple[Path, ...]
    variant: str
    others: tuple[str, ...]


def find(folder: Path, stem: str) -> Weights:
    """The weights in a folder: full precision before others, safetensors before PyTorch's, one file before shards.

    Args:
      folder: whose files are looked at.
      stem: of their names.

    Raises:
      ValueError: there are none, or a shard is missing.
      OSError: the folder cannot be read.
    """
    sets: dict[tuple[str, str, str, str], dict[int, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        match = REST.fullmatch(path.name.removeprefix(stem)) if path.name.startswith(stem) else None
        if match:
            shards, front, behind = match["shards"] or "", match["variant"] or "", match["behind"] or ""
            sets[shards, front, behind, match["ending"]][int(match["shard"] or 1)] = path
    if not sets:
        raise ValueError(f"{folder / stem}.safetensors: no such file, nor .bin, a variant or shards of it")
    taken, *others = sorted(sets, key=_rank)
    shards, front, behind, _ = taken
    missing = next((number for number in range(1, int(shards or 1) + 1) if number not in sets[taken]), None)
    if missing is not None:
        there = next(iter(sets[taken].values())).name
        name = re.sub(r"-[0-9]+-of-", f"-{missing:0{len(shards)}}-of-", there)
        raise ValueError(f"{folder / name}: no such file, one of {int(shards)} shards: fetch it too")
    paths = tuple(path for _, path in sorted(sets[taken].items()))
    return Weights(paths, front or behind, tuple(path.name for one in others for path in sets[one].values()))


def _rank(found: tuple[str, str, str, str]) -> tuple[int, str, bool, str]:
    shards, front, behind, ending = found
    variant = front or behind
    place = PREFERRED.index(variant) if variant in PREFERRED else len(PREFERRED)
    return place, variant, ending != "safetensors", shards


def read(weights: Weights) -> dict[str, np.ndarray]:
    """The arrays of all files, see `files.read_tensors`.

    Raises:
      ValueError: see there; or two shards hold an array of the same name.
    """
    found: dict[str, np.ndarray] = {}
    for path in weights.paths:
        arrays = files.read_tensors(path)
        twice = sorted(found.keys() & arrays.keys())
        if twice:
            raise ValueError(f"{path} holds {twice[0]}, which another shard holds, too: fetch the shards again")
        found |= arrays
    return found


def told(weights: Weights) -> list[str]:
    """A line where there was a choice, or the weights are a variant."""
    if not weights.others and not weights.variant:
        return []
    more = f" and {len(weights.paths) - 1} more" if len(weights.paths) > 1 else ""
    beside = f"; not taken: {', '.join(weights.others)}" if weights.others else ", the only weights there"
    return [f"weights: {weights.paths[0].name}{more}{beside}"]
