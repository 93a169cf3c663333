"""What a compiler says, read back from programs whose memory, work and collectives are known."""

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import tpu
from ddpm_jax.diffusion import variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Denoiser
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.evaluation import moments, samples
from ddpm_jax.runtime import sharding, xla
from ddpm_jax.runtime.sharding import PARALLEL, Layout
from ddpm_jax.runtime.xla import Collective, DoesNotFit
from ddpm_jax.training import setup, step
from ddpm_jax.training.config import Config
from ddpm_jax.training.setup import Run
from tests.models.test_unet import LEAST

HLO = """
  %all-reduce.9 = (f32[32]{0:T(128)}, f32[3,2]{1,0}, /*index=2*/bf16[5]{0}) all-reduce(%a, %b, %c), channel_id=1
  %pmax.8 = s32[1]{0:T(128)} all-reduce(%d), replica_groups={{0,1}}
  ROOT %all-gather-start = (f32[4]{0}, f32[16]{0}) all-gather-start(%e), channel_id=3
  %all-gather-done = f32[16]{0} all-gather-done(%all-gather-start)
  %fusion = f32[8]{0} fusion(%all-reduce.9), calls=%all-reduce-fusion
  %flag = pred[] all-reduce(%f)
"""


def test_collectives_are_counted_once_with_what_they_result_in() -> None:
    assert xla.collectives(HLO) == (
        Collective("all-gather", 1, 64),
        Collective("all-reduce", 3, 128 + 24 + 10 + 4 + 1),
    )


def test_memory_and_work_of_a_matrix_product() -> None:
    a, b = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 128), (128, 32)))
    found = xla.compiled(jax.jit(jnp.dot).lower(a, b))
    assert found.flops == pytest.approx(2 * 64 * 128 * 32, rel=0.01)
    arrays = 4 * (64 * 128 + 128 * 32 + 64 * 32)
    assert arrays <= found.memory < 2 * arrays
    assert found.collectives == ()


def test_what_is_given_away_is_counted_once() -> None:
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    kept, given = (xla.compiled(jax.jit(lambda x: x + 1, donate_argnums=given).lower(x)).memory for given in ((), 0))
    assert kept - given == 4000


def test_seconds_of_a_model_that_lacks_an_operation_are_none() -> None:
    """As of a CIFAR-10 training step on v5p: four operations of -1 second, and 5.6 ms of all others."""
    assert xla.modelled({"flops": 1.0, "optimal_seconds": -3.994355}) is None
    assert xla.modelled({"optimal_seconds": 0.009342}) == 0.009342
    assert xla.modelled({"flops": 1.0}) is None


class Refuses(jax.stages.Lowered):
    """As the compiler of a device with too little memory."""

    def __init__(self, said: str) -> None:
        self.said = said

    def compile(self, compiler_options: dict | None = None) -> None:  # type: ignore[override]
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {self.said}")


@pytest.mark.parametrize(
    "said",
    [
        "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.25G of 15.75G hbm. Exceeded "
        "hbm capacity by 2.50G.",
        "Ran out of memory on HBM, the total memory required for HLO temporaries (18.25G) exceeds available HBM "
        "(15.75G).",
    ],
)
def test_what_does_not_fit_is_told_with_its_bytes(said: str) -> None:
    with pytest.raises(DoesNotFit, match=r"needs 18\.25 GiB and a device has 15\.75 GiB") as stop:
        xla.compiled(Refuses(said))
    assert stop.value.used == 18.25 * 2**30 and stop.value.available == 15.75 * 2**30


@pytest.fixture(scope="module")
def wanted() -> Run:
    """Digits, a network of one level."""
    return setup.resolve(Config(batch=16), LEAST)


@pytest.mark.parametrize("how", ["pmap", pytest.param("shard_map", marks=pytest.mark.slow)])
def test_devices_tell_each_other_gradients_and_metrics_alone(wanted: Run, how: str) -> None:
    """As many bytes as there are parameters, and a few numbers, all at once: nothing is gathered or sent twice."""
    wanted = setup.resolve(replace(wanted.config, time_sampler="loss_second_moment"), LEAST)
    state = jax.eval_shape(partial(setup.fresh, wanted))
    batches = jax.ShapeDtypeStruct((1, 16, 8, 8, 1), np.uint8)
    layout = Layout(how, tuple(jax.local_devices()))
    steps = sharding.parallelise(partial(step.train_steps, wanted.recipe), layout)
    found = xla.compiled(steps.lower(state, batches))
    assert [(one.kind, one.number) for one in found.collectives] == [("all-reduce", 1)]
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Two biases that are added to each other have one gradient, which is sent once.
    assert found.collectives[0].bytes == pytest.approx(parameters, rel=0.01)


def denoiser_of(wanted: Run, params: Any) -> Denoiser:
    return setup.denoiser_of(wanted.config, wanted.network, wanted.schedule, params)


@pytest.mark.parametrize("how", PARALLEL)
def test_samples_do_not_wait_for_each_other(wanted: Run, how: str) -> None:
    params = jax.eval_shape(partial(setup.fresh, wanted)).ema[0]
    chain, small = wanted.recipe.chain, variances.build("small", Calibration(wanted.schedule))
    layout = Layout(how, tuple(jax.local_devices()))
    lowered = samples.lower(chain, denoiser_of(wanted, params), small, (16, 8, 8, 1), layout)
    assert xla.compiled(lowered).collectives == ()


# ---------------------------------------------------------------- tables are computed with full-precision products


def products(text: str) -> list[str]:
    """The lines of a program, as JAX hands it to a compiler, that multiply matrices or convolve."""
    return [line for line in text.splitlines() if "stablehlo.convolution(" in line or "stablehlo.dot_general" in line]


def lowered_sampler(wanted: Run, layout: Layout) -> jax.stages.Lowered:
    params = jax.eval_shape(partial(setup.fresh, wanted)).ema[0]
    small = variances.build("small", Calibration(wanted.schedule))
    shape = (2 * len(layout.devices or ()), 8, 8, 1)
    return samples.lower(wanted.recipe.chain, denoiser_of(wanted, params), small, shape, layout)


def test_samples_ask_for_full_precision(wanted: Run) -> None:
    found = products(lowered_sampler(wanted, Layout("shard_map", tuple(jax.local_devices()[:1]))).as_text())
    assert len(found) > 5
    assert all(line.count("HIGHEST") == 2 for line in found)


def test_the_pass_for_likelihoods_asks_for_full_precision(wanted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def lower(*args: Any, **fixed: Any) -> None:
        raise Seen(sharding.lower_over_examples(*args, **fixed).as_text())

    monkeypatch.setattr(sharding, "over_examples", lower)
    denoiser = denoiser_of(wanted, jax.jit(partial(setup.fresh, wanted))().ema[0])
    with pytest.raises(Seen) as seen:
        moments.measure(
            jax.random.key(0),
            wanted.schedule,
            denoiser,
            wanted.data.test.images[:2],
            Rules(levels=17),
            np.array([5]),
            Layout("shard_map", tuple(jax.local_devices()[:1])),
        )
    found = products(str(seen.value))
    assert len(found) > 5
    assert all(line.count("HIGHEST") == 2 for line in found)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed")
def test_a_tpu_multiplies_with_full_precision(wanted: Run) -> None:
    """Read off the compiled program: by itself a TPU rounds the factors to bfloat16."""
    text = lowered_sampler(wanted, Layout("pmap", tpu.slice_of("v5e-8").devices)).compile(tpu.FAST_TO_COMPILE).as_text()
    found = [line for line in (text or "").splitlines() if " convolution(" in line]
    assert len(found) > 5
    assert all("operand_precision={highest,highest}" in line for line in found)
