"""diffusers' folders: its own activations, there and back, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ddpm_jax.models import unet
from ddpm_jax.models.convert import diffusers, tensors
from ddpm_jax.models.unet import PRESETS, UNetConfig
from tests import golden
from tests.models.test_unet import TINY, randomised

FOLDER = golden.HERE / "diffusers_ddpm"
OLD = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return golden.weights(FOLDER / "weights.json")


def written(folder: Path, arrays: dict[str, np.ndarray], **changed: object) -> Path:
    folder.mkdir(parents=True)
    said = json.loads((FOLDER / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps(said))
    save_file(arrays, folder / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.mark.parametrize("inside", ["", "unet"])
@pytest.mark.parametrize("old", [False, True])
def test_an_imported_network_says_what_diffusers_says(
    tmp_path: Path, arrays: dict[str, np.ndarray], inside: str, old: bool
) -> None:
    def name(today: str) -> str:
        for new, before in OLD.items() if old else ():
            today = today.replace(new, before)
        return today

    written(tmp_path / "run" / inside, {name(today): array for today, array in arrays.items()})
    config, params = diffusers.load(tmp_path / "run")
    with np.load(FOLDER / "io.npz") as io:
        x, t, y = (io[part] for part in "xty")
    found = jax.jit(unet.network(config))(params, jnp.asarray(x.transpose(0, 2, 3, 1)), jnp.asarray(t) + 1)
    np.testing.assert_allclose(found, y.transpose(0, 2, 3, 1), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        pytest.param(
            replace(TINY, channels=16, multipliers=(1, 2, 2), attention_levels=(0, 2), attention_heads=2, heads=1),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            replace(TINY, attention_levels=(), head_channels=4, cosine_first=True, frequency_shift=0, scale_shift=True),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            replace(TINY, time_start=0, norm_epsilon=1e-5, downsample_padding=1, image_channels=3),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["ours", "heads", "cosines", "others"],
)
def test_what_is_exported_comes_back_as_the_same_network(tmp_path: Path, config: UNetConfig) -> None:
    if config.attention_heads > 1:
        config = replace(config, multipliers=(1, 1, 1))
    params = randomised(config)
    diffusers.save(tmp_path, params, config)
    back, found = diffusers.load(tmp_path)
    x, t = jax.random.normal(jax.random.key(0), (3, 8, 8, config.image_channels)), jnp.array([1, 500, 1000])
    ours, theirs = (unet.network(shape)(values, x, t) for shape, values in ((config, params), (back, found)))
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4 * float(jnp.abs(ours).max()))
    assert back.time_start == 0 and back.head_channels == (config.head_channels or (16 // 2 if config.heads else None))


def test_the_whole_cifar10_network_has_its_places() -> None:
    said = diffusers.write_config(PRESETS["cifar10"])
    assert diffusers.read_config(json.loads(json.dumps(said))) == replace(PRESETS["cifar10"], time_start=0)
    named = tensors.names(PRESETS["cifar10"], diffusers.PROJECT)
    assert len({*named}) == len(named)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"center_input_sample": True}, "center_input_sample = True: this network cannot be imported"),
        ({"block_out_channels": [32, 48]}, r"block_out_channels \[32, 48\]: 48 is no multiple of the first, 32"),
        ({"down_block_types": ["SkipDownBlock2D", "DownBlock2D"]}, "down_block_types .*: only DownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "UpBlock2D"]}, "up_block_types .*: only those that mirror"),
        ({"out_channels": 4}, "out_channels = 4: no multiple of in_channels = 3"),
        ({"resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups = None: this network cannot be imported"),
        ({"time_embedding_dim": 64}, "time_embedding_dim = 64: this network cannot be imported"),
        ({"out_channels": 6}, r"of another shape: .*conv_out.weight \(3, 32, 3, 3\) in place of \(6, 32, 3, 3\)"),
        ({"layers_per_block": 1}, "left over: .*resnets.1"),
        ({"block_out_channels": [32, 64, 64]}, "down_block_types and up_block_types are not as many"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_network_is_refused(tmp_path: Path, arrays: dict, changed: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diffusers.load(written(tmp_path / "run", arrays, **changed))


def test_missing_and_left_over_arrays_are_listed(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    given = {**arrays, "ema.decay": np.zeros(1, np.float32)}
    for name in ("conv_in.bias", "conv_out.bias"):
        del given[name]
    with pytest.raises(ValueError, match=r"missing: conv_in.bias \(32,\), conv_out.bias \(3,\); left over: ema.decay"):
        diffusers.load(written(tmp_path / "run", given))


def truncated(folder: Path) -> None:
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def not_finite(folder: Path) -> None:
    weights = folder / "diffusion_pytorch_model.safetensors"
    array = golden.weights(FOLDER / "weights.json")
    array["conv_in.bias"][3] = np.nan
    save_file(array, weights)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "is no safetensors file, or damaged"),
        (not_finite, "not finite: conv_in.bias"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "holds a list: a JSON object is wanted"),
        (lambda folder: (folder / "diffusion_pytorch_model.safetensors").unlink(), "safetensors: no such file"),
    ],
    ids=["truncated", "not_finite", "no_config", "no_json", "a_list", "no_weights"],
)
def test_damaged_folders_are_refused(tmp_path: Path, arrays: dict, spoil: Callable, message: str) -> None:
    folder = written(tmp_path / "run", arrays)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        diffusers.load(folder)


@pytest.mark.parametrize("key", diffusers.KINDS)
@pytest.mark.parametrize(
    "value", [None, [[1]], {}, "many", -1, float("nan"), 10**400, True, "1" * 10_000], ids=lambda value: repr(value)[:9]
)
def test_a_value_of_another_type_is_one_line_with_its_key(tmp_path: Path, key: str, value: object) -> None:
    said = json.loads((FOLDER / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(said))
    optional = key in ("attention_head_dim", "time_embedding_dim", "attn_norm_num_groups")
    means_something = (value is True and key == "flip_sin_to_cos") or (value is None and optional)
    where = "safetensors: no such file" if means_something else f"config.json: {key} = "
    with pytest.raises(ValueError, match=where) as error:
        diffusers.load(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("kind", ["fp16", "shards", "ema"])
def test_weights_under_their_other_names_are_the_same_network(tmp_path: Path, arrays: dict, kind: str) -> None:
    plain = written(tmp_path / "plain", arrays)
    other = written(tmp_path / "other" / ("unet_ema" if kind == "ema" else ""), arrays)
    whole = other / "diffusion_pytorch_model.safetensors"
    if kind == "fp16":
        save_file({name: array.astype(np.float16) for name, array in load_file(whole).items()}, whole)
        whole.rename(other / "diffusion_pytorch_model.fp16.safetensors")
    if kind == "shards":
        whole.unlink()
        for number in (0, 1):
            some = {name: arrays[name] for name in sorted(arrays)[number::2]}
            save_file(some, other / f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors")
    if kind == "ema":
        written(tmp_path / "other" / "unet", {name: 2 * array for name, array in arrays.items()})
    expected, found = (jax.tree.leaves(diffusers.load(folder)[1]) for folder in (plain, tmp_path / "other"))
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_allclose(two, one, rtol=2**-11 if kind == "fp16" else 0, atol=1e-7)
    lines = {"fp16": ["weights: diffusion_pytorch_model.fp16.safetensors, the only weights there"], "shards": []}
    told = [line for line in diffusers.told(tmp_path / "other") if "config.json" not in line]
    assert told == lines.get(kind, ["network: other/unet_ema; not taken: unet"])


def test_keys_without_effect_are_told_once(tmp_path: Path, arrays: dict) -> None:
    folder = written(tmp_path / "run", arrays, my_key=[1], _name_or_path="x")
    known = {"sample_size", "num_train_timesteps"} & json.loads((FOLDER / "config.json").read_text()).keys()
    (line,) = diffusers.told(folder)
    said, _, names = line.partition("without effect here: ")
    assert said == f"{folder}/config.json: " and {*names.split(", ")} == {*known, "my_key"}


def test_the_network_of_a_pipeline_with_others_is_refused(tmp_path: Path, arrays: dict) -> None:
    written(tmp_path / "unet", arrays)
    index = {"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"], "safety_checker": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    diffusers.load(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "vqvae": ["diffusers", "VQModel"]}))
    with pytest.raises(
        ValueError, match=r"model_index.json: a pipeline with vqvae: its network makes no images by itself"
    ):
        diffusers.load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"time_scale": 0.25}, "time_scale = 0.25: diffusers' networks take the time as it is"),
        ({"attention_heads": 2}, "attention_heads = 2 at levels of different widths"),
    ],
    ids=["scale", "heads"],
)
def test_what_diffusers_has_not_is_not_exported(tmp_path: Path, changed: dict, message: str) -> None:
    config = replace(TINY, attention_levels=(0, 1), **changed)
    with pytest.raises(ValueError, match=message):
        diffusers.save(tmp_path, randomised(config), config)
