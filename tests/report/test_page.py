"""The page says what the results say."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from ddpm_jax.report import figures, page
from ddpm_jax.report import images as report_images
from ddpm_jax.report.charts import Drawing

Results = dict[str, Any]
MAX_BYTES = 1_500_000
BOLD = "*"
IMAGES = dict.fromkeys(("samples", "predictions", "neighbours"), b"")
EMPTY = Drawing(Markup(""), [], [])
VERDICTS = ("holds", "does not hold", "not measured")


class Tables(HTMLParser):
    """The text of every cell, by table id and row; a line break before small print, a star before bold."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.table, self.cell = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.table = dict(attrs).get("id") or ""
        if tag == "tr":
            self.rows.setdefault(self.table, []).append([])
        if tag in ("td", "th"):
            self.rows[self.table][-1].append("")
            self.cell = True
        if tag == "b" and self.cell:
            self.rows[self.table][-1][-1] += BOLD
        if tag == "small" and self.cell:
            self.rows[self.table][-1][-1] += "\n"

    def handle_endtag(self, tag: str) -> None:
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.rows[self.table][-1][-1] += data


def table(html: str, name: str) -> list[list[str]]:
    parser = Tables()
    parser.feed(html)
    return parser.rows[name]


def agrees(shown: str, value: float) -> bool:
    """Whether a printed number is the value, rounded to the digits that are printed, or a bound on it."""
    if shown.startswith("<"):
        return value < float(shown[1:])
    shown = shown.replace("−", "-")
    return float(shown) == round(value, len(shown.partition(".")[2]))


def by_cell(rows: list[Results]) -> dict[tuple[str, str, int], Results]:
    return {(row["variance"], row["trajectory"], row["K"]): row for row in rows}


def test_every_number_of_the_likelihood_table_is_the_result(html: str, results: Results) -> None:
    header, *lines = table(html, "likelihood-table")
    rows = by_cell([row for row in results["likelihood"] if row["split"] == "test"])
    assert header[1:] == [f"K = {K}" for K in results["K"]]
    assert [line[0].split("\n") for line in lines] == [[name, "even"] for name in results["variances"]]
    for label, *cells in lines:
        for K, cell in zip(results["K"], cells, strict=True):
            shown = re.findall(r"[+−<]?[\d.]+", cell)
            row = rows.get((*label.split("\n"), K))
            if row is None:
                assert cell == "–"
                continue
            if row["variance"] == "zero":
                assert cell == "no bound"
                continue
            keys = ["bits_per_dim", "standard_error", "minus_isotropic", "paired_standard_error"]
            count = 2 if row["variance"] == "isotropic" else 4
            assert len(shown) == count
            assert all(agrees(text, row[key]) for text, key in zip(shown, keys, strict=False)), (label, K, cell)


def test_every_number_of_the_optimal_table_is_the_result(html: str, results: Results) -> None:
    header, *lines = table(html, "optimal-table")
    rows = by_cell([row for row in results["likelihood"] if row["split"] == "test"])
    assert header[1:] == [f"K = {K}" for K in results["K"]]
    assert len(lines) == 2 * len(results["trajectories_chosen"]["10"]) - 2
    keys = ["bits_per_dim", "standard_error", "minus_even", "minus_even_standard_error"]
    for label, *cells in lines:
        for K, cell in zip(results["K"], cells, strict=True):
            row, shown = rows[(*label.split("\n"), K)], re.findall(r"[+−<]?[\d.]+", cell)
            assert len(shown) == (4 if row["minus_even_standard_error"] else 3)
            assert all(agrees(text, row[key]) for text, key in zip(shown, keys, strict=False)), (label, K, cell)
    assert 'id="optimal"' in html and "says nothing of samples" in html


FRECHET = ("mean", "std", "minus_isotropic", "minus_isotropic_std")
SPREAD_FRECHET = ("frechet_mean", "frechet_std")


@pytest.mark.parametrize(
    "name, field, keys, columns",
    [
        ("frechet", "sample_cells", FRECHET, "sample_K"),
        ("spread", "spread", FRECHET, "sample_K"),
        ("spread-frechet", "spread", SPREAD_FRECHET, "sample_K"),
    ],
)
def test_every_number_of_the_other_tables_is_the_result(
    html: str, results: Results, name: str, field: str, keys: tuple[str, ...], columns: str
) -> None:
    header, *lines = table(html, f"{name}-table")
    rows = {cell: row for cell, row in by_cell(results[field]).items() if row[keys[0]] is not None or len(keys) == 4}
    assert header[1:] == [f"K = {K}" for K in results[columns]]
    assert len(lines) == len({cell[:2] for cell in rows})
    for label, *cells in lines:
        for K, cell in zip(results[columns], cells, strict=True):
            if (*label.split("\n"), K) not in rows:
                assert cell == "–"
                continue
            values = [rows[(*label.split("\n"), K)][key] for key in keys]
            known = [value for value in values if value is not None]
            shown = re.findall(r"[+−<]?[\d.]+", cell)
            if not known:
                assert cell == "no bound"
            is_reference = label.startswith("isotropic")
            assert len(shown) == (len(known) if not is_reference else 2 * bool(known))
            assert all(agrees(text, value) for text, value in zip(shown, known, strict=False)), (label, K, cell)


def test_terms_at_few_steps_add_up_to_the_total(html: str) -> None:
    _, *lines = table(html, "decomposition-table")
    for label, *terms, total in lines:
        if total == "no bound":
            assert label.startswith("zero")
        else:
            assert abs(sum(map(float, terms)) - float(total)) < 4 * 0.5e-3


@pytest.mark.parametrize(
    "name", ["likelihood-table", "optimal-table", "frechet-table", "spread-table", "spread-frechet-table"]
)
def test_the_best_of_every_column_is_bold(html: str, name: str) -> None:
    _, *lines = table(html, name)
    for column in list(zip(*lines, strict=True))[1:]:
        means = {cell: float(cell.lstrip(BOLD).split(" ±")[0]) for cell in column if cell not in ("no bound", "–")}
        least = min(means.values())
        assert any(cell.startswith(BOLD) for cell in means)
        assert all(value == least for cell, value in means.items() if cell.startswith(BOLD))


def test_the_page_is_self_contained_and_small(html: str) -> None:
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", html)
    assert set(re.findall(r"url\((.)", html)) == {"#"}
    assert "@import" not in html
    assert html.count("<script>") == 1
    assert re.findall(r"<script[^>]*>", html) == ['<script type="application/json" id="points">', "<script>"]
    assert len(html.encode()) < MAX_BYTES


def test_every_figure_is_written_and_embedded(
    written: Path, html: str, results: Results, pictures: report_images.Pictures
) -> None:
    charts, images = set(figures.draw(results)), set(report_images.draw(results, pictures))
    assert {path.stem for path in (written / "figures").iterdir()} == charts | images
    assert all((written / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in charts | images)
    assert html.count('src="data:image/png;base64,iVBOR') == len(images)
    assert {name for name in charts if f'data-figure="{name}"' in html} == charts
    assert all(f'id="figure-{name}"' in html for name in charts | images)


def test_every_id_is_one_element_and_every_reference_has_its_element(html: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', html)) <= set(ids)


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(
    written: Path, tmp_path: Path, judged: Results, run: Results, pictures: report_images.Pictures
) -> None:
    page.write(tmp_path, judged, run, pictures)
    names = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert len(names) == 2 + len(figures.FIGURES) + 3
    assert all((tmp_path / name).read_bytes() == (written / name).read_bytes() for name in names)


def test_a_caption_says_what_to_see(html: str) -> None:
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.DOTALL)
    assert len(captions) == html.count("<figure ")
    assert all(re.search(r"\b(See|Compare)\b", caption) for caption in captions), captions


def test_the_distance_is_never_called_fid(html: str) -> None:
    text = re.sub(r"base64,[^\"]*", "", html)
    published = re.compile(r'<h2 id="published">.*?(?=<h2)', re.DOTALL)
    assert "In place of FID ours is the distance of" in published.findall(text)[0]
    text = published.sub("", text)
    assert re.findall(r"[^.]*\bFID\b[^.]*\.", text)[0].strip().endswith("is not comparable with FID.")
    assert len(re.findall("fid", text, re.IGNORECASE)) == 1


def test_what_stands_beside_the_distance(html: str, results: Results) -> None:
    classifier = results["classifier"]
    assert "5000 samples" in html
    for key in ("bias", "held_out_frechet", "test_accuracy"):
        assert f"{classifier[key]:.3f}" in html


def test_a_verdict_is_said_in_words(html: str) -> None:
    _, *lines = table(html, "claims-table")
    assert lines == [["large is <b>exact</b>.", "test", words, "apart 0.5"] for words in VERDICTS]


def text(results: Results, run: Results) -> str:
    """The page without its charts."""
    return page.render(results, run, {}, IMAGES)


@pytest.mark.slow
def test_colour_images_are_drawn_and_a_short_run_too(
    tmp_path: Path, results: Results, run: Results, pictures: report_images.Pictures
) -> None:
    few = results | dict(K=[10], sample_K=[10], trajectories=["even"], terms=results["terms"][:1])
    few["likelihood"] = [row for row in results["likelihood"] if (row["trajectory"], row["K"]) == ("even", 10)]
    few["sample_cells"] = [row for row in results["sample_cells"] if (row["trajectory"], row["K"]) == ("even", 10)]
    few |= dict(spectrum=None, clamped={})
    few["trajectories_chosen"] = {"10": results["trajectories_chosen"]["10"]}
    colour = {name: np.repeat(value, 3, axis=-1) if value.ndim > 1 else value for name, value in pictures.items()}
    page.write(tmp_path, few, run, colour)
    assert len(table((tmp_path / "report.html").read_text(encoding="utf-8"), "likelihood-table")[0]) == 2


def test_one_network_has_a_sentence_in_place_of_the_tables(results: Results, run: Results) -> None:
    html = text(results | dict(training_seeds=[0], spread=[]), run)
    assert "--training-seeds 2" in html
    assert "spread-table" not in html and "spread-frechet-table" not in html


def test_networks_without_samples_have_no_table_of_distances(results: Results, run: Results) -> None:
    rows = [row | dict(frechet_mean=None, frechet_std=None) for row in results["spread"]]
    html = text(results | dict(spread=rows), run)
    assert 'id="spread-table"' in html
    assert "spread-frechet-table" not in html


def test_a_network_of_ones_own_has_no_training(results: Results, run: Results) -> None:
    own: Results = dict(
        network=dict(source="denoiser", name="mine:net<1>", heads=[]), training=None, training_seeds=[], spread=[]
    )
    machine = run | dict(about=run["about"] | dict(images_per_second=None))
    html = text(results | own, machine)
    assert "<code>mine:net&lt;1&gt;</code>" in html
    assert "parameters and was trained" not in html and "trained once" not in html
    assert "figure-neighbours" in html
    assert "training_loss" not in figures.draw(results | own)


def test_a_checkpoint_is_named_and_memorising_may_be_missing(results: Results, run: Results) -> None:
    known = dict(network=dict(source="checkpoint", name="runs/before", heads=[]), memorising=None)
    html = text(results | known, run)
    assert "read from <code>runs/before</code>" in html
    assert "learned its images by heart" not in html


def test_what_was_found_on_disk_is_said(html: str, run: Results) -> None:
    header, *lines = table(html, "cells-table")
    assert header == ["part", "computed", "reused"]
    assert lines == [[name, str(cell["computed"]), str(cell["reused"])] for name, cell in run["cells"].items()]
    assert "Part of the numbers was found" in html


@pytest.mark.parametrize("forced, sentence", [(True, "computed again, as asked"), (False, "Nothing was found")])
def test_what_was_computed_is_said(results: Results, run: Results, forced: bool, sentence: str) -> None:
    cells = dict(moments=dict(computed=3, reused=0))
    assert sentence in text(results, run | dict(cells=cells, forced=forced))


def test_the_rate_of_training_comes_from_the_run(html: str) -> None:
    assert "295,123 parameters and was trained for 3000 steps\n(4321 images/s)." in html


def test_one_pass_is_said_in_numbers(html: str, results: Results) -> None:
    known = results["evaluations"]
    assert f"{known['counted']['test']:,} on test images (397 images × 1000 times)" in html
    assert f"{known['counted']['train']:,} on train images (some of the 1000 times of 1000 images)" in html
    ratio = known["one_cell_at_a_time"] / known["counted"]["test"]
    assert f"{known['one_cell_at_a_time']:,} on test images\nalone, {ratio:.1f} times as many." in html


def test_where_nothing_is_clamped_a_sentence_stands_for_the_chart(results: Results, run: Results) -> None:
    assert "were never clamped" in page.render(results, run, {"clamped": EMPTY}, IMAGES)
    none = results | dict(clamped=dict(npr=[0.0, None], ocm=[0.0, 0.0]))
    assert "clamped" not in figures.draw(none)
    assert "Nothing was clamped of the variances that are not one number a step: npr, ocm." in text(none, run)
    assert "one number a step:" not in text(results | dict(clamped={}), run)


def test_published_tables_are_said_to_be_of_other_data(html: str) -> None:
    section = html[html.index('<h2 id="published">') : html.index('<h2 id="measured">')]
    assert "CIFAR-10 and other, larger networks: the numbers themselves are not comparable" in section
    assert section.count("<table") == 4
    assert "arXiv 2201.06503" in section and "a secondary source" in section


def test_heads_and_protocol_are_said(html: str, results: Results, run: Results) -> None:
    assert "(narrow) for 2000 steps of 128 images" in html
    assert "<code>analytic-dpm</code>" in html
    short = results["config"]["heads"] | dict(chain=10, heads=["learned"], fit_clip_x_0=False)
    said = text(results | dict(config=results["config"] | dict(heads=short)), run)
    assert "learned was trained on the frozen network" in said
    assert "the times of an even chain of 10 steps" in said and "without a clip" in said
    came = text(results | dict(config=results["config"] | dict(heads=None)), run)
    assert "They came with the network." in came
    bare = text(results | dict(network=results["network"] | dict(heads=[])), run)
    assert "no network is trained for them" in bare and "Its heads" not in bare
    assert "no network is trained for them" not in html


def test_without_optimal_trajectories_there_is_no_section_of_them(results: Results, run: Results) -> None:
    rows = [row for row in results["likelihood"] if row["trajectory"] == "even"]
    said = text(results | dict(likelihood=rows, trajectories=["even"]), run)
    assert 'id="optimal"' not in said and "#optimal" not in said


def test_every_variance_stands_in_the_notation(html: str, results: Results) -> None:
    notation = html[html.index('<h2 id="notation">') :]
    assert all(re.search(rf"\b{name}\b", notation) for name in results["variances"])


def test_an_option_of_a_thousand_numbers_is_cut(results: Results, run: Results) -> None:
    training = {"schedule": "betas:" + ",".join(f"0.{i:04}" for i in range(1, 1001))}
    html = page.render({**results, "config": {**results["config"], "training": training}}, run, {}, IMAGES)
    assert "betas:0.0001,0.0002," in html and "0.0999" not in html and "… (7005 characters)" in html
