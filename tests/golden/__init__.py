"""Activations of other projects' networks on seeded weights, and the rule that makes the weights.

Each folder holds the network's description, weights.json (names and shapes of its arrays, seed and gain) and io.npz:
x (b, c, h, w), t (b,) counted from 0, and the output y that the project's own code gave.
"""

import json
from pathlib import Path
from zlib import crc32

import numpy as np

HERE = Path(__file__).parent


def weights(described: Path) -> dict[str, np.ndarray]:
    """Every array is drawn from the seed and its name, in float64."""
    said = json.loads(described.read_text())
    return {name: _drawn(name, tuple(shape), said["seed"], said["gain"]) for name, shape in said["tensors"].items()}


def _drawn(name: str, shape: tuple[int, ...], seed: int, gain: float) -> np.ndarray:
    draw = np.random.default_rng([seed, crc32(name.encode())])
    if len(shape) > 1:
        array = gain * draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("running_var"):
        array = 1 + 0.1 * draw.uniform(size=shape)
    elif name.endswith("weight"):
        array = 1 + 0.1 * draw.standard_normal(shape)
    else:
        array = 0.1 * draw.standard_normal(shape)
    return array.astype(np.float32)
