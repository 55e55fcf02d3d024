"""A tiny world that tests and campaigns share: a 4-block, 32-wide ViT and a folder benchmark of 8 hues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from vspcn_lib.config import Config, update
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.encoders.phrases import attribute_phrase
from vspcn_lib.methods.registry import build
from vspcn_lib.zeroshot import ZeroShotModel

ATTRIBUTES = ["has_crown_color::red", "has_bill_shape::hooked", "has_size::small", "has_tail_shape::forked",
              "has_wing_color::blue", "has_belly_color::white"]
TINY = {"model": {"visual_prompts": 2, "semantic_prompts": 2, "first_strong_block": 3},
        "train": {"epochs": 2, "batch_size": 4}}


def make_vit() -> FrozenViT:
    """32 px, patch 8, 4 blocks of width 32, always the same random weights."""
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=0)
    return FrozenViT(vit, {"tag": "tiny", "source": "test", "sha256": "0" * 64})


def make_folder(folder: Path, images: int = 6) -> Path:
    """5 seen classes (2 of them validation) and 3 unseen, `images` each, one hue a class; and word vectors."""
    rng = np.random.default_rng(0)
    names, train = [f"bird_{i}" for i in range(8)], 2 * images // 3
    splits: dict[str, list[str]] = {"trainval": [], "test_seen": [], "test_unseen": []}
    for i, name in enumerate(names):
        (folder / "images" / name).mkdir(parents=True)
        for k in range(images):
            pixels = (rng.normal(128, 30, (32, 32, 3)) + 60 * np.sin([i, 2 * i, 3 * i])).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / name / f"{k}.png")
            splits["test_unseen" if i > 4 else "trainval" if k < train else "test_seen"].append(f"{name}/{k}.png")
    rows = ["class," + ",".join(ATTRIBUTES)]
    rows += [name + "," + ",".join(f"{v:.3f}" for v in rng.uniform(0.05, 1, len(ATTRIBUTES))) for name in names]
    (folder / "attributes.csv").write_text("\n".join(rows) + "\n")
    (folder / "splits.json").write_text(json.dumps({**splits, "val_classes": ["bird_3", "bird_4"]}))
    words = sorted({word for name in ATTRIBUTES for word in attribute_phrase(name)})
    lines = [f"{len(words)} 4"] + [f"{w} " + " ".join(f"{v:.4f}" for v in rng.normal(size=4)) for w in words]
    (folder / "vectors.txt").write_text("\n".join(lines) + "\n")
    return folder


def make_model(vit: FrozenViT, method: str, attributes: int = 6, **own: Any) -> ZeroShotModel:
    """A method's model with random word vectors [attributes, 5] and, of its own settings, `own`."""
    torch.manual_seed(0)
    return build(vit, torch.randn(attributes, 5), update(Config(), {"model": {"method": method}, "method": own}))


def make_config(folder: Path, **changes: dict[str, Any]) -> Config:
    """The tiny settings for `folder`, with its own word vectors."""
    data = {"benchmark": str(folder), "size": 32, "vectors": str(folder / "vectors.txt")}
    return update(update(Config(), {**TINY, "data": data}), changes)


def keep(record: dict[str, Any], out: Path | None) -> None:
    """Print a campaign's record, and keep it in the file `out` where one is named."""
    text = json.dumps(record, indent=1)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
