"""What every method is: images to features by stream, and heads that meet class prototypes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib.config import ModelConfig


@dataclass(frozen=True)
class Output:
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

    def forward(self, images: Tensor) -> Output:
        """Images [B,3,H,W], normalised, to features and embeddings by stream."""
        features = self.features(images)
        return Output(features, self.heads(features))

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
