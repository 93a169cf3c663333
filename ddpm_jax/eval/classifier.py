"""Features of a small classifier trained on the same images, for data sets on which Inception says nothing.

scikit-learn's multilayer perceptron on pixels; its last hidden layer is the feature space.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.neural_network import MLPClassifier

Images = UInt8[np.ndarray, "n h w c"]


class Classifier(NamedTuple):
    """A trained perceptron and the number of grey levels of its images."""

    network: MLPClassifier
    levels: int


def fit(images_uint8: Images, labels: Int[np.ndarray, " n"], levels: int, seed: int = 0) -> Classifier:
    """A classifier of 128 and 32 hidden units, trained to the end on the given images."""
    network = MLPClassifier((128, 32), random_state=seed, max_iter=400)
    return Classifier(network.fit(_inputs(images_uint8, levels), labels), levels)


def accuracy(classifier: Classifier, images_uint8: Images, labels: Int[np.ndarray, " n"]) -> float:
    """Share of images classified rightly."""
    return float(classifier.network.score(_inputs(images_uint8, classifier.levels), labels))


def features(classifier: Classifier, images_uint8: Images) -> Float[np.ndarray, "n 32"]:
    """The last hidden layer, after its rectifier."""
    hidden = _inputs(images_uint8, classifier.levels)
    layers = zip(classifier.network.coefs_[:-1], classifier.network.intercepts_[:-1], strict=True)
    for weights, bias in layers:
        hidden = np.maximum(hidden @ weights + bias, 0)
    return hidden


def _inputs(images_uint8: Images, levels: int) -> np.ndarray:
    return images_uint8.reshape(len(images_uint8), -1) / (levels - 1)
