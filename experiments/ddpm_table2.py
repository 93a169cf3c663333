"""eps with L_simple gives the best samples, the bound L the better codelength: Ho et al. 2020, table 2, trained anew.

Six networks a training seed, alike but for what they predict and minimise. Each is judged on its whole chain, with the
variance it was trained with (`large` where the loss has none): the likelihood bound of test images, and the Frechet
distance of samples to the training images in classifier features. The published figures stand beside ours, and every
published statement is said to be met, not met or not decided by so many training seeds. A training whose loss becomes
infinite or NaN is a result, too: it diverged.
T is 100: `learned` is defined on the whole chain alone, so all are sampled on theirs, at T network evaluations an
image; the ends of the linear schedule scale with 1000/T, so that as little of the data is left at T as with 1000. The
decoder is that of the loss, the head of `learned` and tb(1, 2) elsewhere; the last step adds no noise; x_0_hat is
clipped where it forms the mean, and a predicted mu is taken as it is.
Needs: less than half an hour on two CPU cores for the default digits.
Command: python -m experiments.ddpm_table2 --workdir runs/ddpm_table2
"""

from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ddpm_jax.cli import betas
from ddpm_jax.cli.command import command_line
from ddpm_jax.data.datasets import seen
from ddpm_jax.diffusion import conventions
from ddpm_jax.evaluation import ablation
from ddpm_jax.evaluation.ablation import Execution
from ddpm_jax.evaluation.design import Design
from ddpm_jax.evaluation.fid import classifier
from ddpm_jax.report import published
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Keep, Store
from ddpm_jax.runtime.sharding import Layout
from ddpm_jax.training import checkpoints, loop, setup
from ddpm_jax.training.config import Config, to_dict
from ddpm_jax.training.setup import Run
from experiments import ddpm_table2_report

Row = dict[str, Any]
VERSION = 1  # raised by hand when the numbers of a training change
ROWS = (  # prediction, objective and variance, in the order of the published table
    ("mu", "vlb", "learned"),
    ("mu", "vlb", "large"),
    ("mu", "mu_mse", "large"),
    ("eps", "vlb", "learned"),
    ("eps", "vlb", "large"),
    ("eps", "simple", "large"),
)


@dataclass(frozen=True)
class DdpmTable2:
    """The options of this experiment; those of training hold for every row.

    Attributes:
      workdir: where the trainings, results.json, tables.md, figure.png and the cells go.
      data: a name of datasets.DATASETS.
      preset: a name of unet.PRESETS.
      schedule: of the noise, see `schedules.build`; or a .json of betas.
      T: number of noise levels, and of steps of every chain.
      steps: training steps.
      batch: images a step, over all devices.
      learning_rate: Adam's, after warm-up.
      ema_decay: of the averages of the parameters; the first is judged.
      seed: of the first training and of the noise on test images.
      training_seeds: networks of each row, from seed upwards.
      images: samples of each network and sampling seed.
      seeds: sampling seeds.
      parallel: how images are spread over devices: pmap or shard_map.
      force: measure and draw again what is in workdir/cells.
      dry_run: print the options and stop.
    """

    workdir: Path = Path("runs/ddpm_table2")
    data: str | None = Config.data
    preset: str = Config.preset
    schedule: str = Config.schedule
    T: int = 100
    steps: int = 800
    batch: int = 64
    learning_rate: float = Config.learning_rate
    ema_decay: tuple[float, ...] = Config.ema_decay
    seed: int = Config.seed
    training_seeds: int = 3
    images: int = 300
    seeds: int = 2
    parallel: str = Config.parallel
    force: bool = False
    dry_run: bool = False


def main(options: DdpmTable2) -> None:
    """Train, evaluate, compare, print and write."""
    plan = resolve(options)
    config = {**vars(options), "workdir": str(options.workdir)}
    if options.dry_run:
        print(betas.printed({**config, "trainings": [to_dict(wanted.config) for wanted in plan]}))
        return
    rows, classifiers = [], []
    for first, known in zip(plan, published.table_2(), strict=True):
        name = folder_of(options, first.config).parent.name
        found = [network(options, one) for one in tqdm(trainings(options, first), desc=name, unit="network")]
        classifiers += [measured for _, measured in found if measured]
        names = {name: getattr(first.config, name) for name in ("prediction", "objective", "variance")}
        row = {**names, "published": known._asdict(), "networks": [one for one, _ in found]}
        rows.append(row | ddpm_table2_report.over_seeds(row))
    results: Row = {"config": config, "classifier": classifiers[0] if classifiers else None, "rows": rows}
    results["statements"] = ddpm_table2_report.statements(rows)
    text = ddpm_table2_report.text(results)
    cache.write_json(options.workdir / "results.json", results)
    cache.write_whole(options.workdir / "tables.md", lambda file: file.write(text.encode()))
    cache.write_whole(options.workdir / "figure.png", lambda file: ddpm_table2_report.draw(rows).savefig(file, dpi=150))
    print(text)


def resolve(options: DdpmTable2) -> list[Run]:
    """The first training of every row.

    Raises:
      ValueError: an unknown name, a number out of range, or a workdir that is not writable or holds other trainings.
    """
    if options.training_seeds < 1:
        raise ValueError(f"training_seeds = {options.training_seeds}: it is at least 1")
    cache.check_writable(options.workdir)
    shared = {field.name for field in fields(Config)} & vars(options).keys()
    common = Config(**{name: getattr(options, name) for name in shared}, sample_every=0)
    plan = []
    for prediction, objective, choice in ROWS:
        config = replace(common, prediction=prediction, objective=objective, variance=choice)
        first = setup.resolve(config)
        in_loss = setup.in_loss(config, first.schedule)
        ablation.check(design_of(options, first), first.schedule, in_loss.heads, in_loss.times)
        classifier.check(first.data.name, first.data.test.labels)
        plan.append(first)
    for wanted in (one for first in plan for one in trainings(options, first)):
        folder = folder_of(options, wanted.config)
        there = max(checkpoints.steps(folder / checkpoints.CHECKPOINTS), default=0)
        if there:
            setup.check_same(wanted, checkpoints.describe(folder / checkpoints.CHECKPOINTS), folder)
        if there > options.steps:
            raise ValueError(
                f"{folder} holds a run of {there} steps, more than steps = {options.steps}: ask for as many, or choose "
                "another --workdir"
            )
    return plan


def design_of(options: DdpmTable2, wanted: Run) -> Design:
    """The whole chain with the variance of the row; Ho et al.'s conventions, and L_0 as the loss has it.

    A predicted mu is taken as it is: their code clips x_0_hat before it forms a mean, and here there is none to form.
    """
    clip = wanted.config.prediction != "mu"
    rules = conventions.protocol("ddpm", wanted.data.levels, decoder="own", clip_x_0=clip)
    return ablation.whole_chain_design(wanted.config.variance, rules, wanted.schedule, options.images, options.seeds)


def trainings(options: DdpmTable2, first: Run) -> list[Run]:
    """A row's trainings, one a seed."""
    seeds = range(options.seed, options.seed + options.training_seeds)
    return [first._replace(config=replace(first.config, seed=seed)) for seed in seeds]


def folder_of(options: DdpmTable2, config: Config) -> Path:
    """Where a training lies."""
    return options.workdir / f"{config.prediction}-{config.objective}-{config.variance}" / f"seed-{config.seed}"


def network(options: DdpmTable2, wanted: Run) -> tuple[Row, Row | None]:
    """One network, trained and judged as far as it is not yet, and what is known of the classifier of its samples."""
    config, store = wanted.config, Store(options.workdir / "cells", {}, options.force, Counter())
    common = partial(cache.fetch, store)
    diverged = train(wanted, folder_of(options, config), common)
    if diverged:
        return {"seed": config.seed, "diverged": diverged}, None
    model = loop.fit(config, folder_of(options, config)).model
    own = partial(cache.fetch, store._replace(common={"denoiser": model.fingerprint}))
    keep: Keep = lambda kind, *rest: (common if kind == "classifiers" else own)(kind, *rest)  # noqa: E731
    execution, key = Execution(Layout(options.parallel), keep), jax.random.key(options.seed)
    row, of_classifier = ablation.evaluate_whole_chain(model, wanted.data, design_of(options, wanted), key, execution)
    return {"seed": config.seed, "diverged": None, **row}, of_classifier


def train(wanted: Run, folder: Path, keep: Keep) -> str:
    """Train as far as it is not done yet; what the loop said if the loss became infinite or NaN, else nothing.

    It is remembered, so that a training that diverges does so once.
    """

    def message() -> cache.Arrays:
        try:
            loop.fit(wanted.config, folder)
        except FloatingPointError as error:
            return dict(message=np.asarray(str(error)))
        return dict(message=np.asarray(""))

    inputs = dict(training=to_dict(wanted.config), images=seen(wanted.data.train).images, version=VERSION)
    return str(keep("divergences", inputs, message)["message"])


if __name__ == "__main__":
    command_line(DdpmTable2, main, __doc__)
