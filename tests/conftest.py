"""A tiny world for tests: a 4-block, 32-wide ViT and a folder benchmark of 5 seen and 3 unseen classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from vspcn_lib.backbone import FrozenViT

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data folder ../shared/data is absent")
ATTRIBUTES = ["has_crown_color::red", "has_bill_shape::hooked", "has_size::small", "has_tail_shape::forked",
              "has_wing_color::blue", "has_belly_color::white"]


@pytest.fixture
def tiny_vit() -> FrozenViT:
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=0)
    return FrozenViT(vit, {"tag": "tiny", "source": "test", "sha256": "0" * 64})


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """Folder benchmark: 5 seen classes (2 of them validation) and 3 unseen, 6 images each, one hue a class."""
    rng, folder = np.random.default_rng(0), tmp_path / "tiny"
    names = [f"bird_{i}" for i in range(8)]
    splits: dict[str, list[str]] = {"trainval": [], "test_seen": [], "test_unseen": []}
    for i, name in enumerate(names):
        (folder / "images" / name).mkdir(parents=True)
        for k in range(6):
            pixels = (rng.normal(128, 30, (32, 32, 3)) + 60 * np.sin([i, 2 * i, 3 * i])).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / name / f"{k}.png")
            splits["test_unseen" if i > 4 else "trainval" if k < 4 else "test_seen"].append(f"{name}/{k}.png")
    rows = ["class," + ",".join(ATTRIBUTES)]
    rows += [name + "," + ",".join(f"{v:.3f}" for v in rng.uniform(0.05, 1, len(ATTRIBUTES))) for name in names]
    (folder / "attributes.csv").write_text("\n".join(rows) + "\n")
    (folder / "splits.json").write_text(json.dumps({**splits, "val_classes": ["bird_3", "bird_4"]}))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Tests never write to the user's cache, except those that ask for the packaged weights."""
    if "real_cache" not in request.keywords:
        monkeypatch.setenv("VSPCN_CACHE", str(tmp_path / "cache"))
