"""improved-diffusion's state dicts: its own activations, and what is refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax.models import unet
from ddpm_jax.models.convert import improved_diffusion
from tests import golden

KINDS = ["improved_diffusion_fixed", "improved_diffusion_learned_range"]


def files(folder: Path, kind: str, arrays: dict[str, np.ndarray], **changed: object) -> tuple[Path, Path]:
    described, weights = folder / "config.json", folder / "model.safetensors"
    said = json.loads((golden.HERE / kind / "config.json").read_text()) | changed
    described.write_text(json.dumps(said))
    save_file(arrays, weights)
    return weights, described


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return golden.weights(golden.HERE / KINDS[1] / "weights.json")


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_network_says_what_improved_diffusion_says(tmp_path: Path, kind: str) -> None:
    config, params = improved_diffusion.load(
        *files(tmp_path, kind, golden.weights(golden.HERE / kind / "weights.json"))
    )
    assert config.heads == KINDS.index(kind)
    with np.load(golden.HERE / kind / "io.npz") as io:
        x, t, y = (io[part] for part in "xty")
    found = jax.jit(unet.network(config))(params, jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray(t) + 1)
    np.testing.assert_allclose(found, y.transpose(0, 2, 3, 1), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("rescaled", "scale"), [(True, 0.25), (False, 1.0)])
def test_time_is_rescaled_as_the_chain_is_long(rescaled: bool, scale: float) -> None:
    said = json.loads((golden.HERE / KINDS[0] / "config.json").read_text())
    config = improved_diffusion.read_config({**said, "diffusion_steps": 4000, "rescale_timesteps": rescaled})
    assert config.time_scale == scale and config.time_start == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"resblock_updown": True}, "resblock_updown: this is a network of guided-diffusion"),
        ({"num_classes": 10}, "num_classes = 10: a class-conditional network cannot be imported"),
        ({"conv_resample": False}, "conv_resample = False: this network cannot be imported"),
        ({"num_heads_upsample": 2}, "num_heads_upsample = 2: this network cannot be imported"),
        ({"out_channels": 9}, "out_channels = 9: in_channels = 3 or twice as many"),
        ({"width": 3}, r"unknown: width"),
        ({"num_res_blocks": 1}, "left over: "),
        ({"num_heads": 3}, "channels do not split into 3 attention_heads"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_network_is_refused(tmp_path: Path, arrays: dict, changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        improved_diffusion.load(*files(tmp_path, KINDS[1], arrays, **changed))


def test_files_of_other_networks_are_recognised(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    labelled = {**arrays, "label_emb.weight": np.zeros((10, 128), np.float32)}
    with pytest.raises(ValueError, match="has label_emb: a class-conditional network"):
        improved_diffusion.load(*files(tmp_path, KINDS[1], labelled))
    guided = {name.replace(".op.", ".in_layers.2."): array for name, array in arrays.items()}
    with pytest.raises(ValueError, match="this is a network of guided-diffusion"):
        improved_diffusion.load(*files(tmp_path, KINDS[1], guided))
