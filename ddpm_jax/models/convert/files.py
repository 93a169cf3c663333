"""Arrays and descriptions in other projects' files; nothing in a file is executed."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save_file

from ddpm_jax import paths
from ddpm_jax.errors import first_line
from ddpm_jax.paths import AnyPath

TORCH = 'pip install -e ".[torch]"'
# What safetensors calls the types of numbers; those that NumPy lacks are ml_dtypes'.
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@contextmanager
def of(path: object) -> Iterator[None]:
    """Errors about what a file says name the file.

    Raises:
      ValueError: one that was raised inside, with the file before its words.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path: AnyPath) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ValueError: there is no such file, or it holds something else.
    """
    found = read_any_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}: a JSON object is wanted")
    return found


def read_any_json(path: AnyPath) -> Any:
    """What a JSON file holds.

    Raises:
      ValueError: there is no such file, or it is no JSON.
    """
    path = paths.existing(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of bytes that are no text, too; of lists in lists without end
        raise ValueError(f"{path} is not JSON: {error}") from error


def write_json(path: AnyPath, values: Mapping[str, Any]) -> None:
    """An object, in a folder that is made where it is missing.

    Raises:
      OSError: it cannot be written.
    """
    path = paths.local(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_tensors(path: AnyPath) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, or of a PyTorch state dict (.pt, .pth, .bin; needs PyTorch), by name.

    Returns:
      Of any shape, float32; of a safetensors file whole numbers as they are.

    Raises:
      ValueError: there is no such file, it is damaged or holds something else, or PyTorch is missing.
    """
    path = paths.existing(path)
    if path.suffix != ".safetensors":
        return _read_state_dict(path)
    content = path.read_bytes()
    try:
        found = safetensors.deserialize(content)
    except Exception as error:
        raise ValueError(f"{path} is no safetensors file, or damaged ({first_line(error)}): fetch it again") from error
    return {name: _array(said, path, name) for name, said in found}


def _array(said: Mapping[str, Any], path: Path, name: str) -> np.ndarray:
    """One array of a safetensors file, of which its library has checked the number of bytes."""
    if said["dtype"] not in DTYPES:
        raise ValueError(f"{path}: {name} is of {said['dtype']}, which is not read: convert it to F32")
    array = np.frombuffer(said["data"], DTYPES[said["dtype"]]).reshape(said["shape"])
    return array if array.dtype.kind in "iub" else array.astype(np.float32)


def sha256(path: AnyPath) -> str:
    """Of a file's bytes."""
    with paths.local(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: AnyPath, arrays: dict[str, np.ndarray]) -> None:
    """A safetensors file as PyTorch's libraries expect it.

    Raises:
      OSError: it cannot be written.
    """
    save_file(arrays, paths.local(path), {"format": "pt"})


def _read_state_dict(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: of a library that it is linked to
        raise ValueError(f"{path} is PyTorch's: {TORCH} to read it ({first_line(error)})") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of unpickling, of zip archives, of the system
        reason = first_line(error).partition(". ")[0]  # what follows is advice to execute what is in the file
        raise ValueError(f"{path} is no state dict of tensors alone, or damaged: {reason}") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    ):
        raise ValueError(f"{path} is no state dict: it holds more than tensors by name, save model.state_dict() alone")
    return {name: _of_torch(tensor, path, name) for name, tensor in found.items()}


def _of_torch(tensor: Any, path: Path, name: str) -> np.ndarray:
    """A tensor of any precision as float32; improved-diffusion stores parameters, which ask for gradients."""
    if tensor.is_complex():
        raise ValueError(f"{path}: {name} is complex: a state dict of real numbers is wanted")
    try:
        return tensor.detach().float().numpy()
    except Exception as error:  # of tensors that are sparse, quantised or without numbers
        raise ValueError(
            f"{path}: {name} cannot be read ({first_line(error)}): store it as a plain float tensor"
        ) from error
