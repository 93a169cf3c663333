"""The table of trained rows beside the published one, and its picture."""

import io

import numpy as np
import pytest

from experiments import ddpm_table2_report
from tests.experiments.test_ddpm_table2_claims import made_rows, network


def made_results(rows: list[dict], classifier: dict | None) -> dict:
    config = dict(data="digits", T=100, steps=800, training_seeds=3, images=300)
    return dict(config=config, classifier=classifier, rows=rows, statements=ddpm_table2_report.statements(rows))


@pytest.fixture
def rows() -> list[dict]:
    """The third row diverged once, the fourth always."""
    found = made_rows((9.0, 8.0, 10.0, None, 7.0, 3.0))
    found[2]["networks"][1] = network(1, None, 0.0)
    return found


def test_a_row_has_ours_the_published_figures_and_what_diverged(rows: list[dict]) -> None:
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in ddpm_table2_report.tables(rows).splitlines()[2:8]
    ]
    assert lines[1][:4] == ["mu", "L, fixed isotropic variance", "8.00 ± 0.20", "3.8000 ± 0.0020"]
    assert lines[1][4:] == ["–", "13.22", "8.06"]
    assert lines[2][2] == "10.00 ± 0.28 (1 of 3 diverged)"
    assert lines[3][2:] == ["diverged", "diverged", "–", "–", "–"]
    assert lines[5][4:] == ["3.75", "3.17", "9.46"]


def test_the_text_names_the_source_and_counts_the_verdicts(rows: list[dict]) -> None:
    results = made_results(rows, dict(held_out_frechet=1.72, bias=1.5))
    text = ddpm_table2_report.text(results)
    assert "2006.11239" in text
    holds = [one["holds"] for one in results["statements"]]
    assert holds == [True] * 6
    assert "of 6 statements 6 met, 0 not met, 0 not decided" in text
    assert sum(line.startswith("- met: ") for line in text.splitlines()) == 6
    assert "have a standard error of 0.024 at most" in text
    assert "of 300 samples of a matching model about 1.5" in text


def test_where_all_diverged_the_text_and_the_figure_say_so() -> None:
    rows = made_rows((None,) * 6)
    text = ddpm_table2_report.text(made_results(rows, None))
    assert text.count("diverged |") == 12
    assert "standard error of" not in text
    assert words(ddpm_table2_report.draw(rows)) == ["3 of 3 diverged"] * 12


def words(figure) -> list[str]:
    figure.savefig(io.BytesIO(), format="png")
    return [text.get_text() for axis in figure.axes for text in axis.texts]


@pytest.mark.filterwarnings("error")
def test_the_figure_has_a_panel_a_measure_a_mark_a_row_and_a_dot_a_network(rows: list[dict]) -> None:
    figure = ddpm_table2_report.draw(rows)
    assert [axis.get_title() for axis in figure.axes] == list(ddpm_table2_report.MEASURES.values())
    assert words(figure) == ["1 of 3 diverged", "3 of 3 diverged"] * 2
    axis = figure.axes[0]
    marks = {bars.get_label(): bars.lines[0] for bars in axis.containers}
    assert list(marks) == ["mu prediction", "eps prediction"]
    np.testing.assert_allclose(marks["mu prediction"].get_ydata(), [9.0, 8.0, 10.0])
    np.testing.assert_allclose(marks["eps prediction"].get_ydata(), [np.nan, 7.0, 3.0])
    dots = [line for line in axis.lines if line.get_marker() == "."]
    assert [len(line.get_ydata()) for line in dots] == [3, 3, 2, 0, 3, 3]
    assert axis.get_yscale() == "linear"


def test_a_panel_that_spans_more_than_a_decade_is_logarithmic() -> None:
    figure = ddpm_table2_report.draw(made_rows((90.0, 8.0, 10.0, 9.0, 7.0, 3.0)))
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "linear"]
