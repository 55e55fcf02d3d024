"""Attention maps by name, through hooks that live inside a `with` and are always removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from vspcn_lib.fusion import AttentionMap
from vspcn_lib.model import VSPCN


class CaptureError(RuntimeError):
    """Nothing ran inside the `with`, or the ViT's blocks keep no attention map, so there is nothing to show."""


@contextmanager
def attention_maps(model: VSPCN) -> Iterator[dict[str, Tensor]]:
    """Collect every attention of the forward passes inside the `with`, by module name, on the CPU.

    Fusion maps, means over heads: `weak_visual.attention` [B,P,T], `strong_visual.3.attention` [B,P,N], ...; the ViT's
    own: `backbone.vit.blocks.11.attn` [B,heads,T,T]. timm's fused attention never forms its softmax, so it is switched
    off inside and back on afterwards; blocks that attend in parallel keep no map and are passed over. Raises
    `CaptureError` if no forward pass ran.
    """
    maps: dict[str, Tensor] = {}
    handles, fused = [], []

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found = output.detach().float().cpu()
            heads = module.heads if isinstance(module, AttentionMap) else 1
            maps[name] = found if heads == 1 else found.unflatten(1, (-1, heads)).mean(2)
        return hook

    try:
        for name, module in model.named_modules():
            if isinstance(module, AttentionMap):
                handles.append(module.register_forward_hook(keep(name)))
        for i, block in enumerate(model.backbone.blocks):
            if not hasattr(getattr(block, "attn", None), "attn_drop"):
                continue
            fused.append((block.attn, block.attn.fused_attn))
            block.attn.fused_attn = False
            handles.append(block.attn.attn_drop.register_forward_hook(keep(f"backbone.vit.blocks.{i}.attn")))
        yield maps
        if not maps:
            raise CaptureError("no forward pass ran inside attention_maps(): call model(images) in the `with`")
    finally:
        for handle in handles:
            handle.remove()
        for module, value in fused:
            module.fused_attn = value


def vit_attention(model: VSPCN, maps: dict[str, Tensor], block: int) -> Tensor:
    """The ViT's own attention [B,T,T] in a block counted from 1, the mean over heads, of what `attention_maps` kept.

    Raises `CaptureError` for a kind of block that keeps none.
    """
    name = f"backbone.vit.blocks.{block - 1}.attn"
    if name not in maps:
        raise CaptureError(f"the blocks of {model.backbone.source.get('tag')} are timm's "
                           f"{type(model.backbone.blocks[block - 1]).__name__}, which keeps no attention map to draw")
    return maps[name].mean(1)


@torch.no_grad()
def prompt_attention(model: VSPCN, images: Tensor) -> dict[str, Tensor]:
    """Where cls, visual and semantic prompts look in the last block: [B,side,side] by stream, each summing to 1.

    `images` [B,3,H,W], normalised; mean over heads and over the prompts of a stream.
    """
    model.eval()
    with attention_maps(model) as maps:
        model(images)
    attention = vit_attention(model, maps, len(model.backbone.blocks))
    prefix, visual, semantic, _ = model.layout.split(attention)  # by query
    to_patches = {"cls": prefix[:, :1], "visual": visual, "semantic": semantic}
    side = round(model.layout.patches ** 0.5)
    found = {}
    for stream, rows in to_patches.items():
        if rows.shape[1]:
            weights = rows[:, :, -model.layout.patches:].mean(1)
            found[stream] = (weights / weights.sum(-1, keepdim=True)).reshape(-1, side, side)
    return found


def evenness(attention: np.ndarray) -> float:
    """The entropy of a map that sums to 1, over that of an even one: 1 prefers no place, 0 is one patch alone."""
    return float(-(attention * np.log(np.maximum(attention, 1e-12))).sum() / np.log(attention.size))
