"""GZSL metrics on a score matrix, in memory or mapped from a file: U, S, H, CZSL, the exact tau sweep and AUSUC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


class MetricsError(ValueError):
    """Scores, labels or tau cannot be measured; the message says why."""


@dataclass(frozen=True)
class GZSLMetrics:
    """Per-class mean accuracies in percent."""

    U: float
    S: float
    H: float
    CZSL: float


CHUNK = 64 * 2**20  # bytes of scores read at once: a memory-mapped matrix may be larger than the memory


@dataclass(frozen=True)
class _Best:
    """All that the metrics need of a score matrix, [n] each: best seen and best unseen class, and their scores."""

    labels: np.ndarray
    unseen: np.ndarray
    """[C] bool"""
    seen_class: np.ndarray
    unseen_class: np.ndarray
    seen_score: np.ndarray
    unseen_score: np.ndarray
    largest: float
    """the largest absolute score"""

    def predicted(self, tau: float) -> np.ndarray:
        """argmax_c(score_c + tau 1[c unseen]), the lower class of equals."""
        raised = self.unseen_score + tau
        first = np.where(raised > self.seen_score, self.unseen_class, self.seen_class)
        return np.where(raised == self.seen_score, np.minimum(self.seen_class, self.unseen_class), first)


def _best(scores: Any, labels: Any, unseen: Any) -> _Best:
    """Tensors or arrays, checked and read in chunks of rows, in float64."""
    def array(x: Any) -> np.ndarray:
        if not hasattr(x, "detach"):
            return np.asarray(x)
        x = x.detach().cpu()
        return (x.float() if x.is_floating_point() and x.element_size() < 4 else x).numpy()  # NumPy has no bfloat16

    scores, labels, unseen = array(scores), array(labels).astype(np.int64), array(unseen).astype(bool)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or unseen.shape != scores.shape[1:]:
        raise MetricsError(f"scores [n,C], labels [n], unseen [C] do not fit: {scores.shape}, {labels.shape}, "
                           f"{unseen.shape}")
    if len(labels) and not (0 <= labels.min() and labels.max() < scores.shape[1]):
        raise MetricsError(f"labels must lie in 0..{scores.shape[1] - 1}, got {labels.min()}..{labels.max()}")
    if not unseen.any() or unseen.all():
        raise MetricsError("both seen and unseen classes are needed: `unseen` is all "
                           + ("true" if unseen.all() else "false"))
    sides, n = (np.flatnonzero(~unseen), np.flatnonzero(unseen)), len(labels)
    where, value = np.empty((2, n), np.int64), np.empty((2, n))
    largest, step = 0.0, max(1, CHUNK // (scores.itemsize * scores.shape[1]))
    for start in range(0, n, step):
        part = np.asarray(scores[start:start + step])
        lowest, highest = part.min(), part.max()
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            bad = sum(int((~np.isfinite(scores[i:i + step])).sum()) for i in range(0, n, step))
            raise MetricsError(f"scores hold {bad} values that are not finite")
        largest = max(largest, abs(float(lowest)), abs(float(highest)))
        for side, columns in enumerate(sides):
            of_side = part[:, columns]
            best = of_side.argmax(1)
            where[side, start:start + step] = columns[best]
            value[side, start:start + step] = of_side[np.arange(len(best)), best]
    return _Best(labels, unseen, *where, *value, largest)


def predicted(scores: np.ndarray, unseen: np.ndarray, tau: float) -> np.ndarray:
    """argmax_c(score_c + tau 1[c unseen]) [n], of scores [n,C] and unseen [C] bool (design section 1, inference)."""
    return (scores + tau * unseen).argmax(1)


def per_class_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes in `labels` [n] of the share of right predictions [n], percent; 0 for none."""
    if not len(labels):
        return 0.0
    hits = np.bincount(labels, weights=predicted == labels)
    counts = np.bincount(labels)
    return float(100 * np.mean(hits[counts > 0] / counts[counts > 0]))


def class_accuracies(scores: Any, labels: Any, unseen: Any, tau: float = 0.0) -> np.ndarray:
    """Accuracy of each class [C] over the whole label space at `tau`, percent; NaN for a class without images.

    Arguments as in `gzsl_metrics`: U and S are its means over unseen and over seen classes.
    """
    best = _best(scores, labels, unseen)
    labels, unseen = best.labels, best.unseen
    hits = best.predicted(tau) == labels
    counts = np.bincount(labels, minlength=len(unseen))
    right = np.bincount(labels, weights=hits, minlength=len(unseen))
    return np.where(counts > 0, 100 * right / np.maximum(counts, 1), np.nan)


def harmonic(U: Any, S: Any) -> Any:
    """H = 2 S U / (S + U), 0 where both are 0; floats or arrays, any unit."""
    both = np.asarray(U, dtype=np.float64) + S
    return np.where(both > 0, 2.0 * np.asarray(U) * S / np.where(both > 0, both, 1), 0.0)


def gzsl_metrics(scores: Any, labels: Any, unseen: Any, tau: float = 0.0) -> GZSLMetrics:
    """U, S, H, CZSL in percent of argmax_c(score_c + tau 1[c unseen]) (design section 2).

    `scores` [n,C], `labels` [n], `unseen` [C] bool, arrays or tensors; tau in score units. U and S search the
    whole label space, CZSL ranks unseen images over unseen classes. Raises `MetricsError` for shapes that do not
    fit, labels out of range, scores or tau that are not finite.
    """
    best = _best(scores, labels, unseen)
    if not np.isfinite(tau):
        raise MetricsError(f"tau = {tau} is out of range: choose a finite number of score units")
    labels, is_unseen = best.labels, best.unseen[best.labels]
    predicted = best.predicted(tau)
    U = per_class_accuracy(predicted[is_unseen], labels[is_unseen])
    S = per_class_accuracy(predicted[~is_unseen], labels[~is_unseen])
    CZSL = per_class_accuracy(best.unseen_class[is_unseen], labels[is_unseen])
    return GZSLMetrics(U, S, float(harmonic(U, S)), CZSL)


def tau_sweep(scores: Any, labels: Any, unseen: Any) -> pd.DataFrame:
    """Every distinct operating point: columns tau, U, S, H (percent), tau rising (design section 2).

    Exact: an image's prediction flips once, from its best seen to its best unseen class, at the margin
    m = max_seen - max_unseen; so U and S are steps whose breakpoints are the margins that matter. One row a
    step, tau in its middle (one unit outside at the two ends). Shapes and errors as `gzsl_metrics`.
    """
    best = _best(scores, labels, unseen)
    labels, unseen, best_seen, best_unseen = best.labels, best.unseen, best.seen_class, best.unseen_class
    margin = best.seen_score - best.unseen_score
    is_unseen = unseen[labels]
    # One image of class y is worth 100 / (images of y) / (classes on its side).
    counts = np.bincount(labels, minlength=len(unseen))
    sides = np.array([max(1, int(((counts > 0) & (unseen == side)).sum())) for side in (False, True)])
    worth = 100.0 / counts[labels] / sides[is_unseen.astype(int)]
    gain = np.where(is_unseen & (best_unseen == labels), worth, 0.0)  # won when tau passes the margin
    loss = np.where(~is_unseen & (best_seen == labels), worth, 0.0)  # lost there
    matters = (gain > 0) | (loss > 0)
    values, step = np.unique(margin[matters], return_inverse=True)
    # Margins that differ by rounding alone are one step: no tau in between can be told from either.
    tolerance = 1e-12 * max(1.0, best.largest)
    first = np.diff(values, prepend=-np.inf) > tolerance
    points, step = values[first], (np.cumsum(first) - 1)[step]
    U = np.concatenate([[0.0], np.cumsum(np.bincount(step, gain[matters], len(points)))])
    S = loss.sum() - np.concatenate([[0.0], np.cumsum(np.bincount(step, loss[matters], len(points)))])
    U, S = np.where(U > 100, 100.0, U), np.where(S < 1e-9, 0.0, np.minimum(S, 100.0))  # rounding of running sums
    if len(points):
        tau = np.concatenate([[points[0] - 1], (points[:-1] + points[1:]) / 2, [points[-1] + 1]])
    else:
        tau = np.zeros(1)
    return pd.DataFrame({"tau": tau, "U": U, "S": S, "H": harmonic(U, S)})


def flips(scores: Any, labels: Any, unseen: Any) -> pd.DataFrame:
    """The images that turn right or wrong as tau rises, once each: columns margin (rising), label, change (+1, -1).

    An image of an unseen class turns right (+1) where tau passes its margin max_seen - max_unseen, if its best unseen
    class is its own; one of a seen class turns wrong (-1) there, if its best seen class was. Errors as `gzsl_metrics`.
    """
    best = _best(scores, labels, unseen)
    is_unseen = best.unseen[best.labels]
    won, lost = is_unseen & (best.unseen_class == best.labels), ~is_unseen & (best.seen_class == best.labels)
    found = pd.DataFrame({"margin": best.seen_score - best.unseen_score, "label": best.labels,
                          "change": won.astype(int) - lost})
    return found[won | lost].sort_values("margin", kind="stable", ignore_index=True)


def tau_text(tau: float) -> str:
    """A tau with its sign and three digits, whatever the units of its scores: +4.10, -0.00123, +123."""
    return f"{tau:+#.3g}".removesuffix(".")


def best_row(sweep: pd.DataFrame) -> dict[str, float]:
    """tau, U, S and H where H is highest in a `tau_sweep` (at the smallest tau of equals)."""
    row = sweep.iloc[int(sweep["H"].to_numpy().argmax())]
    return {k: float(row[k]) for k in ("tau", "U", "S", "H")}


def best_tau(sweep: pd.DataFrame) -> float:
    """The tau of `best_row`."""
    return best_row(sweep)["tau"]


def area(sweep: pd.DataFrame) -> float:
    """AUSUC of a `tau_sweep`, in [0, 1]: trapezoids over its exact steps."""
    return float(min(1.0, np.trapezoid(sweep["S"].to_numpy(), sweep["U"].to_numpy()) / 1e4))


def ausuc(scores: Any, labels: Any, unseen: Any) -> float:
    """Area under the seen-unseen curve over all tau, in [0, 1]; arguments and errors as `tau_sweep`."""
    return area(tau_sweep(scores, labels, unseen))
