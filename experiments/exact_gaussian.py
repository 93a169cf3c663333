"""On Gaussian data every question about the reverse variance has an exact answer; a Gaussian predicts a known table.

The article's two answers are the points c = 0 and c = 1 of one family, and directions of the data with c > 1 lie
outside [tb, b]. A Gaussian with the spectrum of photographs, two numbers of which are fitted to four published
variances, predicts the likelihoods of Analytic-DPM's CIFAR-10 table. The samples of every choice have the variance that
a recursion says. The isotropic variances nearest in Frechet distance are not those nearest in likelihood.
Needs: about two minutes on two CPU cores, no data.
Command: python -m experiments.exact_gaussian --workdir runs/exact_gaussian
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddpm_jax.cli.command import command_line
from ddpm_jax.diffusion import process, schedules, timesteps, variances
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation import likelihood
from ddpm_jax.evaluation.exact import frechet_schedule, gaussian_chain, gaussian_samples, power_law
from ddpm_jax.report import published
from ddpm_jax.runtime import cache
from experiments import exact_gaussian_report

Row = dict[str, Any]
Fixed = dict[str, tuple[np.ndarray, float | None]]  # log sigma^2 in nats (K,), and the gap of what was optimised
DATA = "cifar10_linear"
ANCHOR = ("analytic", "even", 1000)  # the one likelihood that is not predicted: it fixes L_0
PREDICTED = ("small", "large", "analytic")
CURVES = (0.0, 0.05, 0.25, 1.0, 4.0, 100.0)  # c of the family's figure
FAMILY_K = 50
LEVELS = (0.02, 0.25, 1.0, 4.0)  # variances of the data that are sampled, two rows of 8 each
MEAN = 0.3
ETAS = (0.0, 0.5)
FIXED = ("small", "large", "isotropic")  # what Frechet-optimal variances are compared with
FREE, FLOORED = "frechet", "frechet, at least tb"
OPTIMAL_K = (10, 25, 50)
PATH_K = (5, 10, 25, 50, 100, 200, 400, 1000)
MOST_OPTIMISED = 200  # steps of a chain whose Frechet-optimal variances are sought


@dataclass(frozen=True)
class ExactGaussian:
    """The options of this experiment.

    Attributes:
      workdir: where results.json, tables.md and figure.png go.
      K: lengths of the chains that are sampled.
      samples: images a chain.
      seed: of the samples.
      dry_run: print the options and stop.
    """

    workdir: Path = Path("runs/exact_gaussian")
    K: tuple[int, ...] = (4, 10)
    samples: int = 4000
    seed: int = 0
    dry_run: bool = False


def main(options: ExactGaussian) -> None:
    """Compute, print and write every part."""
    tables = schedules.linear()
    if not options.K or len(set(options.K)) < len(options.K):
        raise ValueError(f"K = {' '.join(map(str, options.K))}: give at least one, and each once")
    chains = [timesteps.even(tables.T, K) for K in options.K]
    if options.samples < 2:
        raise ValueError(f"samples = {options.samples}: it is at least 2")
    cache.check_writable(options.workdir)
    config = {**vars(options), "workdir": str(options.workdir), "K": list(options.K)}
    if options.dry_run:
        print(json.dumps(config, indent=2))
        return
    law = power_law.fit(tables, published.first_variances(DATA, "analytic"))
    c = power_law.spectrum(law)
    results = {
        "config": config,
        "family": family(tables, c),
        "power_law": predict(tables, law),
        "finals": [row for times in chains for row in samples(options, tables, times)],
        "optima": [row for K in OPTIMAL_K for row in compare(tables, c, K)],
        "paths": [paths(tables, c, K) for K in PATH_K],
    }
    text = exact_gaussian_report.text(results)
    print(text)
    options.workdir.mkdir(parents=True, exist_ok=True)
    cache.write_json(options.workdir / "results.json", results)
    cache.write_whole(options.workdir / "tables.md", lambda file: file.write(text.encode()))
    cache.write_whole(
        options.workdir / "figure.png", lambda file: exact_gaussian_report.draw(results).savefig(file, dpi=130)
    )
    print(f"written to {options.workdir}: results.json, tables.md, figure.png")


def family(tables: Schedule, c: np.ndarray) -> Row:
    """sigma^2(c)/b along a chain, the upper bound, and which directions of the fitted Gaussian lie outside [tb, b]."""
    every = process.steps(tables, timesteps.even(tables.T, FAMILY_K))
    steps = Steps(*(column[1:] for column in every))
    ratios = {f"{x:g}": np.exp(variances.table(variances.family(x, tables), steps)) / steps.b for x in CURVES}
    true = np.exp(gaussian_chain.true_log_var(tables, steps, c))
    above, below = (true > variances.beside(steps.b, true)), (true < variances.beside(steps.tb, true))
    f, always = np.arange(len(c)), above.all(axis=0)
    return dict(
        K=FAMILY_K,
        t=steps.t.tolist(),
        ratios={name: ratio.tolist() for name, ratio in ratios.items()},
        upper=(1 / steps.a).tolist(),
        radius=np.hypot(f[:, None], f).ravel().tolist(),
        spectrum=c.reshape(-1, c.shape[-1]).T.tolist(),
        directions=c.size,
        outside=int(always.sum()),
        outside_at_some_t=int((above | below).any(axis=0).sum()),
        outside_by_axis=always.sum(axis=(0, 1)).tolist(),
        share_of_variance=float(c[always].sum() / c.sum()),
        largest=float(c.max()),
    )


def predict(tables: Schedule, law: power_law.PowerLaw) -> Row:
    """The likelihoods of the fitted Gaussian beside the published ones."""
    known = {
        (row.variance, row.trajectory): {K: value for K, value in row.values.items() if value is not None}
        for row in published.rows(DATA, "nll")
        if row.variance in PREDICTED
    }
    found = power_law.predict(tables, law, known, ANCHOR)
    optimal = [abs(error) for (_, way, _), error in found.off.items() if way == "optimal"]
    first = published.first_variances(DATA, "analytic")
    fitted = power_law.first_variances(tables, law, list(first))
    return dict(
        data=DATA,
        **law._asdict(),
        anchor=ANCHOR,
        decoder=found.decoder,
        first_variances=[
            dict(K=K, published=value, fitted=float(ours))
            for (K, value), ours in zip(first.items(), fitted, strict=True)
        ],
        cells=[
            dict(variance=name, trajectory=way, K=K, predicted=bits, published=known[name, way][K])
            for (name, way, K), bits in found.bits.items()
        ],
        unanchored=found.unanchored,
        median=found.median,
        worst=found.worst,
        optimal_median=float(np.median(optimal)),
        optimal_worst=max(optimal),
        spectral={str(K): power_law.spectral_bits(tables, law, found.decoder, K) for K in known["small", "even"]},
    )


def samples(options: ExactGaussian, tables: Schedule, times: np.ndarray) -> list[Row]:
    """P_0 of every choice by the recursion and from the sampler."""
    c = np.repeat(LEVELS, 16).reshape(8, 8, 1)
    kernels = {"ddpm": process.DDPM} | {f"ddim({eta:g})": process.ddim(eta) for eta in ETAS}
    data, key = gaussian_samples.Data(MEAN, c), jax.random.key(options.seed)
    return gaussian_samples.compare(key, tables, data, times, kernels, options.samples)


def isotropic_choices(tables: Schedule, c: np.ndarray, K: int) -> tuple[Steps, Fixed]:
    """A chain, and the isotropic choices there; the Frechet-optimal ones with their gap."""
    steps = process.steps(tables, timesteps.even(tables.T, K))
    known = likelihood.calibrate(Calibration(tables), gaussian_chain.moments(tables, c))
    found: Fixed = {name: (variances.table(variances.build(name, known), steps), None) for name in FIXED}
    if K <= MOST_OPTIMISED:
        for name, floor in ((FREE, np.zeros(K)), (FLOORED, steps.tb)):
            best = frechet_schedule.optimum(tables, steps, c, floor)
            with np.errstate(divide="ignore"):
                found[name] = np.log(best.variance), best.gap
    return steps, found


def compare(tables: Schedule, c: np.ndarray, K: int) -> list[Row]:
    """Every isotropic choice in all scores, with noise in the last step."""
    steps, choices = isotropic_choices(tables, c, K)
    rows = []
    for name, (log_var, gap) in choices.items():
        end = gaussian_chain.final(tables, steps, log_var, c)
        scores = dict(frechet=gaussian_chain.frechet(end, c), data_kl=gaussian_chain.data_kl(end, c))
        scores["path_kl"] = float(gaussian_chain.path_kl(tables, steps, log_var, c).sum())
        shape = dict(t=steps.t.tolist(), over_b=(np.exp(log_var) / steps.b).tolist())
        rows.append(dict(variance=name, K=K, **scores, gap=gap, silent=int(np.isinf(log_var).sum()), **shape))
    return rows


def paths(tables: Schedule, c: np.ndarray, K: int) -> Row:
    """The path KL of every isotropic choice, nats/dim; None where it was not sought."""
    steps, choices = isotropic_choices(tables, c, K)
    names = [*FIXED, FLOORED]
    kl = {name: gaussian_chain.path_kl(tables, steps, choices[name][0], c).sum() for name in names if name in choices}
    return dict(K=K, path_kl={name: float(kl[name]) if name in kl else None for name in names})


if __name__ == "__main__":
    command_line(ExactGaussian, main, __doc__)
