"""Baselines under VSPCN's own protocol, heads and losses: ESZSL, VPT, one pooled semantic prompt, fine-tuning."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib.config import ConfigError, ModelConfig
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.model import VSPCN, initial_prompts
from vspcn_lib.zeroshot import Heads, ZeroShotModel

# ESZSL's gamma (features) and lambda (attributes): the pairs that validation classes choose from.
ESZSL_GRID = tuple((10.0**g, 10.0**a) for g in range(0, 6) for a in range(-2, 4))


def build(backbone: FrozenViT, word_vectors: Tensor, config: ModelConfig) -> ZeroShotModel:
    """The model that `config.method` names; word vectors [K,G]. Raises `ConfigError` where settings do not fit."""
    attributes = len(word_vectors)
    if config.method == "vspcn":
        return VSPCN(backbone, word_vectors, config)
    if config.method == "eszsl":
        return ESZSL(backbone, attributes)
    if config.method == "finetune":
        return FineTuned(backbone, attributes, config)
    return PromptTuned(backbone, word_vectors, config)


class PromptTuned(ZeroShotModel):
    """[prefix, prompts, patches] through the frozen ViT, cls readout (VPT, Jia et al., ECCV 2022).

    vpt-shallow: P_v learned prompts enter block 1. vpt-deep: every block gets P_v of its own, which overwrite
    what the block before made of them. sp: one prompt, Linear(mean of the K attribute vectors), enters block 1.
    """

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, config: ModelConfig) -> None:
        super().__init__()
        self.backbone, self.deep = backbone, config.method == "vpt-deep"
        self.count = 1 if config.method == "sp" else config.visual_prompts
        if not self.count:
            raise ConfigError(f"model.visual_prompts = 0 leaves {config.method} without a prompt: choose 1 or more")
        self.heads = Heads(backbone.dim, len(word_vectors), ["cls"], config)
        self.pooled = None
        if config.method == "sp":
            self.register_buffer("word_vectors", word_vectors.float(), persistent=False)
            self.pooled = nn.Linear(word_vectors.shape[1], backbone.dim)
        else:
            layers = len(backbone.blocks) if self.deep else 1
            self.prompts = nn.Parameter(initial_prompts(layers * self.count, backbone.dim)
                                        .view(layers, self.count, backbone.dim))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to {"cls": [B,D]}."""
        tokens, prefix = self.backbone.embed(images), self.backbone.prefix
        prompts = self.prompts if self.pooled is None else self.pooled(self.word_vectors.mean(0))[None, None]
        first = prompts[0].expand(len(images), -1, -1)
        tokens = torch.cat([tokens[:, :prefix], first, tokens[:, prefix:]], dim=1)
        for i, block in enumerate(self.backbone.blocks):
            if self.deep and i:
                own = prompts[i].expand(len(images), -1, -1)
                tokens = torch.cat([tokens[:, :prefix], own, tokens[:, prefix + self.count:]], dim=1)
            last = i == len(self.backbone.blocks) - 1
            tokens = self.backbone.last_block(tokens, prefix) if last else block(tokens)
        return {"cls": self.backbone.final_norm(tokens)[:, 0]}


class FineTuned(ZeroShotModel):
    """A copy of the ViT whose last `tuned_blocks` blocks and final norm train; all of them: every parameter."""

    def __init__(self, backbone: FrozenViT, attributes: int, config: ModelConfig) -> None:
        super().__init__()
        if not config.tuned_blocks:
            raise ConfigError("model.tuned_blocks = 0 leaves nothing to fine-tune: choose 1 or more")
        self.tuned = copy.deepcopy(backbone)  # the shared one stays frozen
        if config.tuned_blocks >= len(backbone.blocks):
            self.tuned.vit.requires_grad_(True)
        for part in [*self.tuned.blocks[-config.tuned_blocks:], self.tuned.vit.norm]:
            part.requires_grad_(True)
        self.heads = Heads(backbone.dim, attributes, ["cls"], config)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to {"cls": [B,D]}."""
        return {"cls": self.tuned.final_norm(self.tuned.blocks(self.tuned.embed(images)))[:, 0]}


class BilinearHead(nn.Module):
    """scores = standardise(x) V s_c, with V [D,K] solved in closed form and unit attribute rows s_c."""

    def __init__(self, dim: int, attributes: int) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm1d(dim, affine=False)
        self.register_buffer("V", torch.zeros(dim, attributes))

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"cls": [B,D]} to {"cls": [B,K]}."""
        return {"cls": self.standardise(features["cls"]) @ self.V}

    def prototypes(self, attributes: Tensor) -> Tensor:
        """Class attribute rows [C,K] to unit rows."""
        return F.normalize(attributes, dim=-1)

    def scores(self, embedded: dict[str, Tensor], prototypes: Tensor) -> dict[str, Tensor]:
        """[B,C], the regression onto +1 for the true class and -1 for the others."""
        return {s: e @ prototypes.T for s, e in embedded.items()}


class ESZSL(ZeroShotModel):
    """Romera-Paredes and Torr, ICML 2015, on frozen cls features: nothing is trained by gradient."""

    def __init__(self, backbone: FrozenViT, attributes: int) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, BilinearHead(backbone.dim, attributes)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to {"cls": [B,D]}, the frozen ViT's own."""
        return {"cls": self.backbone.final_norm(self.backbone.blocks(self.backbone.embed(images)))[:, 0]}

    def solve(self, features: Tensor, targets: Tensor, attributes: Tensor, gamma: float, lam: float) -> None:
        """V = (X^T X + gamma I)^-1 X^T Y S (S^T S + lambda I)^-1, in float64.

        X are the standardised features [n,D], Y [n,C] is +1 at `targets` [n] and -1 elsewhere, S the unit
        attribute rows [C,K] of the training classes.
        """
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
