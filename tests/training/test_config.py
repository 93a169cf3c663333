"""The config: JSON both ways."""

import json

import pytest

from ddpm_jax.models.unet import PRESETS, UNetConfig
from ddpm_jax.training.config import Config, from_dict, to_dict


@pytest.mark.parametrize(("kind", "value"), [(Config, Config(seed=3, data="other")), (UNetConfig, PRESETS["cifar10"])])
def test_json_both_ways(kind: type, value: object) -> None:
    assert from_dict(kind, json.loads(json.dumps(to_dict(value)))) == value


def test_unknown_and_missing_fields_are_named() -> None:
    with pytest.raises(ValueError, match=r"\['seed', 'sneed'\]"):
        from_dict(Config, {**{k: v for k, v in to_dict(Config()).items() if k != "seed"}, "sneed": 1})
