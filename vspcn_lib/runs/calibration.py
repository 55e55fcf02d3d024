"""From the tau of selection to the tau of the final model: each calibrator is one small function of a score matrix.

tau is in score units, and the final model has scores of its own: it fits more classes, on more images, and meets
other unseen prototypes. A calibrator says on which scale a tau carries over. It reads held-out images of *seen*
classes (never trained on), scored against seen and unseen *prototypes*; no unseen image, no test image and no test
label. In selection the validation classes play unseen, in the final model the real unseen classes do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from vspcn_lib.config import ConfigError, TrainConfig
from vspcn_lib.data.splits import Benchmark


class CalibrationError(ValueError):
    """There is nothing to calibrate on; the message says what is missing."""


@dataclass(frozen=True)
class Held:
    """Held-out images of seen classes: scores [n,C], labels [n] (columns), unseen [C] bool."""

    scores: np.ndarray
    labels: np.ndarray
    unseen: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.labels) or self.unseen[self.labels].any():
            raise CalibrationError(f"{len(self.labels)} held-out images, {int(self.unseen[self.labels].sum())} of them "
                                   "of unseen classes: a calibrator reads some of seen classes, and those alone")

    @classmethod
    def of(cls, scores: np.ndarray, labels: np.ndarray, unseen: np.ndarray) -> Held:
        """The images of seen classes among those of a score matrix."""
        seen = ~unseen[labels]
        return cls(scores[seen], labels[seen], unseen)

    @cached_property
    def margins(self) -> np.ndarray:
        """m = max_seen score - max_unseen score [n], float64: an image stays on the seen side while tau < m."""
        seen = self.scores[:, ~self.unseen].max(1).astype(np.float64)
        return seen - self.scores[:, self.unseen].max(1)

    def unit(self, spread: float) -> float:
        """`spread` as a unit of scores, 0 where it is no more than the rounding of scores (of one image, say)."""
        return float(spread) if spread > 1e-6 * np.abs(self.scores).max() else 0.0

    @cached_property
    def right(self) -> np.ndarray:
        """Whether the best seen class is the image's own [n]."""
        return np.flatnonzero(~self.unseen)[self.scores[:, ~self.unseen].argmax(1)] == self.labels

    @cached_property
    def weights(self) -> np.ndarray:
        """What an image counts in a mean over classes [n]; their sum is 1."""
        counts = np.bincount(self.labels)
        return 1.0 / counts[self.labels] / (counts > 0).sum()


@dataclass(frozen=True)
class Scale:
    """A scale on which a tau carries over: `to` it from score units, and `back` to those."""

    to: Callable[[float], float]
    back: Callable[[float], float]


def affine(zero: float, unit: float) -> Scale:
    """x = (tau - zero) / unit; NaN for a unit of 0, that of scores that do not differ."""
    return Scale(lambda tau: float((tau - zero) / unit) if unit else float("nan"), lambda x: float(zero + unit * x))


def share(margins: np.ndarray, weights: np.ndarray) -> Scale:
    """x = the weighted share of `margins` above tau; back: their weighted quantile 1 - x, between images linear."""
    order = np.argsort(margins, kind="stable")
    sorted_margins, w = margins[order], weights[order] / weights.sum()
    middle = np.cumsum(w) - w / 2
    return Scale(lambda tau: float(weights[margins > tau].sum() / weights.sum()),
                 lambda x: float(np.interp(1 - x, middle, sorted_margins)))


def raw(held: Held) -> Scale:
    """tau itself, in score units (calibrated stacking, Chao et al., ECCV 2016): reads nothing."""
    return affine(0.0, 1.0)


def retention(held: Held) -> Scale:
    """The share of held-out seen images that stay on the seen side, m > tau: the fixed true-positive rate of
    out-of-distribution detection, at a rate that selection chose instead of a fixed 95 %."""
    return share(held.margins, np.ones(len(held.margins)))


def accuracy_kept(held: Held) -> Scale:
    """S(tau) / S(-infinity), the share of seen accuracy that is kept; reads the held-out images' own labels."""
    right = held.right if held.right.any() else np.ones(len(held.labels), bool)
    return share(held.margins[right], held.weights[right])


def median_shift(held: Held) -> Scale:
    """tau - median(m): tau moves as the margins of seen images do."""
    return affine(float(np.median(held.margins)), 1.0)


def standardised(held: Held) -> Scale:
    """(tau - mean(m)) / std(m): tau in standard deviations of the margins of seen images."""
    return affine(held.margins.mean(), held.unit(held.margins.std()))


def quartiles(held: Held) -> Scale:
    """(tau - median(m)) / (upper - lower quartile of m): `standardised` that a few far images do not move."""
    low, middle, high = np.quantile(held.margins, (0.25, 0.5, 0.75))
    return affine(middle, held.unit(high - low))


def score_spread(held: Held) -> Scale:
    """tau / mean over images of the standard deviation of their scores over seen classes."""
    return affine(0.0, held.unit(held.scores[:, ~held.unseen].std(1).mean()))


def temperature(held: Held) -> Scale:
    """tau / T, T the temperature of the least cross-entropy over seen classes (Guo et al., ICML 2017; for GZSL in
    Liu et al., NeurIPS 2018, and Atzmon and Chechik, CVPR 2019); reads the held-out images' own labels."""
    scores = held.scores[:, ~held.unseen].astype(np.float64)
    own = held.scores[np.arange(len(held.labels)), held.labels].astype(np.float64)

    def cross_entropy(log_t: float) -> float:
        return float((logsumexp(scores / np.exp(log_t), axis=1) - own / np.exp(log_t)).mean())

    found = minimize_scalar(cross_entropy, bounds=(np.log(0.02), np.log(50)), method="bounded", options={"xatol": 1e-3})
    return affine(0.0, float(np.exp(found.x)))


CALIBRATORS: dict[str, Callable[[Held], Scale]] = {
    "raw": raw, "retention": retention, "accuracy-kept": accuracy_kept, "median-shift": median_shift,
    "standardised": standardised, "quartiles": quartiles, "score-spread": score_spread, "temperature": temperature}
CONSENSUS = ("retention", "median-shift", "standardised")  # their median: where one errs, the two others outvote it
NAMES = (*CALIBRATORS, "consensus")


def carry(tau: float, held: Held) -> dict[str, float]:
    """What each calibrator carries over, by name, from a selection whose best H is at `tau`.

    One whose unit is 0 here, so that it says nothing, is left out.
    """
    carried = {name: scale(held).to(tau) for name, scale in CALIBRATORS.items()}
    return {name: x for name, x in carried.items() if np.isfinite(x)}


def land(name: str, carried: dict[str, float], held: Held) -> float:
    """The final model's tau: what calibrator `name` carries over, back in the score units of the final model.

    Where `name` could not say anything in selection it is `median-shift`'s, which needs no unit.
    """
    if name == "consensus":
        return float(np.median([land(n, carried, held) for n in CONSENSUS]))
    name = name if name in carried else "median-shift"
    return CALIBRATORS[name](held).back(carried[name])


def silent(name: str, carried: dict[str, float]) -> list[str]:
    """The calibrators that `name` consists of and that carry nothing over: `median-shift` takes their place."""
    return [n for n in (CONSENSUS if name == "consensus" else (name,)) if n not in carried]


def class_folds(bench: Benchmark, count: int, seed: int) -> list[Benchmark]:
    """`count` draws of validation classes: the benchmark's own, then other sets of as many seen classes, by `seed`.

    No set comes twice, and each leaves a class with two images, one to train and one to hold out. Raises `ConfigError`
    where 1,000 draws do not give that many.
    """
    rng, folds = np.random.default_rng([seed, 1]), [bench]
    counts = np.bincount(bench.labels[bench.trainval], minlength=bench.num_classes)
    for _ in range(1000):
        if len(folds) >= count:
            break
        classes = np.sort(rng.choice(bench.seen_classes, len(bench.val_classes), replace=False))
        known = any(np.array_equal(classes, np.sort(fold.val_classes)) for fold in folds)
        if not known and counts[np.setdiff1d(bench.seen_classes, classes)].max(initial=0) > 1:
            folds.append(replace(bench, val_classes=classes))
    if len(folds) >= count:
        return folds
    raise ConfigError(f"train.folds = {count}: 1,000 draws of {len(bench.val_classes)} validation classes from the "
                      f"{len(bench.seen_classes)} seen ones gave only {len(folds)} different sets that leave a class "
                      f"with two training images: set train.folds to {len(folds)} or less")


def averaged(folds: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The validation rows of several folds as one row an epoch: means, and the standard deviation of H and retention
    over folds as `spread`; of one fold its rows as they are."""
    if len(folds) == 1:
        return folds[0]
    rows = []
    for same in zip(*folds, strict=True):
        row = {k: float(np.mean([r[k] for r in same])) for k in same[0] if k not in ("epoch", "carried")}
        row |= {"epoch": same[0]["epoch"],
                "carried": {n: float(np.mean(x)) for n in CALIBRATORS
                            if (x := [r["carried"][n] for r in same if n in r["carried"]])},
                "spread": {"H": float(np.std([r["H"] for r in same], ddof=1)),
                           "retention": float(np.std([r["carried"]["retention"] for r in same], ddof=1))}}
        rows.append(row)
    return rows


def calibration_share(train: TrainConfig) -> float:
    """The share of training images that the final fit leaves out: none for raw, which reads none."""
    return 0.0 if train.calibration == "raw" else train.calibration_share


def hold_out(bench: Benchmark, indices: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training `indices` split in (fit, held-out), by class and `seed`: of each class the `share`, at least one image
    where it has two, never its last one; of a share of 0 nothing. Raises `CalibrationError` where no class has two."""
    rng, held = np.random.default_rng([seed, 2]), []
    if not share:
        return indices, np.empty(0, np.int64)
    for c in np.unique(bench.labels[indices]):
        images = rng.permutation(indices[bench.labels[indices] == c])
        held.append(images[:min(max(1, round(share * len(images))), len(images) - 1)])
    held = np.sort(np.concatenate(held))
    if not len(held):
        raise CalibrationError("no class has two training images, so none can be held out for calibration: set "
                               "train.calibration to raw, or use more images a class")
    return np.setdiff1d(indices, held), held
