"""The page says what the results say."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_jax.report import figures, mosaics, page

Results = dict[str, Any]
MAX_BYTES = 3_000_000
BOLD = "*"


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


VERDICTS = {"holds": True, "does not hold": False, "not measured": None}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, made_up: Results, pictures: mosaics.Pictures) -> tuple[Path, str]:
    """The folder and the HTML of a page with one claim of each verdict."""
    folder = tmp_path_factory.mktemp("page")
    sentence = "`large` is <b>exact</b>."
    judged = [dict(claim=sentence, split="test", holds=holds, figures="apart 0.5") for holds in VERDICTS.values()]
    page.write(folder, made_up | dict(claims=judged), pictures)
    return folder, (folder / "report.html").read_text(encoding="utf-8")


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


def test_every_number_of_the_likelihood_table_is_the_result(written: tuple[Path, str], results: Results) -> None:
    header, *lines = table(written[1], "likelihood-table")
    rows = by_cell([row for row in results["likelihood"] if row["split"] == "test"])
    assert header[1:] == [f"K = {K}" for K in results["K"]]
    assert [line[0].split("\n")[0] for line in lines] == 2 * results["variances"]
    for label, *cells in lines:
        for K, cell in zip(results["K"], cells, strict=True):
            row = rows[(*label.split("\n"), K)]
            shown = re.findall(r"[+−<]?[\d.]+", cell)
            if row["variance"] == "zero":
                assert cell == "no bound"
                continue
            keys = ["bits_per_dim", "standard_error", "minus_isotropic", "paired_standard_error"]
            count = 2 if row["variance"] == "isotropic" else 4
            assert len(shown) == count
            assert all(agrees(text, row[key]) for text, key in zip(shown, keys, strict=False)), (label, K, cell)


def test_every_number_of_the_frechet_table_is_the_result(written: tuple[Path, str], results: Results) -> None:
    header, *lines = table(written[1], "frechet-table")
    rows = by_cell(results["sample_cells"])
    assert header[1:] == [f"K = {K}" for K in results["sample_K"]]
    assert len(lines) == 2 * len(results["variances"])
    for label, *cells in lines:
        for K, cell in zip(results["sample_K"], cells, strict=True):
            row = rows[(*label.split("\n"), K)]
            mean, std = cell.split(" ± ")
            assert agrees(mean.lstrip(BOLD), row["mean"])
            assert agrees(std, row["std"])


def test_terms_at_few_steps_add_up_to_the_total(written: tuple[Path, str]) -> None:
    _, *lines = table(written[1], "decomposition-table")
    for label, *terms, total in lines:
        if total == "no bound":
            assert label.startswith("zero")
        else:
            assert abs(sum(map(float, terms)) - float(total)) < 4 * 0.5e-3


@pytest.mark.parametrize("name", ["likelihood-table", "frechet-table"])
def test_the_best_of_every_column_is_bold(written: tuple[Path, str], name: str) -> None:
    _, *lines = table(written[1], name)
    for column in list(zip(*lines, strict=True))[1:]:
        means = {cell: float(cell.lstrip(BOLD).split(" ±")[0]) for cell in column if cell != "no bound"}
        least = min(means.values())
        assert any(cell.startswith(BOLD) for cell in means)
        assert all(value == least for cell, value in means.items() if cell.startswith(BOLD))


def test_the_page_is_self_contained_and_small(written: tuple[Path, str]) -> None:
    _, html = written
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//""", html)
    assert "url(" not in html
    assert "<script" not in html
    assert len(html.encode()) < MAX_BYTES


def test_every_figure_is_written_and_embedded(
    written: tuple[Path, str], results: Results, pictures: mosaics.Pictures
) -> None:
    folder, html = written
    names = {*figures.draw(results), *mosaics.draw(results, pictures)}
    assert {path.stem for path in (folder / "figures").iterdir()} == names
    assert all((folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)
    assert html.count('src="data:image/png;base64,iVBOR') == len(names)


def test_the_distance_is_never_called_fid(written: tuple[Path, str]) -> None:
    text = re.sub(r"base64,[^\"]*", "", written[1])
    assert re.findall(r"[^.]*\bFID\b[^.]*\.", text)[0].strip().endswith("is not comparable with FID.")
    assert len(re.findall("fid", text, re.IGNORECASE)) == 1


def test_what_stands_beside_the_distance(written: tuple[Path, str], results: Results) -> None:
    html = written[1]
    classifier = results["classifier"]
    assert "5000 samples" in html
    for key in ("bias", "held_out_frechet", "test_accuracy"):
        assert f"{classifier[key]:.3f}" in html


def test_the_answer_names_the_winner_and_its_lead(results: Results) -> None:
    rows = by_cell([row for row in results["likelihood"] if row["split"] == "test"])
    bits = {name: rows[name, "even", 10]["bits_per_dim"] for name in ("spectral", "small", "large")}
    answer = page.answer(results)
    assert "K = 10" in answer
    assert "`spectral` gives the best likelihood" in answer
    for loser in ("small", "large"):
        assert f"{bits[loser] - bits['spectral']:.3f} less than `{loser}`" in answer


def test_a_verdict_is_said_in_words(written: tuple[Path, str]) -> None:
    _, *lines = table(written[1], "claims-table")
    assert lines == [["large is <b>exact</b>.", "test", words, "apart 0.5"] for words in VERDICTS]


def test_csv_has_every_cell(results: Results) -> None:
    rows = page.csv_rows(results)
    likelihood = by_cell([row for row in results["likelihood"] if row["split"] == "test"])
    samples = by_cell(results["sample_cells"])
    assert {(row["variance"], row["trajectory"], row["K"]) for row in rows} == set(likelihood)
    assert len({tuple(row) for row in rows}) == 1
    for row in rows:
        cell = (row["variance"], row["trajectory"], row["K"])
        assert row["bits_per_dim"] == likelihood[cell]["bits_per_dim"]
        assert row["frechet_mean"] == samples.get(cell, {}).get("mean")
        assert row["frechet_std"] == samples.get(cell, {}).get("std")


@pytest.mark.parametrize(
    "value, error, sign, text",
    [
        (3.14159, 0.012, "", "3.142 ± 0.012"),
        (-0.5, 0.25, "+", "−0.50 ± 0.25"),
        (0.25, 0.0, "+", "+0.250"),
        (61.25, 1.5, "", "61.2 ± 1.5"),
        (1e-4, 1e-9, "", "0.00010 ± <0.00001"),
        (None, None, "", "–"),
    ],
)
def test_digits_follow_the_error(value: float | None, error: float | None, sign: str, text: str) -> None:
    assert page.measured(value, error, sign) == text


def test_colour_images_are_drawn_and_a_short_run_too(
    tmp_path: Path, results: Results, pictures: mosaics.Pictures
) -> None:
    few = results | dict(K=[10], sample_K=[10], trajectories=["even"])
    few["likelihood"] = [row for row in results["likelihood"] if (row["trajectory"], row["K"]) == ("even", 10)]
    few["sample_cells"] = [row for row in results["sample_cells"] if (row["trajectory"], row["K"]) == ("even", 10)]
    few["trajectories_chosen"] = {"10": results["trajectories_chosen"]["10"]}
    colour = {name: np.repeat(value, 3, axis=-1) if value.ndim > 1 else value for name, value in pictures.items()}
    page.write(tmp_path, few, colour)
    assert len(table((tmp_path / "report.html").read_text(encoding="utf-8"), "likelihood-table")[0]) == 2
