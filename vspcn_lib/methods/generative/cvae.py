"""A conditional variational autoencoder (Kingma and Welling 2014, Sohn et al. 2015) of features given attributes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vspcn_lib.config import check_range
from vspcn_lib.methods.generative.generator import Batch, Generator, noisy_rows, normal


@dataclass(frozen=True)
class CVAEConfig:
    """A small conditional VAE with a Gaussian decoder."""

    steps: int = 600
    """optimiser steps"""
    batch_size: int = 128
    """features in a batch"""
    lr: float = 1e-3
    """peak learning rate of AdamW"""
    weight_decay: float = 1e-4
    """of AdamW: keeps what the decoder makes of a class row smooth"""
    hidden: int = 512
    """hidden units of encoder and decoder"""
    latent: int = 64
    """dimensions of z"""
    beta: float = 1.0
    """weight of the KL divergence; 1 is the evidence lower bound"""
    row_noise: float = 1.0
    """standard deviation of the noise on the rows in training, as a share of their length: a few dozen classes are else
    learned by heart. Validation H on birdlets, linear head, one seed: 1.0 gave 28.5, 0.3 25.4, none 22.9 (before s
    had a rate of its own)"""

    def __post_init__(self) -> None:
        for name, low, high in (("steps", 1, 10**7), ("batch_size", 2, 10**6), ("lr", 1e-8, 1.0),
                                ("weight_decay", 0.0, 10.0), ("hidden", 1, 65536), ("latent", 1, 65536),
                                ("beta", 0.0, 1e3), ("row_noise", 0.0, 10.0)):
            check_range(f"vae.{name}", getattr(self, name), low, high)


class CVAE(Generator):
    """q(z|x,a) = N(mu, diag sigma^2) and p(x|z,a) = N(decoder(z,a), diag s^2), with s learned, one a dimension.

    A learned s (Rybkin et al., ICML 2021) balances reconstruction and KL without a weight; features are sampled with
    that noise, without it they would lie too close to each other.
    """

    name: ClassVar[str] = "vae"
    settings: CVAEConfig

    def __init__(self, dim: int, attributes: int, settings: CVAEConfig) -> None:
        super().__init__(dim, attributes, settings)
        s = settings
        self.encoder = nn.Sequential(nn.Linear(dim + attributes, s.hidden), nn.SiLU(),
                                     nn.Linear(s.hidden, 2 * s.latent))
        self.decoder = nn.Sequential(nn.Linear(s.latent + attributes, s.hidden), nn.SiLU(), nn.Linear(s.hidden, dim))
        self.log_variance = nn.Parameter(torch.zeros(dim))

    def negative_elbo(self, features: Tensor, rows: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """-log p(x|z,a) and KL(q(z|x,a) || N(0,I)), means over the batch in nats; z = mu + sigma noise [B,Z].

        Features [B,D], their classes' unit rows [B,K]. beta = 1: their sum is at least -log p(x|a).
        """
        a = rows * math.sqrt(self.attributes)  # entries of about 1
        mean, log_variance = self.encoder(torch.cat([features, a], 1)).chunk(2, dim=1)
        z = mean + (0.5 * log_variance).exp() * noise
        error = (features - self.decoder(torch.cat([z, a], 1))).square()
        nll = 0.5 * (error / self.log_variance.exp() + self.log_variance + math.log(2 * math.pi)).sum(1)
        kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
        return {"reconstruction": nll.mean(), "kl": kl.mean()}

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """AdamW over everything; log s^2 ten times as fast, since Adam moves a number by no more than lr a step."""
        nets = [*self.encoder.parameters(), *self.decoder.parameters()]
        groups = [{"params": nets}, {"params": [self.log_variance], "lr": 10 * self.settings.lr, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, lr=self.settings.lr, weight_decay=self.settings.weight_decay)]

    def step(self, batch: Batch, rows: Tensor, rng: torch.Generator,
             optimisers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One step on -ELBO."""
        s = self.settings
        features, targets = batch()
        a = noisy_rows(rows[targets], s.row_noise, rng)
        parts = self.negative_elbo(features, a, normal(features, (len(features), s.latent), rng))
        optimisers[0].zero_grad(set_to_none=True)
        (parts["reconstruction"] + s.beta * parts["kl"]).backward()
        optimisers[0].step()
        return {name: value.detach() for name, value in parts.items()}

    def draw(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """decoder(z,a) + s noise, with z from N(0,I)."""
        z = normal(rows, (len(rows), self.settings.latent), rng)
        mean = self.decoder(torch.cat([z, rows * math.sqrt(self.attributes)], 1))
        return mean + (0.5 * self.log_variance).exp() * normal(rows, tuple(mean.shape), rng)
