"""VSPCN with its fusion written plainly, projection by projection: what the fast form is tested and timed against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vspcn_lib.fusion import SemanticAdapter, StrongPromptFusion, WeakPromptFusion
from vspcn_lib.model import VSPCN

Fusion = WeakPromptFusion | StrongPromptFusion | SemanticAdapter


def attend(module: Fusion, queries: Tensor, context: Tensor, bias: Tensor | None = None,
           alpha: float = 1.0) -> Tensor:
    """[a delta(Q K^T / sqrt(D/h)) + (1 - a) bias] V [B,Q,D], head by head, with Q, K, V projected from normed queries
    and context; bias [Q,T]."""
    context, heads = module.norm_context(context), module.heads
    Q, K, V = (x.unflatten(-1, (heads, -1)).transpose(1, 2)
               for x in (module.query(module.norm_query(queries)), module.key(context), module.value(context)))
    logits = Q @ K.transpose(-2, -1) * math.sqrt(heads / module.dim)  # [B,h,Q,T]
    weights = module.attention(logits.transpose(1, 2).flatten(1, 2)).unflatten(1, (-1, heads)).transpose(1, 2)
    if bias is not None:
        weights = alpha * weights + (1 - alpha) * bias
    return (weights @ V).transpose(1, 2).flatten(2)


def strong(module: StrongPromptFusion, prompts: Tensor, context: Tensor) -> Tensor:
    """f' = [a delta(Q K^T / sqrt(D)) + (1 - a) delta(B)] V + f."""
    return attend(module, prompts, context, module.bias_map(module.bias), module.alpha) + prompts


def adapt(module: SemanticAdapter, attributes: Tensor, patches: Tensor) -> Tensor:
    """S' = a delta(Q K^T / sqrt(D)) V + (1 - a) S."""
    return module.alpha * attend(module, attributes, patches) + (1 - module.alpha) * attributes


class PlainVSPCN(VSPCN):
    """The same parameters and the same numbers to rounding; every block computes every row."""

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to [B,D] by stream."""
        tokens, n = self.backbone.embed(images), len(images)
        visual = semantic = tokens[:, :0]
        attributes = None
        if self.layout.visual:
            visual = self.visual_prompts.expand(n, -1, -1)
            visual = visual + attend(self.weak_visual, visual, tokens) if self.weak_visual is not None else visual
        if self.layout.semantic:
            semantic = self.semantic_prompts.expand(n, -1, -1)
            if hasattr(self, "attribute_tokens"):
                attributes = self.attribute_tokens(self.word_vectors).expand(n, -1, -1)
            if self.weak_semantic is not None:
                semantic = semantic + attend(self.weak_semantic, semantic, attributes)
        prefix, patches = tokens[:, :self.layout.prefix], tokens[:, self.layout.prefix:]
        tokens = torch.cat([prefix, visual, semantic, patches], dim=1)
        for number, block in enumerate(self.backbone.blocks):
            i = number - self.first_strong
            if self.config.strong and i >= 0:
                prefix, visual, semantic, patches = self.layout.split(tokens)
                if self.layout.visual:
                    visual = strong(self.strong_visual[i], visual, patches)
                if self.layout.semantic:
                    attributes = adapt(self.adapters[i], attributes, patches) if self.config.adapter else attributes
                    semantic = strong(self.strong_semantic[i], semantic, attributes)
                tokens = torch.cat([prefix, visual, semantic, patches], dim=1)
            tokens = block(tokens)
        return self.by_stream(self.backbone.final_norm(tokens))
