"""The small classifier: it learns real digits, and its features are its last hidden layer."""

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from ddpm_jax.data import datasets
from ddpm_jax.evaluation.fid import classifier


@pytest.fixture(scope="module")
def trained() -> classifier.Classifier:
    digits = datasets.digits()
    return classifier.fit(*digits.train, digits.levels)


def test_it_reads_unseen_digits(trained: classifier.Classifier) -> None:
    assert (
        classifier.accuracy(trained, *datasets.digits().test) > 0.93
    )  # the same network reaches .95 to .98 over seeds


@pytest.mark.slow
def test_it_is_the_network_that_scikit_learn_trained() -> None:
    images, labels = (part[:200] for part in datasets.digits().train)
    flat = images.reshape(len(images), -1) / 16.0
    network = MLPClassifier((128, 32), random_state=1, max_iter=400).fit(flat, labels)
    ours, test = classifier.fit(images, labels, 17, seed=1), datasets.digits().test
    for weights, theirs in zip(ours.weights, network.coefs_, strict=True):
        np.testing.assert_allclose(weights, theirs, rtol=1e-6, atol=1e-9)
    assert classifier.accuracy(ours, *test) == network.score(
        test.images.reshape(len(test.images), -1) / 16.0, test.labels
    )


def test_its_features_are_its_last_hidden_layer(trained: classifier.Classifier) -> None:
    images = datasets.digits().test.images
    features = classifier.features(trained, images)
    assert features.shape == (len(images), 32)
    assert (features >= 0).all()
    answers = (features @ trained.weights[-1] + trained.biases[-1]).argmax(axis=1)
    assert (trained.classes[answers] == datasets.digits().test.labels).mean() == classifier.accuracy(
        trained, *datasets.digits().test
    )


def test_a_data_set_without_labels_is_refused() -> None:
    classifier.check("digits", datasets.digits().test.labels)
    with pytest.raises(ValueError, match=r"^photos has no labels, .*choose a data set with labels, or give them"):
        classifier.check("photos", None)
