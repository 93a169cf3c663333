"""The isotropic variances of a chain that bring its samples nearest to Gaussian data in the Frechet distance.

P_0 is affine in the K variances and (sqrt P - sqrt c)^2 is convex in P, so this is a convex program: a point without
descent is the least. It is another schedule than that of least path KL, which takes the mean of Q over directions in
every step.
"""

from typing import NamedTuple

import numpy as np
from scipy import optimize

from ddpm_jax.diffusion.process import Steps
from ddpm_jax.diffusion.schedules import Schedule
from ddpm_jax.evaluation.exact import gaussian_chain
from ddpm_jax.evaluation.exact.gaussian_chain import Directions

MOST_ITERATIONS = 100
TOLERANCE = 1e-12  # of the distance, relative


class Optimum(NamedTuple):
    """The answer of the program.

    Attributes:
      variance: (K,) sigma_k^2.
      distance: sum_j (sqrt P_j - sqrt c_j)^2; what the mean's error adds is no function of the variances.
      gap: the sum of |g_k| (sigma_k^2 - floor_k), g the gradient: 0 at the optimum, and a bound on what is left to gain
        where g >= 0.
      least_gradient: min_k of g_k times the mean of Q_k; at the optimum at least 0.
    """

    variance: np.ndarray
    distance: float
    gap: float
    least_gradient: float


class _Program(NamedTuple):
    """The distance as a function of z, sigma_k^2 = z_k times the mean of Q_k over directions."""

    offset: np.ndarray
    weights: np.ndarray
    c: np.ndarray

    def value(self, z: np.ndarray) -> float:
        return float(((np.sqrt(self.offset + z @ self.weights) - np.sqrt(self.c)) ** 2).sum())

    def gradient(self, z: np.ndarray) -> np.ndarray:
        """dF/dz_k = sum_j w_kj (1 - sqrt(c_j / P_j))."""
        return self.weights @ (1 - np.sqrt(self.c / (self.offset + z @ self.weights)))

    def newton(self, z: np.ndarray, floor: np.ndarray) -> np.ndarray:
        """The step that minimises the second-order expansion at z above the floor: a nonnegative least-squares problem.

        The second derivative of F by P is 1/2 sqrt(c) P^(-3/2).
        """
        P = self.offset + z @ self.weights
        root = np.sqrt(0.5 * np.sqrt(self.c) * P**-1.5)
        residual = (1 - np.sqrt(self.c / P)) / root
        reduced = np.asarray(np.linalg.qr(np.column_stack([(self.weights * root).T, residual]), mode="r"))
        matrix, goal = reduced[:, :-1], -reduced[:, -1]
        above, _ = optimize.nnls(matrix, goal - matrix @ (floor - z), maxiter=100 * len(z))
        return above + floor - z


def optimum(schedule: Schedule, steps: Steps, c: Directions, floor: np.ndarray | None = None) -> Optimum:
    """The sigma_k^2 >= floor_k of least F = sum_j (sqrt P_j - sqrt c_j)^2, with P affine in them.

    Numerics: Newton steps with a line search, each a nonnegative least-squares problem, from the mean of Q.

    Args:
      schedule: the forward process.
      steps: a chain with the DDPM kernel, with noise in its last step too.
      c: variances of the data, all positive.
      floor: (K,), for example tb; default 0.

    Raises:
      ValueError: a variance of the data is 0, or see `gaussian_chain.affine`.
      ArithmeticError: the steps do not converge.
    """
    if not (c > 0).all():
        raise ValueError(f"variance {c.min():g}: the program needs data that vary in every direction")
    q = np.exp(gaussian_chain.true_log_var(schedule, steps, c)).reshape(steps.K, -1).mean(axis=1)
    offset, weights = gaussian_chain.affine(schedule, steps, c)
    program = _Program(offset.ravel(), weights.reshape(steps.K, -1) * q[:, None], c.ravel())
    least = np.zeros(steps.K) if floor is None else floor / q
    z = np.maximum(np.ones(steps.K), least)
    for _ in range(MOST_ITERATIONS):
        step = program.newton(z, least)
        promised = float(program.gradient(z) @ step)
        if -promised <= TOLERANCE * (program.value(z) + TOLERANCE * c.sum()):
            z = np.maximum(z + step, least)  # converges quadratically: one more squares what is left
            g = program.gradient(z)
            return Optimum(z * q, program.value(z), float(np.abs(g) @ (z - least)), float(g.min()))
        z = np.maximum(z + _length(program, z, step, promised) * step, least)
    raise ArithmeticError(f"no convergence in {MOST_ITERATIONS} steps for a chain of {steps.K}")


def _length(program: _Program, z: np.ndarray, step: np.ndarray, promised: float) -> float:
    """The first of 1, 1/2, 1/4 ... that gains a ten-thousandth of what the gradient promises. Armijo 1966."""
    length, before = 1.0, program.value(z)
    while program.value(z + length * step) > before + 1e-4 * length * promised and length > 1e-12:
        length /= 2
    return length
