"""Conventions of the papers that move results as much as the variance does: last step, clips, decoder."""

from typing import Any, NamedTuple

import numpy as np

from ddpm_jax.diffusion.process import Steps


class Rules(NamedTuple):
    """Conventions that move results as much as the variance does; recorded with every number.

    Attributes:
      last_step: "mean" adds no noise in the step to s = 0 (the papers'), "noise" adds the variance's own.
      pixel_clip: y, or None. Bounds the noise of the step into tau_1 so that E|sigma eps| is at most y level spacings.
        Bao et al. 2022, section 4 (y = 2 for CIFAR-10 linear, else 1).
      levels: number of grey levels of the data on [-1, 1]; their spacing is 2/(levels - 1).
      clip_x_0: clip x_0_hat to [-1, 1] before the mean is formed. Ho et al. 2020, released code.
      clamp_cov: hold estimates of Cov[x_0 | x_t] within [0, 1]; see `variances.analytic`.
      decoder: the variance of p(x_0 | x_tau_1) in the likelihood: a name of DECODERS.
      rounding: how samples become grey levels: a name of `data.transforms.ROUNDINGS`.
    """

    last_step: str = "mean"
    pixel_clip: float | None = None
    levels: int = 256
    clip_x_0: bool = True
    clamp_cov: bool = True
    decoder: str = "shared"
    rounding: str = "nearest"


DECODERS = ("shared", "own")
"""shared: tb(1, 2) for every choice. Ho et al. 2020 and Bao et al. 2022, released code.

own: tb(tau_1, tau_2) for choices of the form base + gain h; that of the choice itself for others, with tb(tau_1, tau_2)
in the place of tb(0, tau_1). Nichol & Dhariwal 2021, released code."""

PROTOCOLS: dict[str, Rules] = {
    "ddpm": Rules(),
    "analytic-dpm": Rules(pixel_clip=1.0),
    "iddpm": Rules(decoder="own", rounding="down"),
}
"""The papers' conventions by name. All take x_0_hat clipped and no noise in the last step. For a network that predicts
mu set clip_x_0 = False: it says the mean itself, which no clipped x_0_hat forms.

ddpm: Ho et al. 2020, released code. analytic-dpm: Bao et al. 2022, section 4, y = 1 (their linear CIFAR-10 row takes
y = 2). iddpm: Nichol & Dhariwal 2021, released code."""


def protocol(name: str, levels: int, **alone: Any) -> Rules:
    """The rules of a protocol for so many grey levels. Ho et al. 2020, released code; Bao et al. 2022, section 4.

    Args:
      name: of PROTOCOLS.
      levels: of the data.
      alone: rules that are set by themselves; None leaves the protocol's, a pixel_clip of 0 takes none.

    Raises:
      ValueError: no protocol has this name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}: choose one of {', '.join(PROTOCOLS)}")
    rules = PROTOCOLS[name]._replace(levels=levels, **{key: value for key, value in alone.items() if value is not None})
    return rules._replace(pixel_clip=None) if rules.pixel_clip == 0 else rules


def log_var_cap(rules: Rules, steps: Steps) -> np.ndarray:
    """The largest log variance, nats, that the rules let each step add, (K,): -inf for none, +inf for any.

    The step into tau_1 has sigma^2 <= (2 y/(levels - 1))^2 pi/2. Bao et al. 2022, section 4.

    Raises:
      ValueError: the rules name no known last step or decoder, y <= 0, or fewer than 2 levels.
    """
    if rules.decoder not in DECODERS:
        raise ValueError(f"unknown decoder {rules.decoder!r}: choose {' or '.join(DECODERS)}")
    if rules.last_step not in ("mean", "noise"):
        raise ValueError(f"unknown last_step {rules.last_step!r}: choose mean or noise")
    cap = np.full(steps.K, np.inf)
    if rules.pixel_clip is not None and not (rules.pixel_clip > 0 and rules.levels > 1):
        raise ValueError(f"pixel_clip = {rules.pixel_clip:g}, levels = {rules.levels}: need more than 0 and 1")
    if rules.pixel_clip is not None and steps.K > 1:
        cap[1] = np.log((rules.pixel_clip * 2 / (rules.levels - 1)) ** 2 * np.pi / 2)
    if rules.last_step == "mean":
        cap[0] = -np.inf
    return cap
