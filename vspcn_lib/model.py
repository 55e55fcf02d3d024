"""VSPCN: a frozen ViT, prompts that fuse with image and attributes, and heads that meet class prototypes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vspcn_lib.backbone import FrozenViT, TokenLayout
from vspcn_lib.config import ModelConfig
from vspcn_lib.fusion import Context, SemanticAdapter, StrongPromptFusion, WeakPromptFusion


@dataclass(frozen=True)
class VSPCNOutput:
    """What a forward pass returns, each by stream: cls, visual, semantic (those that exist)."""

    features: dict[str, Tensor]
    """[B,D] after the ViT's last norm: the cls token, the mean visual and the mean semantic prompt"""
    embedded: dict[str, Tensor]
    """[B,E] of unit length, in the space where prototypes live"""


class Heads(nn.Module):
    """embed(f) for each stream and the prototypes, in one space (design section 1, heads).

    visual-to-semantic: embed(f) = W_s standardise(f) in R^K, prototypes = attribute rows.
    semantic-to-visual: embed(f) = standardise(f) in R^D, prototypes = Linear(K->D)(attribute row).
    Both sides have unit length, so scores are scale x cosine.
    """

    def __init__(self, dim: int, attributes: int, streams: list[str], config: ModelConfig) -> None:
        super().__init__()
        self.scale = config.scale
        # Statistics of training images only. Without standardising the head underfits at lr 1e-3: a few
        # channels of a frozen ViT are far larger than the rest.
        self.standardise = nn.ModuleDict({s: nn.BatchNorm1d(dim, affine=False) for s in streams})
        to_semantic = config.embedding == "visual-to-semantic"
        self.embed = nn.ModuleDict({s: nn.Linear(dim, attributes) if to_semantic else nn.Identity()
                                    for s in streams})
        self.prototype = nn.Identity() if to_semantic else nn.Linear(attributes, dim)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features [B,D] by stream to unit embeddings [B,E] by stream."""
        return {s: F.normalize(self.embed[s](self.standardise[s](f)), dim=-1) for s, f in features.items()}

    def prototypes(self, attributes: Tensor) -> Tensor:
        """Class attribute rows [C,K] to unit prototypes [C,E]."""
        return F.normalize(self.prototype(F.normalize(attributes, dim=-1)), dim=-1)

    def scores(self, embedded: dict[str, Tensor], prototypes: Tensor) -> dict[str, Tensor]:
        """scale x cosine [B,C] by stream, of embeddings [B,E] with `prototypes` [C,E]."""
        return {s: self.scale * e @ prototypes.T for s, e in embedded.items()}


class ZeroShotModel(nn.Module):
    """Images to features by stream, and the heads that meet prototypes; VSPCN and every baseline is one.

    A subclass sets `heads` and defines `features(images [B,3,H,W]) -> {stream: [B,D]}`.
    """

    heads: nn.Module
    reads: tuple[str, ...] = ("cls",)
    """streams whose scores are averaged where images are classified"""

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """[B,D] by stream."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> VSPCNOutput:
        """Images [B,3,H,W], normalised, to features and embeddings by stream."""
        features = self.features(images)
        return VSPCNOutput(features, self.heads(features))

    def read(self, embedded: dict[str, Tensor]) -> Tensor:
        """The mean embedding [B,E] over `reads`, float32; its score with a prototype is the mean of theirs."""
        return torch.stack([embedded[s].float() for s in self.reads]).mean(0)

    def scores(self, embedded: dict[str, Tensor], prototypes: Tensor) -> Tensor:
        """[B,C], what classifies: embeddings by stream against class prototypes [C,E] (design: inference's score_c)."""
        return self.heads.scores({"read": self.read(embedded)}, prototypes)["read"]

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every parameter that trains, by name."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: trained weights and the heads' statistics, not the frozen ViT."""
        trained = self.trainable().keys()
        return {n: t for n, t in self.state_dict().items() if n in trained or n.startswith("heads.")}


class VSPCN(ZeroShotModel):
    """Images [B,3,H,W] to a `VSPCNOutput`; trains prompts, fusion, adapter and heads, never the ViT.

    `word_vectors` [K,G] are the attribute phrases' vectors; the class attributes come in only through
    `heads.prototypes`, so that unseen prototypes are named where they are used. With no prompts the tokens
    are timm's to the bit.
    """

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, config: ModelConfig) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        dim, attributes = backbone.dim, word_vectors.shape[0]
        visual, semantic = config.visual_prompts, config.semantic_prompts
        self.layout = TokenLayout(backbone.prefix, visual, semantic, backbone.patches)
        self.first_strong = config.first_strong_block - 1
        deep = len(backbone.blocks) - self.first_strong
        streams = ["cls"] + ["visual"] * bool(visual) + ["semantic"] * bool(semantic)
        self.heads = Heads(dim, attributes, streams, config)
        self.reads = tuple(s for s in config.readout.split("+") if s in streams)
        if visual:
            self.visual_prompts = nn.Parameter(initial_prompts(visual, dim))
            self.weak_visual = WeakPromptFusion(dim) if config.weak else None
            self.strong_visual = nn.ModuleList(
                StrongPromptFusion(dim, visual, backbone.patches, config.alpha_v)
                for _ in range(deep if config.strong else 0))
        if semantic:
            self.semantic_prompts = nn.Parameter(initial_prompts(semantic, dim))
            if config.weak or config.strong:
                self.register_buffer("word_vectors", word_vectors.float(), persistent=False)
                self.attribute_tokens = nn.Linear(word_vectors.shape[1], dim)  # S^0
            self.weak_semantic = WeakPromptFusion(dim) if config.weak else None
            self.strong_semantic = nn.ModuleList(
                StrongPromptFusion(dim, semantic, attributes, config.alpha_s)
                for _ in range(deep if config.strong else 0))
            self.adapters = nn.ModuleList(SemanticAdapter(dim, config.alpha_a) for _ in self.strong_semantic
                                          if config.adapter)

    def shallow(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens [B,T,D] before the first deep block, and S^0 [1,K,D]; neither depends on an alpha."""
        tokens = self.backbone.embed(images)
        prefix, patches = tokens[:, :self.layout.prefix], tokens[:, self.layout.prefix:]
        visual = semantic = tokens[:, :0]
        attributes = None
        if self.layout.visual:
            visual = self.visual_prompts.expand(len(images), -1, -1)
            if self.weak_visual is not None:
                visual = self.weak_visual(visual, tokens)  # F^0: all image tokens
        if self.layout.semantic:
            # Equal for every image until an adapter reads the patches, so kept at batch 1 until then.
            semantic = self.semantic_prompts.expand(1, -1, -1)
            if hasattr(self, "attribute_tokens"):
                attributes = self.attribute_tokens(self.word_vectors).unsqueeze(0)
            if self.weak_semantic is not None:
                semantic = self.weak_semantic(semantic, attributes)
            semantic = semantic.expand(len(images), -1, -1)
        tokens = torch.cat([prefix, visual, semantic, patches], dim=1)
        for block in self.backbone.blocks[:self.first_strong]:
            tokens = self._through(block, tokens)
        return tokens, attributes

    def _through(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """One block of the ViT; with `recompute` only its input is kept for the backward pass."""
        if self.config.recompute and torch.is_grad_enabled():
            return checkpoint(block, tokens, use_reentrant=False)
        return block(tokens)

    def deep(self, tokens: Tensor, attributes: Tensor | None, whole: bool = False) -> Tensor:
        """What `shallow` returned through adapter, strong fusion and the deep blocks, normed.

        [B,read,D], the tokens that heads read (prefix and prompts), or [B,T,D] if `whole`.
        """
        context = None if attributes is None else Context.growing(attributes)
        last = len(self.backbone.blocks) - self.first_strong - 1
        for i, block in enumerate(self.backbone.blocks[self.first_strong:]):
            if self.config.strong:
                prefix, visual, semantic, patches = self.layout.split(tokens)
                seen = Context.of(patches)
                if self.layout.visual:
                    visual, seen = self.strong_visual[i].fuse(visual, seen)
                if self.layout.semantic:
                    if self.config.adapter:
                        context = self.adapters[i].adapt(context, seen)
                    semantic, context = self.strong_semantic[i].fuse(semantic, context)
                tokens = torch.cat([prefix, visual, semantic, patches], dim=1)
            if whole or i < last:
                tokens = self._through(block, tokens)
            else:
                tokens = self.backbone.last_block(tokens, self.layout.read)
        return self.backbone.final_norm(tokens)

    def tokens(self, images: Tensor) -> Tensor:
        """The final, normed sequence [B,T,D] in the order of `layout`."""
        if not self.layout.visual + self.layout.semantic:
            return self.backbone.final_norm(self.backbone.blocks(self.backbone.embed(images)))
        return self.deep(*self.shallow(images), whole=True)

    def by_stream(self, tokens: Tensor) -> dict[str, Tensor]:
        """Final tokens [B,T,D] or [B,read,D] to [B,D] by stream: cls, the mean visual and the mean semantic prompt."""
        layout = self.layout
        prefix, visual, semantic = tokens[:, :layout.read].split([layout.prefix, layout.visual, layout.semantic], dim=1)
        found = {"cls": prefix[:, 0]}
        if layout.visual:
            found["visual"] = visual.mean(1)
        if layout.semantic:
            found["semantic"] = semantic.mean(1)
        return found

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to [B,D] by stream; without prompts through timm's own operations, to the bit."""
        if not self.layout.visual + self.layout.semantic:
            return self.by_stream(self.tokens(images))
        return self.by_stream(self.deep(*self.shallow(images)))


def initial_prompts(count: int, dim: int) -> Tensor:
    """[count, dim], small and random: ViT tokens are of this size at the input."""
    return nn.init.trunc_normal_(torch.empty(count, dim), std=0.02)
