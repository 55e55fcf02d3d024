"""Splits and validation classes drawn where the user names none; what is drawn always passes `Benchmark.check`."""

from __future__ import annotations

import numpy as np

from vspcn_lib.data.splits import BenchmarkError


def draw_lists(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """trainval, test_seen, test_unseen: 30 % of the classes unseen, 20 % of each seen class's images test_seen.

    A single image of a seen class trains. One seen class keeps two trainval images, which selection needs to hold one
    out. Raises `BenchmarkError` where so few images are there that no split could pass.
    """
    found, counts = np.unique(labels, return_counts=True)
    plenty = bool((counts >= 3).any())
    rich, need = (found[counts >= 3], 1) if plenty else (found[counts == 2], 2)
    if len(found) < 4 or len(rich) < need:
        raise BenchmarkError(f"{len(found)} classes with images, the largest of {counts.max()}: too few to draw a "
                             "split, which takes 4 classes, one of 3 images or two of 2; add images, or write a "
                             "splits.json")
    classes = rng.permutation(found)
    cut = max(1, round(0.3 * len(classes)))
    classes = _bring(classes, cut, rich, need)
    whole = None if plenty else next(c for c in classes[cut:] if c in rich)
    trainval, test_seen = [], []
    for c in np.sort(classes[cut:]):
        images = rng.permutation(np.flatnonzero(labels == c))
        held = 0 if len(images) == 1 or c == whole else max(1, round(0.2 * len(images)))
        test_seen.extend(images[:held])
        trainval.extend(images[held:])
    unseen = np.flatnonzero(np.isin(labels, classes[:cut]))
    return [np.sort(np.array(part, dtype=np.int64)) for part in (trainval, test_seen, unseen)]


def draw_val_classes(labels: np.ndarray, trainval: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A third of the seen classes, sorted; a class with two images or more is left to train on where there is one."""
    seen, counts = np.unique(labels[trainval], return_counts=True)
    cut = max(1, round(len(seen) / 3))
    rich = seen[counts >= 2]
    return np.sort(_bring(rng.permutation(seen), cut, rich, int(len(rich) > 0 and len(seen) > cut))[:cut])


def _bring(order: np.ndarray, cut: int, wanted: np.ndarray, need: int) -> np.ndarray:
    """`order` with as few swaps as it takes for `need` of `wanted` to stand from `cut` on."""
    order = order.copy()
    for _ in range(need - int(np.isin(order[cut:], wanted).sum())):
        there = np.flatnonzero(np.isin(order[:cut], wanted))[-1]
        spare = cut + np.flatnonzero(~np.isin(order[cut:], wanted))[-1]
        order[[there, spare]] = order[[spare, there]]
    return order
