"""What every operation in a compiled program's text does: its kind, its work and the bytes that it must move."""

import re
from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from ddpm_jax.runtime.xla import ARRAY, array_bytes

INSTRUCTION = re.compile(
    r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<result>.*?) (?P<code>[a-z][\w\-]*)\((?P<operands>.*?)\)(?P<rest>,.*)?$"
)
COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"\bcalls=%?([\w.\-]+)")
TARGET = re.compile(r'custom_call_target="([^"]*)"')
LABELS = re.compile(r"dim_labels=\w+_(\w+)->\w+")
STRETCHED = re.compile(r"\blhs_dilate=([\dx]+)")
CONTRACTED = re.compile(r"lhs_contracting_dim(?:s=\{|ensions\":\[)([\d\", ]*)")

CONVOLUTION, PRODUCT, ATTENTION, REDUCTION = "convolutions", "matrix products", "attention", "reductions"
COPY, COLLECTIVE, ELEMENTWISE = "copies", "collectives", "elementwise"
CONTAINERS = {"while", "call", "conditional", "async-start", "async-update", "async-done"}
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"}
COPIES = {"copy", "copy-start", "copy-done", "transpose", "reshape", "slice", "concatenate", "pad", "dynamic-slice"}
COPIES |= {"dynamic-update-slice", "broadcast"}


class Operation(NamedTuple):
    """An operation that a device runs by itself: a fusion with all that is in it, a library's call, or a bare one.

    Attributes:
      kind: the first that is in it of convolutions, matrix products, attention, reductions; else copies, collectives
        or elementwise.
      flops: of its convolutions and products, two for a multiplication with its addition; others count none, and
        cuDNN's attention does not say.
      bytes: of its operands and results, each once.
    """

    kind: str
    flops: float
    bytes: int


class _Instruction(NamedTuple):
    code: str
    result: str
    operands: str
    rest: str


def operations(hlo: str) -> dict[str, Operation]:
    """Operations by name, of the text of a compiled program; without those that only hold others, or cost nothing."""
    every, bodies = _parsed(hlo)
    inside = {name for found in every.values() if found.code == "fusion" for name in bodies.get(_called(found), ())}
    return {
        name: _operation(found, [every[one] for one in bodies.get(_called(found), ())], every)
        for name, found in every.items()
        if name not in inside and found.code not in CONTAINERS | FREE
    }


def _parsed(hlo: str) -> tuple[dict[str, _Instruction], dict[str, list[str]]]:
    """All instructions by name, and the names of each computation."""
    every: dict[str, _Instruction] = {}
    bodies: dict[str, list[str]] = {}
    body: list[str] = []
    for line in hlo.splitlines():
        if heading := COMPUTATION.match(line):
            body = bodies.setdefault(heading["name"], [])
        elif found := INSTRUCTION.match(line):
            every[found["name"]] = _Instruction(found["code"], found["result"], found["operands"], found["rest"] or "")
            body.append(found["name"])
    return every, bodies


def _called(found: _Instruction) -> str:
    name = CALLED.search(found.rest)
    return name[1] if name and found.code == "fusion" else ""


def _operation(found: _Instruction, body: list[_Instruction], every: dict[str, _Instruction]) -> Operation:
    parts = body or [found]
    result = _arrays(found.result)
    if found.code == "custom-call":  # a library's scratch comes with its result
        result = [array for array in result if array["kind"] not in ("u8", "s8")] or result
    moved = sum(map(array_bytes, result + _operands(found, every)))
    return Operation(_kind(parts), sum(_flops(part, every) for part in parts), moved)


def _kind(parts: Iterable[_Instruction]) -> str:
    kinds = {_kind_of_one(part) for part in parts}
    for kind in (CONVOLUTION, PRODUCT, ATTENTION, COLLECTIVE, REDUCTION, ELEMENTWISE):
        if kind in kinds:
            return kind
    return COPY


def _kind_of_one(part: _Instruction) -> str:
    target = TARGET.search(part.rest)
    library = target[1] if target else ""
    if part.code == "convolution" or "cudnn$conv" in library:
        return CONVOLUTION
    if part.code == "dot" or "cublas" in library:
        return PRODUCT
    if "fmha" in library:
        return ATTENTION
    if part.code.startswith(("all-", "reduce-scatter", "collective-")):
        return COLLECTIVE
    if part.code.startswith("reduce"):
        return REDUCTION
    return COPY if part.code in COPIES | FREE else ELEMENTWISE


def _flops(part: _Instruction, every: dict[str, _Instruction]) -> float:
    kind = _kind_of_one(part)
    if kind not in (CONVOLUTION, PRODUCT):
        return 0.0
    result, operands = _arrays(part.result)[0], _operands(part, every)
    if kind == PRODUCT:
        contracted = CONTRACTED.search(part.rest)
        shape, axes = _shape(operands[0]), re.findall(r"\d+", contracted[1]) if contracted else []
        return 2.0 * prod(_shape(result)) * prod(shape[int(axis)] for axis in axes)
    return _flops_of_convolution(part, result, operands)


def _flops_of_convolution(part: _Instruction, result: re.Match[str], operands: list[re.Match[str]]) -> float:
    """Two for every number of the forward result and every weight that meets it.

    Zeros that pad an image count; those that a stretched one is filled with do not.
    """
    image, kernel = result, operands[1]
    if "BackwardInput" in part.rest:
        image = operands[0]
    elif "BackwardFilter" in part.rest:
        image, kernel = operands[1], result
    labels, stretched = LABELS.search(part.rest), STRETCHED.search(part.rest)
    assert labels is not None  # a convolution has them
    outputs = _shape(kernel)[labels[1].index("o")]
    zeros = prod(int(n) for n in stretched[1].split("x")) if stretched else 1
    return 2.0 * prod(_shape(image)) * prod(_shape(kernel)) / outputs / zeros


def _operands(found: _Instruction, every: dict[str, _Instruction]) -> list[re.Match[str]]:
    """The arrays of the operands, whether the text gives their shapes here or where they come from."""
    here = _arrays(found.operands)
    if here:
        return here
    return [array for name in NAME.findall(found.operands) if name in every for array in _arrays(every[name].result)]


def _arrays(text: str) -> list[re.Match[str]]:
    return list(ARRAY.finditer(text))


def _shape(array: re.Match[str]) -> list[int]:
    return [int(n) for n in array["shape"].split(",") if n]
