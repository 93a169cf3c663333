"""diffusers and PyTorch themselves beside ours: `make test-oracles` installs them and runs these tests."""

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax.diffusion import process, sampler, schedules, timesteps, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import make_denoiser
from ddpm_jax.diffusion.variances import Calibration
from ddpm_jax.models import unet
from ddpm_jax.models.convert import diffusers, files, improved_diffusion, schedulers
from tests import golden

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch", reason="make test-oracles installs it")
theirs = pytest.importorskip("diffusers", reason="make test-oracles installs it")


def filled(model: Any, seed: int) -> Any:
    """Its arrays drawn anew, none of them near zero, so that every path counts."""
    draw = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.1
        values = scale * draw.standard_normal(shape) + (len(shape) == 1 and name.endswith("weight"))
        parameter.data = torch.tensor(values, dtype=torch.float32)
    return model.eval()


def drawn(seed: int) -> tuple[dict[str, Any], tuple[int, int]]:
    """Arguments of a UNet2DModel and an image's size."""
    draw = np.random.default_rng(seed)
    depth = int(draw.integers(1, 4))
    attends = draw.random(depth) < 0.5
    arguments = dict(
        in_channels=int(draw.choice([1, 3])),
        block_out_channels=tuple(int(16 * factor) for factor in np.cumsum(np.r_[1, draw.integers(0, 2, depth - 1)])),
        layers_per_block=int(draw.integers(1, 3)),
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in attends[::-1]),
        attention_head_dim=[None, 4, 8][draw.integers(3)],
        norm_num_groups=int(draw.choice([4, 8])),
        norm_eps=float(draw.choice([1e-6, 1e-5, 1e-3])),
        downsample_padding=int(draw.integers(2)),
        flip_sin_to_cos=bool(draw.integers(2)),
        freq_shift=int(draw.integers(2)),
        resnet_time_scale_shift=str(draw.choice(["default", "scale_shift"])),
    )
    outputs, groups = arguments["in_channels"] * int(draw.integers(1, 3)), arguments["norm_num_groups"]
    return {**arguments, "out_channels": outputs, "attn_norm_num_groups": groups}, (20, 12)


def said(model: Any, x: np.ndarray, t: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t)).sample.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("seed", range(5))
def test_networks_of_any_shape_come_in_and_go_out_the_same(seed: int, tmp_path: Path) -> None:
    arguments, size = drawn(seed)
    model = filled(theirs.UNet2DModel(**arguments), seed)
    model.save_pretrained(tmp_path / "theirs")
    config, params = diffusers.load(tmp_path / "theirs")
    draw = np.random.default_rng(seed)
    x, t = draw.standard_normal((3, *size, arguments["in_channels"])).astype(np.float32), np.array([0, 333, 999])
    expected = said(model, x, t)
    found = jax.jit(unet.network(config))(params, jnp.asarray(x), jnp.asarray(t) + 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    diffusers.save(tmp_path / "ours", params, config)
    back = theirs.UNet2DModel.from_pretrained(tmp_path / "ours")
    np.testing.assert_allclose(said(back, x, t), expected, rtol=0, atol=2e-5)


def test_a_network_of_ours_that_counts_from_one_goes_out(tmp_path: Path) -> None:
    config = unet.PRESETS["digits"]
    params = jax.jit(unet.init, static_argnums=(1, 2))(jax.random.key(0), config, 8)
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.05 * draw.standard_normal(leaf.shape).astype(np.float32), params)
    diffusers.save(tmp_path, params, config)
    x, t = draw.standard_normal((3, 8, 8, 1)).astype(np.float32), np.array([1, 500, 1000])
    expected = np.asarray(jax.jit(unet.network(config))(params, x, t))
    found = said(theirs.UNet2DModel.from_pretrained(tmp_path).eval(), x, t - 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_a_pipeline_of_ours_is_loaded_and_draws_images(tmp_path: Path) -> None:
    config = unet.PRESETS["digits"]
    params = jax.jit(unet.init, static_argnums=(1, 2))(jax.random.key(0), config, 8)
    diffusers.save(tmp_path / "unet", params, config, 8)
    schedulers.save(tmp_path, schedulers.write(schedulers.Scheduler()))
    pipeline = theirs.DDPMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 8, 8, 1) and np.isfinite(images).all()


def test_the_whole_cifar10_network_comes_in(tmp_path: Path) -> None:
    """The layout of google/ddpm-cifar10-32."""
    model = theirs.UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        dropout=0.1,
    )
    model.save_pretrained(tmp_path)
    _, params = diffusers.load(tmp_path)
    assert unet.parameter_count(params) == sum(p.numel() for p in model.parameters()) == 35_746_307


def test_a_state_dict_of_pytorch_is_read_and_a_pickle_with_code_is_not(tmp_path: Path) -> None:
    kind = golden.HERE / "improved_diffusion_fixed"
    arrays = golden.weights(kind / "weights.json")
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, tmp_path / "model.pt")
    save_file(arrays, tmp_path / "model.safetensors")
    paths = [tmp_path / name for name in ("model.pt", "model.safetensors")]
    read = [jax.tree.leaves(improved_diffusion.load(path, kind / "config.json")[1]) for path in paths]
    assert all((one == other).all() for one, other in zip(*read, strict=True))
    parameters = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in arrays.items()}
    torch.save(parameters, tmp_path / "trainer.pt")  # as improved-diffusion's trainer stores them
    torch.save({name: tensor.bfloat16() for name, tensor in parameters.items()}, tmp_path / "halves.pt")
    for name, tolerance in (("trainer", 0), ("halves", 2**-8)):
        found = jax.tree.leaves(improved_diffusion.load(tmp_path / f"{name}.pt", kind / "config.json")[1])
        for one, other in zip(read[0], found, strict=True):
            np.testing.assert_allclose(other, one, rtol=tolerance)
    torch.save({"a": torch.zeros(2), "run": Path("x")}, tmp_path / "code.pt")
    torch.save({"model": {"a": torch.zeros(2)}}, tmp_path / "nested.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:1000])
    torch.save({"a": torch.zeros(2).to_sparse()}, tmp_path / "sparse.pt")
    torch.save({"a": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "complex.pt")
    torch.save({3: torch.zeros(2)}, tmp_path / "numbered.pt")
    (tmp_path / "text.pt").write_text("no archive")
    for name, message in (
        ("code", "of tensors alone"),
        ("nested", "more than tensors"),
        ("cut", "damaged"),
        ("sparse", "sparse.pt: a cannot be read"),
        ("complex", "complex.pt: a is complex"),
        ("numbered", "more than tensors"),
        ("text", "damaged"),
    ):
        with pytest.raises(ValueError, match=message):
            files.read_tensors(tmp_path / f"{name}.pt")


T, TIMES = 20, np.array([4, 8, 12, 16, 20])
SCHEDULE = schedules.linear(T, 0.01, 0.3)
SHAPE = (3, 4, 4, 2)


def output(x: Any, t: Any, numpy: Any) -> Any:
    """What a network might say: eps, and a head in [-1, 1]."""
    wave = numpy.sin(t * 1.0).reshape(-1, 1, 1, 1) if hasattr(t, "shape") else numpy.sin(float(t))
    return numpy.concatenate([0.8 * numpy.tanh(x + 0.3 * wave), numpy.tanh(2 * x - wave)], axis=-1)


def chain(kernel: process.Kernel, name: str, heads: tuple[str, ...]) -> sampler.Path:
    channels = SHAPE[-1] * (1 + len(heads))
    denoiser = make_denoiser(lambda params, x_t, t: output(x_t, t, jnp)[..., :channels], None, SCHEDULE, "eps", heads)
    steps = process.steps(SCHEDULE, timesteps.explicit(T, TIMES), kernel)
    choice = variances.build(name, Calibration(SCHEDULE))
    return sampler.sample_path(jax.random.key(7), steps, denoiser, choice, SHAPE, Rules())


def noise(t: int) -> np.ndarray:
    """What our sampler draws at a time; 0 for x_T."""
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(jnp.arange(SHAPE[0]))
    return np.asarray(jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), SHAPE[1:]))(keys))


def torch_of(x: np.ndarray) -> Any:
    return torch.tensor(np.asarray(x, np.float32).transpose(0, 3, 1, 2))


def theirs_of(scheduler: Any, channels: int, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[np.ndarray]:
    """x_0_hat of every step from T down, and x_0."""
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    scheduler.set_timesteps(len(TIMES))
    assert scheduler.timesteps.tolist() == (TIMES[::-1] - 1).tolist()
    x, path = noise(0), []
    for t in TIMES[::-1]:
        drawn = noise(t) * (t > TIMES[0])  # none in the last step
        monkeypatch.setattr(module, "randn_tensor", lambda *shape, drawn=drawn, **kind: torch_of(drawn))
        found = scheduler.step(torch_of(output(x, t, np)[..., :channels]), int(t) - 1, torch_of(x), **options)
        x = found.prev_sample.numpy().transpose(0, 2, 3, 1)
        path.append(found.pred_original_sample.numpy().transpose(0, 2, 3, 1))
    return [*path, x]


def betas() -> dict[str, Any]:
    return dict(
        num_train_timesteps=T, trained_betas=list(SCHEDULE.beta[1:]), timestep_spacing="trailing", clip_sample=True
    )


def assert_same(found: sampler.Path, expected: list[np.ndarray]) -> None:
    for mine, other in zip([*found.x_0_hat, found.x_0], expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("theirs_name", "name"), [("fixed_small", "small"), ("fixed_large", "large"), ("learned_range", "learned_range")]
)
def test_ddpm_steps_are_those_of_diffusers(theirs_name: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = ("learned_range",) if name == "learned_range" else ()
    scheduler = theirs.DDPMScheduler(**betas(), variance_type=theirs_name)
    expected = theirs_of(scheduler, SHAPE[-1] * (1 + len(heads)), monkeypatch)
    assert_same(chain(process.DDPM, name, heads), expected)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_steps_are_those_of_diffusers(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = theirs.DDIMScheduler(**betas(), set_alpha_to_one=True)
    expected = theirs_of(scheduler, SHAPE[-1], monkeypatch, eta=eta, use_clipped_model_output=True)
    assert_same(chain(process.ddim(eta), "zero" if eta == 0 else "small", ()), expected)


def scheduler_classes() -> dict[str, type]:
    """Every scheduler of the installed diffusers."""
    found = {}
    package = importlib.import_module("diffusers.schedulers")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        content = vars(importlib.import_module(module.name))
        kinds = {name: value for name, value in content.items() if isinstance(value, type)}
        own = {name: kind for name, kind in kinds.items() if kind.__module__ == module.name}
        found |= {name: kind for name, kind in own.items() if issubclass(kind, theirs.ConfigMixin)}
    return found


SAMPLERS = scheduler_classes()


def defaults_of(name: str) -> dict[str, Any]:
    return {key: one.default for key, one in inspect.signature(SAMPLERS[name].__init__).parameters.items()}


def of_a_ddpm(name: str) -> bool:
    """Whether its networks are of a chain of betas; those of CogVideoX's have a shift of their own."""
    settings = defaults_of(name)
    return {"trained_betas", "prediction_type"} <= settings.keys() and "snr_shift_scale" not in settings


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_scheduler_is_read_with_its_own_defaults_or_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / schedulers.NAME).write_text(json.dumps({"_class_name": name}))
    if not of_a_ddpm(name):
        with pytest.raises(ValueError, match=f"{schedulers.NAME}: _class_name = '{name}': its networks are no DDPMs"):
            schedulers.load(tmp_path)
        return
    settings = defaults_of(name)
    known = {**schedulers.DEFAULTS, **schedulers.CLASSES[name]}
    assert {key: settings[key] for key in known} == known
    matters = {"rescale_betas_zero_snr", "use_flow_sigmas", "clip_sample", "clip_sample_range", "variance_type"}
    matters |= {"timestep_type"} | ({"thresholding"} if "clip_sample" in settings else set())
    assert matters & settings.keys() <= known.keys()


CHAINS: list[dict[str, Any]] = [
    {},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction"},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 50},
    {"num_train_timesteps": 4, "trained_betas": [0.1, 0.3, 0.2, 0.4], "prediction_type": "sample"},
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
]
CASES = [(name, said) for name in SAMPLERS if of_a_ddpm(name) for said in CHAINS] + [
    ("DDPMScheduler", {"beta_schedule": "sigmoid", "beta_end": 0.01}),
    ("DDPMScheduler", {"beta_schedule": "laplace", "num_train_timesteps": 100}),
    ("HeunDiscreteScheduler", {"beta_schedule": "exp", "num_train_timesteps": 30}),
]


@pytest.mark.parametrize(("name", "said"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_sampler_s_chain_is_theirs(name: str, said: dict[str, Any], tmp_path: Path) -> None:
    scheduler = SAMPLERS[name](**{key: value for key, value in said.items() if key in defaults_of(name)})
    scheduler.save_config(tmp_path)
    found = schedulers.load(tmp_path)
    assert found is not None and found.T == scheduler.config.num_train_timesteps
    expected = scheduler.alphas_cumprod.numpy()
    np.testing.assert_allclose(schedules.build(found.schedule, found.T).alpha_bar[1:], expected, rtol=0, atol=1e-6)
    assert found.prediction == schedulers.PREDICTION_TYPES[scheduler.config.prediction_type]


def imported_chain(folder: Path, kernel: process.Kernel, name: str | None = None) -> sampler.Path:
    """Steps as what is kept of a folder's scheduler makes them."""
    kept = schedulers.load(folder)
    assert kept is not None and kept.clip_x_0 is not None
    schedule, variance = schedules.build(kept.schedule, kept.T), name or kept.variance
    assert variance
    heads = variances.heads_of([variance])
    channels = SHAPE[-1] * (1 + len(heads))
    network = lambda params, x_t, t: output(x_t, t, jnp)[..., :channels]  # noqa: E731
    denoiser = make_denoiser(network, None, schedule, kept.prediction, heads)
    steps = process.steps(schedule, timesteps.explicit(T, TIMES), kernel)
    choice = variances.build(variance, Calibration(schedule))
    return sampler.sample_path(jax.random.key(7), steps, denoiser, choice, SHAPE, Rules(clip_x_0=kept.clip_x_0))


STEPS: list[dict[str, Any]] = [
    {"clip_sample": False},
    {"clip_sample": True, "variance_type": "fixed_large", "prediction_type": "v_prediction"},
    {"clip_sample": False, "variance_type": "fixed_large", "prediction_type": "sample"},
    {"clip_sample": False, "variance_type": "learned_range"},
    {"clip_sample": True, "variance_type": "fixed_small_log"},
    {"clip_sample": True, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
]


@pytest.mark.parametrize("said", STEPS, ids=lambda said: "-".join(map(str, said.values())))
def test_ddpm_of_a_stored_scheduler_steps_as_theirs(
    said: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = theirs.DDPMScheduler(**{**betas(), **said})
    scheduler.save_config(tmp_path)
    channels = SHAPE[-1] * (1 + (said.get("variance_type") == "learned_range"))
    assert_same(imported_chain(tmp_path, process.DDPM), theirs_of(scheduler, channels, monkeypatch))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("eta", "kind"), [(0.0, "epsilon"), (0.5, "v_prediction"), (1.0, "sample")])
def test_ddim_of_a_stored_scheduler_steps_as_theirs(
    eta: float, kind: str, clip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = theirs.DDIMScheduler(**{**betas(), "clip_sample": clip, "prediction_type": kind})
    scheduler.save_config(tmp_path)
    expected = theirs_of(scheduler, SHAPE[-1], monkeypatch, eta=eta, use_clipped_model_output=clip)
    assert_same(imported_chain(tmp_path, process.ddim(eta), "zero" if eta == 0 else "small"), expected)
