"""`ddpm-jax fid`: the FID of a file of samples, and what it depends on."""

import json
import sys
from collections import Counter
from functools import partial
from typing import Any

import numpy as np

from ddpm_jax.cli import betas
from ddpm_jax.cli.arguments import Fid
from ddpm_jax.data import datasets
from ddpm_jax.evaluation.fid import extractors, feature_metrics, frechet, protocols
from ddpm_jax.evaluation.fid.extractors import FeatureExtractor, Reference
from ddpm_jax.evaluation.fid.feature_metrics import Estimate
from ddpm_jax.evaluation.fid.protocols import FidProtocol, Measure, Stamp
from ddpm_jax.report.tables import measured, number
from ddpm_jax.runtime import cache
from ddpm_jax.runtime.cache import Store

SPLITS = 10  # whose Inception Scores are averaged, as Salimans et al. 2016 do
LEAST = 20  # images that KID can be told of
SIZES = 10  # subsets of the line whose end is FID at infinity


def main(options: Fid) -> None:
    """Read, measure, print."""
    protocol = protocols.named(options.fid_protocol)
    cache.check_writable(options.workdir)
    if options.dry_run:
        print(json.dumps({name: str(value) for name, value in vars(options).items()}, indent=2))
        return
    images, made = read(options)
    extractor = extractors.of_inception(options.inception, protocol.preparation)
    reference, others = reference_of(options, protocol, extractor)
    features = extractor.features(images)
    figures = {"FID": Estimate(frechet.distance(reference.target, frechet.gaussian_fit(features)), np.nan)}
    sizes = sorted({*np.linspace(len(images) // 2, len(images), SIZES).astype(int).tolist()})
    if len(sizes) > 1 and sizes[0] > 1:
        end = feature_metrics.fid_infinity(features, reference.target, sizes, options.seed)
        figures["FID at infinity"] = Estimate(end.value, np.nan)  # its error is that of subsets that overlap
    logits = extractor.logits(features) if extractor.logits else None
    if logits is not None and len(features) >= SPLITS:
        figures["Inception Score"] = feature_metrics.inception_score(logits, SPLITS)
    if others is not None:
        figures |= beside_images(features, extractor.features(others), options.seed)
    rounding = made.get("rules", {}).get("rounding", "as in the file")
    stamp = Stamp(extractors.measure(extractor, reference, rounding, len(images)), made)
    for line in told(options, protocol, stamp.measure, protocols.warning(reference.target.fit, len(images))):
        print(f"warning: {line}", file=sys.stderr)
    print("\n".join(f"{name}: {shown(estimate)}" for name, estimate in figures.items()))
    print(betas.printed(protocols.plain(stamp)))
    plain = {name: estimate._asdict() for name, estimate in figures.items()}
    options.workdir.mkdir(parents=True, exist_ok=True)
    cache.write_json(options.workdir / "fid.json", {"figures": plain, **protocols.plain(stamp)})


def read(options: Fid) -> tuple[np.ndarray, dict[str, Any]]:
    """The samples and what made them, as far as their file says.

    Raises:
      ValueError: the file is missing, damaged or holds something else, or fewer images than are asked for.
    """
    images, made = extractors.read_samples(options.samples)
    n = len(images) if options.n is None else options.n
    if not 2 <= n <= len(images):
        raise ValueError(f"n = {n}: {options.samples} holds {len(images)} images, from 2 to all of them can be taken")
    return images[:n], made


def reference_of(
    options: Fid, protocol: FidProtocol, extractor: FeatureExtractor
) -> tuple[Reference, np.ndarray | None]:
    """What samples are compared with, and images of it where they are asked for.

    Raises:
      ValueError: there is no such file or data set, it is of another kind, or it holds too few images.
    """
    keep = partial(cache.fetch, Store(options.workdir / "cells", {}, False, Counter()))
    if options.reference.lower().endswith(".npz"):
        if options.against_images or options.split or options.image_size or options.ground:
            raise ValueError(f"{options.reference} is a file of statistics: only a data set has images and splits")
        return extractors.of_file(options.reference, extractor, keep), None
    data_set = datasets.load(options.reference, options.image_size, ground=options.ground)
    if data_set.levels != 256:
        raise ValueError(f"{data_set.name} has {data_set.levels} grey levels: Inception reads 256")
    split = options.split or protocol.split
    reference = extractors.of_data(data_set, extractor, split, keep)
    images = (data_set.train if split == "train" else data_set.test).images
    if options.against_images and not LEAST <= options.against_images <= len(images):
        raise ValueError(f"against_images = {options.against_images}: {LEAST} to {len(images)}, all of {data_set.name}")
    return reference, images[: options.against_images] if options.against_images else None


def beside_images(features: np.ndarray, others: np.ndarray, seed: int) -> dict[str, Estimate]:
    """What is told by images and not by their statistics."""
    least = min(len(features), len(others))
    size = min(1000, least // 10)  # as many subsets as are not more than all: their spread tells the error
    precision, recall = feature_metrics.precision_recall(features, others)
    return {
        "KID": feature_metrics.kid(features, others, least // size, size, seed),
        "precision": Estimate(precision, np.nan),
        "recall": Estimate(recall, np.nan),
    }


def told(options: Fid, protocol: FidProtocol, measure: Measure, few: str | None) -> list[str]:
    """What a reader must know to compare the figures with others'."""
    pairs = {
        "samples": (measure.n, protocol.n),
        "rounding of samples": (measure.rounding, protocol.rounding),
        "split": (options.split or protocol.split, protocol.split),
    }
    apart = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    other = [f"{name}: {ours}, and {theirs} in {options.fid_protocol}" for name, (ours, theirs) in apart.items()]
    return [*other, *([few] if few else [])]


def shown(found: Estimate) -> str:
    """With its standard error, where there is one."""
    known = np.isfinite(found.standard_error)
    return measured(found.value, found.standard_error) if known else number(found.value, 4)
