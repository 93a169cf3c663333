"""Slices of Cloud TPU that need not be here: libtpu compiles for them on any machine."""

import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

from ddpm_jax.errors import first_line

SQUARES = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
CUBES = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"}


class Chip(NamedTuple):
    """A kind of chip. Source: the system architecture pages of Google's Cloud TPU documentation.

    Attributes:
      cores: that a slice's name counts for one chip.
      shapes: of slices, by number of chips.
      memory: GiB.
      teraflops: the most in a second, in bfloat16.
      config: under which libtpu makes one device of a chip.
    """

    cores: int
    shapes: dict[int, str]
    memory: int
    teraflops: int
    config: str


CHIPS = {
    "v4": Chip(2, CUBES, 32, 275, "megacore"),
    "v5e": Chip(1, SQUARES, 16, 197, "default"),
    "v5p": Chip(2, CUBES, 95, 459, "default"),
    "v6e": Chip(1, SQUARES, 32, 918, "default"),
}
# Compiles a U-Net in minutes instead of tens of them; a program for running is compiled with neither.
FAST_TO_COMPILE = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0}
# libtpu asks the machine what it is and complains where it is no TPU; what it is told plays no part in compiling. Nor
# do other processes that compile, for which it would refuse.
QUIET = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


class Slice(NamedTuple):
    """So many chips.

    Attributes:
      name: Google's, as v5e-8.
      chip: of its kind.
      devices: one a chip, as if they were all at one host: the programs are the same.
    """

    name: str
    chip: Chip
    devices: tuple[jax.Device, ...]


def slice_of(name: str) -> Slice:
    """The slice of a name: of v5e and v6e the number behind it counts chips, of v4 and v5p cores, two a chip.

    From then on this process computes on its CPU.

    Raises:
      ValueError: there is none of this name, or libtpu is not installed.
    """
    kind, _, number = name.partition("-")
    chip = CHIPS.get(kind)
    known = [f"{kind}-{chip.cores * chips}" for kind, chip in CHIPS.items() for chips in chip.shapes]
    if chip is None or name not in known:
        raise ValueError(f"unknown slice {name!r}: choose one of {', '.join(known)}")
    shape = chip.shapes[int(number) // chip.cores]
    jax.config.update("jax_platforms", "cpu")
    # Programs for other machines would be written and cannot be read.
    jax.config.update("jax_enable_compilation_cache", False)
    for setting, value in QUIET.items():
        os.environ.setdefault(setting, value)
    bounds = (*map(int, shape.split("x")), 1)[:3]
    try:
        found = topologies.get_topology_desc(
            f"{kind}:{shape}", platform="tpu", chips_per_host_bounds=bounds, chip_config_name=chip.config
        )
    except Exception as error:  # of several kinds where the library is missing
        raise ValueError(f"no compiler for {name} ({first_line(error)}): pip install -e '.[tpu]'") from error
    return Slice(name, chip, tuple(found.devices))
