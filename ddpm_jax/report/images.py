"""The pictures of the page: small images side by side, each with its label."""

import numpy as np
from matplotlib.figure import Figure

from ddpm_jax.report.lookup import Results

Pictures = dict[str, np.ndarray]

GAP = 1  # pixels between two images
GAP_GREY = 190
CELL = 0.62  # inches of one small image
NARROW = 0.45  # inches of an image under which labels stand upright
MARGIN = 1.5  # inches for the labels of the rows
WIDEST = 9.0  # inches, so that the page need not shrink the pixels


def _mosaic(images: np.ndarray) -> np.ndarray:
    """(rows, columns, H, W, C) images as one RGB picture with grey gaps between them."""
    rows, columns, H, W, C = images.shape
    rgb = np.repeat(images, 3, axis=-1) if C == 1 else images
    padded = np.full((rows, columns, H + GAP, W + GAP, 3), GAP_GREY, dtype=np.uint8)
    padded[:, :, :H, :W] = rgb
    return padded.swapaxes(1, 2).reshape(rows * (H + GAP), columns * (W + GAP), 3)[:-GAP, :-GAP]


def _picture(images: np.ndarray, rows: list[str], columns: list[str], under: str) -> Figure:
    """The mosaic with a label on every row and column, pixels kept square and sharp."""
    count, across, H, W, _ = images.shape
    cell = min(CELL, (WIDEST - MARGIN) / across)
    figure = Figure(figsize=(MARGIN + cell * across, 0.5 + cell * count), layout="constrained")
    axis = figure.subplots()
    axis.imshow(_mosaic(images), interpolation="nearest")
    axis.set_yticks(np.arange(count) * (H + GAP) + (H - 1) / 2, labels=rows)
    axis.set_xticks(np.arange(across) * (W + GAP) + (W - 1) / 2, labels=columns, rotation=0 if cell > NARROW else 90)
    axis.set_xlabel(under)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def samples(results: Results, pictures: Pictures) -> Figure:
    """Real images, then one row a variance; a column shares x_T and the noise of every t."""
    images = np.concatenate([pictures["grid_real"][None], pictures["grid"]])
    columns = [str(i + 1) for i in range(images.shape[1])]
    return _picture(images, ["real", *pictures["grid_names"].tolist()], columns, "sample, the same noise in every row")


def predictions(pictures: Pictures) -> Figure:
    """x_0_hat along the chain: predict the image, then correct the noise."""
    strip = pictures["strip"]
    rows = [f"sample {i + 1}" for i in range(len(strip))]
    return _picture(strip, rows, [str(t) for t in pictures["strip_t"]], "t")


def neighbours(pictures: Pictures) -> Figure:
    """Samples above the nearest training image, with the distance between them."""
    distances = [f"{distance:.2f}" for distance in pictures["neighbours_distance"]]
    return _picture(pictures["neighbours"].swapaxes(0, 1), ["sample", "nearest"], distances, "distance")


def draw(results: Results, pictures: Pictures) -> dict[str, Figure]:
    """Every picture of the page, by name."""
    return dict(
        samples=samples(results, pictures),
        predictions=predictions(pictures),
        neighbours=neighbours(pictures),
    )
