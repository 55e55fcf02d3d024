"""VSPCN with its fusion written plainly, projection by projection: what the fast form is tested and timed against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vspcn_lib.fusion import SemanticAdapter, StrongPromptFusion, WeakPromptFusion
from vspcn_lib.model import VSPCN

Fusion = WeakPromptFusion | StrongPromptFusion | SemanticAdapter


def attend(module: Fusion, queries: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """delta(Q K^T / sqrt(D)) [B,Q,T] and V [B,T,D] with Q, K, V projected from normed queries and context."""
    context = module.norm_context(context)
    Q, K, V = module.query(module.norm_query(queries)), module.key(context), module.value(context)
    return module.attention(Q @ K.transpose(-2, -1) / math.sqrt(module.dim)), V


def weak(module: WeakPromptFusion, prompts: Tensor, context: Tensor) -> Tensor:
    """f = delta(Q K^T / sqrt(D)) V."""
    weights, values = attend(module, prompts, context)
    return weights @ values


def strong(module: StrongPromptFusion, prompts: Tensor, context: Tensor) -> Tensor:
    """f' = [a delta(Q K^T / sqrt(D)) + (1 - a) delta(B)] V + f."""
    weights, values = attend(module, prompts, context)
    return (module.alpha * weights + (1 - module.alpha) * module.bias_map(module.bias)) @ values + prompts


def adapt(module: SemanticAdapter, attributes: Tensor, patches: Tensor) -> Tensor:
    """S' = a delta(Q K^T / sqrt(D)) V + (1 - a) S."""
    weights, values = attend(module, attributes, patches)
    return module.alpha * (weights @ values) + (1 - module.alpha) * attributes


class PlainVSPCN(VSPCN):
    """The same parameters and the same numbers to rounding; every block computes every row."""

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to [B,D] by stream."""
        tokens, n = self.backbone.embed(images), len(images)
        visual = semantic = tokens[:, :0]
        attributes = None
        if self.layout.visual:
            visual = self.visual_prompts.expand(n, -1, -1)
            visual = weak(self.weak_visual, visual, tokens) if self.weak_visual is not None else visual
        if self.layout.semantic:
            semantic = self.semantic_prompts.expand(n, -1, -1)
            if hasattr(self, "attribute_tokens"):
                attributes = self.attribute_tokens(self.word_vectors).expand(n, -1, -1)
            semantic = weak(self.weak_semantic, semantic, attributes) if self.weak_semantic is not None else semantic
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
