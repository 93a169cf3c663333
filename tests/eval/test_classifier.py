"""The small classifier: it learns real digits, and its features are its last hidden layer."""

import numpy as np
import pytest

from ddpm_jax import data
from ddpm_jax.eval import classifier


@pytest.fixture(scope="module")
def trained() -> classifier.Classifier:
    digits = data.digits()
    return classifier.fit(*digits.train, digits.levels)


def test_it_reads_unseen_digits(trained: classifier.Classifier) -> None:
    assert classifier.accuracy(trained, *data.digits().test) > 0.93  # the same network reaches .95 to .98 over seeds


def test_its_features_lead_to_its_own_answers(trained: classifier.Classifier) -> None:
    images = data.digits().test.images
    features = classifier.features(trained, images)
    assert features.shape[1] <= 64
    assert (features >= 0).all()
    answers = (features @ trained.network.coefs_[-1] + trained.network.intercepts_[-1]).argmax(axis=1)
    np.testing.assert_array_equal(answers, trained.network.predict(images.reshape(len(images), -1) / 16.0))
