"""The preset `cub` on made-up data of CUB's exact shape: 200 classes, 312 attributes, ViT-B/16 at 224 px.

`python tests/encoders/test_cub_shape.py BATCH` prints what docs/encoders.md holds.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat

from vspcn_lib.config import update
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.presets import preset
from vspcn_lib.zeroshot import Classes

CLASSES, ATTRIBUTES, EACH = 200, 312, 3


def make_cub(root: Path) -> Path:
    """CUB's official layout with three pictures a class: 150 seen classes, 50 of them for validation, 50 unseen."""
    rng = np.random.default_rng(0)
    names = [f"{i + 1:03d}.Bird_{i}" for i in range(CLASSES)]
    images = root / "CUB_200_2011" / "images"
    for name in names:
        (images / name).mkdir(parents=True)
        for k in range(EACH):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(images / name / f"{k}.png")
    (root / "CUB_200_2011" / "attributes").mkdir()
    (root / "CUB_200_2011" / "attributes" / "attributes.txt").write_text(
        "".join(f"{i + 1} has_part::a{i}\n" for i in range(ATTRIBUTES)))
    classes, k, numbers = np.repeat(np.arange(CLASSES), EACH), np.tile(np.arange(EACH), CLASSES), np.arange(
        1, CLASSES * EACH + 1)[:, None]
    unseen, val = classes >= 150, (classes >= 100) & (classes < 150)

    def texts(found: list[str]) -> np.ndarray:
        return np.array([[text] for text in found], dtype=object)

    folder = root / "xlsa17" / "data" / "CUB"
    folder.mkdir(parents=True)
    savemat(folder / "att_splits.mat", {
        "att": rng.random((ATTRIBUTES, CLASSES)), "allclasses_names": texts(names),
        "trainval_loc": numbers[~unseen & (k < 2)], "test_seen_loc": numbers[~unseen & (k == 2)],
        "test_unseen_loc": numbers[unseen], "train_loc": numbers[~unseen & ~val], "val_loc": numbers[val]})
    files = [f"/x/CUB_200_2011/images/{names[c]}/{i}.png" for c, i in zip(classes, k, strict=True)]
    savemat(folder / "res101.mat", {"image_files": texts(files), "labels": classes[:, None] + 1})
    return root


def open_cub(root: Path, batch: int) -> Workspace:
    """The preset with a file of random weights in place of the hub's, and random rows in place of GloVe's 300-d."""
    architecture = preset("cub").model.backbone
    torch.manual_seed(0)
    save_file(timm.create_model(architecture, num_classes=0).state_dict(), root / "vit.safetensors")
    np.save(root / "rows.npy", np.random.default_rng(1).normal(size=(ATTRIBUTES, 300)).astype(np.float32))
    config = update(preset("cub"), {"model": {"backbone": f"{architecture}@{root / 'vit.safetensors'}"},
                                    "data": {"root": str(root), "vectors": str(root / "rows.npy")},
                                    "train": {"batch_size": batch}})
    return Workspace.open(config, quiet=True)


def step(work: Workspace) -> dict[str, float]:
    """One training step and one forward pass of a batch, as the training loop does them: losses and CPU seconds."""
    model, bench, seen = work.model().train(), work.bench, work.bench.seen_classes
    rows = torch.from_numpy(bench.prototypes)
    images, labels, _ = next(iter(work.batches(bench.trainval, augment=True, shuffle=True).epoch(0)))
    targets = torch.from_numpy(np.searchsorted(seen, labels.numpy()))
    optimiser, began = model.optimiser(work.config.train), time.process_time()
    features = model.training_features(images, rows[labels])
    parts = model.loss(features, model.embed(features), targets, Classes(rows[seen]), work.config)
    parts["total"].backward()
    optimiser.step()
    trained, before = time.process_time() - began, time.process_time()
    with torch.no_grad():
        scores = model.eval().scores(model.embed(model.features(images)), model.prototypes(rows))
    assert scores.shape == (len(images), CLASSES) and torch.isfinite(scores).all()
    return {**{name: float(value.detach()) for name, value in parts.items()}, "images": len(images),
            "step": trained, "forward": time.process_time() - before,
            "trained": sum(p.numel() for p in model.trainable().values()),
            "all": sum(p.numel() for p in model.parameters())}


def test_the_preset_cub_trains_a_step_at_full_size(tmp_path: Path) -> None:
    work = open_cub(make_cub(tmp_path), batch=2)
    bench = work.bench
    assert (bench.num_classes, len(bench.seen_classes), len(bench.unseen_classes)) == (200, 150, 50)
    assert (work.backbone.patches, work.backbone.dim, len(work.backbone.blocks)) == (196, 768, 12)
    assert work.word_vectors.shape == (312, 300) and len(bench.val_classes) == 50
    found = step(work)
    assert np.isfinite(found["total"]) and {"cls", "ced", "skd"} <= set(found)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        opened = open_cub(make_cub(Path(folder)), batch=int(sys.argv[1]))
        print(step(opened), "peak GiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
