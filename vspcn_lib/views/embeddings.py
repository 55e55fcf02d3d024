"""cls embeddings of finished runs: how well they separate classes, in numbers, and t-SNE layouts of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances, silhouette_score
from tqdm.auto import tqdm

from vspcn_lib.data.images import image_cache
from vspcn_lib.data.photos import photo_identity
from vspcn_lib.data.splits import Benchmark
from vspcn_lib.runs.embedded import read_embedded
from vspcn_lib.runs.evaluation import embed
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.identity import DATA, differences, identity, open_benchmark
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.zeroshot import ZeroShotModel


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


@dataclass(frozen=True)
class Tested:
    """The test images of a finished run, and their unit cls embeddings."""

    bench: Benchmark
    pixels: np.ndarray
    """of all images, uint8 [N,3,H,W]"""
    indices: np.ndarray
    """[n] of the test images"""
    embedded: np.ndarray
    """[n,E]"""


def cls_embeddings(run: Path, progress: bool = True) -> Tested:
    """The test images of a finished run; embeddings that it kept are read, those of an older run computed.

    Raises `RunError` where data or weights are no longer those of the run.
    """
    folder = RunFolder(Path(run))
    kept, config = read_embedded(folder), folder.config()
    if kept is None:
        work, model = load_trained(folder, quiet=True)
        indices = np.concatenate([work.bench.test_seen, work.bench.test_unseen])
        return Tested(work.bench, work.pixels, indices, _computed(run, work, model, indices, progress))
    bench = open_benchmark(config.data)
    now = identity(bench, photo_identity(bench), np.empty((0, 0)), "")
    if changed := differences(folder.read_json("inputs.json") or {}, {kind: now[kind] for kind in DATA}):
        raise RunError(f"{run} is a run of other data than there are now: {changed}; put back what was changed, or "
                       "choose another run")
    indices = np.concatenate([bench.test_seen, bench.test_unseen])
    return Tested(bench, image_cache(bench.image_paths, config.data.size, progress=False), indices, kept)


@torch.no_grad()
def _computed(run: Path, work: Workspace, model: ZeroShotModel, indices: np.ndarray, progress: bool) -> np.ndarray:
    batches = work.batches(indices, augment=False)
    parts = []
    for x, _, _ in tqdm(batches.epoch(0), "embeddings", len(batches), leave=False, disable=not progress):
        found = embed(work.config, model, x)
        if "cls" not in found:
            raise RunError(f"{run} is a run of {work.config.model.method}, which embeds {', '.join(found)} and no cls "
                           "token: choose a run of another method")
        parts.append(found["cls"].float().cpu())
    return torch.cat(parts).numpy()


def tsne_layout(x: np.ndarray, perplexity: int) -> np.ndarray:
    """t-SNE of embeddings [n,E] to [n,2]; a perplexity above (n - 1) / 3 is lowered to that, small sets have no more.

    One thread and a fixed start: the same picture again on the same machine.
    """
    return TSNE(2, perplexity=min(perplexity, (len(x) - 1) / 3), init="pca", random_state=0, n_jobs=1).fit_transform(x)
