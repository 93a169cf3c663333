"""A model: a trained network without its data, its heads and the images it is judged on, and a user's own denoiser.

A user's own is any callable (x_t, t), known by what it does, and refused in one line where it does not fit.
"""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from PIL import Image

from ddpm_jax.data import datasets
from ddpm_jax.diffusion import denoiser, schedules
from ddpm_jax.models import unet
from ddpm_jax.training import checkpoints, heads, model, setup
from ddpm_jax.training.config import Config, Heads
from ddpm_jax.training.model import Model
from tests.models.test_unet import LEAST
from tests.storing import store

SHAPE = (8, 8, 1)
LINEAR = schedules.linear(100)
X_T = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
T = jnp.array([1, 40, 100])


def halve(x_t, t):
    return x_t / 2


def halve_but_at_T(x_t, t):
    return jnp.where(t[:, None, None, None] > 99, x_t, x_t / 2)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x_t, t):
        return linen.Dense(1)(x_t) + t[:, None, None, None] / 100


class NNX(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(1, 1, rngs=nnx.Rngs(0))

    def __call__(self, x_t, t):
        return self.dense(x_t) + t[:, None, None, None] / 100


def test_heads_fitted_to_another_mean_are_refused():
    own = model.of_function(halve, LINEAR, "eps", SHAPE, 17)
    for fitted, used in ((None, True), (None, False), (True, True), (False, False)):
        model.check_clip(own._replace(clip_x_0=fitted), used)
    with pytest.raises(ValueError, match="clip_x_0 = False: the heads of own were fitted with fit_clip_x_0 = True"):
        model.check_clip(own._replace(clip_x_0=True), False)


def linen_network():
    module = Linen()
    params = module.init(jax.random.key(0), X_T, T)
    return lambda x_t, t: module.apply(params, x_t, t)


def a_pytree_of_arrays_and_functions():
    """As an Equinox module is: callable, a tree, and not hashable."""

    @jax.tree_util.register_pytree_node_class
    class Module:
        __hash__ = None  # type: ignore[assignment]

        def __init__(self, scale):
            self.scale = scale

        def __call__(self, x_t, t):
            return self.scale * x_t

        def tree_flatten(self):
            return (self.scale,), None

        @classmethod
        def tree_unflatten(cls, _, leaves):
            return cls(*leaves)

    return Module(jnp.float32(0.3))


@pytest.mark.parametrize("prediction", denoiser.PREDICTIONS)
@pytest.mark.parametrize(
    "make", [lambda: halve, linen_network, NNX, a_pytree_of_arrays_and_functions], ids=["plain", "linen", "nnx", "tree"]
)
def test_any_callable_becomes_a_denoiser(make, prediction: str) -> None:
    function = make()
    found = model.of_function(function, LINEAR, prediction, SHAPE, 17, "mine")
    got = jax.jit(lambda x_t: found.denoiser(x_t, T))(X_T)
    wanted = denoiser.PREDICTIONS[prediction](LINEAR, X_T, T, function(X_T, T))
    np.testing.assert_allclose(got.eps, wanted.eps, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.x_0, wanted.x_0, rtol=1e-5, atol=1e-5)
    assert (found.source, found.name) == ("denoiser", "mine")
    assert (found.heads, found.learned_times) == ((), None)


def test_the_fingerprint_follows_what_it_does() -> None:
    prints = [
        model.of_function(halve, LINEAR, "eps", SHAPE, 17).fingerprint,
        model.of_function(lambda x_t, t: x_t * 0.5, LINEAR, "eps", SHAPE, 17).fingerprint,
        model.of_function(lambda x_t, t: x_t * 0.5000001, LINEAR, "eps", SHAPE, 17).fingerprint,
        model.of_function(halve_but_at_T, LINEAR, "eps", SHAPE, 17).fingerprint,
        model.of_function(halve, LINEAR, "v", SHAPE, 17).fingerprint,
        model.of_function(halve, schedules.cosine(100), "eps", SHAPE, 17).fingerprint,
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 5


def breaks(x_t, t):
    raise ValueError("weights of another network\nand a second line")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (3.0, "denoiser mine is a float: give a callable"),
        (lambda x_t, t: x_t[:, :4], r"returns float32 \(.*, 4, 8, 1\) for x_t \(.*, 8, 8, 1\): it must return float32"),
        (lambda x_t, t: x_t[0], r"returns float32 \(8, 8, 1\) for"),
        (lambda x_t, t: x_t.astype(jnp.bfloat16), "returns bfloat16"),
        (lambda x_t, t: jnp.ones(x_t.shape, int), "returns int32"),
        (lambda x_t, t: (x_t, x_t), "returns tuple for"),
        (lambda x_t, t: x_t / (t - 1)[:, None, None, None], "not finite at t = 1: mend"),
        (lambda x_t, t: jnp.log(100 - t)[:, None, None, None] * x_t, "not finite at t = 100: mend"),
        (lambda x_t: x_t, r"fails on x_t \(.*\) float32, t \(.*\) int32: .*takes 1 positional argument"),
        (breaks, "fails on x_t .* weights of another network$"),
    ],
    ids=["number", "cropped", "one", "dtype", "integers", "tuple", "infinite at 1", "infinite at T", "no t", "raises"],
)
def test_what_is_not_a_denoiser_is_refused_in_one_line(function, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        model.of_function(function, LINEAR, "eps", SHAPE, 17, "mine")
    assert "\n" not in str(refusal.value)


def test_eps_needs_data_left_at_T() -> None:
    with pytest.raises(ValueError, match="prediction 'eps' needs alpha_bar_T > 0"):
        model.of_function(halve, schedules.jsd(10), "eps", SHAPE, 17)


# ---------------------------------------------------------------- a checkpoint, with and without its data


def images_at(path: Path, side: int = 8, seed: int = 0, n: int = 40) -> Path:
    """An .npz of noise, as a data set."""
    np.savez(path, images=np.random.default_rng(seed).integers(0, 256, (n, side, side, 1), np.uint8))
    return path


def train_on(data: Path | str, workdir: Path, seed: int = 0) -> Path:
    """A workdir as a training of no steps would leave it."""
    run = setup.resolve(Config(data=str(data), T=30, seed=seed), LEAST)
    state = jax.jit(partial(setup.fresh, run))()
    store(workdir / checkpoints.CHECKPOINTS, state, setup.describe(run))
    return workdir


def fit_heads(of: Model, workdir: Path, names: tuple[str, ...] = ("npr", "ocm")) -> Path:
    """A workdir as a training of heads, of no steps, would leave it."""
    wanted = heads.resolve(Heads(heads=names), of, datasets.load("digits"))
    store(workdir / checkpoints.CHECKPOINTS, jax.jit(partial(heads.fresh, wanted, 0))(), heads.describe(wanted, 0))
    return workdir


@pytest.fixture(autouse=True)
def small_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(unet.HEAD_SIZES, "narrow", LEAST)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run on images that are gone, and one on the digits, with a second of another seed."""
    root = tmp_path_factory.mktemp("runs")
    images = images_at(root / "images.npz")
    found = {"gone": train_on(images, root / "gone"), "digits": train_on("digits", root / "digits")}
    images.unlink()
    datasets._of_path.cache_clear()  # as in a new process
    return {**found, "other": train_on("digits", root / "other", seed=1)}


def test_a_network_is_read_where_its_data_are_not(workdirs: dict[str, Path]) -> None:
    found = model.load(workdirs["gone"])
    assert (found.source, found.name, found.prediction) == ("checkpoint", str(workdirs["gone"]), "eps")
    assert (found.shape, found.levels, found.schedule.T) == ((8, 8, 1), 256, 30)
    assert (found.heads, found.learned_times, found.clip_x_0) == ((), None, None)
    assert found.trained_on is not None and found.trained_on["name"].endswith("images.npz")
    said = found.denoiser(X_T, jnp.array([1, 7, 30]))
    assert said.heads is None and np.isfinite(said.eps).all()


def test_all_that_is_stored_of_a_network_is_read_with_it(workdirs: dict[str, Path]) -> None:
    stored, state = model.read(workdirs["digits"]), jax.jit(partial(setup.fresh, setup.resolve(Config(T=30), LEAST)))()
    assert stored.config == Config(data="digits", T=30) and stored.network == LEAST and stored.step == 0
    for a, b in zip(jax.tree.leaves(stored.params), jax.tree.leaves(state.ema[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert stored.model.fingerprint == model.load(workdirs["digits"]).fingerprint


def test_a_network_is_known_by_what_it_is_and_not_by_where_it_lies(workdirs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(workdirs["digits"], tmp_path / "moved")
    prints = [model.load(folder).fingerprint for folder in (workdirs["digits"], tmp_path / "moved", workdirs["other"])]
    assert prints[0] == prints[1] != prints[2]


def test_the_images_it_was_trained_on_are_wanted_by_name(workdirs: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"images\.npz is not there: give a folder of images"):
        model.load_data(model.load(workdirs["gone"]))
    assert model.load_data(model.load(workdirs["digits"])).name == "digits"
    with pytest.raises(ValueError, match="it is not known what own was trained on: name a data set with --data"):
        model.load_data(model.of_function(halve, LINEAR, "eps", SHAPE, 17))


def test_images_of_the_same_kind_stand_in_for_its_own(workdirs: dict[str, Path], tmp_path: Path) -> None:
    gone = model.load(workdirs["gone"])
    others = images_at(tmp_path / "others.npz", seed=1, n=60)
    assert len(model.load_data(gone, str(others)).train.images) == 48
    with pytest.raises(ValueError, match=r"has images of shape \(4, 4, 1\) and .*gone was trained on \(8, 8, 1\)"):
        model.load_data(gone, str(images_at(tmp_path / "small.npz", side=4)))
    with pytest.raises(ValueError, match=r"digits has images of levels 17 and .*gone was trained on 256"):
        model.load_data(gone, "digits")
    own = model.of_function(halve, LINEAR, "eps", SHAPE, 17)
    assert model.load_data(own, "digits").shape == SHAPE
    with pytest.raises(ValueError, match="levels 256 and own was trained on 17"):
        model.load_data(own, str(others))


def transparent_at(folder: Path) -> Path:
    """Grey pictures of which nothing is seen but the ground."""
    folder.mkdir()
    for i in range(24):
        pixels = np.stack([np.full((8, 8), i, np.uint8), np.zeros((8, 8), np.uint8)], axis=-1)
        Image.fromarray(pixels, "LA").save(folder / f"{i:02}.png")
    return folder


def test_its_images_are_read_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Mirrored or not, and on the same ground: variances are measured and heads trained on them."""
    config = Config(data=str(transparent_at(tmp_path / "photos")), mirror=False, ground="#202020")
    images = setup.load_images(config)
    own = model.of_function(halve, LINEAR, "eps", SHAPE)
    own = own._replace(trained_on=model.data_description(datasets.describe(images), config))
    again = model.load_data(own)
    assert (again.flip, {*np.unique(again.train.images)}) == (False, {0x20})
    assert capsys.readouterr().err == ""


def test_images_that_came_back_as_others_are_told_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Others of the same number are told, as another JPEG decoder makes them; another number is refused."""
    images = images_at(tmp_path / "images.npz")
    found = model.load(train_on(images, tmp_path / "run"))
    model.load_data(found)
    assert "warning" not in capsys.readouterr().err
    datasets._of_path.cache_clear()
    images_at(images, seed=1)
    for name in (None, str(images)):
        model.load_data(found, name)
        assert "run was trained on other images than" in capsys.readouterr().err
    datasets._of_path.cache_clear()
    images_at(images, n=41)
    for name in (None, str(images)):
        with pytest.raises(ValueError, match=r"with images \[32, 4, 4\] and it now has \[33, 4, 4\]: use the data"):
            model.load_data(found, name)


def test_a_workdir_may_be_text_or_a_path_and_begin_with_the_users_folder(
    workdirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workdirs["digits"]
    monkeypatch.setenv("HOME", str(folder.parent))
    prints = {model.load(name).fingerprint for name in (folder, str(folder), Path("~/digits"), "~/digits")}
    assert len(prints) == 1


@pytest.mark.slow
def test_heads_beside_a_run_are_taken_with_it(workdirs: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(workdirs["digits"], tmp_path / "run")
    plain = model.load(run)
    fit_heads(plain, run / model.HEADS)
    found = model.load(run)
    assert found.heads == ("npr", "ocm") and found.clip_x_0 is True and found.fingerprint != plain.fingerprint
    assert set(found.denoiser(X_T, jnp.array([1, 7, 30])).heads or ()) == {"npr", "ocm"}
    for chosen in (model.load(run, step=0), model.load(run, ema_decay=0.998), model.read(run).model):
        assert chosen.heads == () and chosen.fingerprint == plain.fingerprint


def test_heads_are_taken_from_where_they_are_said_to_be(
    workdirs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(workdirs["digits"], tmp_path / "run")
    fit_heads(model.load(run), run / model.HEADS)
    elsewhere = fit_heads(model.load(run, step=0), tmp_path / "elsewhere", ("sn",))
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (elsewhere, str(elsewhere), "~/elsewhere"):
        assert model.load(run, heads=place).heads == ("sn",)
    assert model.load(run, step=0, heads=elsewhere).heads == ("sn",)


def test_heads_of_another_network_are_refused(workdirs: dict[str, Path], tmp_path: Path) -> None:
    """Beside it, where they are named, and by `load_heads`."""
    run, of = shutil.copytree(workdirs["other"], tmp_path / "run"), model.load(workdirs["digits"])
    fit_heads(of, run / model.HEADS)
    own = model.read(run).model
    for act in (
        lambda: model.load(run),
        lambda: model.load(run, heads=run / model.HEADS),
        lambda: model.load_heads(run / model.HEADS, own),
    ):
        with pytest.raises(ValueError, match=r"heads of .*heads were trained on another denoiser than .*run"):
            act()
    assert model.load_heads(run / model.HEADS, of).heads == ("npr", "ocm")


def test_heads_are_no_run_and_a_run_is_no_heads(workdirs: dict[str, Path], tmp_path: Path) -> None:
    of = model.load(workdirs["digits"])
    alone = fit_heads(of, tmp_path / "heads")
    with pytest.raises(ValueError, match="holds heads, not a training run: give the workdir of ddpm-jax train"):
        model.load(alone)
    with pytest.raises(ValueError, match="holds a training run, not heads: give the workdir of ddpm-jax heads"):
        model.load(workdirs["digits"], heads=workdirs["other"])


def test_a_denoiser_with_heads_of_its_own_keeps_them(tmp_path: Path) -> None:
    """Trained with the mean, `learned` is right for every pair; other heads join it."""
    config = Config(data="digits", T=30, objective="hybrid", variance="learned")
    run = setup.resolve(config, replace(LEAST, heads=1))
    store(tmp_path / checkpoints.CHECKPOINTS, jax.jit(partial(setup.fresh, run))(), setup.describe(run))
    found = model.load(tmp_path)
    assert found.heads == ("learned",) and found.learned_times == tuple(range(1, 31)) and found.clip_x_0 is None
    both = model.load(tmp_path, heads=fit_heads(found, tmp_path / "elsewhere"))
    assert both.heads == ("learned", "npr", "ocm") and both.learned_times == found.learned_times
