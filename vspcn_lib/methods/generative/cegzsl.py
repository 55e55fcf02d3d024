"""CE-GZSL (Han et al., CVPR 2021): a Wasserstein critic, and an embedding that contrasts instances and classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vspcn_lib.config import check_range
from vspcn_lib.methods.generative.generator import Batch, Generator, normal

SLOPE = 0.2
PAIRS = 2**24  # numbers of the comparator's hidden layer held at once, 64 MiB; more classes are taken in parts


@dataclass(frozen=True)
class CEGZSLConfig:
    """CE-GZSL at the size of a few thousand features; the paper's sizes in brackets."""

    steps: int = 150
    """generator steps (the release's 450 epochs on CUB are 1,800), each after `critic_steps` of the critic's"""
    critic_steps: int = 5
    """critic, embedding and comparator steps, each on a fresh batch, before one of the generator's"""
    batch_size: int = 128
    """features in a batch [2048 to 4096], at most all there are"""
    lr: float = 1e-3
    """of Adam with betas (0.5, 0.999) [1e-4 on CUB and AWA2, 5e-5 on SUN]; ten times as fast, for fewer steps"""
    hidden: int = 512
    """hidden units of generator and critic [4096]"""
    embedding: int = 256
    """units of the embedding h, where the classifier works [2048]"""
    contrast: int = 128
    """units of zeta, where instances are contrasted [512]"""
    comparator: int = 128
    """hidden units of the class-level comparator [2048, SUN 1024]"""
    temperature: float = 0.1
    """of both contrasts [0.1]"""
    penalty: float = 10.0
    """weight of the gradient penalty [10]"""
    instance_weight: float = 0.001
    """weight of the instance contrast in the generator's loss [0.001, SUN 0.01]"""
    class_weight: float = 0.001
    """weight of the class contrast in the generator's loss [0.001, SUN 0.01]"""
    rectify: bool = False
    """end the generator with a ReLU [true]: right for features scaled to [0,1], not for those of a ViT standardised"""

    def __post_init__(self) -> None:
        for name, low, high in (("steps", 1, 10**7), ("critic_steps", 1, 1000), ("batch_size", 2, 10**6),
                                ("lr", 1e-8, 1.0), ("hidden", 1, 65536), ("embedding", 1, 65536),
                                ("contrast", 1, 65536), ("comparator", 1, 65536), ("temperature", 1e-3, 1e3),
                                ("penalty", 0.0, 1e6), ("instance_weight", 0.0, 1e3), ("class_weight", 0.0, 1e3)):
            check_range(f"cegzsl.{name}", getattr(self, name), low, high)


class TwoLayers(nn.Module):
    """W2 act(W1 [inputs side by side] + b1) + b2, weights from N(0, 0.02), biases 0."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        for layer in (self.layer1, self.layer2):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs [B,...] to [B,outputs], with the leaky ReLU."""
        return self.layer2(F.leaky_relu(self.layer1(torch.cat(inputs, 1)), SLOPE))


def supervised_contrast(zeta: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Khosla et al. (NeurIPS 2020), L_out, over the anchors i that have a positive, P(i) the others of its class:

    -mean_(p in P(i)) [ zeta_i zeta_p / t - log sum_(j != i) exp(zeta_i zeta_j / t) ]; zeta [B,E] of unit length.
    """
    logits = zeta @ zeta.T / temperature
    own = torch.eye(len(zeta), dtype=torch.bool, device=zeta.device)
    log = logits - logits.masked_fill(own, -torch.inf).logsumexp(1, keepdim=True)
    positive = (labels[:, None] == labels[None]) & ~own
    count = positive.sum(1)
    mean = torch.where(positive, log, 0.0).sum(1) / count.clamp(min=1)
    return -mean.sum() / (count > 0).sum().clamp(min=1)


class CEGZSL(Generator):
    """G(z,a), the critic D(x,a), the embedding h = E(x) with zeta, and the comparator F(h,a) of CE-GZSL.

    One departure from the release: here the comparator's gradients, as all others, are cleared before every step. The
    release lets them grow over an epoch.
    """

    name: ClassVar[str] = "cegzsl"
    settings: CEGZSLConfig

    def __init__(self, dim: int, attributes: int, settings: CEGZSLConfig) -> None:
        super().__init__(dim, attributes, settings)
        s = settings
        self.generator = TwoLayers(2 * attributes, s.hidden, dim)
        self.embedder = TwoLayers(dim, s.embedding, s.contrast)
        self.critic = TwoLayers(dim + attributes, s.hidden, 1)
        self.comparator = TwoLayers(s.embedding + attributes, s.comparator, 1)

    def generate(self, noise: Tensor, rows: Tensor) -> Tensor:
        """G(z,a) = W2 lrelu(W1 [z; a]), with a ReLU behind it if `rectify`; both [B,K] to [B,D]."""
        features = self.generator(noise, rows)
        return F.relu(features) if self.settings.rectify else features

    def space(self, features: Tensor) -> Tensor:
        """h = ReLU(W x), [n,D] to [n,H]."""
        return F.relu(self.embedder.layer1(features))

    def contrasted(self, h: Tensor) -> Tensor:
        """zeta = W' h of unit length, [n,H] to [n,Z]."""
        return F.normalize(self.embedder.layer2(h), dim=1)

    def compare(self, h: Tensor, rows: Tensor) -> Tensor:
        """F(h_i, a_c) = w lrelu(W [h_i; a_c]) + b for all pairs, [B,H] and [S,K] to [B,S].

        Exact and factorised: W [h; a] = W_h h + W_a a, so that each side meets W once. What is held at once, also for
        the backward pass, does not grow with S: more pairs than `PAIRS` are computed in parts, twice.
        """
        w_h, w_a = self.comparator.layer1.weight.split([h.shape[1], rows.shape[1]], dim=1)
        ours, theirs = F.linear(h, w_h, self.comparator.layer1.bias), F.linear(rows, w_a)

        def scores(ours: Tensor, part: Tensor) -> Tensor:
            return self.comparator.layer2(F.leaky_relu(ours[:, None] + part, SLOPE)).squeeze(2)

        parts = theirs.split(max(1, PAIRS // ours.numel()))
        if len(parts) == 1:
            return scores(ours, theirs)
        return torch.cat([checkpoint(scores, ours, part, use_reentrant=False) for part in parts], dim=1)

    def gradient_penalty(self, features: Tensor, rows: Tensor) -> Tensor:
        """mean (||grad_x D(x,a)|| - 1)^2, times `penalty`; the gradient, of the features alone, in closed form.

        D is linear but for the leaky ReLU, so grad_x D = (w s) W_x with s = 1 or 0.2 by the sign of each hidden unit.
        """
        active = (self.critic.layer1(torch.cat([features, rows], 1)) > 0).to(features)
        w_x = self.critic.layer1.weight[:, :features.shape[1]]
        gradient = (self.critic.layer2.weight * (SLOPE + (1 - SLOPE) * active)) @ w_x
        return self.settings.penalty * (gradient.norm(dim=1) - 1).square().mean()

    def critic_losses(self, features: Tensor, targets: Tensor, rows: Tensor, noise: Tensor,
                      mix: Tensor) -> dict[str, Tensor]:
        """mean D(x~) - mean D(x) + GP + SupCon(zeta(x), y) + CE(F(h(x), .) / t, y), by part.

        Features [B,D] of classes `targets` [B] in `rows` [S,K], noise [B,K], mix [B,1] in 0..1.
        """
        a, t = rows[targets], self.settings.temperature
        fake = self.generate(noise, a).detach()
        h = self.space(features)
        return {"critic_real": -self.critic(features, a).mean(), "critic_fake": self.critic(fake, a).mean(),
                "gradient_penalty": self.gradient_penalty((mix * features + (1 - mix) * fake).detach(), a),
                "instance_contrastive": supervised_contrast(self.contrasted(h), targets, t),
                "class_level": F.cross_entropy(self.compare(h, rows) / t, targets)}

    def generator_losses(self, features: Tensor, targets: Tensor, rows: Tensor, noise: Tensor,
                         a: Tensor) -> dict[str, Tensor]:
        """- mean D(x~) + w_i SupCon([zeta(x~); zeta(x)], [y; y]) + w_c CE(F(h(x~), .) / t, y), by weighted part.

        `a` [B,K] are the rows of `targets`; real features [B,D] are constants.
        """
        s = self.settings
        fake = self.generate(noise, a)
        h = self.space(fake)
        zeta = torch.cat([self.contrasted(h), self.contrasted(self.space(features)).detach()])
        instance = supervised_contrast(zeta, targets.repeat(2), s.temperature)
        return {"critic_fake": -self.critic(fake, a).mean(), "instance_contrastive": s.instance_weight * instance,
                "class_level": s.class_weight * F.cross_entropy(self.compare(h, rows) / s.temperature, targets)}

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Adam of critic, embedding and comparator together, and Adam of the generator."""
        judges = [p for net in (self.critic, self.embedder, self.comparator) for p in net.parameters()]
        return [torch.optim.Adam(p, lr=self.settings.lr, betas=(0.5, 0.999))
                for p in (judges, list(self.generator.parameters()))]

    def rate(self, step: int) -> float:
        """x 0.99 every 400 generator steps: the release's 100 epochs of 4 on CUB."""
        return 0.99 ** (step // 400)

    def step(self, batch: Batch, rows: Tensor, rng: torch.Generator,
             optimisers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """`critic_steps` of the judges, then one of the generator on the last batch with fresh noise."""
        for _ in range(self.settings.critic_steps):
            features, targets = batch()
            mix = torch.rand((len(features), 1), generator=rng).to(features)
            losses = self.critic_losses(features, targets, rows, normal(features, (len(features), rows.shape[1]), rng),
                                        mix)
            self.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            optimisers[0].step()
        noise = normal(features, (len(features), rows.shape[1]), rng)
        generated = self.generator_losses(features, targets, rows, noise, rows[targets])
        self.zero_grad(set_to_none=True)
        total = torch.stack(list(generated.values())).sum()
        total.backward()
        optimisers[1].step()
        distance = -(losses["critic_real"] + losses["critic_fake"])
        return {"generator": total.detach(), "distance": distance.detach(), "classes": losses["class_level"].detach()}

    def draw(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """G(z,a) with z from N(0,I)."""
        return self.generate(normal(rows, tuple(rows.shape), rng), rows)
