"""A few numbers of every formula that has a VERSION: where they change, results of before must not be found again."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn import neural_network

from ddpm_jax.data import transforms
from ddpm_jax.diffusion import denoiser as denoisers
from ddpm_jax.diffusion import process, sampler, toy, variances
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.evaluation import likelihood, moments, samples
from ddpm_jax.evaluation.fid import classifier, extractors, frechet
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor
from ddpm_jax.evaluation.likelihood import Choices
from ddpm_jax.models import heads, inception, unet
from ddpm_jax.models.convert import diffusers, improved_diffusion
from ddpm_jax.training import checkpoints, loop
from ddpm_jax.training.config import Config, to_dict
from experiments import ddpm_table2, exact_finite, reproduce_plan
from tests import golden
from tests.evaluation.conftest import DENOISER, NAMES, ONE, SCHEDULE, SHAPE, noisy_moments, predicted
from tests.models.test_unet import LEAST, TINY, randomised

# Near T the excess is about a millionth, and ocm's head is the excess less 1: the head's rounding is a hundredth of it,
# unless the compiler adds the 1 before it rounds. This is what its numbers over all times may differ by.
NEAR_T = {"ocm": 1e-2}
KNOWN = json.loads((golden.HERE / "versions.json").read_text())


def finite(values: Any) -> np.ndarray:
    return np.nan_to_num(np.asarray(values, np.float64), nan=7.0, posinf=8.0, neginf=-8.0).ravel()


def digest(values: Any) -> list[float]:
    """Two numbers that hang on every one of the values and on its place: the mean, and the mean along a ramp."""
    flat = finite(values)
    return [float(f"{number:.9g}") for number in (flat.mean(), (flat * np.linspace(-1, 2, flat.size)).mean())]


def check(
    module: ModuleType,
    found: dict[str, Any],
    rtol: float = 1e-5,
    by_variance: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Compare numbers, by name, with what tests/golden/versions.json knows of the module that has the VERSION.

    Args:
      module: see above.
      found: the numbers.
      rtol: what processors may differ by, of their root mean square.
      by_variance: the same of numbers called VARIANCE or VARIANCE/part.
    """
    known, now = KNOWN[module.__name__], {name: digest(values) for name, values in found.items()}
    changed = []
    for name, values in found.items():
        size = np.sqrt(np.mean(finite(values) ** 2)) * by_variance.get(name.partition("/")[0], rtol)
        if not np.allclose(now[name], known["numbers"].get(name, np.nan), 0, size):
            changed.append(name)
    current = json.dumps({"version": module.VERSION, "numbers": now})
    assert not changed, f"the numbers of {changed} changed: raise {module.__name__}.VERSION and this value: {current}"
    assert known["version"] == module.VERSION and known["numbers"].keys() == now.keys(), f"write this value: {current}"


def test_the_pass_over_images() -> None:
    """All but the counts of clamped estimates, of which one may fall on the other side on another processor."""
    found = noisy_moments(0)
    parts = {name: getattr(found, name) for name in ("error", "excess", "decoder", "prior", "decoders", "spectrum")}
    parts |= {name: getattr(found, name) for name in ("spectrum_error", "radial_error")}
    for name, table in found.tables.items():
        parts |= {f"{name}/{part}": getattr(table, part) for part in ("u", "cost", "log_ratio")}
        if table.decoders is not None:
            parts[f"{name}/decoders"] = table.decoders
    check(moments, parts, by_variance=NEAR_T)


def test_variances_that_look_at_x_t(calibration: variances.Calibration) -> None:
    found = {}
    for name in ("npr", "sn", "ocm", "learned", "learned_range"):
        t = 31
        x_t, prediction = predicted(0, t)
        step = jax.tree.map(lambda column: column[0], process.pairs(SCHEDULE, np.array([17]), np.array([t])))
        found[name] = variances.build(name, calibration).log_var(step, x_t, prediction)
    check(variances, found)


def test_bounds_and_cheapest_paths(choices: Choices) -> None:
    bounds = likelihood.likelihoods(choices, noisy_moments(0))
    found = {}
    for name in NAMES:
        cells = [cell for cell, bound in bounds.items() if cell[0] == name and bound is not None]
        if cells:
            found[name] = [float(bounds[cell].total) for cell in cells]  # type: ignore[union-attr]
            found[f"{name}/times"] = np.concatenate([choices.times[cell] for cell in cells])
    check(likelihood, found, by_variance=NEAR_T)


def test_samples(calibration: variances.Calibration) -> None:
    found = {}
    for rules in (Rules(levels=256), Rules(levels=256, clip_x_0=False, last_step="noise", pixel_clip=2.0)):
        for name in ("large", "spectral", "learned_range"):
            choice, steps = variances.build(name, calibration), process.steps(SCHEDULE, [7, 30, 60])
            keys = sampler.keys_of(jax.random.key(0), 0, 8)
            (x_0,) = samples.sample_each(keys, steps, DENOISER, [choice], (8, *SHAPE), rules, ONE)
            found[f"{name}, {rules.last_step}"] = x_0
    levels = [transforms.to_levels(np.linspace(-1.2, 1.2, 999), 17, rounding) for rounding in transforms.ROUNDINGS]
    check(samples, found | {"grey levels": levels}, rtol=1e-4)


def test_a_network_and_its_denoiser() -> None:
    x_t, t = jax.random.normal(jax.random.key(1), (2, 8, 8, 1)), jnp.array([1, 47])
    shapes = {"plain": replace(TINY, heads=1), "shifted": replace(LEAST, scale_shift=True, time_scale=0.5, heads=1)}
    found = {}
    for name, shape in shapes.items():
        denoiser = denoisers.make_denoiser(unet.network(shape), randomised(shape), SCHEDULE, "v", ("npr",))
        said = jax.jit(denoiser)(x_t, t)
        assert said.heads is not None
        found |= {f"{name}/eps": said.eps, f"{name}/x_0": said.x_0, f"{name}/head": said.heads["npr"]}
    for name, parametrization in denoisers.PREDICTIONS.items():
        found[name] = np.asarray(parametrization(SCHEDULE, x_t, t, jnp.cos(x_t))[:2])
    check(unet, found, rtol=1e-4)


def test_heads_on_a_frozen_denoiser() -> None:
    unit = heads.units(SCHEDULE, process.steps(SCHEDULE, [7, 30, 60]))
    x_t, t = jax.random.normal(jax.random.key(1), (2, *SHAPE)), jnp.array([7, 31])

    def network(params: object, x_t: Any, t: Any) -> Any:
        return jnp.concatenate([jnp.sin(i * x_t) for i in range(len(heads.NATURAL))], axis=-1)

    denoiser = heads.with_heads(DENOISER, network, None, tuple(heads.NATURAL), unit, clip=True)
    said = denoiser(x_t, t).heads
    assert said is not None
    check(heads, {name: said[name] for name in heads.NATURAL})


def test_features_and_their_distance() -> None:
    """Inception itself has its numbers in tests/models/test_inception.py."""
    draw = np.random.default_rng(0)
    images, others = draw.integers(0, 256, (2, 60, 2, 2, 1), np.uint8)
    pixels = FeatureExtractor("pixels", "as they are", 4, lambda images: images.reshape(len(images), 4) / 255.0)
    sums = [extractors.summed(pixels, part) for part in (images, others)]
    found = {
        "sums": np.concatenate([sums[0].mean, sums[0].scatter.ravel()]),
        "distance": frechet.distance(frechet.target(frechet.fit(sums[0])), frechet.fit(sums[1])),
    }
    ramp = jnp.asarray(images[:2].repeat(9, axis=1).repeat(9, axis=2))
    found |= {name: inception.prepared(ramp, name) for name in inception.PREPARATIONS}
    check(extractors, found, rtol=1e-4)


def test_the_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """What scikit-learn is asked for, and the layers that are read; its own version is an input of the cell."""
    asked: dict[str, Any] = {}
    usual = neural_network.MLPClassifier((128, 32), random_state=5, max_iter=400).get_params()

    class Recorded(neural_network.MLPClassifier):
        def fit(self, inputs: np.ndarray, labels: np.ndarray) -> None:
            asked.update(options=self.get_params(), inputs=inputs)
            draw = np.random.default_rng(0)
            self.coefs_ = [draw.standard_normal(shape) for shape in ((4, 6), (6, 32), (32, 3))]
            self.intercepts_, self.classes_ = [draw.standard_normal(n) for n in (6, 32, 3)], np.arange(3)

    monkeypatch.setattr(neural_network, "MLPClassifier", Recorded)
    images = np.random.default_rng(0).integers(0, 17, (9, 2, 2, 1), np.uint8)
    network = classifier.fit(images, np.arange(9) % 3, 17, seed=5)
    assert asked["options"] == usual, "the classifier is another one: raise classifier.VERSION and this value"
    check(classifier, {"inputs": asked["inputs"], "features": classifier.features(network, images)})


def test_a_finite_set() -> None:
    data = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (5, *SHAPE)), jnp.float32)
    world = toy.finite(SCHEDULE, data)
    x_t = jax.random.normal(jax.random.key(1), (3, *SHAPE))
    said = world.denoiser(x_t, jnp.array([3, 20, 60]))
    check(exact_finite, {"eps": said.eps, "x_0": said.x_0})


@pytest.mark.slow
def test_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps: the losses, and what they leave."""
    monkeypatch.setitem(unet.PRESETS, "tiny", LEAST)
    config = Config(
        data="digits", preset="tiny", T=30, steps=3, batch=8, log_every=1, sample_every=0, warmup=1, ema_decay=(0.5,)
    )
    loop.fit(config, tmp_path)
    arrays = checkpoints.read_arrays(tmp_path / checkpoints.CHECKPOINTS, 3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = {"loss": [line["loss"] for line in lines]}
    for part in ("params", "ema"):
        found[part] = np.concatenate([arrays[name].ravel() for name in sorted(arrays) if name.startswith(part)])
    check(ddpm_table2, found, rtol=1e-3)


def test_imported_networks(tmp_path: Path) -> None:
    found = {}
    for kind in ("diffusers_ddpm", "improved_diffusion_learned_range"):
        folder = tmp_path / kind
        folder.mkdir()
        described, weights = folder / "config.json", folder / "diffusion_pytorch_model.safetensors"
        described.write_bytes((golden.HERE / kind / "config.json").read_bytes())
        save_file(golden.weights(golden.HERE / kind / "weights.json"), weights)
        theirs = kind == "diffusers_ddpm"
        shape, params = diffusers.load(folder) if theirs else improved_diffusion.load(weights, described)
        found[kind] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
        numbers = [value for value in to_dict(shape).values() if isinstance(value, (int, float))]
        found[f"{kind}/shape"] = [*numbers, *shape.multipliers, *shape.attention_levels]
    check(reproduce_plan, found)
