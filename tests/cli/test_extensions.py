"""What a user's file adds: six registries, each from outside in one short file, through help, ablation and report."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddpm_jax.cli.main import main
from ddpm_jax.data.datasets import DATASETS
from ddpm_jax.diffusion.losses import WEIGHTINGS
from ddpm_jax.diffusion.schedules import SCHEDULES
from ddpm_jax.diffusion.timesteps import TRAJECTORIES
from ddpm_jax.diffusion.variances import VARIANCES
from ddpm_jax.evaluation.fid.features import FEATURES

FILES = {
    "my_variance": '''
from ddpm_jax.diffusion.variances import VARIANCES, Number, Variance, from_excess


def shrunk(known, share):
    """A share of `large`'s excess."""
    return from_excess(lambda step, x_t, prediction: share * known.schedule.alpha_bar[step.t])


VARIANCES["shrunk"] = Variance(shrunk, "a share of large's excess", number=Number("share", 0.5))
''',
    "my_schedule": """
import numpy as np

from ddpm_jax.diffusion.schedules import SCHEDULES, from_betas

SCHEDULES["geometric"] = lambda T: from_betas(np.geomspace(1e-3, 0.3, T))
""",
    "my_trajectory": '''
import numpy as np

from ddpm_jax.diffusion.timesteps import TRAJECTORIES


def late(T, K):
    """The last K times, and the first."""
    return np.asarray([1, *range(T - K + 2, T + 1)]) if K > 1 else np.asarray([T])


TRAJECTORIES["late"] = late
''',
    "my_weighting": """
import jax.numpy as jnp

from ddpm_jax.diffusion.losses import WEIGHTINGS

WEIGHTINGS["root_snr"] = jnp.sqrt
""",
    "my_data": '''
import numpy as np

from ddpm_jax.data.datasets import DATASETS, DataSet, Split


def stripes(image_size=None):
    """Rows that are dark or light."""
    draw = np.random.default_rng(0)
    images = np.repeat(draw.integers(0, 2, (120, 8, 1, 1)) * 200, 8, axis=2).astype(np.uint8)
    splits = [Split(part, part[:, 0, 0, 0].astype(int) // 200) for part in np.split(images, [60, 90])]
    return DataSet("stripes", "stripes of two greys", 256, False, *splits)


DATASETS["stripes"] = stripes
''',
    "my_features": '''
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor
from ddpm_jax.evaluation.fid.features import FEATURES, Features


def rows(data, keep):
    """The mean of every row."""
    return FeatureExtractor("row means", "grey levels", 8, lambda images: images.mean(axis=(2, 3)))


FEATURES["rows"] = Features(rows, "the mean of every row")
''',
}
NAMES = ("shrunk", "geometric", "late", "root_snr", "stripes", "rows")
RUN = "ablate --preset tiny --T 12 --steps 2 --batch 8 --sample-every 0 --data stripes --schedule geometric"
RUN += " --weighting root_snr --variances small isotropic shrunk shrunk:0.25 --trajectories even late"
RUN += " --K 3 12 --sample-K 3 --images 6 --seeds 1 --features rows"


@pytest.fixture(autouse=True)
def _registries_are_as_before() -> Iterator[None]:
    tables = (VARIANCES, SCHEDULES, TRAJECTORIES, WEIGHTINGS, DATASETS, FEATURES)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.fixture
def imports(tmp_path: Path) -> list[str]:
    """The words of a command line that import all six files."""
    words = []
    for name, text in FILES.items():
        path = tmp_path / f"{name}.py"
        path.write_text(text.lstrip(), encoding="utf-8")
        words += ["--import", str(path)]
    return words


def test_every_file_is_short() -> None:
    assert all(len(text.strip().splitlines()) <= 20 for text in FILES.values())


def test_what_is_added_is_listed_among_the_choices(imports: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*imports, "ablate", "--help"])
    listed = capsys.readouterr().out.partition("Choices")[2]
    assert all(name in listed for name in NAMES), listed


def test_what_is_added_runs_in_the_ablation_and_stands_in_the_report(imports: list[str], tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    main([*imports, *RUN.split(), "--workdir", str(workdir)])
    results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    rows = {
        (row["variance"], row["trajectory"], row["K"]): row for row in results["likelihood"] if row["split"] == "test"
    }
    half, quarter = (rows[name, "late", 3]["bits_per_dim"] for name in ("shrunk", "shrunk:0.25"))
    assert half is not None and quarter is not None and half != quarter
    assert results["data"]["name"] == "stripes" and results["config"]["training"]["schedule"] == "geometric"
    assert results["config"]["training"]["weighting"] == "root_snr"
    assert {row["variance"] for row in results["sample_cells"]} >= {"shrunk", "shrunk:0.25"}
    assert results["classifier"]["name"] == "row means" and results["classifier"]["test_accuracy"] is None
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in (*NAMES, "shrunk:0.25", "row means"))
