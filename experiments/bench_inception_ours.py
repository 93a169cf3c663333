"""Our side of experiments.bench_inception: Inception's features of grey levels, on all devices as commands take them.

A worker of experiments.turns.
"""

import jax
import numpy as np

from ddpm_jax import devices
from ddpm_jax.eval import inception
from experiments import turns
from experiments.reproduce_smoke import inception_arrays
from experiments.turns import Job, Row


def prepare(settings: Row) -> tuple[Row, dict[str, Job]]:
    """The one job, on all devices."""
    devices.use_cores()
    draw = np.random.default_rng(0)
    params = inception.folded(inception_arrays(draw), "random weights")
    size = settings["image_size"]
    images = draw.integers(0, 256, (settings["batch"], size, size, 3), np.uint8)
    job = turns.timed(lambda: lambda: inception.extract(params, images), lambda result: None)
    return {"jax": jax.__version__, "devices": devices.words(), "threads": turns.threads()}, {"features": job}


if __name__ == "__main__":
    turns.serve(prepare)
