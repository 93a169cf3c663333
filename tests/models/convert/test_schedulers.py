"""diffusers' schedulers: their betas by their own formulas, what is kept, what is told, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.models.convert import schedulers
from ddpm_jax.models.convert.schedulers import Scheduler
from tests.oracle import schedules as oracle_schedules

DDPM = Scheduler(variance="small", clip_x_0=True)  # the class's defaults


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, DDPM),
        ({"beta_schedule": "squaredcos_cap_v2"}, DDPM._replace(schedule="cosine")),
        ({"prediction_type": "v_prediction"}, DDPM._replace(prediction="v")),
        (
            {"num_train_timesteps": 4000, "beta_start": 2.5e-5, "beta_end": 0.005, "variance_type": "fixed_large"},
            DDPM._replace(T=4000, variance="large"),
        ),
        (
            {"beta_schedule": "scaled_linear", "prediction_type": "sample"},
            DDPM._replace(schedule="quadratic", prediction="x_0"),
        ),
        ({"beta_schedule": "sigmoid"}, DDPM._replace(schedule="sigmoid")),
        ({"variance_type": "learned_range"}, DDPM._replace(variance="learned_range")),
        ({"trained_betas": [1e-4 + 0.0199 * i / 999 for i in range(1000)]}, DDPM),
        ({"variance_type": None}, DDPM),
        ({"beta_end": 0.012}, DDPM._replace(schedule="linear:0.0001,0.012")),
        ({"beta_start": 0.01, "beta_end": 0.01}, DDPM._replace(schedule="constant:0.01")),
        (
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False},
            DDPM._replace(schedule="quadratic:0.00085,0.012", clip_x_0=False),
        ),
        ({"rescale_betas_zero_snr": True}, DDPM._replace(schedule="linear_zero_terminal")),
        ({"num_train_timesteps": 2, "trained_betas": [0.5, 0.2]}, DDPM._replace(T=2, schedule="linear:0.5,0.2")),
        (
            {"num_train_timesteps": 3, "trained_betas": [0.1, 0.5, 0.2]},
            DDPM._replace(T=3, schedule="betas:0.1,0.5,0.2"),
        ),
        ({"num_train_timesteps": 10}, DDPM._replace(T=10, schedule="linear:0.0001,0.02")),
        ({"predict_epsilon": False, "tensor_format": "pt"}, DDPM._replace(prediction="x_0")),
        ({"_class_name": "PNDMScheduler", "clip_sample": False}, Scheduler()),
        ({"_class_name": "DDIMScheduler"}, Scheduler(clip_x_0=True)),
        ({"_class_name": "LCMScheduler"}, Scheduler("quadratic:0.00085,0.012", clip_x_0=False)),
        ({"_class_name": "HeunDiscreteScheduler"}, Scheduler("linear:0.00085,0.012", clip_x_0=False)),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned_range"},
            Scheduler(variance="learned_range"),
        ),
    ],
)
def test_a_chain_is_known_by_its_betas(given: dict[str, Any], expected: Scheduler) -> None:
    assert schedulers.read(given) == expected


@pytest.mark.parametrize(("T", "kind"), [(1000, "exp"), (1000, "laplace"), (7, "exp"), (7, "laplace")])
def test_betas_of_two_more_schedules_equal_plain_loops(T: int, kind: str) -> None:
    def left(t: float) -> float:
        if kind == "exp":
            return math.exp(-12 * t)
        far = math.log(1 - 2 * abs(0.5 - t) + 1e-6) / 2
        ratio = math.exp(far if t > 0.5 else -far)
        return math.sqrt(ratio / (1 + ratio))

    expected = [min(1 - left((i + 1) / T) / left(i / T), 0.999) for i in range(T)]
    given = schedulers.read({"num_train_timesteps": T, "beta_schedule": kind})
    np.testing.assert_allclose(schedules.build(given.schedule, T).beta[1:], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta_schedule": "laplacian"}, "beta_schedule = 'laplacian': 'linear' or 'scaled_linear' or"),
        ({"prediction_type": "flow"}, "prediction_type = 'flow': 'epsilon' or 'sample' or 'v_prediction' is wanted"),
        ({"variance_type": "none"}, "variance_type = 'none': 'fixed_small' or"),
        ({"variance_type": "learned"}, "variance_type = 'learned': outputs are variances there"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name = 'FlowMatchEulerDiscreteScheduler': its"),
        ({"_class_name": "MyScheduler"}, "_class_name = 'MyScheduler': its networks are no DDPMs, or it is unknown"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas = True: a"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "timestep_type = 'continuous'"),
        ({"thresholding": True}, "thresholding = True: x_0 is clipped to .* choose by --clip-x-0 True or False"),
        ({"clip_sample_range": 3.0}, "clip_sample_range = 3: x_0 is clipped to"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas are 2 numbers and num_train_timesteps = 1000"),
        ({"num_train_timesteps": 2, "trained_betas": [1.0, 0.2]}, "trained_betas: beta_1 = 1 is outside"),
        ({"predict_epsilon": False, "prediction_type": "epsilon"}, "leave one of them out"),
    ],
)
def test_what_cannot_be_kept_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedulers.read(given)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("given", [{"thresholding": True}, {"clip_sample_range": 3.0}, {"clip_sample": False}])
def test_clipping_that_is_chosen_is_kept_whatever_the_file_says(given: dict[str, Any], clip: bool) -> None:
    assert schedulers.read(given, clip).clip_x_0 is clip


@pytest.mark.parametrize("key", [key for key in schedulers.KINDS if key != "trained_betas"])
@pytest.mark.parametrize(
    "value", [None, [[1]], {}, "many", -1, math.nan, 10**400, True, "1" * 10_000], ids=lambda value: repr(value)[:9]
)
def test_a_value_of_another_type_is_one_line_with_its_key(tmp_path: Path, key: str, value: object) -> None:
    (tmp_path / schedulers.NAME).write_text(json.dumps({key: value}))
    try:
        found = schedulers.load(tmp_path)
    except ValueError as error:
        said = str(error)
        assert str(tmp_path / schedulers.NAME) in said and key in said and "\n" not in said and len(said) < 600
    else:
        assert found is not None and (value is True or isinstance(value, str) or value is None)
        assert found == DDPM or (key, value) == ("rescale_betas_zero_snr", True)


@pytest.mark.parametrize(
    "value", ["0.1", [], [0.1, "0.2"], [[0.1]], [0.1, math.nan], [0.1, -0.2], {"0": 0.1}, [0.1, None]], ids=str
)
def test_a_table_of_something_else_is_one_line(value: object) -> None:
    with pytest.raises(ValueError, match=r"trained_betas = .*: a list of 1 to 100,000 entries, each a number above 0"):
        schedulers.read({"num_train_timesteps": 2, "trained_betas": value})


def test_what_is_not_kept_is_told_once() -> None:
    assert schedulers.told({"_class_name": "DDPMScheduler", "_diffusers_version": "0.1", "beta_end": 0.02}) == []
    of_pndm = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1, "clip_sample": False, "x": 1}
    assert schedulers.told(of_pndm) == [
        "PNDMScheduler: of it the network's chain is kept; ddpm-jax samples by DDPM and DDIM",
        "without effect here: skip_prk_steps, steps_offset, clip_sample, x",
    ]
    assert schedulers.told({}) == ["no _class_name: read as DDPMScheduler"]
    assert "use_clipped_model_output" in schedulers.told({"_class_name": "DDIMScheduler"})[1]


NAMES = [*schedules.SCHEDULES, "linear:1e-4,0.012", "quadratic:0.00085,0.012", "sigmoid:1e-5,0.03", "constant:0.01"]


@pytest.mark.parametrize("schedule", [*NAMES, schedules.table([0.01 + i % 7 / 100 for i in range(100)])])
@pytest.mark.parametrize(("prediction", "variance"), [("eps", "large"), ("v", "learned_range")])
@pytest.mark.parametrize("clip", [True, False])
def test_what_is_written_is_read_again(
    tmp_path: Path, schedule: str, prediction: str, variance: str, clip: bool
) -> None:
    given = Scheduler(schedule, 100, prediction, variance, clip)
    schedulers.save(tmp_path, schedulers.write(given))
    found = schedulers.load(tmp_path)
    assert found is not None and found == given._replace(schedule=found.schedule)
    assert found.schedule.partition(":")[0] == schedule.partition(":")[0]
    expected = schedules.build(schedule, 100).beta
    np.testing.assert_allclose(schedules.build(found.schedule, 100).beta, expected, rtol=1e-6)
    said = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    np.testing.assert_allclose(said["trained_betas"], expected[1:], rtol=1e-15)


def test_a_folder_may_hold_none_and_diffusers_has_no_mu(tmp_path: Path) -> None:
    assert schedulers.load(tmp_path) is None
    with pytest.raises(ValueError, match="unknown prediction 'mu'"):
        schedulers.write(Scheduler(prediction="mu"))
    with pytest.raises(ValueError, match="unknown variance 'learned'"):
        schedulers.write(Scheduler(variance="learned"))


def test_a_rescaled_table_ends_without_data_as_a_plain_loop_has_it() -> None:
    given = schedulers.read({"beta_schedule": "scaled_linear", "beta_end": 0.012, "rescale_betas_zero_snr": True})
    betas = [(math.sqrt(1e-4) + (math.sqrt(0.012) - math.sqrt(1e-4)) * i / 999) ** 2 for i in range(1000)]
    expected = oracle_schedules.zero_terminal(betas)
    np.testing.assert_allclose(schedules.build(given.schedule, 1000).beta[1:], expected, rtol=1e-6)
