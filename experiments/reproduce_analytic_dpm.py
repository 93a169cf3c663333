"""The tables of Analytic-DPM without training: likelihood and FID of every variance, ours beside the published figures.

Takes a network of another project (or a workdir of ddpm-jax train), its data set and the Inception file. The
likelihoods of every chain come of one pass over images; the FID of every variance and K of samples, the shortest chains
first. Before it starts it measures how fast the network is and says how long all will take; with --budget it takes
fewer samples, then leaves out the longest chains, and marks what does not compare with the published figures for it.
Everything drawn or measured is kept in workdir/cells, 2,048 images at a time: run again, it goes on where it stopped.
Needs: days on one accelerator for all of it; --smoke minutes on two CPU cores.
Command: python -m experiments.reproduce_analytic_dpm --weights ddpm-cifar10-32 --data cifar10 --inception
pt_inception-2015-12-05-6726825d.pth --workdir runs/reproduce
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax.cli import provenance
from ddpm_jax.cli.command import command_line
from ddpm_jax.diffusion import process, timesteps, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.process import Kernel
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation import ablation, likelihood, samples
from ddpm_jax.evaluation.ablation import Execution
from ddpm_jax.evaluation.design import Design
from ddpm_jax.evaluation.fid import extractors, frechet, protocols
from ddpm_jax.evaluation.fid.protocols import Measure
from ddpm_jax.evaluation.likelihood import Cell, Choices
from ddpm_jax.models import inception
from ddpm_jax.runtime import cache, sharding
from ddpm_jax.runtime.cache import Keep, Store
from ddpm_jax.runtime.sharding import Layout
from ddpm_jax.training import loop
from experiments import reproduce_plan, reproduce_report
from experiments.reproduce_plan import PUBLISHED_WITH, Plan, Reproduce, plain, resolve

Row = dict[str, Any]
DDIM = ("zero", "analytic")  # variances of DDIM's kernel that were published: DDIM and Analytic-DDIM
CLIPS = {("ddpm", "small"): None, ("ddpm", "large"): 1.0, ("ddim", "zero"): None, ("ddim", "analytic"): 1.0}
"""Of Bao et al. 2022, released code: rows whose pixel clip is not that of `analytic`."""
PUBLISHED_T = 1000
PROBE = 4  # steps of the chain that is timed
PROBED_BY_CORES = 16  # images of that chain on CPUs; elsewhere a shard


def main(options: Reproduce) -> None:
    """Import, estimate, measure, sample, tabulate."""
    if options.dry_run:
        print(json.dumps(plain(options), indent=2))
        return
    cache.check_writable(options.workdir)
    plan = resolve(options)
    with loop.locked(plan.options.workdir):
        reproduce(plan)


def reproduce(plan: Plan) -> None:
    """What main does, in a workdir that no other process writes to."""
    execution = Execution(keep=keep_of(plan))
    work, notes = afford(plan)
    print("\n".join(notes), flush=True)
    design = plan.design._replace(images=work.n)
    calibration = ablation.measure(plan.model, plan.data, design, jax.random.key(0), "calibration", execution=execution)
    choices = ablation.choose(plan.model, plan.data, design, calibration, execution.keep)
    test = ablation.measure(plan.model, plan.data, design, jax.random.key(0), "test", choices, execution)
    bounds = likelihood.rows(likelihood.likelihoods(choices, test, execution.keep), "test")
    results: dict[str, Any] = {
        "config": {**plain(plan.options), "schedule": plan.schedule},
        "network": plan.made,
        "rules": design.rules._asdict(),
        "data": provenance.images(plan.data, calibration.variance),
        "nll": [likelihood_row(row) for row in bounds if row["bits_per_dim"] is not None],
        "fid": [],
        "notes": {"nll": likelihood_notes(plan, len(test.prior)), "fid": notes},
    }
    folder = plan.options.workdir
    write(folder, results)
    if plan.judged_by:
        mark, lines = compared(plan, work.n)
        results["notes"]["fid"] = [*lines, *notes]
        for choice, cell in sampled(choices, design, sorted(work.chains)):
            results["fid"].append(fid_row(plan, choice, cell, work.n, execution.keep) | {"mark": mark})
            write(folder, results)
    print(reproduce_report.text(results))
    print(f"tables: {folder / 'tables.md'}")


def keep_of(plan: Plan) -> Keep:
    """Where results are kept, under the network."""
    common = {"denoiser": plan.model.fingerprint}
    return partial(cache.fetch, Store(plan.options.workdir / "cells", common, plan.options.force, Counter()))


def kernels(design: Design) -> list[tuple[Kernel, str]]:
    """Every variance that is sampled, with its kernel."""
    others = [(process.ddim(), name) for name in DDIM if name in design.variances]
    return [(process.DDPM, name) for name in design.variances] + others


def sampled(choices: Choices, design: Design, Ks: list[int]) -> Iterator[tuple[Choices, Cell]]:
    """Every cell of the FID table with the choices of its kernel, chain length by chain length."""
    for K in Ks:
        for kernel, name in kernels(design):
            if (name, "even", K) in choices.times:
                yield choices._replace(kernel=kernel), (name, "even", K)


def afford(plan: Plan) -> tuple[reproduce_plan.Work, list[str]]:
    """What is done within the budget, and what to say of it before it starts.

    Raises:
      ValueError: nothing fits.
    """
    options, design, data = plan.options, plan.design, plan.data
    passes = (len(data.calibration.images) + len(data.test.images)) * plan.model.schedule.T
    count = len(kernels(design)) * design.seeds
    chains = dict.fromkeys(design.sample_K, count) if plan.judged_by else {}
    full_work = reproduce_plan.Work(passes, chains, design.images)
    rate = float(
        keep_of(plan)("speeds", {"devices": sharding.words()}, lambda: dict(rate=np.asarray(speed(plan))))["rate"]
    )
    hours = reproduce_plan.evaluations(full_work) / rate / 3600
    notes = [
        f"{reproduce_plan.evaluations(full_work):.3g} network evaluations at {rate:,.0f} a second here: "
        f"about {hours:.2g} hours, "
        "with what is kept already, without Inception"
    ]
    if not chains or options.budget is None or hours <= options.budget:
        return full_work, notes
    work = reproduce_plan.cut(full_work, int(options.budget * 3600 * rate))
    lost = [str(K) for K in chains if K not in work.chains]
    notes.append(
        f"cut to {options.budget:g} hours: N = {work.n:,} in place of {full_work.n:,}"
        + (f", without K = {', '.join(lost)}" if lost else "")
    )
    return work, notes


def speed(plan: Plan) -> float:
    """Network evaluations a second in sampling, of a few steps after as many that compile."""
    model, design = plan.model, plan.design
    steps = process.steps(model.schedule, timesteps.even(model.schedule.T, PROBE))
    most = PROBED_BY_CORES if sharding.are_cores(sharding.local(Layout())) else samples.SHARD
    shape = (min(design.images, most), *model.shape)
    choice = variances.build("large", Calibration(model.schedule))
    seconds = []
    for seed in range(2):
        started = time.perf_counter()
        x_0 = samples.sample_each(jax.random.key(seed), steps, model.denoiser, (choice,), shape, design.rules)
        jax.block_until_ready(x_0)
        seconds.append(time.perf_counter() - started)
    return shape[0] * PROBE / seconds[-1]


def compared(plan: Plan, n: int) -> tuple[str, list[str]]:
    """The mark of our figures beside the published ones, and the lines about how they were made."""
    assert plan.judged_by
    extractor, reference = plan.judged_by
    ours = extractors.measure(extractor, reference, plan.design.rules.rounding, n)
    theirs = protocols.named(PUBLISHED_WITH)
    usual = plan.data.name == "cifar10" and plan.options.reference is None
    published = Measure(
        extractor.name if extractor.usual else inception.FILE,
        theirs.preparation,
        theirs.rounding,
        ours.reference if usual else "CIFAR-10's training images",
        theirs.n,
    )
    (_, mark), lines = protocols.marks([published, ours])
    few = protocols.warning(reference.target.fit, n)
    if few:
        print(f"warning: {few}", file=sys.stderr)
    made = f"{ours.features}, {ours.preparation}, rounding {ours.rounding}, N = {ours.n:,}, to {ours.reference}"
    clips = "pixel clips as Bao et al.'s code" if plan.options.pixel_clip is None else "one pixel clip for all rows"
    return mark, [*lines, *of_others(plan), *([few] if few else []), f"{made}; {clips}"]


def of_others(plan: Plan) -> list[str]:
    """That the published figures are of other images or another chain, where they are."""
    name, T = Path(plan.data.name).name, plan.model.schedule.T
    ours = [f"of {name}"] * (name != "cifar10") + [f"of T = {T}"] * (T != PUBLISHED_T)
    published = f"the published figures are of CIFAR-10 and T = {PUBLISHED_T}"
    return [f"{published}, ours {' and '.join(ours)}: they do not compare"] if ours else []


def rules_of(plan: Plan, cell: Cell, kernel: Kernel) -> Rules:
    """The rules of a row, with the clip that Bao et al.'s code has for it; for rows of ours that of `analytic`."""
    theirs = CLIPS.get((kernel.name, cell[0]), plan.design.rules.pixel_clip)
    return plan.design.rules._replace(pixel_clip=theirs) if plan.options.pixel_clip is None else plan.design.rules


def likelihood_row(row: likelihood.Row) -> Row:
    """As the report reads it."""
    name = {key: row[key] for key in ("variance", "trajectory", "K")}
    return {**name, "kernel": "ddpm", "value": row["bits_per_dim"], "standard_error": row["standard_error"], "mark": ""}


def likelihood_notes(plan: Plan, images: int) -> list[str]:
    """What the likelihoods are of."""
    data = plan.data
    fixed = f"of {images:,} test images, variances fixed on {len(data.calibration.images):,} others"
    return [*of_others(plan), fixed]


def fid_row(plan: Plan, choices: Choices, cell: Cell, n: int, keep: Keep) -> Row:
    """The FID of a cell with its stamp: over seeds the mean and its standard error."""
    assert plan.judged_by
    (extractor, reference), design = plan.judged_by, plan.design
    rules, shape, seeds = rules_of(plan, cell, choices.kernel), plan.data.shape, list(range(design.seeds))

    def compute(seed: int) -> cache.Arrays:
        draws = samples.Draws([seed], n, shape)
        (images,) = samples.draw(choices, plan.model.denoiser, [cell], rules, draws, keep=keep)[cell]
        fit = frechet.fit(extractors.summed(extractor, images))
        return dict(fid=np.asarray(frechet.distance(reference.target, fit)))

    inputs = {**samples.inputs(choices, cell, rules), "n": n, "extractor": extractor[:3], "to": reference.name}
    inputs["version"] = [extractors.VERSION, samples.VERSION]
    values = np.array([keep("fids", {**inputs, "seed": seed}, partial(compute, seed))["fid"] for seed in seeds])
    name = dict(variance=cell[0], kernel=choices.kernel.name, trajectory=cell[1], K=cell[2])
    stamp = protocols.Stamp(
        extractors.measure(extractor, reference, design.rules.rounding, n),
        {**plan.made, **name, "seeds": seeds, "rules": rules._asdict()},
    )
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    by_seed = values.tolist()
    return {**name, "value": float(values.mean()), "standard_error": error, "by_seed": by_seed} | {
        "stamp": protocols.plain(stamp)
    }


def write(folder: Path, results: dict[str, Any]) -> None:
    """results.json and tables.md, as far as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    cache.write_json(folder / "results.json", results)
    cache.write_whole(folder / "tables.md", lambda file: file.write(reproduce_report.text(results).encode()))


if __name__ == "__main__":
    command_line(Reproduce, main, __doc__)
