"""Our side of benchmarks.bench_inception: Inception's features of grey levels, on all devices as commands take them.

A worker of benchmarks.turns.
"""

import jax
import numpy as np

from benchmarks import turns
from benchmarks.turns import Job, Row
from ddpm_jax.models import inception
from ddpm_jax.runtime import sharding
from experiments.reproduce_smoke import inception_arrays


def prepare(settings: Row) -> tuple[Row, dict[str, Job]]:
    """The one job, on all devices."""
    sharding.use_cores()
    draw = np.random.default_rng(0)
    params = inception.folded(inception_arrays(draw), "random weights")
    size = settings["image_size"]
    images = draw.integers(0, 256, (settings["batch"], size, size, 3), np.uint8)
    job = turns.timed(lambda: lambda: inception.extract(params, images), lambda result: None)
    return {"jax": jax.__version__, "devices": sharding.words(), "threads": turns.threads()}, {"features": job}


if __name__ == "__main__":
    turns.serve(prepare)
