"""What benchmarks.bench found, as rows: speeds, memory, and ratios turn by turn. Plain values in, plain values out."""

from collections.abc import Iterable
from typing import Any

from benchmarks.turns import Row, spread

COMPARED = ("step", "forward")  # what another side has, too
WORDS = {
    "step": "training step",
    "forward": "network, forward",
    "sampling": "sampling",
    "moments": "pass for the moments",
    "bare": "network alone, K passes",
    "product_float32": "matrix product, float32",
    "product_bfloat16": "matrix product, bfloat16",
}


def label(part: str, side: str) -> str:
    """The name of what a side does."""
    return f"{part}, {side}"


def figures(found: Row) -> list[Row]:
    """What was measured: name, side, unit, and [least, median, largest] over turns.

    Args:
      found: batch, K, flops (of a part of COMPARED), answers (of a label, in every turn), first_call_seconds (of a
        label), memory (bytes, of a side), compile (seconds of tracing and of compiling; cold and warm), input (of
        bench_input.measure, or None).
    """
    rows: list[Row] = []

    def add(name: str, side: str, unit: str, values: Iterable[float]) -> None:
        rows.append({"name": name, "side": side, "unit": unit, "spread": spread(list(values))})

    for name, answers in found["answers"].items():
        part, side = name.split(", ")
        if part.startswith("product"):
            add(WORDS[part], side, "GFLOP/s", (rate / 1e9 for rate in answers))
            continue
        steps, unit = (1, "images/s") if part in COMPARED else (found["K"], "images x steps/s")
        add(WORDS[part], side, unit, (found["batch"] * steps / seconds for seconds in answers))
        if part in COMPARED and side == "ours":
            add(WORDS[part], side, "GFLOP/s", (found["flops"][part] / seconds / 1e9 for seconds in answers))
    for name, seconds in found["first_call_seconds"].items():
        part, side = name.split(", ")
        if part in COMPARED:
            add(f"{WORDS[part]}, first call", side, "s", [seconds])
    for side, memory in found["memory"].items():
        for name, count in memory.items():
            add(f"memory of the training step, {name}", side, "GiB", [count / 2**30])
    for name, parts in found["compile"].items():
        for part, seconds in parts.items():
            add(f"{part} the training step, {name}", "ours", "s", [seconds])
    for name in ("pipeline", "numpy") if found["input"] else ():
        add(f"batches, {name}", "ours", "images/s", [found["input"][f"{name}_images_per_second"]])
    return rows


def ratios(found: Row) -> list[Row]:  # noqa: C901  # one kind of row after another
    """What can be trusted on a busy machine: quotients of a turn, and [least, median, largest] of them.

    Args:
      found: as of `figures`, and activations.
    """
    rows: list[Row] = []
    answers: dict[str, list[Any]] = found["answers"]

    def add(name: str, over: str, under: str, factor: float = 1.0) -> None:
        if over in answers and under in answers:
            pairs = zip(answers[over], answers[under], strict=True)
            rows.append({"name": name, "spread": spread([factor * one / other for one, other in pairs])})

    for part in COMPARED:
        for name in answers:
            here, side = name.split(", ")
            if here == part and side != "ours":
                add(f"{WORDS[part]}: speed, ours / {side}", name, label(part, "ours"))
    for side, memory in found["memory"].items():
        if side != "ours":
            for name, count in memory.items():
                share = count / found["memory"]["ours"][name]
                rows.append({"name": f"memory of the training step, {name}: {side} / ours", "spread": spread([share])})
    for part in ("sampling", "moments"):
        add(f"{WORDS[part]}: time / {WORDS['bare']}", label(part, "ours"), label("bare", "ours"))
    for part in COMPARED:
        for kind in ("float32", "bfloat16"):
            _share(rows, found, part, kind)
    if found["compile"]:
        cold, warm = found["compile"]["cold"], found["compile"]["warm"]
        share, whole = warm["compiling"] / cold["compiling"], sum(warm.values()) / sum(cold.values())
        rows.append({"name": "compiling the training step: time, warm / cold", "spread": spread([share])})
        rows.append({"name": "the same with tracing: time, warm / cold", "spread": spread([whole])})
    if found["input"]:
        rows.append({"name": "batches: speed, pipeline / numpy", "spread": found["input"]["ratio"]})
    return rows


def _share(rows: list[Row], found: Row, part: str, kind: str) -> None:
    """Appends what part of the machine's fastest matrix product is reached, turn by turn."""
    seconds, rates = (found["answers"].get(label(name, "ours"), []) for name in (part, f"product_{kind}"))
    if seconds and rates:
        shares = [found["flops"][part] / second / rate for second, rate in zip(seconds, rates, strict=True)]
        name = f"{WORDS[part]} ({found['activations']}): FLOP/s / {WORDS[f'product_{kind}']}"
        rows.append({"name": name, "spread": spread(shares)})


def table(rows: list[Row]) -> str:
    """Rows as a table of Markdown; of one value alone, that value."""
    titles = [name for name in rows[0] if name != "spread"] if rows else []
    lines = ["| " + " | ".join([*titles, "median", "least to largest"]) + " |", "|" + " --- |" * (len(titles) + 2)]
    for row in rows:
        low, middle, high = row["spread"]
        cells = [str(row[title]) for title in titles] + [f"{middle:g}", "" if low == high else f"{low:g} to {high:g}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""]) if rows else ""
