"""GZSL metrics on a score matrix: U, S, H, CZSL, the exact tau sweep and AUSUC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class GZSLMetrics:
    """Per-class mean accuracies in percent."""

    U: float
    S: float
    H: float
    CZSL: float


def _arrays(scores: Any, labels: Any, unseen: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tensors or arrays to float64 [n,C], int64 [n], bool [C], checked."""
    def array(x: Any) -> np.ndarray:
        return x.detach().cpu().float().numpy() if hasattr(x, "detach") else np.asarray(x)

    scores = array(scores).astype(np.float64)
    labels, unseen = array(labels).astype(np.int64), array(unseen).astype(bool)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or unseen.shape != scores.shape[1:]:
        raise ValueError(f"scores [n,C], labels [n], unseen [C] do not fit: {scores.shape}, {labels.shape}, "
                         f"{unseen.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores hold {int((~np.isfinite(scores)).sum())} values that are not finite")
    if len(labels) and not (0 <= labels.min() and labels.max() < scores.shape[1]):
        raise ValueError(f"labels must lie in 0..{scores.shape[1] - 1}, got {labels.min()}..{labels.max()}")
    if not unseen.any() or unseen.all():
        raise ValueError("both seen and unseen classes are needed: `unseen` is all "
                         + ("true" if unseen.all() else "false"))
    return scores, labels, unseen


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
    scores, labels, unseen = _arrays(scores, labels, unseen)
    hits = (scores + tau * unseen).argmax(1) == labels
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
    whole label space, CZSL ranks unseen images over unseen classes. Raises ValueError for shapes that do not
    fit, labels out of range, scores or tau that are not finite.
    """
    scores, labels, unseen = _arrays(scores, labels, unseen)
    if not np.isfinite(tau):
        raise ValueError(f"tau = {tau} is out of range: choose a finite number of score units")
    is_unseen = unseen[labels]
    predicted = (scores + tau * unseen).argmax(1)
    U = per_class_accuracy(predicted[is_unseen], labels[is_unseen])
    S = per_class_accuracy(predicted[~is_unseen], labels[~is_unseen])
    within = np.where(unseen, scores, -np.inf).argmax(1)
    CZSL = per_class_accuracy(within[is_unseen], labels[is_unseen])
    return GZSLMetrics(U, S, float(harmonic(U, S)), CZSL)


def tau_sweep(scores: Any, labels: Any, unseen: Any) -> pd.DataFrame:
    """Every distinct operating point: columns tau, U, S, H (percent), tau rising (design section 2).

    Exact: an image's prediction flips once, from its best seen to its best unseen class, at the margin
    m = max_seen - max_unseen; so U and S are steps whose breakpoints are the margins that matter. One row a
    step, tau in its middle (one unit outside at the two ends). Shapes and errors as `gzsl_metrics`.
    """
    scores, labels, unseen = _arrays(scores, labels, unseen)
    best_seen = np.where(unseen, -np.inf, scores).argmax(1)
    best_unseen = np.where(unseen, scores, -np.inf).argmax(1)
    rows = np.arange(len(labels))
    margin = scores[rows, best_seen] - scores[rows, best_unseen]
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
    tolerance = 1e-12 * max(1.0, float(np.abs(scores).max(initial=0.0)))
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


def best_tau(sweep: pd.DataFrame) -> float:
    """The tau of the highest H in a `tau_sweep` (the smallest of equals)."""
    return float(sweep["tau"].iloc[int(sweep["H"].to_numpy().argmax())])


def ausuc(scores: Any, labels: Any, unseen: Any) -> float:
    """Area under the seen-unseen curve over all tau, in [0, 1] (trapezoids over the exact sweep)."""
    sweep = tau_sweep(scores, labels, unseen)
    return float(min(1.0, np.trapezoid(sweep["S"].to_numpy(), sweep["U"].to_numpy()) / 1e4))
