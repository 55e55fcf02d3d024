"""Classifiers over all classes, trained on real features of seen and synthetic ones of unseen classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib.config import check_range
from vspcn_lib.methods.generative.features import Scaler, join
from vspcn_lib.methods.generative.generator import Generator, random
from vspcn_lib.zeroshot import ZeroShotModel


@dataclass(frozen=True)
class ClassifierConfig:
    """How the classifier is trained."""

    epochs: int = 25
    """of the linear softmax [CE-GZSL: 25]"""
    lr: float = 1e-3
    """of its Adam with betas (0.5, 0.999) [CE-GZSL: 1e-3]"""
    batch_size: int = 128
    """features in a batch"""

    def __post_init__(self) -> None:
        for name, low, high in (("epochs", 1, 10**5), ("lr", 1e-8, 10.0), ("batch_size", 1, 10**6)):
            check_range(f"linear.{name}", getattr(self, name), low, high)


def softmax(features: Tensor, targets: Tensor, classes: int, settings: ClassifierConfig, seed: int) -> nn.Linear:
    """The linear softmax W f + b [n,C] of the least cross-entropy; features [n,d], `targets` [n] in 0..C-1.

    The number of features a class shifts its log-odds, b included: that is how synthetic features calibrate.
    """
    layer = nn.Linear(features.shape[1], classes).to(features)
    nn.init.zeros_(layer.weight)  # the problem is convex: no start is better, and this one needs no seed
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.Adam(layer.parameters(), lr=settings.lr, betas=(0.5, 0.999))
    for epoch in range(settings.epochs):
        order = torch.randperm(len(features), generator=random(seed, "classifier", epoch)).to(features.device)
        for chosen in order.split(settings.batch_size):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(layer(features[chosen]), targets[chosen]).backward()
            optimiser.step()
    return layer.requires_grad_(False)


def nearest(features: Tensor, targets: Tensor, classes: int) -> nn.Linear:
    """Nearest class mean as a linear layer: argmax_c of mu_c f - ||mu_c||^2 / 2, which is argmin_c ||f - mu_c||."""
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, targets, features)
    means = sums / torch.bincount(targets, minlength=classes).clamp(min=1)[:, None]
    layer = nn.Linear(features.shape[1], classes).to(features).requires_grad_(False)
    layer.weight.copy_(means)
    layer.bias.copy_(-0.5 * means.square().sum(1))
    return layer


class Classified(ZeroShotModel):
    """A model whose scaled features a linear layer classifies: what `evaluate` scores test images with.

    Its prototypes are the layer's rows [C,d+1] (the last column is b), in the order of the classes.
    """

    reads = ("joined",)

    def __init__(self, base: ZeroShotModel, streams: str, scaler: Scaler, generator: Generator,
                 layer: nn.Linear) -> None:
        super().__init__()
        self.base, self.streams = base, streams
        self.scaler, self.generator, self.layer = scaler, generator, layer

    @property
    def score_space(self) -> str:
        """The unit of scores."""
        return "log-odds of a linear classifier of real seen and synthetic unseen features"

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B,3,H,W] to the base model's features by stream."""
        return self.base.features(images)

    def unfrozen(self, kept: Tensor) -> dict[str, Tensor]:
        """What the base model kept of frozen images, [B,...], to its features by stream."""
        return self.base.unfrozen(kept)

    def embed(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features by stream to [B,d], where the layer works; in the type of the scaler whatever the base's is."""
        with torch.autocast(self.scaler.shift.device.type, enabled=False):
            return {"joined": self.generator.space(self.scaler(join(features, self.streams)))}

    def prototypes(self, attributes: Tensor) -> Tensor:
        """[C,d+1], the layer's rows; `attributes` [C,K] only say how many there are."""
        return torch.cat([self.layer.weight, self.layer.bias[:, None]], 1)[:len(attributes)]

    def scores(self, embedded: dict[str, Tensor], prototypes: Tensor) -> Tensor:
        """W f + b, [B,C]."""
        return embedded["joined"] @ prototypes[:, :-1].T + prototypes[:, -1]

    def state(self) -> dict[str, Tensor]:
        """Scaler, generator and layer; the base model's weights are in its own run."""
        return {n: t for n, t in self.state_dict().items() if not n.startswith("base.")}
