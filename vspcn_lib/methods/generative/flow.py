"""Conditional flow matching (Lipman et al., ICLR 2023): an MLP's velocity field carries noise to features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vspcn_lib.config import check_range
from vspcn_lib.methods.generative.generator import Batch, Generator, noisy_rows, normal

FREQUENCIES = 8  # of the time embedding: sin and cos of pi k t, k = 1..8


@dataclass(frozen=True)
class FlowConfig:
    """A small velocity field."""

    steps: int = 800
    """optimiser steps"""
    batch_size: int = 256
    """features in a batch, each with a time and a noise of its own"""
    lr: float = 1e-3
    """peak learning rate of AdamW"""
    weight_decay: float = 1e-4
    """of AdamW: keeps what the field makes of a class row smooth"""
    hidden: int = 384
    """units of the two hidden layers"""
    integration: int = 8
    """steps of the midpoint rule from noise to features; the cost of sampling"""
    row_noise: float = 0.3
    """standard deviation of the noise on the rows in training, as a share of their length: a few dozen classes are else
    learned by heart. Validation H on birdlets, linear head, one seed: 0.3 gave 36.1, 1.0 30.4"""

    def __post_init__(self) -> None:
        for name, low, high in (("steps", 1, 10**7), ("batch_size", 2, 10**6), ("lr", 1e-8, 1.0),
                                ("weight_decay", 0.0, 10.0), ("hidden", 1, 65536), ("integration", 1, 10000),
                                ("row_noise", 0.0, 10.0)):
            check_range(f"flow.{name}", getattr(self, name), low, high)


class Flow(Generator):
    """dx/dt = v(x,t,a) from x_0 ~ N(0,I) to features x_1.

    The objective is Lipman et al.'s equation 23 (optimal-transport path) with sigma_min = 0: with
    x_t = (1 - t) x_0 + t x_1, E ||v(x_t,t,a) - (x_1 - x_0)||^2 over t ~ U(0,1), x_0 ~ N(0,I) and features x_1 of a.
    """

    name: ClassVar[str] = "flow"
    settings: FlowConfig

    def __init__(self, dim: int, attributes: int, settings: FlowConfig) -> None:
        super().__init__(dim, attributes, settings)
        hidden = settings.hidden
        self.of_features = nn.Linear(dim, hidden)
        self.of_rows = nn.Linear(attributes, hidden)
        self.of_time = nn.Linear(2 * FREQUENCIES + 1, hidden)
        self.middle = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, dim)
        nn.init.zeros_(self.out.weight)  # at first every class is still: nothing of the start has to be unlearned
        nn.init.zeros_(self.out.bias)

    def velocity(self, x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        """v(x,t,a): x [B,D], t [B,1] in 0..1, what `of_rows` made of the class rows [B,H] or [1,H]; to [B,D]."""
        angles = math.pi * t * torch.arange(1, FREQUENCIES + 1, device=t.device, dtype=t.dtype)
        time = self.of_time(torch.cat([t, angles.sin(), angles.cos()], 1))
        first = F.silu(self.of_features(x) + rows + time)
        return self.out(first + F.silu(self.middle(first)))

    def condition(self, rows: Tensor) -> Tensor:
        """Unit rows [B,K] to [B,H]; their entries are first brought to about 1."""
        return self.of_rows(rows * math.sqrt(self.attributes))

    def loss(self, features: Tensor, rows: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """mean ||v(x_t,t,a) - (x_1 - x_0)||^2 / D; features x_1 and noise x_0 [B,D], unit rows [B,K], t [B,1]."""
        mixed = (1 - t) * noise + t * features
        return (self.velocity(mixed, t, self.condition(rows)) - (features - noise)).square().mean()

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """AdamW over everything."""
        return [torch.optim.AdamW(self.parameters(), lr=self.settings.lr, weight_decay=self.settings.weight_decay)]

    def step(self, batch: Batch, rows: Tensor, rng: torch.Generator,
             optimisers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step on the flow-matching loss."""
        features, targets = batch()
        a = noisy_rows(rows[targets], self.settings.row_noise, rng)
        t = torch.rand((len(features), 1), generator=rng).to(features)
        loss = self.loss(features, a, normal(features, tuple(features.shape), rng), t)
        optimisers[0].zero_grad(set_to_none=True)
        loss.backward()
        optimisers[0].step()
        return {"velocity": loss.detach()}

    def draw(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """The midpoint rule in `integration` steps: x + h v(x + h/2 v(x,t), t + h/2)."""
        x, h = normal(rows, (len(rows), self.dim), rng), 1 / self.settings.integration
        condition = self.condition(rows)
        for i in range(self.settings.integration):
            t = x.new_full((len(x), 1), i * h)
            half = x + h / 2 * self.velocity(x, t, condition)
            x = x + h * self.velocity(half, t + h / 2, condition)
        return x
