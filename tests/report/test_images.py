"""The pictures of samples: every image in its place, sharp and labelled."""

from typing import Any

import numpy as np
import pytest

from ddpm_jax.report.images import GAP, Pictures, neighbours, predictions, samples


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_in_its_row_and_column(results: dict[str, Any], pictures: Pictures, channels: int) -> None:
    shown = {name: np.repeat(value, channels, axis=-1) if value.ndim > 1 else value for name, value in pictures.items()}
    assert "learned" in results["variances"] and "learned" not in shown["grid_names"]
    axis = samples(results, shown).axes[0]
    drawn = np.asarray(axis.images[0].get_array())
    step = 8 + GAP
    for row, images in enumerate([shown["grid_real"], *shown["grid"]]):
        for column, image in enumerate(images):
            at = drawn[row * step : row * step + 8, column * step : column * step + 8]
            np.testing.assert_array_equal(at, np.broadcast_to(image, (8, 8, 3)))
    assert [label.get_text() for label in axis.get_yticklabels()] == ["real", *pictures["grid_names"]]
    assert axis.images[0].get_interpolation() == "nearest"


def test_times_and_distances_stand_under_their_images(pictures: Pictures) -> None:
    for figure, labels in (
        (predictions(pictures), [str(t) for t in pictures["strip_t"]]),
        (neighbours(pictures), [f"{distance:.2f}" for distance in pictures["neighbours_distance"]]),
    ):
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == labels
