"""Weak fusion, strong fusion and the semantic adapter (design section 1), written with absorbed projections.

Few queries, many keys: (Q W_k) X^T replaces Q (X W_k)^T and (A X) W_v replaces A (X W_v), so that no context
token is projected. Many queries, few keys (the adapter): the keys take up W_q instead. The key bias adds the
same number to every logit of a query and cancels in the softmax, so there is none. Same numbers to 1e-5.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class AttentionMap(nn.Module):
    """delta(logits): a module of its own, so that a forward hook can read the map; logits [..., T]."""

    def forward(self, logits: Tensor) -> Tensor:
        """Softmax over the last axis."""
        return logits.softmax(dim=-1)


class _Projections(nn.Module):
    """LayerNorm on query and context and the three single-head projections shared by every fusion."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        # Frozen ViT tokens have a few huge channels: without the norms those alone decide the softmax.
        self.norm_query = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.attention = AttentionMap()

    def _attend(self, prompts: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """delta(Q K^T / sqrt(D)) [B,P,T] and the normed context [B,T,D], the key absorbed into the query."""
        context = self.norm_context(context)
        absorbed = self.query(self.norm_query(prompts)) @ self.key.weight  # [B,P,D]
        return self.attention(absorbed @ context.transpose(-2, -1) / math.sqrt(self.dim)), context

    def _values(self, weights: Tensor, context: Tensor) -> Tensor:
        """weights V [B,P,D] as (weights X) W_v^T + (row sum) b_v; rows of `weights` sum to one."""
        return self.value(weights @ context)


class WeakPromptFusion(_Projections):
    """WVPF and WSPF: f = delta(Q K^T / sqrt(D)) V, once, at the input (design section 1, weak fusion)."""

    def forward(self, prompts: Tensor, context: Tensor) -> Tensor:
        """Prompts [B,P,D] as queries, context [B,T,D] as keys and values; returns [B,P,D]."""
        return self._values(*self._attend(prompts, context))


class StrongPromptFusion(_Projections):
    """SVPF and SSPF: f' = [a delta(Q K^T / sqrt(D)) + (1 - a) delta(B)] V + f (design section 1).

    `alpha` in [0, 1] multiplies the attention: 1 is plain attention, 0 only the learned bias B
    [num_prompts, num_context]. Raises ValueError for an alpha outside [0, 1].
    """

    def __init__(self, dim: int, num_prompts: int, num_context: int, alpha: float) -> None:
        super().__init__(dim)
        self.alpha = _share("alpha", alpha)
        # A small random start: equal rows would keep all prompts alike where a is near zero.
        self.bias = nn.Parameter(0.02 * torch.randn(num_prompts, num_context))
        self.bias_map = AttentionMap()

    def forward(self, prompts: Tensor, context: Tensor) -> Tensor:
        """Prompts [B,P,D], context [B,T,D] with P and T as constructed; returns [B,P,D]."""
        if context.shape[-2] != self.bias.shape[1] or prompts.shape[-2] != self.bias.shape[0]:
            raise ValueError(f"strong fusion was built for {self.bias.shape[0]} prompts over "
                             f"{self.bias.shape[1]} context tokens, got {prompts.shape[-2]} over "
                             f"{context.shape[-2]}: is the image size the one of the config?")
        attention, normed = self._attend(prompts, context)
        weights = self.alpha * attention + (1 - self.alpha) * self.bias_map(self.bias)
        return self._values(weights, normed) + prompts


class SemanticAdapter(_Projections):
    """S' = a delta(Q K^T / sqrt(D)) V + (1 - a) S, each image by itself (design section 1, adapter).

    `alpha` in [0, 1]; 0 returns the attributes unchanged. Raises ValueError for an alpha outside [0, 1].
    """

    def __init__(self, dim: int, alpha: float) -> None:
        super().__init__(dim)
        self.alpha = _share("alpha", alpha)

    def forward(self, attributes: Tensor, patches: Tensor) -> Tensor:
        """Attributes [B,K,D] as queries, patches [B,N,D] as keys and values; returns [B,K,D]."""
        patches = self.norm_context(patches)
        keys = patches @ (self.key.weight.T @ self.query.weight)  # [B,N,D], W_q absorbed into the keys
        offset = patches @ (self.key.weight.T @ self.query.bias)  # [B,N], what the query bias adds
        logits = self.norm_query(attributes) @ keys.transpose(-2, -1) + offset.unsqueeze(-2)
        weights = self.attention(logits / math.sqrt(self.dim))
        # One pass over [B,K,D], by far the largest tensor here, instead of four.
        return torch.baddbmm(attributes, weights, self.value(patches), beta=1 - self.alpha, alpha=self.alpha)


def _share(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} = {value} is out of range: choose a value in [0, 1]")
    return float(value)
