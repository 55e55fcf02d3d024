"""MSDN (Chen et al., CVPR 2022): attributes attend to regions and regions to attributes, and both teach each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib import losses
from vspcn_lib.config import Config, MethodConfig, ModelConfig, TrainConfig, check_range
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.zeroshot import BUDGET, Classes, DotHead, ZeroShotModel, check_patches


@dataclass(frozen=True)
class MSDNConfig(MethodConfig):
    """The released settings for CUB; where those for SUN and AWA2 differ, the line says so."""

    name: ClassVar[str] = "msdn"
    reads: ClassVar[tuple[str, ...]] = BUDGET
    lambda_cal: float = 0.1
    """weight of the self-calibration (SUN 1e-4, AWA2 0.12)"""
    lambda_dist: float = 1e-3
    """weight of the mutual distillation (SUN 1e-2, AWA2 1e-7)"""
    shift: float = 1.0
    """what unseen logits gain and seen ones lose inside the self-calibration and the distillation. As released it also
    sits in the prediction, a hidden calibration of 2; here tau takes its place there, chosen on validation classes"""
    mix: float = 0.9
    """weight of the attribute-to-visual net where images are classified, of the other 1 - mix (SUN 0.7, AWA2 1)"""
    renormalise: bool = False
    """bring the attribute vectors to unit length in each pass, not at the start alone (AWA2)"""
    clamp: bool = False
    """set negative class attributes to 0 (AWA2, which has four of them)"""
    batches: Literal["images", "classes"] = "images"
    """images: a batch is drawn from all images; classes: one image from each of as many classes (SUN, AWA2)"""
    lr: float = 1e-4
    """learning rate of RMSprop, constant"""
    weight_decay: float = 1e-4
    """of RMSprop, on every parameter"""
    momentum: float = 0.9
    """of RMSprop (AWA2 0)"""

    def __post_init__(self) -> None:
        for name, high in (("lambda_cal", 1e3), ("lambda_dist", 1e3), ("shift", 1e3), ("mix", 1.0),
                           ("weight_decay", 10.0), ("momentum", 0.999)):
            check_range(f"method.{name}", getattr(self, name), 0.0, high)
        check_range("method.lr", self.lr, 1e-8, 10.0)


class TwoSubNets(DotHead):
    """Attribute -> visual and visual -> attribute attention over regions; four bilinear maps and the attributes v.

    With unit region features f_r [D] and attribute vectors v_k [G]:
    psi1_k = sum_r softmax_r(v_k^T W2 f_r) v_k^T W1 f_r and psi2_k = sum_r softmax_k(v_k^T W4 f_r) f_r^T W3 v_k. The
    start is the released one: W1 ~ N(0,1), the others 0, v the unit word vectors.
    """

    def __init__(self, dim: int, word_vectors: Tensor, settings: MSDNConfig) -> None:
        super().__init__()
        words = word_vectors.shape[1]
        self.renormalise, self.clamp, self.mix = settings.renormalise, settings.clamp, settings.mix
        self.attribute_vectors = nn.Parameter(F.normalize(word_vectors.float(), dim=-1))
        self.w1 = nn.Parameter(torch.randn(words, dim))
        self.w2 = nn.Parameter(torch.zeros(words, dim))
        self.w3 = nn.Parameter(torch.zeros(dim, words))
        self.w4 = nn.Parameter(torch.zeros(words, dim))

    def attention(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """A1 and A2 [B,K,R] of regions [B,R,D]: each attribute's weights of regions, each region's of attributes."""
        v, f = self._inputs(regions)
        return (v @ self.w2 @ f).softmax(-1), (v @ self.w4 @ f).softmax(1)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"regions": [B,R,D]} to psi1 and psi2, [B,K] each."""
        v, f = self._inputs(features["regions"])
        to_visual, to_attribute = self.attention(features["regions"])
        return {"attribute_to_visual": (to_visual * (v @ self.w1 @ f)).sum(-1),
                "visual_to_attribute": (to_attribute * (v @ self.w3.T @ f)).sum(-1)}

    def _inputs(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """v [K,G], and unit regions as columns [B,D,R]."""
        v = self.attribute_vectors
        return F.normalize(v, dim=-1) if self.renormalise else v, F.normalize(regions, dim=-1).transpose(1, 2)

    def prototypes(self, attributes: Tensor) -> Tensor:
        """Class attribute rows [C,K] to unit rows, without negative values if `clamp`."""
        return F.normalize(attributes.clamp_min(0) if self.clamp else attributes, dim=-1)


class MSDN(ZeroShotModel):
    """Final-normed patch tokens of the frozen ViT as regions, read once and kept, and two sub-nets that train on them.

    Released for the 14 x 14 cells of a frozen ResNet-101; here a region is a patch token, however many there are. What
    differs from the release: the words are this project's phrase vectors, gradients are clipped as everyone's, and an
    epoch draws as many images as there are, a batch being drawn afresh at each step as there.
    """

    Settings = MSDNConfig
    uses_unseen_prototypes = True
    heads_first = False
    score_space = "mix of two bilinear scores psi . a"

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, model: ModelConfig, settings: MSDNConfig) -> None:
        super().__init__()
        self.backbone, self.settings = backbone, settings
        self.heads = TwoSubNets(backbone.dim, word_vectors, settings)

    @classmethod
    def check(cls, config: Config, backbone: FrozenViT, attributes: int) -> None:
        """Raise `ConfigError` for a backbone without patch tokens."""
        check_patches(config, backbone)

    @classmethod
    def cached(cls, config: Config) -> bool:
        """Always: the regions come from the frozen ViT alone."""
        return True

    def frozen(self, images: Tensor) -> Tensor:
        """Images [B,3,H,W] to regions [B,R,D], the final-normed patch tokens."""
        return self.features(images)["regions"]

    def unfrozen(self, kept: Tensor) -> dict[str, Tensor]:
        """Regions [B,R,D] by their name."""
        return {"regions": kept}

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to {"regions": [B,R,D]}."""
        vit = self.backbone
        return {"regions": vit.final_norm(vit.blocks(vit.embed(images)))[:, vit.prefix:]}

    def read(self, embedded: dict[str, Tensor]) -> Tensor:
        """mix psi1 + (1 - mix) psi2, [B,K]."""
        first, second = (losses.widened(embedded[s]) for s in ("attribute_to_visual", "visual_to_attribute"))
        return self.settings.mix * first + (1 - self.settings.mix) * second

    def loss(self, features: dict[str, Tensor], embedded: dict[str, Tensor], targets: Tensor, classes: Classes,
             config: Config) -> dict[str, Tensor]:
        """Cross-entropy and self-calibration of both sub-nets and their mutual distillation, and the `total`.

        L = sum_i (CE_i + lambda_cal cal_i) + lambda_dist dist over all classes: the
        unseen ones are negatives of CE. `embedded` [B,K] by sub-net, `targets` [B]. Raises `losses.NotFinite`.
        """
        s, parts = self.settings, {}
        rows, count = self.prototypes(torch.cat([classes.seen, classes.unseen])), len(classes.seen)
        shift = torch.cat([rows.new_full((count,), -s.shift), rows.new_full((len(rows) - count,), s.shift)])
        plain = self.heads.scores({n: losses.widened(e) for n, e in embedded.items()}, rows)
        for name, logits in plain.items():
            parts[f"ce_{name}"] = F.cross_entropy(logits, targets)
            parts[f"cal_{name}"] = calibration(logits + shift, count)
        parts["dist"] = distillation(*(logits + shift for logits in plain.values()))
        return losses.weighted(parts, {n: s.lambda_dist if n == "dist" else s.lambda_cal if n.startswith("cal") else 1.0
                                       for n in parts})

    def optimiser(self, train: TrainConfig) -> torch.optim.Optimizer:
        """RMSprop over the four maps and the attribute vectors."""
        s = self.settings
        groups = [{"params": list(self.trainable().values()), "peak": s.lr}]
        return torch.optim.RMSprop(groups, lr=s.lr, weight_decay=s.weight_decay, momentum=s.momentum)

    def rate(self, peak: float, step: int, total: int, epoch: int) -> float:
        """Constant, as released."""
        return peak

    @classmethod
    def order(cls, config: Config, labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """As many batches as the images fill, each drawn afresh: from all images, or one of each class drawn."""
        size, groups = config.train.batch_size, [np.flatnonzero(labels == c) for c in np.unique(labels)]
        by_class = config.method.batches == "classes"
        size = min(size, len(groups) if by_class else len(labels))  # AWA2 has 40 training classes for batches of 50
        if not by_class:
            return [rng.choice(len(labels), size, replace=False) for _ in range(len(labels) // size)]
        return [np.array([rng.choice(groups[c]) for c in rng.choice(len(groups), size, replace=False)])
                for _ in range(len(labels) // size)]


def calibration(shifted: Tensor, seen: int) -> Tensor:
    """cal = -log(mean_b sum over unseen classes of softmax(logits)), the mean inside the log.

    `shifted` [B,C] are the shifted logits, the `seen` classes first.
    """
    return -(shifted.log_softmax(-1)[:, seen:].logsumexp((0, 1)) - np.log(len(shifted)))


def distillation(first: Tensor, second: Tensor) -> Tensor:
    """dist = mean_b sum_c |d_c|^3 / ||d||_2 + JSD, with d the difference of both nets' shifted logits [B,C].

    Where both nets agree the first term is 0/0 as released; here it is 0, its limit.
    """
    d = first - second
    return (d.abs().pow(3).sum(-1) / d.norm(dim=-1).clamp_min(1e-12)).mean() + losses.jsd(first, second)
