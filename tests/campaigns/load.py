"""The load campaign trains on 100,000 images of 2,000 classes and lists 1,000 records.

`PYTHONPATH=tests python tests/campaigns/load.py`
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from world import ATTRIBUTES, keep, make_config, make_folder

from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.records import markdown, read_records, summary
from vspcn_lib.system.environment import environment
from vspcn_lib.train import run


def make_world(folder: Path, images: int, classes: int, size: int = 16) -> Path:
    """A folder benchmark of `images` PNG files in `classes` classes, 30 % of them unseen."""
    make_folder(folder.parent / "tiny")
    rng, each = np.random.default_rng(0), images // classes
    splits: dict[str, list[str]] = {"trainval": [], "test_seen": [], "test_unseen": []}
    colours = rng.integers(40, 216, (classes, 3))
    for c in range(classes):
        place = folder / "images" / f"class_{c:04d}"
        place.mkdir(parents=True)
        noise = rng.integers(-40, 40, (each, size, size, 3)) + colours[c]
        for i in range(each):
            Image.fromarray(noise[i].astype(np.uint8)).save(place / f"{i}.png", compress_level=1)
            part = "test_unseen" if c >= 0.7 * classes else "trainval" if i < 0.8 * each else "test_seen"
            splits[part].append(f"class_{c:04d}/{i}.png")
    rows = ["class," + ",".join(ATTRIBUTES)]
    rows += [f"class_{c:04d}," + ",".join(f"{v:.4f}" for v in rng.uniform(0.05, 1, len(ATTRIBUTES)))
             for c in range(classes)]
    (folder / "attributes.csv").write_text("\n".join(rows) + "\n")
    (folder / "splits.json").write_text(json.dumps(splits))
    (folder / "vectors.txt").write_text((folder.parent / "tiny" / "vectors.txt").read_text())
    return folder


def train_one(folder: Path, out: Path, linear: bool, answer: Path) -> None:
    """One run of the whole protocol, one epoch; its seconds and the process's largest memory."""
    torch.set_num_threads(2)
    changes: dict[str, Any] = {"train": {"epochs": 1, "batch_size": 256}}
    if linear:
        changes["model"] = {"visual_prompts": 0, "semantic_prompts": 0}
    config = make_config(folder, data={"size": 16}, **changes)
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=16, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=0)
    start, before = time.monotonic(), _peak()
    work = Workspace.open(config, FrozenViT(vit, {"tag": "tiny", "source": "test", "sha256": "0" * 64}))
    opened = time.monotonic()
    result = run(config, out, work=work)
    matrix = result["images"]["test_seen"] + result["images"]["test_unseen"]
    answer.write_text(json.dumps({
        "seconds to read and cache": round(opened - start, 1), "seconds to train and evaluate":
        round(time.monotonic() - opened, 1), "GiB before": before, "GiB at most": _peak(),
        "score matrix GiB (float32)": round(matrix * work.bench.num_classes * 4 / 2**30, 3),
        "images": len(work.bench.labels), "classes": work.bench.num_classes}))


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def list_records(root: Path, count: int, like: Path) -> dict[str, Any]:
    """`count` copies of a committed record in one folder, read and summed up to the table."""
    root.mkdir()
    record = json.loads(like.read_text())
    for i in range(count):
        record["result"]["seed"], record["config"]["train"]["seed"] = i, i
        (root / f"run-{i:04d}.json").write_text(json.dumps(record, separators=(",", ":")))
    size = sum(p.stat().st_size for p in root.iterdir())
    start = time.monotonic()
    text = markdown(summary(read_records(root)))
    return {"records": count, "MB": round(size / 1e6, 1), "seconds to list": round(time.monotonic() - start, 2),
            "rows": text.count("\n") - 2}


def campaign(root: Path, images: int, classes: int, records: int) -> dict[str, Any]:
    """Both parts below the empty folder `root`."""
    os.environ["VSPCN_CACHE"] = str(root / "cache")
    start = time.monotonic()
    folder = make_world(root / "world", images, classes)
    found: dict[str, Any] = {"seconds to draw": round(time.monotonic() - start, 1)}
    for name, linear in (("VSPCN", False), ("linear head", True)):
        answer = root / f"answer-{linear}.json"
        process = multiprocessing.get_context("spawn").Process(
            target=train_one, args=(folder, root / f"run-{linear}", linear, answer))
        process.start()
        process.join()
        found[name] = json.loads(answer.read_text())
    like = sorted((Path(__file__).resolve().parents[2] / "records").glob("*.json"))[0]
    found["list"] = list_records(root / "records", records, like)
    return found


def main() -> None:
    """Run both and print the record, or keep it in a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=2000)
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=None, help="a JSON record")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), a.images, a.classes, a.records)
    options = f"--images {a.images} --classes {a.classes}"
    keep({**found, "command": f"PYTHONPATH=tests python tests/campaigns/load.py {options}",
          "environment": environment()}, a.out)


if __name__ == "__main__":
    sys.exit(main())
