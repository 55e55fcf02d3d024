"""How close synthetic features are to real ones of the same class: numbers to understand by, never to choose by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist

from vspcn_lib.methods.generative.classifier import Classified
from vspcn_lib.methods.generative.features import Scaler, join
from vspcn_lib.methods.generative.registry import GENERATORS, GenerateConfig, read_settings
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.features import extract

MANY = 300  # features for a mean: few would be away from their own centre by chance


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """||mu_x - mu_y||^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) of two samples [n,D] and [m,D], each of at least 2.

    tr((S_x S_y)^(1/2)) is the nuclear norm of A B^T, where S_x = A^T A and S_y = B^T B: no D x D root is needed, and
    few samples in many dimensions are no trouble.
    """
    a, b = ((s - s.mean(0)).astype(np.float64) / np.sqrt(len(s) - 1) for s in (x, y))
    cross = np.linalg.norm(a @ b.T, "nuc")
    return float(((x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)) ** 2).sum()
                 + (a ** 2).sum() + (b ** 2).sum() - 2 * cross)


def two_sample(x: np.ndarray, y: np.ndarray) -> float:
    """Leave-one-out 1-NN accuracy, percent, of telling two samples [n,D] of one size apart (Lopez-Paz and Oquab 2017).

    50: they cannot be told apart; 100: every one's nearest neighbour is of its own kind; 0: each is a copy of the
    other.
    """
    both, kind = np.concatenate([x, y]), np.repeat([0, 1], [len(x), len(y)])
    distance = cdist(both, both)
    np.fill_diagonal(distance, np.inf)
    return float(100 * (kind[distance.argmin(1)] == kind).mean())


def coverage(real: np.ndarray, synthetic: np.ndarray, k: int = 5) -> float:
    """Percent of real features with a synthetic one nearer than their k-th real neighbour (Naeem et al., ICML 2020).

    Samples [n,D] and [m,D]; with fewer than k + 1 real ones the farthest neighbour counts.
    """
    own = np.sort(cdist(real, real), axis=1)
    radius = own[:, min(k, len(real) - 1)]  # column 0 is the feature itself
    return float(100 * (cdist(real, synthetic).min(1) <= radius).mean())


def quality(real: np.ndarray, labels: np.ndarray, synthetic: dict[int, np.ndarray]) -> dict[int, dict[str, float]]:
    """The three numbers of each class in `synthetic` (class: [m,D]); real features [n,D] of classes `labels` [n]."""
    found = {}
    for c, drawn in synthetic.items():
        own = real[labels == c]
        same = min(len(own), len(drawn))
        found[c] = {"frechet": frechet(own, drawn), "1-NN": two_sample(own[:same], drawn[:same]),
                    "coverage": coverage(own, drawn)}
    return found


def halves(real: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> dict[int, dict[str, float]]:
    """`quality` of every other real feature of a class against the rest of it: what a perfect generator would reach."""
    own = {int(c): real[labels == c] for c in classes}
    first = np.concatenate([x[::2] for x in own.values()])
    return quality(first, np.repeat(list(own), [len(x[::2]) for x in own.values()]),
                   {c: x[1::2] for c, x in own.items()})


def means(real: np.ndarray, labels: np.ndarray, synthetic: dict[int, np.ndarray]) -> dict[int, dict[str, float]]:
    """Distance from the mean of a class's synthetic features to that of its real ones, and to the nearest other class.

    `own` and `other` by class of `synthetic` (class: [m,D]), the others being the classes in there too; real features
    [n,D] of classes `labels` [n].
    """
    classes = np.array(list(synthetic))
    distance = cdist([x.mean(0) for x in synthetic.values()], [real[labels == c].mean(0) for c in classes])
    other = np.where(np.eye(len(classes), dtype=bool), np.inf, distance).min(1)
    return {int(c): {"own": float(distance[i, i]), "other": float(other[i])} for i, c in enumerate(classes)}


class Opened:
    """A finished `generate` opened again: its generator, its classifier, and real test features in scaled space."""

    def __init__(self, folder: RunFolder, work: Workspace | None = None) -> None:
        kept = folder.read_json("generate.json")
        if kept is None or folder.read_json("result.json") is None:
            raise RunError(f"{folder.path} is no finished run of `generate`: make one with `generate RUN`, or finish "
                           "this one")
        self.folder = folder
        self.settings: GenerateConfig = read_settings(kept["settings"])
        self.work, base = load_trained(RunFolder(Path(kept["run"])), work, quiet=True)
        self.result: dict[str, Any] = folder.read_json("result.json")
        self.selection: dict[str, Any] = folder.read_json("selection.json")
        state = folder.load_checkpoint(self.work.backbone.source)
        width, classes = len(state["scaler.shift"]), state["layer.bias"]
        scaler = Scaler(torch.zeros(2, width), "standardise")
        generator = GENERATORS[self.settings.generator](width, self.work.bench.prototypes.shape[1], self.settings.own)
        layer = torch.nn.Linear(state["layer.weight"].shape[1], len(classes))
        self.model = Classified(base, self.settings.streams, scaler, generator, layer)
        self.model.load_state_dict(state, strict=False)
        self.model.eval().requires_grad_(False)
        bench = self.work.bench
        self.test = np.concatenate([bench.test_seen, bench.test_unseen])
        self.labels = bench.labels[self.test]
        found = extract(self.work, base, self.test)
        self.real = self.model.scaler(join(found, self.settings.streams).to(self.model.scaler.shift.device)).cpu()

    @property
    def tested(self) -> np.ndarray:
        """The unseen classes that have test images: of another there is nothing real to compare with."""
        return np.intersect1d(self.work.bench.unseen_classes, self.labels)

    def sample(self, classes: np.ndarray, n: int) -> np.ndarray:
        """[len(classes),n,D] synthetic features in scaled space, those that the classifier was trained on first."""
        rows = torch.as_tensor(self.work.bench.prototypes[classes])
        return self.model.generator.sample(rows, n, self.work.config.train.seed).numpy()

    def drawn(self, n: int = 0) -> dict[int, np.ndarray]:
        """Synthetic features [n,D] of every `tested` class by its number (n = 0: as many as it has test images)."""
        unseen, counts = self.work.bench.unseen_classes, np.bincount(self.labels, minlength=self.work.bench.num_classes)
        found = dict(zip(unseen.tolist(), self.sample(unseen, n or int(counts[unseen].max())), strict=True))
        return {c: found[c][:n or counts[c]] for c in self.tested.tolist()}

    def quality(self, n: int = 0) -> dict[int, dict[str, float]]:
        """`quality` of `drawn` features of every `tested` class by its number, and `means` of `MANY` of them."""
        real = self.real.numpy(), self.labels
        apart = means(*real, self.drawn(MANY))
        return {c: {**numbers, **apart[c]} for c, numbers in quality(*real, self.drawn(n)).items()}


def validation_curve(selection: dict[str, Any]) -> dict[str, list[float]]:
    """U, S and H on validation classes against the number of synthetic features, and H with a tau as well."""
    rows = sorted(selection["epochs"], key=lambda row: row["samples"])
    return {"samples": [row["samples"] for row in rows], **{k: [row[k] for row in rows] for k in "USH"},
            "H with tau": [row["with_tau"]["H"] for row in rows]}
