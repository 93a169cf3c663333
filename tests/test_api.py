"""The public face: lazy, typed, and its examples run as they stand."""

import doctest
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import ddpm_jax
from ddpm_jax import api
from ddpm_jax.diffusion import conventions, schedules
from ddpm_jax.training import model

ROOT = Path(__file__).parents[1]


def test_importing_the_package_imports_nothing_that_takes_time() -> None:
    code = "import sys, ddpm_jax; assert not {'jax', 'numpy', 'flax', 'scipy'} & {*sys.modules}, sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", sorted({*dir(ddpm_jax)} - {name for name in dir(ddpm_jax) if name.startswith("_")}))
def test_every_name_of_the_face_is_there(name: str) -> None:
    assert getattr(ddpm_jax, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'schedule'"):
        ddpm_jax.schedule  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ddpm_jax.data.nothing  # noqa: B018


def test_type_checkers_see_every_name() -> None:
    """The names that load lazily are those that are declared to type checkers."""
    text = (ROOT / "ddpm_jax/__init__.py").read_text(encoding="utf-8").partition("if TYPE_CHECKING:")[2]
    declared = {*re.findall(r"^    from \S+ import (\w+) as \1$", text, re.MULTILINE)}
    assert declared == {*ddpm_jax._MODULES, *ddpm_jax._NAMES, "data"}


@pytest.mark.slow
def test_the_examples_of_the_face_run() -> None:
    results = doctest.testmod(api)
    assert results.attempted >= 6 and results.failed == 0


def test_the_six_lines_of_the_package_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer images and steps, and a network that takes no time; tests/test_wheel.py runs them as they stand."""
    small = model.of_function(lambda x_t, t: x_t / 2, schedules.linear(30), "eps", (8, 8, 1), 17)
    lines = (ddpm_jax.__doc__ or "").partition("when it is first used:\n")[2].partition("Below it lie")[0]
    monkeypatch.setattr(model, "load", lambda name: small if name == "builtin:digits" else None)
    names: dict = {"PARTS": ("calibration", "test")}
    short = re.sub(r"K=50, n=16", "K=5, n=2", lines).replace("K=(10, 50)", "K=(5,)")
    short = short.replace("data.calibration)", "data.calibration.images[:4])")
    assert short != lines
    few = "data = data._replace(**{part: type(data.test)(*(a[:4] for a in getattr(data, part))) for part in PARTS})"
    code = "\n".join(line.strip() for line in short.strip().splitlines())
    code = code.replace("rows =", f"{few}\nrows =")
    exec(code, names)
    assert names["x_0"].shape == (2, 8, 8, 1) and np.isfinite(names["x_0"]).all()
    assert [row["variance"] for row in names["rows"]] == ["small", "large", "analytic"]
    assert jax.numpy.isfinite(names["moments"].error[:, 1:]).all()


def test_an_imported_network_is_sampled_as_its_project_says() -> None:
    own = model.of_function(lambda x_t, t: x_t / 2, schedules.linear(30), "eps", (8, 8, 1), 17)
    imported = own._replace(sampling_variance="small", sampling_clip_x_0=False)
    draw = partial(api.sample, jax.random.key(0), K=3, n=2)
    usual, unclipped = (conventions.protocol("ddpm", 17, clip_x_0=clip) for clip in (None, False))
    np.testing.assert_array_equal(draw(imported), draw(own, "small", rules=unclipped))
    np.testing.assert_array_equal(draw(own), draw(imported, "large", rules=usual))
    assert np.abs(draw(imported) - draw(own, "small")).max() > 1
