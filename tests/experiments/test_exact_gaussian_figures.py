"""The figure of the Gaussian experiment, from made-up results."""

import io
from typing import Any

import numpy as np

from experiments import exact_gaussian_report
from tests.experiments.test_exact_gaussian_tables import exact_results

__all__ = ["exact_results"]


def drawn(results: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """By panel, what each curve of the legend is drawn through."""
    figure = exact_gaussian_report.draw(results)
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    panels = []
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        lines = [getattr(handle, "lines", [handle])[0] for handle in handles]
        panels.append({label: np.column_stack(line.get_data()) for label, line in zip(labels, lines, strict=True)})
    return panels


def test_every_panel_shows_its_numbers(exact_results: dict[str, Any]) -> None:
    family, spectrum, table, optima, paths, samples = drawn(exact_results)
    np.testing.assert_array_equal(family["c = 0"], [[500, 0.5], [1000, 0.9]])
    np.testing.assert_array_equal(family["upper bound 1/a"], [[500, 1.1], [1000, 1.5]])
    np.testing.assert_array_equal(spectrum["colour axis 1"][:, 1], [30.0, 2.0, 2.0, 0.5])
    np.testing.assert_array_equal(table["small, even"], [[10, 65.0], [25, 25.0]])
    np.testing.assert_array_equal(table["spectral (optimistic)"], [[10, 3.53], [25, 3.53]])
    np.testing.assert_array_equal(optima["frechet"], [[1, 0.0], [1000, 2.0]])
    np.testing.assert_array_equal(paths["small"], [[10, 4.0], [40, 1.0]])
    assert len(samples["ddpm"]) == 16


def test_published_values_are_marks_at_their_place(exact_results: dict[str, Any]) -> None:
    axis = exact_gaussian_report.draw(exact_results).axes[2]
    marks = [line for line in axis.lines if line.get_linestyle() == "None" and line.get_marker() in "v^<sDoPX*"]
    assert any(np.array_equal(line.get_ydata(), [74.95, 24.98]) for line in marks)


def test_a_deviation_beyond_the_limit_stays_in_view(exact_results: dict[str, Any]) -> None:
    exact_results["finals"][0]["variance_z"][0] = -9.0
    low, high = exact_gaussian_report.draw(exact_results).axes[5].get_ylim()
    assert low <= -9 < 5 < high
