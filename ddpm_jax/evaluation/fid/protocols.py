"""How a FID is made: presets of the ways that others use, and the stamp that goes with every figure.

Two figures compare only where everything in their `Measure` is the same. Jung & Keuper 2021 (internalised biases in
FID) and Parmar et al. 2022 (clean-fid) show how far other ways lie apart.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ddpm_jax.evaluation.fid import frechet

ENOUGH = 10_000  # images; of fewer the bias is larger than the differences that papers report
MARKS = "*†‡§¶"


class FidProtocol(NamedTuple):
    """How a project measures FID.

    Attributes:
      preparation: a name of `inception.PREPARATIONS`.
      rounding: a name of `transforms.ROUNDINGS`: how its samples become grey levels.
      n: samples.
      split: of the data set whose images are the reference.
      source: where this was read.
    """

    preparation: str
    rounding: str
    n: int
    split: str
    source: str


FID_PROTOCOLS: dict[str, FidProtocol] = {
    "pytorch-fid": FidProtocol(
        "pytorch-fid",
        "nearest",
        50_000,
        "train",
        "pytorch-fid's code, with torchvision's save_image before it; Bao et al. 2022 measure so",
    ),
    "ddpm": FidProtocol(
        "tensorflow",
        "nearest",
        50_000,
        "train",
        "Ho et al. 2020, appendix B: the TTUR repository's code; the rounding is not published and assumed",
    ),
    "score_sde": FidProtocol(
        "tensorflow-gan",
        "down",
        50_000,
        "train",
        "Song et al. 2021 (score_sde), released code; the resize inside TF-GAN's module is assumed to be the graph's",
    ),
    "improved-diffusion": FidProtocol(
        "tensorflow",
        "down",
        50_000,
        "train",
        "Nichol & Dhariwal 2021; code of improved-diffusion and of guided-diffusion's evaluator",
    ),
    "edm": FidProtocol(
        "tensorflow",
        "nearest",
        50_000,
        "train",
        "Karras et al. 2022 (EDM), released code; they print the least of three values",
    ),
}
"""By name. The training images are the reference of all; the published figures are of CIFAR-10."""


class Measure(NamedTuple):
    """What two figures must share to be compared.

    Attributes:
      features: the network whose features are taken, and a hash of its weights.
      preparation: how grey levels become its input.
      rounding: how samples became grey levels.
      reference: what samples are compared with, and a hash of it.
      n: samples.
    """

    features: str
    preparation: str
    rounding: str
    reference: str
    n: int


class Stamp(NamedTuple):
    """How one figure was made.

    Attributes:
      measure: see Measure.
      samples: what made the samples, as far as it is known: network, average, step, variance, kernel, times, rules,
        seeds; plain values.
    """

    measure: Measure
    samples: dict[str, Any]


def plain(stamp: Stamp) -> dict[str, Any]:
    """For JSON."""
    return {"measure": stamp.measure._asdict(), "samples": stamp.samples}


def named(name: str) -> FidProtocol:
    """The protocol of this name. Sources stand beside each.

    Raises:
      ValueError: there is none.
    """
    if name not in FID_PROTOCOLS:
        raise ValueError(f"unknown FID protocol {name!r}: choose one of {', '.join(FID_PROTOCOLS)}")
    return FID_PROTOCOLS[name]


def differences(one: Measure, other: Measure) -> str:
    """What of two measures is not the same, as words; empty if all is."""
    pairs = zip(Measure._fields, one, other, strict=True)
    return ", ".join(f"{field} {a} and not {b}" for field, a, b in pairs if a != b)


def marks(measures: Sequence[Measure]) -> tuple[list[str], list[str]]:
    """Marks for figures that stand in one table, and a line that explains each mark.

    Returns:
      For each figure "" where it compares with the first, else a mark, the same for the same measure.
    """
    first, others = measures[0], dict[Measure, str]()
    for measure in measures:
        if measure != first and measure not in others:
            others[measure] = MARKS[len(others) % len(MARKS)] * (1 + len(others) // len(MARKS))
    lines = [f"{mark} does not compare: {differences(measure, first)}" for measure, mark in others.items()]
    return [others.get(measure, "") for measure in measures], lines


def warning(reference: frechet.Fit, n: int) -> str | None:
    """What to say of few samples: how far the figure is too large even for a perfect model; None of enough."""
    if n >= ENOUGH:
        return None
    bias = frechet.finite_sample_bias(reference.cov, n)
    return f"N = {n:,} is less than {ENOUGH:,}: samples of a perfect model would be at {bias:.3g}, not 0"
