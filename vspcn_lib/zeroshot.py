"""What every method is: images to features by stream, heads that meet class prototypes, and how it is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib import losses
from vspcn_lib.config import Config, ConfigError, MethodConfig, ModelConfig, TrainConfig
from vspcn_lib.data.images import shuffled
from vspcn_lib.encoders.backbone import FrozenViT

# What a method with an optimiser of its own reads of the group train: not the learning rate and the weight decay.
BUDGET = ("train.epochs", "train.clip", "train.accumulate")


@dataclass(frozen=True)
class Output:
    """What a forward pass returns, each by stream: cls, visual, semantic (those that exist)."""

    features: dict[str, Tensor]
    """[B,D] after the ViT's last norm: the cls token, the mean visual and the mean semantic prompt"""
    embedded: dict[str, Tensor]
    """[B,E] of unit length, in the space where prototypes live"""


@dataclass(frozen=True)
class Classes:
    """The class attributes that a loss may see."""

    seen: Tensor
    """[C_s,K] rows of the classes that are trained on, in the order of the targets"""
    unseen: Tensor | None = None
    """[C_u,K] rows of the unseen classes, only for a method that `uses_unseen_prototypes`: in selection the validation
    classes, in the final training the real ones"""


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


class DotHead(nn.Module):
    """What heads share whose scores are plain dot products of an embedding [B,K] with unit attribute rows [C,K]."""

    def prototypes(self, attributes: Tensor) -> Tensor:
        """Class attribute rows [C,K] to unit rows."""
        return F.normalize(attributes, dim=-1)

    def scores(self, embedded: dict[str, Tensor], prototypes: Tensor) -> dict[str, Tensor]:
        """embedding . prototype [B,C] by stream."""
        return {s: e @ prototypes.T for s, e in embedded.items()}


class ZeroShotModel(nn.Module):
    """Images to features by stream, and the heads that meet prototypes; VSPCN and every other method is one.

    A subclass sets `heads` and defines `features(images [B,3,H,W]) -> {name: [B,...]}`, what its heads and its loss
    read. What follows below has the defaults of a model that is trained as VSPCN is; a method overrides what it does
    in its own way, and nothing outside its file needs to know.
    """

    Settings: ClassVar[type[MethodConfig]] = MethodConfig
    uses_unseen_prototypes: ClassVar[bool] = False
    """whether the loss reads the attribute rows of unseen classes (never their images); every table says so"""
    candidates: ClassVar[tuple[Any, ...]] = ()
    """settings of a closed form, from which validation chooses; a method with some is solved, not trained"""
    heads_first: ClassVar[bool] = True
    """whether `train.head_epochs` may fit the heads alone, by `loss`, on features of the model's start"""
    heads: nn.Module
    reads: tuple[str, ...] = ("cls",)
    """streams whose scores are averaged where images are classified"""

    @classmethod
    def build(cls, backbone: FrozenViT, word_vectors: Tensor, config: Config) -> ZeroShotModel:
        """The model of a run; word vectors [K,G]. Raises `ConfigError` where settings do not fit."""
        return cls(backbone, word_vectors, config.model, config.method)

    @classmethod
    def check(cls, config: Config, backbone: FrozenViT, attributes: int) -> None:
        """Raise `ConfigError` where the settings do not fit the backbone or the number of attributes, before any work.
        """

    @classmethod
    def cached(cls, config: Config) -> bool:
        """Whether what the method reads of an image never changes, so that the frozen ViT sees each image once."""
        return False

    @classmethod
    def reads_words(cls, config: Config) -> bool:
        """Whether the model reads the vectors of attribute names; one that does not takes attributes without names."""
        return True

    def begin(self, images: Tensor) -> None:
        """Set what starts from training images [B,3,H,W], before the first step; nothing by default."""

    def frozen(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W] to what a `cached` method keeps of them, [B,...]."""
        return self.features(images)["cls"]

    def unfrozen(self, kept: Tensor) -> dict[str, Tensor]:
        """What `frozen` kept of images, [B,...], as `features` would return it."""
        return {"cls": kept}

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """[B,D] by stream."""
        raise NotImplementedError

    def training_features(self, images: Tensor, attributes: Tensor) -> dict[str, Tensor]:
        """`features` in training, where a method may also read the true classes' attribute rows [B,K]."""
        return self.features(images)

    def embed(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings by stream, of what `features` returned."""
        return self.heads(features)

    def forward(self, images: Tensor) -> Output:
        """Images [B,3,H,W], normalised, to features and embeddings by stream."""
        features = self.features(images)
        return Output(features, self.embed(features))

    def prototypes(self, attributes: Tensor) -> Tensor:
        """Class attribute rows [C,K] to prototypes [C,E]."""
        return self.heads.prototypes(attributes)

    def read(self, embedded: dict[str, Tensor]) -> Tensor:
        """The mean embedding [B,E] over `reads`, float32; its score with a prototype is the mean of theirs."""
        return torch.stack([embedded[s].float() for s in self.reads]).mean(0)

    def scores(self, embedded: dict[str, Tensor], prototypes: Tensor) -> Tensor:
        """[B,C], what classifies: embeddings by stream against class prototypes [C,E] (design: inference's score_c)."""
        return self.heads.scores({"read": self.read(embedded)}, prototypes)["read"]

    @property
    def score_space(self) -> str:
        """The unit of scores and tau, in words."""
        return f"{'+'.join(self.reads)} cosine x {self.heads.scale:g}"

    def loss(self, features: dict[str, Tensor], embedded: dict[str, Tensor], targets: Tensor, classes: Classes,
             config: Config) -> dict[str, Tensor]:
        """L_BASE, L_CED and L_SKD of the streams that exist, by name, and their `total` (`losses.total`).

        `features` and `embedded` [B,...] of the whole batch, `targets` [B] in 0..C_s-1. Raises `losses.NotFinite`.
        """
        embedded = {s: e.float() for s, e in embedded.items()}
        prototypes = self.prototypes(classes.seen)
        return losses.total(self.heads.scores(embedded, prototypes), embedded, targets, prototypes[targets],
                            self.heads.scale, config.loss)

    def optimiser(self, train: TrainConfig) -> torch.optim.Optimizer:
        """Adam over every trained parameter (the paper's); each group's `peak` is the rate that `rate` scales."""
        groups = [{"params": list(self.trainable().values()), "peak": train.lr}]
        return torch.optim.Adam(groups, lr=train.lr, weight_decay=train.weight_decay, fused=True)

    def rate(self, peak: float, step: int, total: int, epoch: int) -> float:
        """The learning rate of a step of `total`: linear warm-up over a tenth, then a cosine to a hundredth."""
        lr = peak * min(1.0, (step + 1) / max(1, 0.1 * total))
        return lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total)))

    @classmethod
    def order(cls, config: Config, labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """The batches of an epoch as rows of the training images with `labels` [n]: every image once, shuffled."""
        return shuffled(len(labels), config.train.batch_size, rng)

    def paths(self) -> dict[str, list[nn.Module]]:
        """The modules of each path that reads the image before the heads, by name, for interventions (`runs/paths.py`).

        Each has an `attention` and an `output` module. None by default.
        """
        return {}

    def solve(self, features: Tensor, targets: Tensor, attributes: Tensor, candidate: Any) -> dict[str, float]:
        """Set the weights in closed form for one of `candidates`, which is returned by name for the log."""
        raise NotImplementedError

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every parameter that trains, by name."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: trained weights and the heads' statistics, not the frozen ViT."""
        trained = self.trainable().keys()
        return {n: t for n, t in self.state_dict().items() if n in trained or n.startswith("heads.")}


def check_patches(config: Config, backbone: FrozenViT) -> None:
    """Raise `ConfigError` where the backbone gives a method that attends to patches fewer than two of them."""
    if backbone.patches < 2:
        raise ConfigError(f"model.method = {config.model.method!r} reads patch tokens, of which the backbone has "
                          f"{backbone.patches} at data.size = {config.data.size}: choose a larger size, or a ViT")
