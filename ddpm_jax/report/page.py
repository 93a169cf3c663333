"""The page an ablation leaves behind: report.html, the figures beside it, the rows of results.csv."""

import csv
import io
import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup, escape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ddpm_jax import paths
from ddpm_jax.paths import AnyPath
from ddpm_jax.report import figures, lookup, published, tables
from ddpm_jax.report import images as report_images
from ddpm_jax.report.charts import PALETTE, Drawing, add_legend, drawing
from ddpm_jax.report.images import Pictures
from ddpm_jax.report.lookup import Results

DOTS_PER_INCH = 120
LONGEST = 120  # characters of an option that is shown whole: a schedule may be a thousand numbers
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.h_pad": 0.07,
    "figure.constrained_layout.w_pad": 0.07,
}


def _code(text: str) -> Markup:
    """Plain text whose `names` are set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options as dotted names with their values."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str) and len(value) > LONGEST:
            yield prefix + name, f"{value[:LONGEST]}… ({len(value)} characters)"
        else:
            yield prefix + name, value


def _png(figure: Figure) -> bytes:
    """The figure as a PNG, the same bytes for the same figure; drawn once, where `savefig` draws twice."""
    buffer = io.BytesIO()
    figure.set_dpi(DOTS_PER_INCH)
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _draw(results: Results, pictures: Pictures) -> tuple[dict[str, Drawing], dict[str, bytes], dict[str, bytes]]:
    """The charts for the page, then the PNGs of the charts and of the pictures, all by name."""
    with matplotlib.rc_context(STYLE):
        charts = figures.draw(results)
        drawings = {name: drawing(made, name) for name, made in charts.items()}
        for made in charts.values():
            add_legend(made)
        files = {name: _png(made.figure) for name, made in charts.items()}
        images = {name: _png(figure) for name, figure in report_images.draw(results, pictures).items()}
    return drawings, files, images


def render(results: Results, run: Results, charts: dict[str, Drawing], images: dict[str, bytes]) -> str:
    """The HTML of the page; charts are drawings and images the bytes of PNGs, by name."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=tables.number, measured=tables.measured, code=_code)
    return environment.get_template("template.html").render(
        results,
        run=run,
        answer=tables.answer(results),
        few=lookup.few_steps(results),
        tables={name: lines(results) for name, lines in tables.TABLES.items()},
        never_clamped=tables.never_clamped(results),
        one_pass=tables.one_pass(results),
        literature=published.page_tables(results),
        sources=published.all_sources(),
        decomposition=tables.decomposition(results),
        seeds=sorted({row["seed"] for row in results["samples"]}),
        sampled=sorted({row["images"] for row in results["sample_cells"]}),
        seconds=[(name, tables.number(value, 1)) for name, value in run["about"]["seconds"].items()],
        options=list(_flat(results["config"])),
        palette=PALETTE,
        charts=charts,
        hover={name: drawing.points for name, drawing in charts.items()},
        images={name: b64encode(png).decode() for name, png in images.items()},
    )


def write(folder: AnyPath, results: Results, run: Results, pictures: Pictures) -> None:
    """Writes figures/NAME.png, report.html and results.csv into a folder that exists.

    Args:
      folder: where the page goes.
      results: results.json, claims included: the numbers, the same whenever the same thing is run.
      run: run.json: the machine, the seconds, and which numbers were found on disk.
      pictures: uint8 images ready to show, with the numbers under them.
    """
    folder = paths.local(folder)
    drawings, files, images = _draw(results, pictures)
    (folder / "figures").mkdir(exist_ok=True)
    for stale in (folder / "figures").glob("*.png"):
        stale.unlink()
    for name, png in (files | images).items():
        (folder / "figures" / f"{name}.png").write_bytes(png)
    (folder / "report.html").write_text(render(results, run, drawings, images), encoding="utf-8")
    rows = lookup.csv_rows(results)
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
