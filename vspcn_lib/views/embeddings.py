"""cls embeddings of finished runs: how well they separate classes, in numbers, and t-SNE layouts of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances, silhouette_score
from tqdm.auto import tqdm

from vspcn_lib.runs.evaluation import forward
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace


def class_separation(x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Cosine silhouette, and mean distance within classes over mean distance between classes (lower is better)."""
    distance = pairwise_distances(x, metric="cosine")
    same = labels[:, None] == labels[None, :]
    off = ~np.eye(len(x), dtype=bool)
    return {"silhouette": float(silhouette_score(x, labels, metric="cosine")),
            "intra/inter": float(distance[same & off].mean() / distance[~same].mean())}


def separation(x: np.ndarray, labels: np.ndarray, unseen: np.ndarray) -> dict[str, dict[str, float]]:
    """`class_separation` of embeddings [n,E] over all classes, and over the unseen ones alone; unseen [n] bool."""
    return {"all": class_separation(x, labels), "unseen": class_separation(x[unseen], labels[unseen])}


@torch.no_grad()
def cls_embeddings(run: Path, indices: np.ndarray | None = None) -> tuple[Workspace, np.ndarray, np.ndarray]:
    """The workspace of a finished run, test images' indices (all, or those given) and unit cls embeddings [n,E].

    Raises `RunError` for a method that does not embed the cls token.
    """
    work, model = load_trained(RunFolder(Path(run)), quiet=True)
    if indices is None:
        indices = np.concatenate([work.bench.test_seen, work.bench.test_unseen])
    batches = work.batches(indices, augment=False)
    parts = []
    for x, _, _ in tqdm(batches.epoch(0), "embeddings", len(batches), leave=False):
        found = forward(model, x)
        if "cls" not in found:
            raise RunError(f"{run} is a run of {work.config.model.method}, which embeds {', '.join(found)} and no cls "
                           "token: choose a run of another method")
        parts.append(found["cls"].float().cpu())
    return work, indices, torch.cat(parts).numpy()


def tsne_layout(x: np.ndarray, perplexity: int) -> np.ndarray:
    """t-SNE of embeddings [n,E] to [n,2]; a perplexity above (n - 1) / 3 is lowered to that, small sets have no more.

    One thread and a fixed start: the same picture again on the same machine.
    """
    return TSNE(2, perplexity=min(perplexity, (len(x) - 1) / 3), init="pca", random_state=0, n_jobs=1).fit_transform(x)
