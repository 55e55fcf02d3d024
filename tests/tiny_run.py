"""A whole tiny run as `accelerate launch` starts it: tests/tiny_run.py FOLDER OUT."""

import sys

import torch
from timm.models.vision_transformer import VisionTransformer

from vspcn_lib.config import Config, update
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import run


def tiny_config(folder: str) -> Config:
    """13 images to fit in batches of 5: shards of 3 and 2, and a last batch of other size."""
    return update(Config(), {"data": {"benchmark": folder, "size": 32},
                             "model": {"visual_prompts": 2, "semantic_prompts": 2, "first_strong_block": 3},
                             "train": {"epochs": 2, "batch_size": 5, "accumulate": 2}})


def tiny_vit() -> FrozenViT:
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=4, num_heads=4, num_classes=0)
    return FrozenViT(vit, {"tag": "tiny", "source": "test", "sha256": "0" * 64})


if __name__ == "__main__":
    from pathlib import Path

    config = tiny_config(sys.argv[1])
    work = Workspace.open(config, tiny_vit())
    run(config, Path(sys.argv[2]), work=work)
    print(f"process {work.accelerator.process_index} of {work.accelerator.num_processes} done", flush=True)
