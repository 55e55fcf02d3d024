"""PSVMA (Liu et al., CVPR 2023): attribute tokens and patches adapt to each other before and after the last block."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib import losses
from vspcn_lib.config import Config, ConfigError, MethodConfig, ModelConfig, TrainConfig, check_range
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.zeroshot import BUDGET, Classes, ZeroShotModel, check_patches


@dataclass(frozen=True)
class PSVMAConfig(MethodConfig):
    """The released settings for CUB; where those for SUN and AWA2 differ, the line says so."""

    name: ClassVar[str] = "psvma"
    reads: ClassVar[tuple[str, ...]] = (*BUDGET, "train.augment")
    train_backbone: bool = True
    """train a copy of the whole ViT, as released; without it the ViT stays frozen and the rest trains"""
    gate_reduction: int = 28
    """[g] the attribute gate's hidden layer has floor(K / g) units (SUN 4, AWA2 9)"""
    mixer: int = 512
    """hidden units of the token mixer, released for 196 patches"""
    images: int = 2
    """images of each class in a batch, whose other train.batch_size / images are different classes (SUN, AWA2 3)"""
    scale: float = 25.0
    """factor on cosine scores, not trained"""
    lambda_reg: float = 0.5
    """weight of the attribute regression"""
    lambda_debias: float = 1e-3
    """weight of the debiasing loss (SUN 0.02, AWA2 0.1)"""
    lr: float = 1e-3
    """of SGD, at the start"""
    momentum: float = 0.9
    """of SGD"""
    weight_decay: float = 1e-4
    """of SGD, on every parameter: biases, norms and positions too"""

    def __post_init__(self) -> None:
        for name, low, high in (("gate_reduction", 1, 10**6), ("mixer", 1, 65536), ("images", 1, 65536),
                                ("scale", 1e-3, 1e3), ("lambda_reg", 0.0, 1e3), ("lambda_debias", 0.0, 1e3),
                                ("lr", 1e-8, 10.0), ("momentum", 0.0, 0.999), ("weight_decay", 0.0, 10.0)):
            check_range(f"method.{name}", getattr(self, name), low, high)


def small(rows: int, columns: int) -> nn.Parameter:
    """[rows, columns] about N(0, 0.01^2), cut at two standard deviations."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(rows, columns), std=0.01, a=-0.02, b=0.02))


class CrossAttention(nn.Module):
    """L = ReLU(q k^T) / sqrt(D) and A = W softmax(L) v + b: queries from x, keys and values from y, one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm, self.value_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x [B or 1,Q,D] and y [B,N,D] to L [B,Q,N] and A [B,Q,D]."""
        q, k = self.query(self.query_norm(x)), self.key(self.key_norm(y))
        logits = F.relu(q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5  # ReLU first, then the scale
        weights, v = logits.softmax(-1), self.value(self.value_norm(y))
        if x.shape[1] < y.shape[1]:
            return logits, self.out(weights @ v)
        return logits, weights @ F.linear(v, self.out.weight) + self.out.bias  # the same, on the shorter side


class FeedForward(nn.Module):
    """W2 GELU(W1 LN(x) + b1) + b2, D -> hidden -> D, Xavier-uniform weights; x [B,T,D]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.layer1, self.layer2 = nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for layer in (self.layer1, self.layer2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Without the residual."""
        return self.layer2(F.gelu(self.layer1(self.norm(x))))


class AttributeGate(nn.Module):
    """(1 + s) u with s = sigmoid(W2 GELU(W1 max_d u + b1) + b2), one scalar for each attribute; u [B,K,D]."""

    def __init__(self, attributes: int, hidden: int) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(attributes, hidden), nn.Linear(hidden, attributes)

    def forward(self, u: Tensor) -> Tensor:
        """[B,K,D]."""
        return (1 + self.layer2(F.gelu(self.layer1(u.amax(-1)))).sigmoid()).unsqueeze(-1) * u


class TokenMixer(nn.Module):
    """x + T(LN(x)^T)^T, where T: N -> hidden -> hidden -> N with GELU acts along the patches; x [B,N,D]."""

    def __init__(self, patches: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.layer1 = nn.LayerNorm(dim), nn.Linear(patches, hidden)
        self.layer2, self.layer3 = nn.Linear(hidden, hidden), nn.Linear(hidden, patches)

    def forward(self, x: Tensor) -> Tensor:
        """[B,N,D]."""
        along = F.gelu(self.layer2(F.gelu(self.layer1(self.norm(x).transpose(1, 2)))))
        return x + self.layer3(along).transpose(1, 2)


class MutualAdaption(nn.Module):
    """Attribute tokens P read the patches X twice, then the patches read the tokens.

    A pass: u = P + att(P, X), g = gate(u), out = g + FFN(g) + u, m = max over patches of the attention's logits.
    P1 = P + out(P), P2 = out(P1), with the same weights. F = X + att'(X, P2), the token mixer, and F + FFN'(F).
    """

    def __init__(self, dim: int, attributes: int, patches: int, settings: PSVMAConfig) -> None:
        super().__init__()
        self.attribute_to_patch, self.patch_to_attribute = CrossAttention(dim), CrossAttention(dim)
        self.attribute_gate = AttributeGate(attributes, attributes // settings.gate_reduction)
        self.attribute_ffn, self.patch_ffn = FeedForward(dim, dim), FeedForward(dim, 4 * dim)
        self.token_mixer = TokenMixer(patches, dim, settings.mixer)

    def forward(self, tokens: Tensor, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """P [B or 1,K,D] and X [B,N,D] to F [B,N,D] and m of both passes, [B,K] each."""
        first, out = self._read(tokens, patches)
        second, tokens = self._read(tokens + out, patches)
        mixed = self.token_mixer(patches + self.patch_to_attribute(patches, tokens)[1])
        return mixed + self.patch_ffn(mixed), first, second

    def _read(self, tokens: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        logits, read = self.attribute_to_patch(tokens, patches)
        u = tokens + read
        gated = self.attribute_gate(u)
        return logits.amax(-1), gated + self.attribute_ffn(gated) + u


class AttributeHead(nn.Module):
    """scale e/(|e| + 1e-5) . a_c/(|a_c| + 1e-5) with e = W_o^T f, f the mean patch of the second stage [B,D]."""

    def __init__(self, dim: int, attributes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.output_projection = small(dim, attributes)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{"patches": [B,D]} to {"patches": [B,K]}."""
        return {"patches": self.prototypes(losses.widened(features["patches"] @ self.output_projection))}

    def prototypes(self, attributes: Tensor) -> Tensor:
        """Rows [C,K] to rows of about unit length."""
        return attributes / (attributes.norm(dim=-1, keepdim=True) + 1e-5)

    def scores(self, embedded: dict[str, Tensor], prototypes: Tensor) -> dict[str, Tensor]:
        """[B,C] by stream."""
        return {s: self.scale * e @ prototypes.T for s, e in embedded.items()}


class PSVMA(ZeroShotModel):
    """x = blocks 1..M-1; F1 = M(P0, x); y = block M([cls, F1] + positions); F2 = M(P0, y), read by its mean patch.

    P0 = word vectors W_p. Before the last block the cls token enters anew and positions are added a second time, as
    released. What differs: as many patches as the ViT has, this project's phrase vectors (means of words, there sums),
    everyone's crops and train.clip, and a schedule of 25 epochs that is stretched over the run.
    """

    Settings = PSVMAConfig
    uses_unseen_prototypes = True
    heads_first = False
    reads = ("patches",)

    def __init__(self, backbone: FrozenViT, word_vectors: Tensor, model: ModelConfig, settings: PSVMAConfig) -> None:
        super().__init__()
        self.settings, self.backbone = settings, backbone
        if settings.train_backbone:
            self.backbone = copy.deepcopy(backbone)  # the shared one stays frozen
            self.backbone.vit.requires_grad_(True).norm.requires_grad_(False)  # the final norm is never read
        self.register_buffer("word_vectors", word_vectors.float(), persistent=False)
        self.attribute_word_projection = small(word_vectors.shape[1], backbone.dim)
        self.adaption = MutualAdaption(backbone.dim, len(word_vectors), backbone.patches, settings)
        self.heads = AttributeHead(backbone.dim, len(word_vectors), settings.scale)

    @classmethod
    def check(cls, config: Config, backbone: FrozenViT, attributes: int) -> None:
        """Raise `ConfigError` for a gate without units, no patch tokens, or batches that are no whole classes."""
        check_patches(config, backbone)
        g, size, each = config.method.gate_reduction, config.train.batch_size, config.method.images
        if g > attributes:
            raise ConfigError(f"method.gate_reduction = {g} leaves the gate of {attributes} attributes no hidden unit: "
                              f"choose at most {attributes}")
        if size % each:
            raise ConfigError(f"train.batch_size = {size} is no multiple of method.images = {each}, the images of each "
                              f"class in a batch: choose {-(-size // each) * each}")

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to the mean patch [B,D] and m of the four passes [B,K]: patches, m1, m2, m3, m4."""
        vit, prefix = self.backbone, self.backbone.prefix
        tokens = (self.word_vectors @ self.attribute_word_projection).unsqueeze(0)  # P0, the same for every image
        patches, m1, m2 = self.adaption(tokens, vit.blocks[:-1](vit.embed(images))[:, prefix:])
        again = vit.vit.norm_pre(vit.vit._pos_embed(patches))  # the cls parameter, and positions once more
        patches, m3, m4 = self.adaption(tokens, vit.blocks[-1](again)[:, prefix:])
        return {"patches": patches.mean(1), "m1": m1, "m2": m2, "m3": m3, "m4": m4}

    def loss(self, features: dict[str, Tensor], embedded: dict[str, Tensor], targets: Tensor, classes: Classes,
             config: Config) -> dict[str, Tensor]:
        """L = CE + lambda_reg reg + lambda_debias D, the parts and their `total`.

        reg = sum over the passes of mean (m - a_y)^2; D = mean_b ReLU(mean_s - mean_u) + mean_b ReLU(std_s - std_u), of
        an image's scores. Raises `losses.NotFinite`.
        """
        s, seen = self.settings, F.normalize(classes.seen, dim=-1)
        of_seen, of_unseen = (self.heads.scores(embedded, self.prototypes(rows))["patches"]
                              for rows in (seen, F.normalize(classes.unseen, dim=-1)))
        maxima = torch.stack([losses.widened(features[f"m{i}"]) for i in (1, 2, 3, 4)])
        excess = torch.stack([of_seen.mean(1) - of_unseen.mean(1), of_seen.std(1) - of_unseen.std(1)])
        parts = {"cls": F.cross_entropy(of_seen, targets), "reg": (maxima - seen[targets]).square().mean((1, 2)).sum(),
                 "debias": F.relu(excess).mean(1).sum()}
        return losses.weighted(parts, {"cls": 1.0, "reg": s.lambda_reg, "debias": s.lambda_debias})

    def optimiser(self, train: TrainConfig) -> torch.optim.Optimizer:
        """SGD with momentum over everything that trains."""
        s = self.settings
        groups = [{"params": list(self.trainable().values()), "peak": s.lr}]
        return torch.optim.SGD(groups, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)

    def rate(self, peak: float, step: int, total: int, epoch: int) -> float:
        """A tenth after 4, 9, 14, ... of the 25 epochs as released, of which this run's steps take equal shares."""
        return peak * 0.1 ** ((25 * step // total + 1) // 5)

    @classmethod
    def order(cls, config: Config, labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """As many batches as the images fill, of `images` from each of batch_size / images different classes.

        Raises `ConfigError` where there are too few classes, or too few images of one.
        """
        each, count = config.method.images, config.train.batch_size // config.method.images
        groups = [np.flatnonzero(labels == c) for c in np.unique(labels)]
        fewest = min(map(len, groups))
        if len(groups) < count or fewest < each:
            raise ConfigError(f"batches of {count} classes x {each} images cannot be filled from {len(groups)} "
                              f"training classes of {fewest} images or more: lower train.batch_size or method.images")
        drawn = [rng.choice(len(groups), count, replace=False) for _ in range(max(1, len(labels) // (count * each)))]
        return [np.concatenate([rng.choice(groups[c], each, replace=False) for c in batch]) for batch in drawn]
