"""Attention over rows that stay as they are: gradients written by hand, in few passes over large tensors.

The attribute tokens [B,K,D] of a batch are by far the largest tensors of fusion. Autograd would sum four gradients of
that size for every block; here each arrives in the matrix product that adds the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Map = Callable[[Tensor], Tensor]  # the softmax module, called so that its hooks see the map


def row_scale(rows: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean of squares + eps) [B,T] of centred rows [B,T,D]: what LayerNorm divides by."""
    return (rows.square().mean(-1) + eps).rsqrt()


def _autocast(ctx: Any, tensor: Tensor) -> torch.autocast:
    """The forward pass's autocast for the backward pass: autograd does not keep it for a Function of one's own."""
    if not hasattr(ctx, "cast"):
        kind = tensor.device.type
        ctx.cast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
    kind, dtype, enabled = ctx.cast
    return torch.autocast(kind, dtype, enabled)


def _dot(a: Tensor, rows: Tensor) -> Tensor:
    """a [B,P,D] . rows [B or 1,T,D] -> [B,P,T]; rows that all images share are met in one product."""
    if len(rows) == 1:
        return (a.flatten(0, 1) @ rows[0].T).view(*a.shape[:2], -1)
    return a @ rows.transpose(1, 2)


def _mix(weights: Tensor, rows: Tensor) -> Tensor:
    """weights [B,P,T] . rows [B or 1,T,D] -> [B,P,D]."""
    return (weights.flatten(0, 1) @ rows[0]).view(*weights.shape[:2], -1) if len(rows) == 1 else weights @ rows


def _softmax_gradient(probability: Tensor, gradient: Tensor) -> Tensor:
    return torch._softmax_backward_data(gradient.to(probability.dtype), probability, -1, probability.dtype)


class _Read(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor | None, queries: Tensor, bias: Tensor | None, alpha: float,
                attention: Map) -> tuple[Tensor, Tensor]:
        _autocast(ctx, rows)
        raw = _dot(queries, rows)
        logits = raw if scale is None else raw * scale.unsqueeze(1)
        weights = probability = attention(logits)
        if bias is not None:
            weights = torch.add((1 - alpha) * bias, probability, alpha=alpha)
        scaled = weights if scale is None else weights * scale.unsqueeze(1)
        ctx.save_for_backward(rows, scale, queries, bias, probability, None if scale is None else raw)
        ctx.alpha = alpha
        return _mix(scaled, rows), rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mixed: Tensor, passed: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale, queries, bias, probability, raw = ctx.saved_tensors
        with _autocast(ctx, rows):
            weights = probability
            if bias is not None:
                weights = torch.add((1 - ctx.alpha) * bias, probability, alpha=ctx.alpha)
            to_scaled = _dot(mixed, rows)
            to_weights = to_scaled if scale is None else to_scaled * scale.unsqueeze(1)
            to_bias = (1 - ctx.alpha) * to_weights.sum(0) if bias is not None else None
            to_logits = _softmax_gradient(probability, to_weights if bias is None else ctx.alpha * to_weights)
            to_scale = None
            to_raw, scaled = to_logits, weights
            if scale is not None:
                to_raw, scaled = to_logits * scale.unsqueeze(1), weights * scale.unsqueeze(1)
                to_scale = (to_scaled * weights + to_logits * raw).sum(1)
                to_scale = to_scale if len(scale) == len(to_scale) else to_scale.sum(0, keepdim=True)
            left = torch.cat([to_raw, scaled], 1)  # [B,2P,T]: both ways that rows were used, in one product
            right = torch.cat([queries, mixed.to(queries.dtype)], 1)
            if len(rows) == 1:
                left, right = left.flatten(0, 1).unsqueeze(0), right.flatten(0, 1).unsqueeze(0)
            to_rows = torch.baddbmm(passed, left.transpose(1, 2), right)
            return to_rows.to(rows.dtype), to_scale, _mix(to_raw, rows).to(queries.dtype), to_bias, None, None


def read(rows: Tensor, scale: Tensor | None, queries: Tensor, bias: Tensor | None, alpha: float,
         attention: Map) -> tuple[Tensor, Tensor]:
    """(sum_t w_t scale_t rows_t [B,P,D], rows), w = alpha delta(queries . scale rows) + (1 - alpha) bias.

    `rows` [B or 1,T,D], `scale` [B or 1,T] or None for 1, `queries` [B,P,D] (the map of the keys and 1 / sqrt(D) taken
    in already; of h heads [B,P h,D] and sqrt(D / h)), `bias` [P,T], rows of weights, or None. Whoever reads the rows
    next takes the ones returned, so that the gradients of all readers add up along the chain.
    """
    return _Read.apply(rows, scale, queries, bias, alpha, attention)


class _Rewrite(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, scale: Tensor, keys: Tensor, offset: Tensor, values: Tensor, alpha: float,
                eps: float, attention: Map) -> tuple[Tensor, Tensor]:
        _autocast(ctx, rows)
        raw = _dot(keys, rows).transpose(1, 2) if len(rows) == 1 else rows @ keys.transpose(1, 2)  # [B,K,N]
        probability = attention(torch.addcmul(offset.unsqueeze(1), raw, scale.unsqueeze(2)))
        new = torch.baddbmm(rows.expand(len(keys), -1, -1), probability, values, beta=1 - alpha, alpha=alpha)
        new_scale = row_scale(new.float() if new.dtype == torch.bfloat16 else new, eps)
        ctx.save_for_backward(rows, scale, keys, values, raw, probability, new, new_scale)
        ctx.alpha = alpha
        return new, new_scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_new: Tensor, to_new_scale: Tensor) -> tuple[Tensor | None, ...]:
        rows, scale, keys, values, raw, probability, new, new_scale = ctx.saved_tensors
        with _autocast(ctx, rows):
            slope = to_new_scale * new_scale**3 / -new.shape[-1]  # d scale / d row = -scale^3 row / D
            gradient = torch.addcmul(to_new, slope.unsqueeze(2).to(new.dtype), new)
            to_values = ctx.alpha * (probability.transpose(1, 2) @ gradient)
            to_logits = _softmax_gradient(probability, ctx.alpha * (gradient @ values.transpose(1, 2)))
            to_raw = to_logits * scale.unsqueeze(2)
            to_scale = (to_logits * raw).sum(2)
            if len(rows) == 1:
                flat = to_raw.transpose(1, 2)  # [B,N,K]
                to_keys = _mix(flat, rows)
                to_rows = ((1 - ctx.alpha) * gradient.sum(0) + flat.flatten(0, 1).T @ keys.flatten(0, 1)).unsqueeze(0)
                to_scale = to_scale.sum(0, keepdim=True)
            else:
                to_keys = to_raw.transpose(1, 2) @ rows
                to_rows = torch.baddbmm(gradient, to_raw, keys, beta=1 - ctx.alpha)
            return (to_rows.to(rows.dtype), to_scale.to(scale.dtype), to_keys.to(keys.dtype),
                    to_logits.sum(1), to_values.to(values.dtype), None, None, None)


def rewrite(rows: Tensor, scale: Tensor, keys: Tensor, offset: Tensor, values: Tensor, alpha: float, eps: float,
            attention: Map) -> tuple[Tensor, Tensor]:
    """rows' = alpha delta(scale rows . keys + offset) values + (1 - alpha) rows, and the scale of rows'.

    `rows` [B or 1,K,D] centred, `scale` [B or 1,K], `keys` and `values` [B,N,D] (values centred), `offset` [B,N];
    returns [B,K,D] and [B,K].
    """
    return _Rewrite.apply(rows, scale, keys, offset, values, alpha, eps, attention)
