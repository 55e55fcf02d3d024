"""ESZSL (Romera-Paredes and Torr, ICML 2015): a bilinear map on frozen features, solved in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib.config import Config, MethodConfig, ModelConfig
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.zeroshot import DotHead, ZeroShotModel


@dataclass(frozen=True)
class ESZSLConfig(MethodConfig):
    """Nothing to set: validation classes choose the two regularisers from `ESZSL.candidates`."""

    name: ClassVar[str] = "eszsl"
    reads: ClassVar[tuple[str, ...]] = ()


class BilinearHead(DotHead):
    """scores = standardise(x) V s_c, with V [D,K] solved in closed form and unit attribute rows s_c.

    They are a regression onto +1 for the true class and -1 for the others.
    """

    def __init__(self, dim: int, attributes: int) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm1d(dim, affine=False)
        self.register_buffer("V", torch.zeros(dim, attributes))

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"cls": [B,D]} to {"cls": [B,K]}."""
        return {"cls": self.standardise(features["cls"]) @ self.V}


class ESZSL(ZeroShotModel):
    """scores = x^T V s_c on frozen cls features x; nothing is trained by gradient."""

    Settings = ESZSLConfig
    # gamma (features) and lambda (attributes)
    candidates = tuple((10.0**g, 10.0**a) for g in range(0, 6) for a in range(-2, 4))
    score_space = "bilinear x^T V s"

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, model: ModelConfig, settings: ESZSLConfig) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, BilinearHead(backbone.dim, len(word_vectors))

    @classmethod
    def reads_words(cls, config: Config) -> bool:
        """Never: attributes come in through the prototypes alone."""
        return False

    @classmethod
    def cached(cls, config: Config) -> bool:
        """Always: the ViT is frozen and nothing is put into it."""
        return True

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to {"cls": [B,D]}, the frozen ViT's own."""
        return {"cls": self.backbone.final_norm(self.backbone.blocks(self.backbone.embed(images)))[:, 0]}

    def solve(self, features: Tensor, targets: Tensor, attributes: Tensor,
              candidate: tuple[float, float]) -> dict[str, float]:
        """V = (X^T X + gamma I)^-1 X^T Y S (S^T S + lambda I)^-1, in float64 (equation 3 of the paper).

        X are the standardised features [n,D], Y [n,C] is +1 at `targets` [n] and -1 elsewhere, S the unit
        attribute rows [C,K] of the training classes; `candidate` is (gamma, lambda).
        """
        gamma, lam = candidate
        x = features.double()
        stats = self.heads.standardise
        stats.running_mean.copy_(x.mean(0))
        stats.running_var.copy_(x.var(0))
        x = (x - x.mean(0)) / (x.var(0) + stats.eps).sqrt()
        s = F.normalize(attributes.double(), dim=-1)
        y = 2 * F.one_hot(targets, len(s)).double() - 1
        left = torch.linalg.solve(x.T @ x + gamma * torch.eye(x.shape[1], device=x.device).double(), x.T @ y @ s)
        right = s.T @ s + lam * torch.eye(s.shape[1], device=s.device).double()
        self.heads.V.copy_(torch.linalg.solve(right, left.T).T)
        return {"gamma": gamma, "lambda": lam}
