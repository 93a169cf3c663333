"""With a perfect network the variance that looks at x_t is nearest to the data, and its lead grows with the steps.

Data are a mixture of Gaussians in one dimension, so the denoiser and Cov[x_0 | x_t] are known and the density of the
samples is propagated on a grid: KL, total variation and W2 to the data for every choice of the variance, without
sampling. Calibrated choices get the exact moments, trained ones the heads that perfect training would give.
Needs: about two CPU minutes, no data.
Command: python -m experiments.exact_mixture --workdir runs/exact_mixture
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ddpm_jax.cli import betas
from ddpm_jax.cli.command import command_line
from ddpm_jax.diffusion import conventions, mixtures, process, schedules, timesteps, toy, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.mixtures import Mixture
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.toy import ToyData
from ddpm_jax.diffusion.variances import VARIANCES, Calibration
from ddpm_jax.evaluation.exact import density
from ddpm_jax.runtime import cache
from experiments import exact_distances_report

Row = dict[str, Any]
MEASURES = {"kl": "KL(data || samples), nats", "total_variation": "total variation", "w2": "Wasserstein distance W2"}
FAR = 100  # nats


@dataclass(frozen=True)
class ExactMixture:
    """The options of this experiment.

    Attributes:
      workdir: where results.json, tables.md and figure.png go.
      weights: of the modes.
      means: of the modes.
      deviations: standard deviations of the modes.
      schedule: of the noise, see `schedules.build`; or a .json of betas.
      T: number of noise levels.
      variances: choices, numbers after colons (interpolated:0.7); default all.
      K: chain lengths.
      last_step: noise of the last step: mean (none) or noise.
      points: of the grid.
      reach: of the grid, on both sides of 0.
      dry_run: print the options and stop.
    """

    workdir: Path = Path("runs/exact_mixture")
    weights: tuple[float, ...] = (0.3, 0.5, 0.2)
    means: tuple[float, ...] = (-1.5, 0.2, 1.1)
    deviations: tuple[float, ...] = (0.2, 0.3, 0.1)
    schedule: str = "linear"
    T: int = 1000
    variances: tuple[str, ...] = tuple(VARIANCES)
    K: tuple[int, ...] = (2, 5, 10, 25, 50, 100)
    last_step: str = "mean"
    points: int = 4001
    reach: float = 7.0
    dry_run: bool = False


class Setting(NamedTuple):
    """What all chains share."""

    x: np.ndarray
    data: Mixture
    toy_data: ToyData
    schedule: Schedule
    rules: Rules


def main(options: ExactMixture) -> None:
    """Propagate, measure, print and write."""
    setting = resolve(options)
    config = {**vars(options), "workdir": str(options.workdir)}
    if options.dry_run:
        print(betas.printed(config))
        return
    rows = []
    for K in tqdm(options.K, desc="chains", unit="K"):
        rows += compare(setting, options.variances, K)
    if all(row["kl"] is None for row in rows):
        raise ValueError(f"points = {options.points}: too few for any of these chains; give more")
    parts = dict(variances=list(options.variances), K=list(options.K), measures=MEASURES, rows=rows)
    results = {"config": config, **parts}
    options.workdir.mkdir(parents=True, exist_ok=True)
    cache.write_json(options.workdir / "results.json", results)
    text = exact_distances_report.text(results)
    cache.write_whole(options.workdir / "tables.md", lambda file: file.write(text.encode()))
    cache.write_whole(
        options.workdir / "figure.png", lambda file: exact_distances_report.draw(results).savefig(file, dpi=150)
    )
    print(text)
    if any(row["kl"] is None for row in rows):
        print("–: the samples lie closer together than the grid can tell")
    if any((row["kl"] or 0) > FAR for row in rows):
        print(f"a KL above {FAR} says that the samples miss the data; its size rests on their farthest tails")


def resolve(options: ExactMixture) -> Setting:
    """What the options say.

    Raises:
      ValueError: an unknown name, or a number out of range.
    """
    for name, values in (("K", options.K), ("variances", options.variances)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} = {' '.join(map(str, values))}: give at least one, and each once")
    tables = schedules.build(options.schedule, options.T)
    means, deviations = np.reshape(options.means, (-1, 1, 1, 1)), np.asarray(options.deviations)
    parts = (np.asarray(options.weights), means, deviations**2)
    data, x = mixtures.of(*parts), density.grid(options.reach, options.points)
    rules = Rules(options.last_step, clip_x_0=False, clamp_cov=False)
    setting = Setting(x, data, toy.mixture(tables, *parts), tables, rules)
    known = calibrate(setting, np.asarray([], int))
    for name in options.variances:
        variances.build(name, known)
    for K in options.K:
        conventions.log_var_cap(rules, process.steps(tables, timesteps.even(options.T, K)))
    cache.check_writable(options.workdir)
    return setting


def calibrate(setting: Setting, times: np.ndarray) -> Calibration:
    """The exact moments at these times; in one dimension M_t, 1 - Gamma_t and the spectrum are one number."""
    moment = np.full(setting.schedule.T + 1, np.nan)
    moment[times] = [
        density.mean_excess(setting.x, setting.data, setting.toy_data, setting.schedule, int(t)) for t in times
    ]
    weights = np.exp(setting.data.log_weights)
    mean = weights @ setting.data.mean.ravel()
    c = float(weights @ (setting.data.variance.ravel() + (setting.data.mean.ravel() - mean) ** 2))
    spectrum = moment.reshape(-1, 1, 1, 1)
    return Calibration(setting.schedule, c, moment, moment, spectrum, ((1.0,),), clamp_cov=False)


def compare(setting: Setting, names: tuple[str, ...], K: int) -> list[Row]:
    """The distances of every variance on the even chain of K steps."""
    times = timesteps.even(setting.schedule.T, K)
    steps, known = process.steps(setting.schedule, times), calibrate(setting, times)
    denoiser = toy.exact_heads(setting.toy_data, steps)
    wanted = density.log_mixture(setting.x, setting.data)
    rows: list[Row] = []
    values: dict[str, float | None]
    for name in names:
        choice = variances.build(name, known)
        try:
            found = density.propagate(setting.x, steps, denoiser, choice, setting.rules)
        except density.Unresolved:
            values = dict.fromkeys(MEASURES)
        else:
            measured = (density.kl, density.total_variation, density.wasserstein)
            values = {key: of(setting.x, wanted, found) for key, of in zip(MEASURES, measured, strict=True)}
        rows.append(dict(variance=name, K=K, **values))
    return rows


if __name__ == "__main__":
    command_line(ExactMixture, main, __doc__)
