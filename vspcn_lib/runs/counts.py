"""Which images each phase sees, and counts too small to train or select by: one sentence before any work."""

from __future__ import annotations

import numpy as np

from vspcn_lib.config import Config
from vspcn_lib.data.splits import Benchmark, BenchmarkError
from vspcn_lib.methods.registry import method


def selection_split(bench: Benchmark, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training images of the classes that are not validation classes, split in (fit, held-out), per class."""
    rng, fit, held = np.random.default_rng(seed), [], []
    for c in np.setdiff1d(bench.seen_classes, bench.val_classes):
        images = rng.permutation(bench.train[bench.labels[bench.train] == c])
        cut = min(max(1, round(share * len(images))), len(images) - 1)  # a single image trains
        held.append(images[:cut])
        fit.append(images[cut:])
    return np.sort(np.concatenate(fit)), np.sort(np.concatenate(held))


def thin(bench: Benchmark, indices: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """At most `per_class` of `indices` for each class, drawn by `seed`; 0 keeps all."""
    if not per_class:
        return indices
    shuffled = np.random.default_rng(seed).permutation(indices)
    labels = bench.labels[shuffled]
    return np.sort(np.concatenate([shuffled[labels == c][:per_class] for c in np.unique(labels)]))


def check_counts(config: Config, bench: Benchmark, phase: str, indices: np.ndarray,
                 validation: tuple[np.ndarray, np.ndarray] | None) -> None:
    """Raise `BenchmarkError` where `phase` would take no step, or with `validation` = (held-out, val-class images)
    would have nothing to measure by."""
    classes = len(np.unique(bench.labels[indices]))
    if classes < 2:
        raise BenchmarkError(f"{bench.name}, {phase}: {len(indices)} images of {classes} classes to train on, and one "
                             "class alone has nothing to be told from: name fewer validation classes, or add images")
    for what, images in zip(("held-out images of the trained classes", "images of validation classes"),
                            validation or (), strict=False):
        if not len(images):
            raise BenchmarkError(f"{bench.name}, {phase}: there are no {what}, so no epoch can be chosen: give a "
                                 "class a second trainval image, or raise train.held_out")
    rows = method(config).order(config, bench.labels[indices], np.random.default_rng([config.train.seed, 0]))
    if not method(config).candidates and max(map(len, rows), default=0) < 2:
        raise BenchmarkError(f"{bench.name}, {phase}: {len(indices)} images make no batch of two, and one image alone "
                             "has no batch statistics, so nothing would be trained: raise train.batch_size or add "
                             "images")
