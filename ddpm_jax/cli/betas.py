"""A schedule that is a table of betas: read from its file when a command starts, and shown by its title."""

import json
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

from ddpm_jax.diffusion import schedules
from ddpm_jax.models.convert import files, values
from ddpm_jax.models.convert.schedulers import LONGEST
from ddpm_jax.paths import AnyPath

C = TypeVar("C")
KEYS = ("betas", "trained_betas")


def resolved(options: C) -> C:
    """Options with the betas themselves where `schedule` names a .json of them: the file may be gone later.

    Args:
      options: a dataclass, perhaps with others in it.

    Raises:
      ValueError: the file is missing or damaged, or holds no betas.
    """
    changed: dict[str, Any] = {}
    for name, value in vars(options).items():
        if name == "schedule" and isinstance(value, str) and value.lower().endswith(".json"):
            changed[name] = read(value)
        elif is_dataclass(value):
            changed[name] = resolved(value)
    return replace(options, **changed) if changed else options  # type: ignore[type-var]


def read(path: AnyPath) -> str:
    """The name of the schedule in a .json: a list of betas, or an object with `betas` or `trained_betas`.

    Raises:
      ValueError: see `resolved`.
    """
    found = files.read_any_json(path)
    with files.of(path):
        if isinstance(found, dict):
            keys = [key for key in KEYS if key in found]
            if len(keys) != 1:
                raise ValueError(f"a list of betas is wanted, or one of {' and '.join(KEYS)} in an object")
            key, found = keys[0], found[keys[0]]
        else:
            key = "betas"
        values.check({key: found}, {key: values.listed(values.BETA, LONGEST)})
        return schedules.table([float(beta) for beta in found])


def printed(described: Any) -> str:
    """Plain values as JSON to look at, where no table of betas is written out."""
    return json.dumps(_shortened(described), indent=2)


def _shortened(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _shortened(inner, name) for name, inner in value.items()}
    if key == "schedule" and isinstance(value, str):
        return schedules.title(value)
    if key in KEYS and isinstance(value, list):
        return schedules.title(schedules.table(value))
    return [_shortened(inner) for inner in value] if isinstance(value, list) else value
