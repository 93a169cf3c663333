"""One call of the pass over images: everything that one look at x_t can tell, for a few times together."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, Key, UInt8

from ddpm_jax import basis, cells, parallel, predict, process
from ddpm_jax.basis import Axes
from ddpm_jax.devices import Layout
from ddpm_jax.eval import costs, decoders
from ddpm_jax.eval.costs import Tabulated
from ddpm_jax.predict import Denoiser, Images, Prediction
from ddpm_jax.process import Steps
from ddpm_jax.protocols import Rules
from ddpm_jax.reverse import ReverseVariance
from ddpm_jax.schedule import Schedule
from ddpm_jax.train import to_unit

SHARED = "decoders"  # L_0 at the variances that do not depend on the choice


class Block(NamedTuple):
    """What all calls of a pass share.

    Attributes:
      key: of the noise.
      schedule: the forward process.
      denoiser: what is looked at.
      images_uint8: (n, H, W, C) grey levels.
      rules: levels of the data, and whether x_0_hat is clipped.
      layout: how images are spread over devices.
      colours: axes of the spectrum.
      choices: the variances to tabulate.
    """

    key: Key[Array, ""]
    schedule: Schedule
    denoiser: Denoiser
    images_uint8: np.ndarray
    rules: Rules
    layout: Layout
    colours: Axes
    choices: dict[str, ReverseVariance]


def visit(block: Block, times: np.ndarray) -> cells.Arrays:
    """Every image at some times.

    Returns:
      columns (n, 3, times): error, excess, decoder term. decoders (n, decoders, times): that term at other variances of
      the decoder. spectrum, spectrum_variance (times, H, W, C) and
      radial_variance: M_{t,j} and the variances over images of its terms, alone and averaged over radial bins. Of every
      choice NAME: NAME/cost (n, times, nodes), NAME/log_ratio (times, nodes), NAME/clamped (times,); of one with a
      variance of its own at s = 0 NAME/decoders (n, decoders, times). evaluations: of the network, counted.
    """
    n = len(block.images_uint8)
    at = process.pairs(block.schedule, np.zeros_like(times), times)
    prepared = {name: costs.prepare(block.schedule, choice, times) for name, choice in block.choices.items()}
    fixed = {
        name: Tabulated(
            None if choice.headless else choice.log_var,
            choice.excess,
            choice.clamped,
            choice.basis,
            decoders.has_own(choice),
        )
        for name, choice in block.choices.items()
    }
    denoiser = predict.as_argument(block.denoiser)
    columns, decoded, squares, tabulated = parallel.over_examples(
        look,
        (block.key, (at, prepared), decoders.nodes(block.schedule), denoiser),
        (np.arange(n), block.images_uint8),
        block.layout,
        levels=block.rules.levels,
        clip_x_0=block.rules.clip_x_0,
        spectral=basis.dct(block.colours),
        fixed=tuple(fixed.items()),
    )
    found = {"columns": np.asarray(columns), **{name: np.asarray(terms) for name, terms in decoded.items()}}
    found["evaluations"] = np.asarray(n * len(times))
    found |= _spectrum(np.asarray(squares))
    for name, (cost, log_ratio, clamped) in tabulated.items():
        found[f"{name}/cost"] = np.asarray(cost)
        found[f"{name}/log_ratio"] = np.asarray(log_ratio, np.float64).mean(axis=0)
        found[f"{name}/clamped"] = np.asarray(clamped, np.float64).mean(axis=0)
    return found


def _spectrum(squares: np.ndarray) -> cells.Arrays:
    """Mean over images of (u_j . e)^2 and the variances of its terms, from (n, times, H, W, C)."""
    squares = squares.astype(np.float64)
    ddof = min(1, len(squares) - 1)
    bins = basis.radial_bins(squares.shape[2:])
    return {
        "spectrum": squares.mean(axis=0),
        "spectrum_variance": squares.var(axis=0, ddof=ddof),
        "radial_variance": basis.averaged(squares, bins).var(axis=0, ddof=ddof),
    }


@jax.default_matmul_precision("highest")
def look(
    shared: tuple[Key[Array, ""], tuple[Steps, dict[str, tuple[Steps, Any]]], Array, Denoiser],
    examples: tuple[Int[Array, " b"], UInt8[Array, "b *x"]],
    *,
    levels: int,
    clip_x_0: bool,
    spectral: basis.Basis,
    fixed: tuple[tuple[str, Tabulated], ...],
) -> tuple[Array, dict[str, Array], Array, dict[str, tuple[Array, Array, Array]]]:
    """One device's images, one row an example; see `visit`."""
    (key, times, decoder_log_vars, denoiser), (index, images_uint8) = shared, examples
    x_0 = to_unit(images_uint8, levels)
    keys = jax.vmap(partial(jax.random.fold_in, key))(index)
    mean = lambda x: jnp.mean(x, axis=tuple(range(1, x.ndim)))  # noqa: E731

    def at_time(_: None, at: tuple[Steps, dict[str, tuple[Steps, Any]]]) -> tuple[None, Any]:
        step, prepared = at
        eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step.t), x_0.shape[1:]))(keys)
        x_t = step.signal * x_0 + step.noise * eps
        prediction = denoiser(x_t, jnp.full(len(x_0), step.t))
        if clip_x_0:
            prediction = predict.clip_x_0(x_t, prediction, step.signal, step.noise)
        # Where no data are left in x_t, uncertainty is counted in x_0 (process.Steps).
        truth, said = (jnp.where(step.signal > 0, *pair) for pair in ((eps, x_0), (prediction.eps, prediction.x_0)))
        error = truth - said
        decoded = _decoders(fixed, step, x_0, x_t, prediction, partial(decoders.at_nodes, decoder_log_vars, levels))
        columns = jnp.stack([mean(error**2), mean(truth**2) - mean(said**2), decoded[SHARED][0]])
        tabulated = {name: costs.tabulate(choice, *prepared[name], x_t, prediction, error) for name, choice in fixed}
        return None, (columns, decoded, spectral.forward(error) ** 2, tabulated)

    _, (columns, decoded, squares, tabulated) = jax.lax.scan(at_time, None, times)
    by_example = {
        name: (jnp.moveaxis(cost, 2, 0), jnp.moveaxis(log_ratio, 2, 0), clamped.T)
        for name, (cost, log_ratio, clamped) in tabulated.items()
    }
    decoded = {name: terms.transpose(2, 1, 0) for name, terms in decoded.items()}
    return columns.transpose(2, 1, 0), decoded, jnp.moveaxis(squares, 1, 0), by_example


def _decoders(
    fixed: tuple[tuple[str, Tabulated], ...],
    step: Steps,
    x_0: Images,
    x_t: Images,
    prediction: Prediction,
    at_nodes: Callable[..., Array],
) -> dict[str, Array]:
    """L_0 at the nodes: the variance itself, or the stand-in for log tb(0, t) of a choice that has its own."""
    found = {SHARED: at_nodes(x_0, prediction.x_0, lambda node: node)}
    for name, choice in fixed:
        if choice.decodes:
            own = lambda node, of=choice.log_var: of(step._replace(log_tb_floored=node), x_t, prediction)  # noqa: E731
            found[f"{name}/{SHARED}"] = at_nodes(x_0, prediction.x_0, own)
    return found
