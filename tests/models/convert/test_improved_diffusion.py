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
from ddpm_jax.models.convert.schedulers import Scheduler
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
    for other in ({"time_embed.0.weight": np.zeros((4, 4), np.float32)}, {"conv_in.weight": np.zeros(3, np.float32)}):
        with pytest.raises(ValueError, match=r"does not hold the network of its description: missing: "):
            improved_diffusion.load(*files(tmp_path, KINDS[1], other))


SAID = json.loads((golden.HERE / KINDS[1] / "config.json").read_text())


def test_texts_of_a_command_line_mean_what_the_values_do() -> None:
    texts = {"channel_mult": "1,2", "num_heads": "4", "dropout": "0.0", "use_scale_shift_norm": "True"}
    plain = improved_diffusion.read_config(SAID)
    assert improved_diffusion.read_config({**SAID, **texts}) == plain
    of_sizes = {"attention_resolutions": "8,16", "image_size": 16}  # factors 2 and 1
    assert improved_diffusion.read_config({**SAID, **of_sizes}).attention_levels == (0, 1)
    by_size = {**SAID, "channel_mult": "", "image_size": "32", "attention_resolutions": "16"}
    assert improved_diffusion.read_config(by_size).multipliers == (1, 2, 2, 2)
    assert improved_diffusion.read_config(by_size).attention_levels == (1,)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            {"image_size": "64", "num_channels": "128", "num_res_blocks": "3", "learn_sigma": "True"},
            dict(channels=128, blocks=3, multipliers=(1, 2, 3, 4), attention_levels=(2, 3), attention_heads=4, heads=1),
        ),
        (
            {"image_size": 32, "num_heads": 1, "use_scale_shift_norm": "f", "attention_resolutions": "16,8"},
            dict(channels=128, blocks=2, multipliers=(1, 2, 2, 2), attention_levels=(1, 2), scale_shift=False, heads=0),
        ),
        (
            {"image_size": 256, "attention_resolutions": "32", "dropout": "0.3", "lr": "1e-4", "use_fp16": "True"},
            dict(multipliers=(1, 1, 2, 2, 4, 4), attention_levels=(3,), dropout=0.3, scale_shift=True),
        ),
    ],
)  # as the project's README and create_model have them
def test_flags_of_the_scripts_describe_the_network(flags: dict, expected: dict) -> None:
    config = improved_diffusion.read_config(flags)
    assert {name: getattr(config, name) for name in expected} == expected and config.image_channels == 3


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"image_size": 64}, Scheduler("linear", 1000, "eps", "large", True)),
        (
            {"diffusion_steps": "4000", "noise_schedule": "cosine", "learn_sigma": "true", "clip_denoised": "False"},
            Scheduler("cosine", 4000, "eps", "learned_range", False),
        ),
        ({"predict_xstart": "1", "sigma_small": "y"}, Scheduler("linear", 1000, "x_0", "small", True)),
        (SAID, Scheduler("linear", 1000, "eps", "learned_range", True)),
    ],
)
def test_flags_of_the_chain_are_kept(flags: dict, expected: Scheduler) -> None:
    assert improved_diffusion.read_chain(flags) == expected


def test_flags_without_effect_are_told_once() -> None:
    for said, names in (
        ({"image_size": 64, "use_kl": "False", "timestep_respacing": "250", "lr": 1}, "use_kl, timestep_respacing, lr"),
        ({**SAID, "use_checkpoint": True, "image_size": 32}, "use_checkpoint, image_size"),
    ):
        assert improved_diffusion.told(said) == [f"without effect here: {names}"]
    for said in (SAID, {**SAID, "channel_mult": "", "image_size": 32}):
        assert improved_diffusion.told(said) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"attention_resolutions": "16,8"},
            r"attention_resolutions = '16,8': a text means sizes of images: add image_size",
        ),
        ({"channel_mult": ""}, "channel_mult = '' at image_size = None: the scripts have one for 32, 64, 256 alone"),
        ({"channel_mult": "1,x"}, "channel_mult = '1,x': whole numbers with commas"),
        ({"channel_mult": "0,1"}, "channel_mult = '0,1': whole numbers with commas"),
        ({"noise_schedule": "quadratic"}, "noise_schedule = 'quadratic': 'linear' or 'cosine' is wanted"),
        ({"num_channels": 32}, "of the arguments of UNetModel unknown: num_channels"),
        ({"use_scale_shift_norm": "maybe"}, "use_scale_shift_norm = 'maybe': true or false is wanted"),
        ({"model_channels": 40}, "40 channels do not split into 32 groups"),
    ],
)
def test_a_wrong_argument_is_one_line_with_the_file(tmp_path: Path, arrays: dict, changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=rf"config.json: .*{message}"):
        improved_diffusion.load(*files(tmp_path, KINDS[1], arrays, **changed))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"image_size": 128}, "channel_mult = '' at image_size = 128: the scripts have one for 32, 64, 256 alone"),
        ({"image_size": 64, "attention_resolutions": [2, 4]}, "attention_resolutions = .*: as a flag it is a text"),
        ({"image_size": 64, "class_cond": "True"}, "class_cond = True: a class-conditional network"),
        ({"image_size": 64, "large_size": 256}, "of the scripts' flags unknown: large_size"),
    ],
)
def test_flags_that_ours_cannot_be_are_refused(flags: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        improved_diffusion.read_config(flags)


@pytest.mark.parametrize("key", improved_diffusion.KINDS)
@pytest.mark.parametrize(
    "value", [None, [[1]], {}, "many", -1, float("nan"), 10**400, "9" * 5000], ids=lambda value: repr(value)[:9]
)
def test_a_value_of_another_type_is_one_line_with_its_key(tmp_path: Path, key: str, value: object) -> None:
    path, said = tmp_path / "d.json", SAID if key in SAID else {"image_size": 64}
    path.write_text(json.dumps({**said, key: value}))
    if (key, value) == ("num_heads_upsample", -1):
        improved_diffusion.load_chain(path)
        return
    with pytest.raises(ValueError, match=rf"d.json: .*{key}") as error:
        improved_diffusion.load_chain(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
