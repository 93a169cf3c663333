"""Features of a small classifier trained on the same images, for data sets on which Inception says nothing.

scikit-learn's multilayer perceptron on pixels; its last hidden layer is the feature space.
"""

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.neural_network import MLPClassifier

HIDDEN = (128, 32)


def fit(images_uint8: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"], seed: int = 0) -> MLPClassifier:
    """A classifier of 128 and 32 hidden units, trained to the end on the given images."""
    return MLPClassifier(HIDDEN, random_state=seed, max_iter=400).fit(_flat(images_uint8), labels)


def accuracy(classifier: MLPClassifier, images_uint8: UInt8[np.ndarray, "n h w c"], labels: np.ndarray) -> float:
    """Share of images classified rightly."""
    return float(classifier.score(_flat(images_uint8), labels))


def features(classifier: MLPClassifier, images_uint8: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n 32"]:
    """The last hidden layer, after its rectifier."""
    hidden = _flat(images_uint8)
    for weights, bias in zip(classifier.coefs_[:-1], classifier.intercepts_[:-1], strict=True):
        hidden = np.maximum(hidden @ weights + bias, 0)
    return hidden


def _flat(images_uint8: np.ndarray) -> np.ndarray:
    return images_uint8.reshape(len(images_uint8), -1) / 16.0
