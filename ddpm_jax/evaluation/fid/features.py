"""Feature spaces by name: what the samples of an ablation are judged in. A user's file may add its own.

Example:
  FEATURES["pixels"] = Features(
      lambda data, keep: FeatureExtractor("pixels", "grey levels", 64, lambda x: x.reshape(len(x), -1).astype(float)),
      "raw pixels of 8 x 8 images",
  )
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ddpm_jax.data.datasets import DataSet, seen
from ddpm_jax.evaluation.fid import classifier
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Keep


class Features(NamedTuple):
    """An entry of FEATURES.

    Attributes:
      build: (data set, keep) -> the extractor; `keep` remembers what it has to train.
      summary: one line for --help.
      check: refuses a data set that it cannot be built for, before anything is trained.
    """

    build: Callable[[DataSet, Keep], FeatureExtractor]
    summary: str = ""
    check: Callable[[DataSet], None] = lambda data: None


def of_classifier(data: DataSet, keep: Keep = cache.compute_always) -> FeatureExtractor:
    """The features of a small classifier of the training images, for distances that are not the FID.

    Args:
      data: with labels.
      keep: remembers the classifier.
    """
    train = seen(data.train)
    assert train.labels is not None
    network = classifier.fit(train.images, train.labels, data.levels, keep=keep)
    return FeatureExtractor(
        name=f"multilayer perceptron {cache.fingerprint(network._asdict())[:12]}",
        preparation=f"grey levels over {network.levels - 1}",
        size=len(network.biases[-2]),
        features=partial(classifier.features, network),
        description="multilayer perceptron, 128 and 32 hidden units, features of the last",
        accuracy=partial(classifier.accuracy, network),
    )


FEATURES: dict[str, Features] = {
    "classifier": Features(
        of_classifier,
        "the last hidden layer of a small classifier of the training images",
        lambda data: classifier.check(data.name, data.test.labels),
    ),
}
