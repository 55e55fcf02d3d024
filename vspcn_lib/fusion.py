"""Weak fusion, strong fusion and the semantic adapter (design section 1), written so that little is computed.

Three exact rewrites, the same numbers to 1e-5:

- Few queries, many keys: (Q W_k) X^T replaces Q (X W_k)^T and (A X) W_v replaces A (X W_v), so that no context token
  is projected. Many queries, few keys (the adapter): the keys take up W_q instead. The key bias adds the same number
  to every logit of a query and cancels in the softmax, so there is none.
- LayerNorm(x) = r x' g + b with x' = x - mean(x) and r = 1/std(x). The gain g goes into the few vectors that meet the
  context, the row scale r into the logits and weights, b cancels or is added once: no normed context is formed.
- The attributes S^l are only ever read through a LayerNorm, so their mean over channels never matters: they are kept
  centred (the value projection's rows are), and r comes from their norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from vspcn_lib.attend import read, rewrite, row_scale

EPS = 1e-5  # of every LayerNorm here, nn.LayerNorm's default


class AttentionMap(nn.Module):
    """delta(logits): a module of its own, so that a forward hook can read the map; logits [..., T].

    Of several `heads` the map is [B, P heads, T], the heads of a prompt one after the other.
    """

    def __init__(self, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, logits: Tensor) -> Tensor:
        """Softmax over the last axis."""
        return logits.softmax(dim=-1)


class PathOutput(nn.Identity):
    """What a path hands on: a module of its own, so that a forward hook can read or replace it (`runs/paths.py`)."""


@dataclass(frozen=True)
class Context:
    """What fusion reads, standardised but for LayerNorm's gain and bias: `scale` * `rows`."""

    rows: Tensor
    """[B,T,D], each row's mean over channels is 0; B is 1 where all images share them"""
    scale: Tensor | None
    """[B,T], 1 / standard deviation of each row; None where `rows` have it already"""

    @classmethod
    def of(cls, tokens: Tensor) -> Context:
        """Tokens [B,T,D]; shared by the modules that read the same tokens."""
        return cls(F.layer_norm(tokens, tokens.shape[-1:], eps=EPS), None)

    @classmethod
    def growing(cls, tokens: Tensor) -> Context:
        """Attribute tokens [B,K,D] that an adapter will go on rewriting."""
        rows = tokens - tokens.mean(-1, keepdim=True)
        return cls(rows, row_scale(rows, EPS))


class _Projections(nn.Module):
    """LayerNorm on query and context and the three projections shared by every fusion.

    With h `heads` each attends in D/h channels of its own, logits over sqrt(D/h), as in a ViT's block; one head is the
    paper's formula. Raises ValueError where `heads` does not divide D.
    """

    adds: ClassVar[bool] = True
    """whether its `output` is added to what was there; the adapter's is what stays"""

    def __init__(self, dim: int, heads: int = 1) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"{heads} heads do not divide a width of {dim}: choose a divisor")
        self.dim, self.heads = dim, heads
        # Frozen ViT tokens have a few huge channels: without the norms those alone decide the softmax.
        self.norm_query = nn.LayerNorm(dim, eps=EPS)
        self.norm_context = nn.LayerNorm(dim, eps=EPS)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.attention = AttentionMap(heads)
        self.output = PathOutput()

    def matching(self, share: float, whiten: bool) -> list[RemovableHandle]:
        """While these hooks last, a pass over images sets how the fusion starts (`VSPCN.begin`).

        What it adds becomes `share` times as long as its prompts [B,P,D], as means over the images. With `whiten`, and
        of several prompts always, each channel of the normed prompts gets mean 0 and deviation 1 over images and
        prompts, so that queries tell them apart.
        """
        length = torch.zeros(())

        def query(norm: nn.LayerNorm, inputs: tuple[Tensor]) -> None:
            prompts = inputs[0].float()
            length.copy_(prompts.norm(dim=-1).mean())
            if whiten or prompts.shape[1] > 1:
                plain = F.layer_norm(prompts, (self.dim,), eps=EPS)
                spread = plain.std((0, 1), correction=0) + 0.01  # no channel is blown up
                norm.weight.copy_(1 / spread)
                norm.bias.copy_(-plain.mean((0, 1)) / spread)

        def added(_: nn.Module, inputs: tuple[Tensor], found: Tensor) -> Tensor:
            factor = share * length.to(found.device) / found.float().norm(dim=-1).mean()
            self.value.weight *= factor
            self.value.bias *= factor
            return found * factor.to(found.dtype)

        return [self.norm_query.register_forward_pre_hook(query), self.output.register_forward_hook(added)]

    def _attend(self, prompts: Tensor, context: Context, bias: Tensor | None,
                alpha: float) -> tuple[Tensor, Context]:
        """[alpha delta(Q K^T / sqrt(D / h)) + (1 - alpha) bias] V [B,P,D] of h heads, and the context for its next
        reader."""
        gain, heads = self.norm_context.weight, self.heads
        queries = self.query(self.norm_query(prompts)).unflatten(-1, (heads, -1))  # [B,P,h,D/h]
        keys = (self.key.weight * (gain * math.sqrt(heads / self.dim))).unflatten(0, (heads, -1))  # [h,D/h,D]
        absorbed = torch.einsum("bphd,hde->bphe", queries, keys).flatten(1, 2)
        shared = bias if bias is None or heads == 1 else bias.repeat_interleave(heads, 0)
        mixed, rows = read(context.rows, context.scale, absorbed, shared, alpha, self.attention)
        # The weights sum to one, so LayerNorm's bias comes out as it went in.
        mixed = torch.addcmul(self.norm_context.bias, mixed, gain).unflatten(1, (-1, heads))
        values = self.value.weight.unflatten(0, (heads, -1))
        fused = torch.einsum("bphe,hde->bphd", mixed, values).flatten(2) + self.value.bias
        return self.output(fused), Context(rows, context.scale)


class WeakPromptFusion(_Projections):
    """WVPF and WSPF: f = delta(Q K^T / sqrt(D / h)) V of h heads, once, at the input (design section 1)."""

    def forward(self, prompts: Tensor, context: Tensor) -> Tensor:
        """Prompts [B,P,D] as queries, context [B,T,D] as keys and values; returns [B,P,D]."""
        return self._attend(prompts, Context.of(context), None, 1.0)[0]


class StrongPromptFusion(_Projections):
    """SVPF and SSPF: f' = [a delta(Q K^T / sqrt(D / h)) + (1 - a) delta(B)] V + f of h heads (design section 1).

    `alpha` in [0, 1] multiplies the attention: 1 is plain attention, 0 only the learned bias B
    [num_prompts, num_context], one for all heads. Raises ValueError for an alpha outside [0, 1].
    """

    def __init__(self, dim: int, num_prompts: int, num_context: int, alpha: float, heads: int = 1) -> None:
        super().__init__(dim, heads)
        self.alpha = _share("alpha", alpha)
        # A small random start: equal rows would keep all prompts alike where a is near zero.
        self.bias = nn.Parameter(0.02 * torch.randn(num_prompts, num_context))
        self.bias_map = AttentionMap()

    def forward(self, prompts: Tensor, context: Tensor) -> Tensor:
        """Prompts [B,P,D], context [B,T,D] with P and T as constructed; returns [B,P,D]."""
        return self.fuse(prompts, Context.of(context))[0]

    def fuse(self, prompts: Tensor, context: Context) -> tuple[Tensor, Context]:
        """`forward` for a context that others read too: also returns it for its next reader."""
        if context.rows.shape[-2] != self.bias.shape[1] or prompts.shape[-2] != self.bias.shape[0]:
            raise ValueError(f"strong fusion was built for {self.bias.shape[0]} prompts over "
                             f"{self.bias.shape[1]} context tokens, got {prompts.shape[-2]} over "
                             f"{context.rows.shape[-2]}: is the image size the one of the config?")
        fused, context = self._attend(prompts, context, self.bias_map(self.bias), self.alpha)
        return fused + prompts, context


class SemanticAdapter(_Projections):
    """S' = a delta(Q K^T / sqrt(D)) V + (1 - a) S, each image by itself (design section 1, adapter).

    `alpha` in [0, 1]; 0 returns the attributes unchanged. Raises ValueError for an alpha outside [0, 1].
    """

    adds: ClassVar[bool] = False

    def __init__(self, dim: int, alpha: float) -> None:
        super().__init__(dim)
        self.alpha = _share("alpha", alpha)

    def forward(self, attributes: Tensor, patches: Tensor) -> Tensor:
        """Attributes [B,K,D] as queries, patches [B,N,D] as keys and values; returns [B,K,D]."""
        context, seen = Context.growing(attributes), self._seen(Context.of(patches))
        keys, offset = self._keys(seen)
        logits = offset.unsqueeze(1) + context.scale.unsqueeze(2) * (context.rows @ keys.transpose(1, 2))
        return torch.baddbmm(attributes, self.attention(logits), self.value(seen), beta=1 - self.alpha,
                             alpha=self.alpha)

    def adapt(self, attributes: Context, patches: Context) -> Context:
        """`forward` up to the mean over channels, which nothing that reads a `Context` sees."""
        seen = self._seen(patches)
        values = F.linear(seen, self.value.weight - self.value.weight.mean(0), self.value.bias - self.value.bias.mean())
        rows, scale = rewrite(attributes.rows, attributes.scale, *self._keys(seen), values, self.alpha, EPS,
                              self.attention)
        handed = self.output(rows)
        return Context(rows, scale) if handed is rows else Context(handed, row_scale(handed.float(), EPS))

    def _seen(self, patches: Context) -> Tensor:
        """The normed patches [B,N,D]; few beside the attributes, so they are formed."""
        return torch.addcmul(self.norm_context.bias, patches.rows, self.norm_context.weight)

    def _keys(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [B,N,D] that meet centred and scaled attributes, and what the norm's and the query's bias add [B,N]."""
        root, norm = math.sqrt(self.dim), self.norm_query
        if seen.shape[:-1].numel() < self.dim:  # a few images: cheaper than the product of the two matrices
            keys = self.key(seen) @ (self.query.weight * (norm.weight / root))
        else:
            keys = seen @ ((self.key.weight.T @ self.query.weight) * (norm.weight / root))
        return keys, seen @ (self.key.weight.T @ (self.query(norm.bias) / root))


def _share(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} = {value} is out of range: choose a value in [0, 1]")
    return float(value)
