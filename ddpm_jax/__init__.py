"""DDPM in JAX, with every choice of the reverse-process variance.

What a notebook needs, imported when it is first used:

    import jax
    import ddpm_jax as ddpm

    key = jax.random.key(0)
    data, model = ddpm.data.load("digits"), ddpm.load("builtin:digits")
    moments = ddpm.measure(key, model, data.calibration)
    x_0 = ddpm.sample(key, model, variance="analytic", K=50, n=16, moments=moments)
    rows = ddpm.compare(model, data, variances=("small", "large", "analytic"), K=(10, 50))

Below it lie the pure pieces: `ddpm.schedules`, `ddpm.process`, `ddpm.timesteps`, `ddpm.variances`, `ddpm.losses`,
`ddpm.sampler`, `ddpm.toy` and the rest of `ddpm_jax.diffusion`. Eight rooms, and imports that go one way:

    diffusion   the article: pure functions of arrays
    data        image data sets, by name and by step
    runtime     devices, processes, results on disk, compiled programs
    models      networks, and other projects' weights
    training    runs, checkpoints, trained networks read back
    evaluation  moments, likelihood, samples, distances, whole ablations
    report      the page an ablation leaves behind
    cli         the commands

Read diffusion/ in this order and you have read the article: schedules, gaussian, process, denoiser, variances, losses,
sampler.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_jax import data as data
    from ddpm_jax.api import compare as compare
    from ddpm_jax.api import measure as measure
    from ddpm_jax.api import sample as sample
    from ddpm_jax.api import train as train
    from ddpm_jax.diffusion import bases as bases
    from ddpm_jax.diffusion import conventions as conventions
    from ddpm_jax.diffusion import denoiser as denoiser
    from ddpm_jax.diffusion import gaussian as gaussian
    from ddpm_jax.diffusion import losses as losses
    from ddpm_jax.diffusion import process as process
    from ddpm_jax.diffusion import sampler as sampler
    from ddpm_jax.diffusion import schedules as schedules
    from ddpm_jax.diffusion import timesteps as timesteps
    from ddpm_jax.diffusion import toy as toy
    from ddpm_jax.diffusion import variances as variances
    from ddpm_jax.training.config import Config as Config
    from ddpm_jax.training.model import Model as Model
    from ddpm_jax.training.model import load as load

__version__ = "0.1.0"

_MODULES = (
    "bases conventions denoiser gaussian losses process sampler schedules timesteps toy variances".split()
)  # of diffusion
_NAMES = {
    "compare": "ddpm_jax.api",
    "measure": "ddpm_jax.api",
    "sample": "ddpm_jax.api",
    "train": "ddpm_jax.api",
    "Config": "ddpm_jax.training.config",
    "Model": "ddpm_jax.training.model",
    "load": "ddpm_jax.training.model",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"ddpm_jax.diffusion.{name}")
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name == "data":
        return import_module("ddpm_jax.data")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_NAMES, "data"})
