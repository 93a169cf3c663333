"""diffusers' schedulers: their betas by their own formulas, names there and here, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_jax.diffusion import schedules
from ddpm_jax.models.convert import diffusers
from ddpm_jax.models.convert.diffusers import Scheduler


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Scheduler()),
        ({"beta_schedule": "squaredcos_cap_v2"}, Scheduler("cosine")),
        ({"prediction_type": "v_prediction"}, Scheduler(prediction="v")),
        (
            {"num_train_timesteps": 4000, "beta_start": 2.5e-5, "beta_end": 0.005, "variance_type": "fixed_large"},
            Scheduler(T=4000, variance="large"),
        ),
        ({"beta_schedule": "scaled_linear", "prediction_type": "sample"}, Scheduler("quadratic", prediction="x_0")),
        ({"beta_schedule": "sigmoid"}, Scheduler("sigmoid")),
        ({"variance_type": "learned_range"}, Scheduler(variance="learned_range")),
        ({"trained_betas": [1e-4 + 0.0199 * i / 999 for i in range(1000)]}, Scheduler()),
        ({"variance_type": None}, Scheduler()),
    ],
)
def test_a_chain_is_known_by_its_betas(given: dict[str, Any], expected: Scheduler) -> None:
    assert diffusers.read_scheduler(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta_end": 0.012}, r"beta_schedule = 'linear', 0.0001 to 0.012 over T = 1000: no schedule here is so"),
        ({"beta_schedule": "laplace"}, "unknown beta_schedule 'laplace'"),
        ({"prediction_type": "flow"}, "unknown prediction_type 'flow'"),
        ({"variance_type": "none"}, "unknown variance_type 'none'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = True"),
    ],
)
def test_a_chain_without_a_name_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diffusers.read_scheduler(given)


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
@pytest.mark.parametrize(("prediction", "variance"), [("eps", "large"), ("v", "learned_range")])
def test_what_is_written_is_read_again(tmp_path: Path, schedule: str, prediction: str, variance: str) -> None:
    given = Scheduler(schedule, 100, prediction, variance)
    diffusers.save_scheduler(tmp_path, diffusers.write_scheduler(given))
    assert diffusers.load_scheduler(tmp_path) == given
    said = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    np.testing.assert_allclose(said["trained_betas"], schedules.SCHEDULES[schedule](100).beta[1:], rtol=1e-15)


def test_a_folder_may_hold_none_and_diffusers_has_no_mu(tmp_path: Path) -> None:
    assert diffusers.load_scheduler(tmp_path) is None
    with pytest.raises(ValueError, match="unknown prediction 'mu'"):
        diffusers.write_scheduler(Scheduler(prediction="mu"))
