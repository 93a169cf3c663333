"""Arrays and descriptions in other projects' files; nothing in a file is executed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ddpm_jax.errors import first_line

TORCH = 'pip install -e ".[torch]"'


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of bytes that are no text, too
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}: a JSON object is wanted")
    return found


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """An object, in a folder that is made where it is missing.

    Raises:
      OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, or of a PyTorch state dict (.pt, .pth, .bin; needs PyTorch), by name.

    Raises:
      ValueError: there is no such file, it is damaged or holds something else, or PyTorch is missing.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix != ".safetensors":
        return _read_state_dict(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no safetensors file that NumPy can hold, or damaged: {error}") from error


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A safetensors file as PyTorch's libraries expect it.

    Raises:
      OSError: it cannot be written.
    """
    save_file(arrays, path, {"format": "pt"})


def _read_state_dict(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(f"{path} is PyTorch's: {TORCH} to read it") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of unpickling, of zip archives, of the system
        reason = first_line(error)
        raise ValueError(f"{path} is no state dict of tensors alone, or damaged: {reason}") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ValueError(f"{path} is no state dict: it holds more than tensors by name")
    return {name: tensor.float().numpy() for name, tensor in found.items()}
