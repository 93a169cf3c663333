"""Gaussian data with the spectrum of photographs: two numbers that predict a published table of likelihoods.

The variance of frequency f of a 32 x 32 DCT falls as (|f|^2 + f0^2)^(-p/2), the same for three colour axes with fixed
shares. With the exact denoiser everything the bound needs is known: M_t is the mean over directions of
alpha_bar_t c / V_t. The two numbers are fitted to the analytic variances of the step into t = 1; only L_0, which is no
function of M_t, is taken from one likelihood.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from ddpm_jax.diffusion import process, timesteps, variances
from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.diffusion.variances import Calibration, ReverseVariance
from ddpm_jax.evaluation import likelihood, moments
from ddpm_jax.evaluation.exact import gaussian_chain
from ddpm_jax.evaluation.exact.gaussian_chain import Directions

SIDE = 32  # of CIFAR-10's images
SHARES = (0.90, 0.075, 0.025)  # assumed, not fitted: brightness and two hues
MEAN_VARIANCE = 0.25  # of CIFAR-10 on [-1, 1], rounded: a deviation of about 64 grey levels
START = (3.0, 2.0)  # where the fit begins; it ends at the same place from p in 2..8 and f0 in 0.5..8


class PowerLaw(NamedTuple):
    """The law c(f) proportional to (|f|^2 + f0^2)^(-p/2)."""

    p: float
    f0: float


Cell = tuple[str, str, int]  # variance, trajectory, K


class Predicted(NamedTuple):
    """A published table as the law predicts it.

    Attributes:
      decoder: L_0, bits/dim, from the one cell that is not predicted.
      bits: bits/dim of every cell.
      off: how far each is off, relative.
      unanchored: how many even cells there are beside the one that fixed L_0.
      median: of |off| over these.
      worst: the largest of them.
    """

    decoder: float
    bits: dict[Cell, float]
    off: dict[Cell, float]
    unanchored: int
    median: float
    worst: float


def spectrum(law: PowerLaw) -> Directions:
    """c of every DCT coefficient and colour axis, (32, 32, 3): c(f) = A share (|f|^2 + f0^2)^(-p/2), mean 0.25."""
    f = np.arange(SIDE, dtype=np.float64)
    radial = (f[:, None] ** 2 + f**2 + law.f0**2) ** (-law.p / 2)
    c = radial[:, :, None] * np.asarray(SHARES)
    return c * (MEAN_VARIANCE / c.mean())


def first_variances(schedule: Schedule, law: PowerLaw, Ks: Sequence[int]) -> np.ndarray:
    """sigma^2 = tb + v M_t of `analytic` at the step tau_2 -> tau_1 = 1 of even chains. Bao et al. 2022, table 7."""
    t = np.asarray([timesteps.even(schedule.T, K)[1] for K in Ks])
    first = process.pairs(schedule, np.ones_like(t), t)
    return first.tb + first.gain * mean_excess(schedule, spectrum(law))[t]


def fit(schedule: Schedule, published: Mapping[int, float]) -> PowerLaw:
    """The law whose sigma^2 = tb + v M_t are nearest to the published ones, in the sum of squared log-ratios.

    Args:
      schedule: the forward process.
      published: sigma^2 of `analytic` at the step into t = 1, by K.
    """
    Ks, values = list(published), np.asarray(list(published.values()))

    def misses(logs: np.ndarray) -> np.ndarray:
        return np.log(first_variances(schedule, PowerLaw(*np.exp(logs)), Ks) / values)

    found = optimize.least_squares(misses, np.log(START), jac="3-point", ftol=1e-14, xtol=1e-14, gtol=1e-14)
    return PowerLaw(*np.exp(found.x).tolist())


def mean_excess(schedule: Schedule, c: Directions) -> np.ndarray:
    """M_t = mean over directions of alpha_bar_t c / V_t, (T + 1,); row 0 is NaN."""
    return moments.mean_error(gaussian_chain.moments(schedule, c))


def bits_without_decoder(schedule: Schedule, steps: Steps, log_var: np.ndarray, c: Directions) -> float:
    """(L_T + sum of the steps' KL)/ln 2, bits/dim, of data N(0, c): L_0 is left out. Ho et al. 2020, equation 5.

    Args:
      schedule: the forward process.
      steps: a chain that ends at T.
      log_var: log sigma^2, (K,) or (K, *x).
      c: variances of the data.
    """
    prior = gaussian_chain.moments(schedule, c).prior[0]
    return float((prior + gaussian_chain.step_kl(schedule, steps, log_var, c).sum()) / np.log(2))


def optimal_chains(
    schedule: Schedule, choice: ReverseVariance, c: Directions, Ks: Sequence[int]
) -> dict[int, np.ndarray]:
    """The cheapest trajectory of every K under one variance, which is one number a step. Bao et al. 2022, section 4.

    All T steps are one trajectory, and so are not searched for.
    """
    cost = likelihood.cost(schedule, choice, gaussian_chain.moments(schedule, c))
    found = timesteps.cheapest_paths(cost, [K for K in Ks if K < schedule.T])
    return {K: found[K] if K < schedule.T else timesteps.even(schedule.T, K) for K in Ks}


def predict(
    schedule: Schedule, law: PowerLaw, published: Mapping[tuple[str, str], Mapping[int, float]], anchor: Cell
) -> Predicted:
    """The likelihoods of a published table, from the law: bits/dim = (L_T + sum of the steps' KL + L_0)/ln 2.

    Args:
      schedule: the forward process.
      law: see `fit`.
      published: bits/dim by (variance, trajectory) and K; trajectories are even or optimal.
      anchor: the cell that L_0 is taken from.
    """
    c = spectrum(law)
    known = likelihood.calibrate(Calibration(schedule), gaussian_chain.moments(schedule, c))
    bits: dict[Cell, float] = {}
    for (name, way), values in published.items():
        choice, Ks = variances.build(name, known), list(values)
        even = {K: timesteps.even(schedule.T, K) for K in Ks}
        chains = even if way == "even" else optimal_chains(schedule, choice, c, Ks)
        for K, times in chains.items():
            steps = process.steps(schedule, times)
            bits[name, way, K] = bits_without_decoder(schedule, steps, variances.table(choice, steps), c)
    decoder = published[anchor[:2]][anchor[2]] - bits[anchor]
    cells = {cell: value + decoder for cell, value in bits.items()}
    off = {(name, way, K): cells[name, way, K] / published[name, way][K] - 1 for name, way, K in cells}
    free = [abs(error) for cell, error in off.items() if cell[1] == "even" and cell != anchor]
    return Predicted(decoder, cells, off, len(free), float(np.median(free)), float(np.max(free)))


def spectral_bits(schedule: Schedule, law: PowerLaw, decoder: float, K: int) -> float:
    """The bits/dim of the even chain of K steps if every direction has its own true variance Q = b V_s / V_t.

    The sum of the KL terms, 1/2 mean_j log(Q_j/tb), is then the same for every chain: few steps cost nothing here.
    """
    c, steps = spectrum(law), process.steps(schedule, timesteps.even(schedule.T, K))
    log_var = gaussian_chain.true_log_var(schedule, steps, c)
    return bits_without_decoder(schedule, steps, log_var, c) + decoder
