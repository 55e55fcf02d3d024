"""ZSLViT (Chen et al., CVPR 2024): a ViT that fuses the patches its cls token disregards, guided by attributes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib import losses
from vspcn_lib.config import Config, ConfigError, MethodConfig, ModelConfig, TrainConfig, check_range
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.zeroshot import BUDGET, Classes, DotHead, ZeroShotModel, check_patches


@dataclass(frozen=True)
class ZSLViTConfig(MethodConfig):
    """The released settings for CUB; where those for SUN and AWA2 differ, the line says so."""

    name: ClassVar[str] = "zslvit"
    reads: ClassVar[tuple[str, ...]] = (*BUDGET, "train.augment")
    train_backbone: bool = True
    """train a copy of the whole ViT, as released; without it the ViT stays frozen and the rest trains"""
    sites: str = "4,7,10"
    """blocks that prune, counted from 1 (SUN "4,7")"""
    keep: float = 0.9
    """[r] share of the tokens that a pruning block keeps; where ceil(r n) = n nothing is pruned"""
    mixing: float = 0.1
    """share of the true class's embedded attributes in the cls query of a pruning block, in training alone"""
    bias: bool = False
    """whether the attribute head has one (AWA2)"""
    drop_path: float = 0.1
    """rate in the last block, from 0 in the first; only where the ViT trains"""
    scores: Literal["probabilities", "logits"] = "probabilities"
    """what tau is added to: the softmax over all classes, as released (with a constant of 0.4, SUN 0.3, AWA2 0.95; here
    validation classes choose it), or the logits"""
    lambda_cls: float = 1.0
    """weight of the cross-entropy (AWA2 2)"""
    lambda_semantic: float = 1.0
    """weight of the distance between the embedded attributes and the cls feature"""
    lambda_reg: float = 1.0
    """weight of the attribute regression from the cls queries"""
    lr: float = 1e-5
    """of Adam, for the ViT and the parts at its sites, at the start"""
    weight_decay: float = 1e-4
    """of Adam, for the same"""
    head_lr: float = 5e-3
    """of Adam, for the attribute head, at the start"""
    head_weight_decay: float = 1e-5
    """of Adam, for the attribute head"""

    def __post_init__(self) -> None:
        for name, low, high in (("mixing", 0, 1), ("drop_path", 0, 0.9), ("lambda_cls", 0, 1e3), ("lr", 1e-8, 10),
                                ("lambda_semantic", 0, 1e3), ("lambda_reg", 0, 1e3), ("weight_decay", 0, 10),
                                ("head_lr", 1e-8, 10), ("head_weight_decay", 0, 10)):
            check_range(f"method.{name}", getattr(self, name), low, high)
        if not 0 < self.keep <= 1:
            raise ConfigError(f"method.keep = {self.keep} is out of range: choose a share in (0, 1]")
        numbers = [int(n) if n.isdecimal() else 0 for n in self.sites.split(",")]
        if min(numbers) < 1 or numbers != sorted(set(numbers)):
            raise ConfigError(f"method.sites = {self.sites!r} must be growing block numbers from 1 on, as in '4,7,10'")


class Guide(nn.Module):
    """What training adds at a site: e = sigmoid(W3 ReLU(W2 ReLU(W1 a_y))) and r = ReLU(V2 ReLU(V1 q_cls))."""

    def __init__(self, dim: int, attributes: int) -> None:
        super().__init__()
        self.embedder = nn.Sequential(nn.Linear(attributes, dim), nn.ReLU(), nn.Linear(dim, 2 * dim), nn.ReLU(),
                                      nn.Linear(2 * dim, dim), nn.Sigmoid())
        self.regressor = nn.Sequential(nn.Linear(dim, attributes), nn.ReLU(), nn.Linear(attributes, attributes),
                                       nn.ReLU())
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)


class Prune(nn.Module):
    """[prefix, patches] to [prefix, the ceil(r n) patches of largest importance, one that fuses the others]."""

    def __init__(self, keep: float, prefix: int) -> None:
        super().__init__()
        self.keep, self.prefix = keep, prefix

    def forward(self, tokens: Tensor, importance: Tensor) -> Tensor:
        """Tokens [B,P+n,D] and the patches' importance [B,n] to [B,P+ceil(r n)+1,D]; with ceil(r n) = n no change.

        fused = sum over the dropped i of importance_i x_i, not normalised.
        """
        count, patches = math.ceil(self.keep * importance.shape[1]), tokens[:, self.prefix:]
        if count == importance.shape[1]:
            return tokens
        kept = importance.topk(count, dim=1).indices
        fused = importance.scatter(1, kept, 0).to(tokens.dtype).unsqueeze(1) @ patches
        chosen = patches.gather(1, kept.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
        return torch.cat([tokens[:, :self.prefix], chosen, fused], dim=1)


class LinearHead(DotHead):
    """f = W x (+ b) [B,K] of the cls feature x [B,D], and logits f . a_c, a plain dot product."""

    def __init__(self, dim: int, attributes: int, bias: bool) -> None:
        super().__init__()
        self.attribute_head = nn.Linear(dim, attributes, bias=bias)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"cls": [B,D], ...} to {"cls": [B,K]}."""
        return {"cls": self.attribute_head(features["cls"])}


class ZSLViT(ZeroShotModel):
    """x = LN(blocks(x))[cls], where the blocks of `sites` prune; in training the true attributes guide their cls query.

    What differs: crops, image size and train.clip are everyone's, a schedule of 40 epochs is stretched over the run,
    and the drop path is drawn from an image's own pixels: a run goes on exactly, a batch in pieces is the batch.
    """

    Settings = ZSLViTConfig
    heads_first = False

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, model: ModelConfig, settings: ZSLViTConfig) -> None:
        super().__init__()
        self.settings, self.backbone = settings, backbone
        if settings.train_backbone:
            self.backbone = copy.deepcopy(backbone).requires_grad_(True)  # the shared one stays frozen
        self.prune = Prune(settings.keep, backbone.prefix)
        self.guides = nn.ModuleDict({s: Guide(backbone.dim, len(word_vectors)) for s in settings.sites.split(",")})
        self.heads = LinearHead(backbone.dim, len(word_vectors), settings.bias)

    @classmethod
    def check(cls, config: Config, backbone: FrozenViT, attributes: int) -> None:
        """Raise `ConfigError` for a backbone without cls token, plain blocks or patch tokens, and sites beyond it."""
        check_patches(config, backbone)
        if not backbone.prefix or any(type(b) is not Block or type(b.attn) is not Attention for b in backbone.blocks):
            raise ConfigError("model.method = 'zslvit' prunes by what a cls token attends to inside plain ViT blocks, "
                              "which this backbone lacks: choose a timm vit_* or deit_* model with a cls token")
        if int(config.method.sites.split(",")[-1]) > len(backbone.blocks):
            raise ConfigError(f"method.sites = {config.method.sites!r}, but the ViT has {len(backbone.blocks)} blocks")

    @property
    def score_space(self) -> str:
        """The unit of scores and tau."""
        return "cls softmax over all classes" if self.settings.scores == "probabilities" else "cls logits"

    def walk(self, images: Tensor, rows: Tensor | None = None) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """After each block its tokens [B,P+n,D], and e [B,D] and r [B,K] of a site where unit `rows` [B,K] guide it."""
        vit, tokens = self.backbone, self.backbone.embed(images)
        keep = None if rows is None else self._paths(images).to(tokens)
        for i, block in enumerate(vit.blocks):
            (first, second), site, guided = (1, 1) if keep is None else keep[:, i].unbind(1), str(i + 1), {}
            if site in self.guides:
                read, importance, guided = self._attend(block, tokens, site, rows)
                tokens = self.prune(tokens + block.ls1(read) * first, importance)
            else:
                tokens = tokens + block.ls1(block.attn(block.norm1(tokens))) * first
            tokens = tokens + block.ls2(block.mlp(block.norm2(tokens))) * second
            yield tokens, guided

    def _attend(self, block: Block, tokens: Tensor, site: str,
                rows: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Attention [B,T,D], the patches' weights in the cls row as means over heads [B,n], and e and r."""
        a, found = block.attn, {}
        q, k, v = a.qkv(block.norm1(tokens)).unflatten(-1, (3, a.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = a.q_norm(q), a.k_norm(k)
        if rows is not None:
            guide, share = self.guides[site], self.settings.mixing
            e = guide.embedder(rows)
            mixed = (1 - share) * q[:, :, 0].flatten(1) + share * e
            found = {f"e{site}": e, f"r{site}": guide.regressor(mixed)}
            q = torch.cat([mixed.to(q.dtype).unflatten(1, (a.num_heads, 1, -1)), q[:, :, 1:]], dim=2)
        weights = (q * a.scale @ k.transpose(-2, -1)).softmax(-1)
        read = a.proj(getattr(a, "norm", nn.Identity())((weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)))
        return read, weights[:, :, 0, self.backbone.prefix:].mean(1), found

    def _paths(self, images: Tensor) -> Tensor:
        """[B,M,2,1,1]: what attention and MLP of each block are multiplied with, drawn from each image's pixels."""
        depth = len(self.backbone.blocks)
        most = self.settings.drop_path if self.settings.train_backbone else 0.0
        rates = torch.linspace(0, most, depth).view(-1, 1, 1, 1)
        seeds = images.float().flatten(1).view(torch.int32).sum(1, dtype=torch.int64).tolist()  # exact in any order
        drawn = torch.stack([torch.rand(depth, 2, 1, 1, generator=torch.Generator().manual_seed(s)) for s in seeds])
        return (drawn >= rates) / (1 - rates)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to {"cls": [B,D]}, pruned and unguided."""
        *_, (tokens, _) = self.walk(images)
        return {"cls": self.backbone.final_norm(tokens[:, 0])}

    def training_features(self, images: Tensor, attributes: Tensor) -> dict[str, Tensor]:
        """`cls` [B,D] as the true attributes [B,K] guide it, and e [B,D] and r [B,K] of each site: e4, r4, e7, ..."""
        steps = list(self.walk(images, self.prototypes(attributes)))
        found = {name: value for _, guided in steps for name, value in guided.items()}
        return {"cls": self.backbone.final_norm(steps[-1][0][:, 0]), **found}

    def scores(self, embedded: dict[str, Tensor], prototypes: Tensor) -> Tensor:
        """[B,C]: the logits' softmax over the classes of `prototypes` [C,K], or the logits themselves."""
        logits = super().scores(embedded, prototypes)
        return logits.softmax(-1) if self.settings.scores == "probabilities" else logits

    def loss(self, features: dict[str, Tensor], embedded: dict[str, Tensor], targets: Tensor, classes: Classes,
             config: Config) -> dict[str, Tensor]:
        """L = lambda_cls CE + lambda_semantic sum_j mean |e_j - x| + lambda_reg sum_j mean |r_j - a_y|, every part.

        Means over batch and dimension, no gradient stopped; targets [B]. Raises `losses.NotFinite`.
        """
        s, rows = self.settings, self.prototypes(classes.seen)
        wide = {n: losses.widened(f) for n, f in features.items()}
        logits = self.heads.scores({"cls": losses.widened(embedded["cls"])}, rows)["cls"]
        parts = {"cls": F.cross_entropy(logits, targets),
                 "semantic": sum(F.l1_loss(wide[f"e{site}"], wide["cls"]) for site in self.guides),
                 "reg": sum(F.l1_loss(wide[f"r{site}"], rows[targets]) for site in self.guides)}
        return losses.weighted(parts, {"cls": s.lambda_cls, "semantic": s.lambda_semantic, "reg": s.lambda_reg})

    @classmethod
    def reads_words(cls, config: Config) -> bool:
        """Never: attributes come in as class rows."""
        return False

    def optimiser(self, train: TrainConfig) -> torch.optim.Optimizer:
        """Adam: the head at its own rate and weight decay, everything else that trains at the other."""
        s, rest = self.settings, [p for n, p in self.trainable().items() if not n.startswith("heads.")]
        head = {"params": list(self.heads.parameters()), "peak": s.head_lr, "weight_decay": s.head_weight_decay}
        return torch.optim.Adam([{"params": rest, "peak": s.lr, "weight_decay": s.weight_decay}, head], fused=True)

    def rate(self, peak: float, step: int, total: int, epoch: int) -> float:
        """Halved after each quarter of the steps, as after 10, 20 and 30 of the 40 epochs as released."""
        return peak * 0.5 ** (4 * step // total)

    @classmethod
    def order(cls, config: Config, labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """As many draws with replacement as there are images, every class equally likely."""
        _, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
        rows = rng.choice(len(labels), len(labels), p=1 / counts[position] / len(counts))
        return [rows[i:i + config.train.batch_size] for i in range(0, len(rows), config.train.batch_size)]
