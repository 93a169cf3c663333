"""The config: JSON both ways, also from before it had all of today's fields."""

import json
from dataclasses import dataclass, fields

import pytest

from ddpm_jax.models.unet import PRESETS, UNetConfig
from ddpm_jax.runtime import cache
from ddpm_jax.training.config import FORMER_DEFAULTS, Config, Heads, completed, from_dict, to_dict


@pytest.mark.parametrize(("kind", "value"), [(Config, Config(seed=3, data="other")), (UNetConfig, PRESETS["cifar10"])])
def test_json_both_ways(kind: type, value: object) -> None:
    assert from_dict(kind, json.loads(json.dumps(to_dict(value)))) == value


@dataclass(frozen=True)
class Later(Config):
    """A version of tomorrow: one option more, whose default has changed since it came."""

    blur: float = 0.5


def test_a_field_that_was_not_there_has_the_default_it_came_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMER_DEFAULTS, "Later", {**FORMER_DEFAULTS["Config"], "blur": 0.0})
    yesterday = to_dict(Config(seed=3, ema_decay=(0.9, 0.99)))
    found = from_dict(Later, yesterday)
    assert found == Later(seed=3, ema_decay=(0.9, 0.99), blur=0.0) != Later(seed=3, ema_decay=(0.9, 0.99))
    assert completed(Later, yesterday) == {**yesterday, "blur": 0.0}
    assert from_dict(Later, to_dict(Later())) == Later()


@pytest.mark.parametrize("kind", [Config, Heads, UNetConfig])
def test_every_field_has_a_default_of_its_birth(kind: type) -> None:
    missing = {field.name for field in fields(kind)} - FORMER_DEFAULTS[kind.__name__].keys()
    assert not missing, (
        f"config.FORMER_DEFAULTS lacks {missing} of {kind.__name__}: add the defaults that make what was made before"
    )
    assert from_dict(kind, {}) == kind(**FORMER_DEFAULTS[kind.__name__])


def test_the_defaults_of_birth_stay() -> None:
    """Those of the fields that were there when the table was written; later ones stand below them."""
    counts = {"Config": 36, "Heads": 8, "UNetConfig": 18}
    first = {name: dict(list(FORMER_DEFAULTS[name].items())[:count]) for name, count in counts.items()}
    changed = "a line of config.FORMER_DEFAULTS changed: it says what was made before the field was there, and stays"
    assert cache.fingerprint(first) == "c07de3da4bf1f6186edb2da2f54adaa8", changed


@pytest.mark.parametrize("kind", [Config, Heads, UNetConfig])
def test_an_unknown_field_is_refused_by_name(kind: type) -> None:
    with pytest.raises(
        ValueError, match=rf"^{kind.__name__} has no sneed = 1: made by a newer version, update ddpm_jax$"
    ):
        from_dict(kind, {**to_dict(kind()), "sneed": 1})
