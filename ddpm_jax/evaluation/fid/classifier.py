"""Features of a small classifier trained on the same images, for data sets on which Inception says nothing.

scikit-learn's multilayer perceptron on pixels; its last hidden layer is the feature space.
"""

from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Keep

VERSION = 1  # raised by hand when the numbers of the classifier change
Images = UInt8[np.ndarray, "n h w c"]


class Classifier(NamedTuple):
    """A trained perceptron.

    Attributes:
      weights: of each layer, (inputs, outputs).
      biases: of each layer.
      classes: the labels, in the order of the last layer's outputs.
      levels: number of grey levels of its images.
    """

    weights: list[np.ndarray]
    biases: list[np.ndarray]
    classes: np.ndarray
    levels: int


def check(name: str, labels: Int[np.ndarray, " n"] | None) -> None:
    """Refuse a data set that no classifier can be trained on.

    Args:
      name: of the data set.
      labels: of its test images.

    Raises:
      ValueError: there are none.
    """
    if labels is None:
        raise ValueError(
            f"{name} has no labels, and samples are judged by features of a classifier of them: choose a data "
            "set with labels, or give them as the array `labels` of an .npz"
        )


def fit(
    images_uint8: Images, labels: Int[np.ndarray, " n"], levels: int, seed: int = 0, keep: Keep = cache.compute_always
) -> Classifier:
    """A classifier of 128 and 32 hidden units, trained to the end on the given images.

    Args:
      images_uint8: grey levels 0..levels-1.
      labels: their classes, three or more.
      levels: number of grey levels.
      seed: of the initial weights and the order of the images.
      keep: remembers it.
    """

    def compute() -> cache.Arrays:
        from sklearn.neural_network import MLPClassifier  # a second, which --help need not wait for

        network = MLPClassifier((128, 32), random_state=seed, max_iter=400)
        network.fit(_inputs(images_uint8, levels), labels)
        layers = zip(network.coefs_, network.intercepts_, strict=True)
        named = {f"{name}_{i}": part for i, layer in enumerate(layers) for name, part in zip("wb", layer, strict=True)}
        return {**named, "classes": network.classes_}

    inputs = dict(images=images_uint8, labels=labels, levels=levels, seed=seed, sklearn=version("scikit-learn"))
    found = keep("classifiers", {**inputs, "version": VERSION}, compute)
    depth = len(found) // 2
    weights, biases = ([found[f"{name}_{i}"] for i in range(depth)] for name in "wb")
    return Classifier(weights, biases, found["classes"], levels)


def accuracy(classifier: Classifier, images_uint8: Images, labels: Int[np.ndarray, " n"]) -> float:
    """Share of images classified rightly."""
    scores = features(classifier, images_uint8) @ classifier.weights[-1] + classifier.biases[-1]
    return float((classifier.classes[scores.argmax(axis=1)] == labels).mean())


def features(classifier: Classifier, images_uint8: Images) -> Float[np.ndarray, "n 32"]:
    """The last hidden layer, after its rectifier."""
    hidden = _inputs(images_uint8, classifier.levels)
    for weights, bias in zip(classifier.weights[:-1], classifier.biases[:-1], strict=True):
        hidden = np.maximum(hidden @ weights + bias, 0)
    return hidden


def _inputs(images_uint8: Images, levels: int) -> np.ndarray:
    return images_uint8.reshape(len(images_uint8), -1) / (levels - 1)
