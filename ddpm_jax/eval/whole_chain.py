"""One network under one variance on its whole chain: the likelihood bound of test images, the distance of its samples.

For variances that no moments of the network fix: nothing is calibrated.
"""

from typing import Any

from jax import Array
from jaxtyping import Key

from ddpm_jax import trajectory, variance
from ddpm_jax.eval import ablation, findings, study
from ddpm_jax.eval.ablation import Choices
from ddpm_jax.eval.study import Design, Means
from ddpm_jax.protocols import Rules
from ddpm_jax.schedule import Schedule
from ddpm_jax.subject import Subject
from ddpm_jax.variance import Calibration

Row = dict[str, Any]


def design(name: str, rules: Rules, schedule: Schedule, images: int, seeds: int) -> Design:
    """One variance on all T steps.

    Args:
      name: of VARIANCES.
      rules: the conventions.
      schedule: the forward process.
      images: samples of each seed.
      seeds: sampling seeds.
    """
    return Design(rules, (name,), ("even",), (schedule.T,), (schedule.T,), images, seeds)


def _choices(wanted: Design, known: Calibration) -> Choices:
    """The one variance on the one chain."""
    (name,), (K,) = wanted.variances, wanted.K
    times = {(name, "even", K): trajectory.even(known.schedule.T, K)}
    return Choices(known, {name: variance.build(name, known)}, times, decoder=wanted.rules.decoder)


def judge(subject: Subject, wanted: Design, key: Key[Array, ""], means: Means = Means()) -> tuple[Row, Row]:
    """The bound and its parts, bits/dim, with the standard error over images, and the Frechet distances of samples.

    Args:
      subject: the network and its images.
      wanted: from `design`.
      key: of the noise on test images.
      means: how the work is done.

    Returns:
      These, and what is said of the classifier in whose features the distance is taken.

    Raises:
      ValueError: the variance has to be measured first, or does not fit the network.
    """
    choices = _choices(wanted, Calibration(subject.schedule, learned_times=subject.learned_times))
    test = study.measure(subject, wanted, key, "test", choices, means)
    (bound,) = ablation.rows(ablation.likelihoods(choices, test, means.keep), "test")
    found, _ = findings.sample(subject, wanted, choices, means)
    (over_seeds,) = found["sample_cells"]
    row = {name: bound[name] for name in ("bits_per_dim", "standard_error", "prior", "kl", "decoder")}
    row |= {"frechet": over_seeds["mean"], "frechet_std": over_seeds["std"]}
    return row | {"frechet_by_seed": [one["frechet"] for one in found["samples"]]}, found["classifier"]
