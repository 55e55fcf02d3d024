"""The losses of VSPCN, each a function of explicit tensors; `total` returns every part by name."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vspcn_lib.config import LossConfig


class NotFinite(FloatingPointError):
    """A loss part or a gradient is NaN or infinite; the message names it."""


def classification(scores: Tensor, targets: Tensor) -> Tensor:
    """L_CLS: cross-entropy over the seen classes; scores [B,C_s], targets [B] in 0..C_s-1."""
    return F.cross_entropy(scores, targets)


def regression(embedded: Tensor, prototypes: Tensor) -> Tensor:
    """L_AR = mean_b ||embed(f_b) - prototype_b||^2; both [B,E], prototypes of the true classes.

    Summed over E (the design's MSE times E): a mean over 312 unit-norm entries would vanish beside L_CLS.
    """
    return (embedded - prototypes).square().sum(dim=-1).mean()


def kl(p_scores: Tensor, q_scores: Tensor) -> Tensor:
    """KL(delta(p) || delta(q)), mean over the batch; scores [B,C]; exactly 0 for equal scores."""
    p, q = p_scores.log_softmax(-1), q_scores.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


def jsd(p_scores: Tensor, q_scores: Tensor) -> Tensor:
    """Jensen-Shannon divergence of delta(p) and delta(q) in nats (0..log 2), mean over the batch; [B,E]."""
    p, q = p_scores.log_softmax(-1), q_scores.log_softmax(-1)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype, device=p.device))
    return 0.5 * ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)).mean()


def contrast(visual_scores: Tensor, cls_scores: Tensor, targets: Tensor, eps: float) -> Tensor:
    """L_CED = log((CE(vp) + CE(cls)) / (KL(delta(vp) || delta(cls)) + eps) + 1); scores [B,C_s].

    The KL runs over class-score distributions. Both heads must be right, and they are paid for disagreeing;
    eps > 0 keeps the value finite where they agree.
    """
    errors = F.cross_entropy(visual_scores, targets) + F.cross_entropy(cls_scores, targets)
    return torch.log1p(errors / (kl(visual_scores, cls_scores) + eps))


def distillation(embedded: Tensor, prototypes: Tensor, scale: float, eta1: float, eta2: float) -> Tensor:
    """L_SKD = eta1 JSD(delta(sp), delta(proto_y)) + eta2 ||sp - proto_y||_2; both [B,E].

    The JSD runs over the embedding, times the score scale: entries of unit-norm vectors alone are so small
    that every softmax of them is nearly flat.
    """
    divergence = jsd(scale * embedded, scale * prototypes)
    # The squared sum is shifted by a tiny constant: the root has no gradient at exactly zero distance.
    distance = ((embedded - prototypes).square().sum(-1) + 1e-12).sqrt().mean()
    return eta1 * divergence + eta2 * distance


def total(scores: dict[str, Tensor], embedded: dict[str, Tensor], targets: Tensor, prototypes: Tensor,
          scale: float, config: LossConfig) -> dict[str, Tensor]:
    """L = L_CLS + gamma L_AR + lambda_CED L_CED + lambda_SKD L_SKD, every part by name and their sum `total`.

    `scores[s]` [B,C_s] over seen classes and `embedded[s]` [B,E] for each stream s of cls, visual, semantic
    that exists; `targets` [B]; `prototypes` [B,E] of the true classes. Raises `NotFinite` that names a part.
    """
    parts = {"cls": classification(scores["cls"], targets)}
    weights = {"cls": 1.0}
    if config.gamma:
        parts["ar"], weights["ar"] = regression(embedded["cls"], prototypes), config.gamma
    if "visual" in scores and config.lambda_ced:
        parts["ced"] = contrast(scores["visual"], scores["cls"], targets, config.eps)
        weights["ced"] = config.lambda_ced
    if "semantic" in scores and config.lambda_skd:
        parts["skd"] = distillation(embedded["semantic"], prototypes, scale, config.eta1, config.eta2)
        weights["skd"] = config.lambda_skd
    return weighted(parts, weights)


def weighted(parts: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """The scalar `parts` by name and their sum `total`, each times its weight. Raises `NotFinite` that names a part."""
    for name, value in parts.items():
        if not torch.isfinite(value):
            raise NotFinite(f"loss part '{name}' is {value.item()}: lower the learning rate or its weight")
    return {**parts, "total": torch.stack([weights[name] * value for name, value in parts.items()]).sum()}


def widened(x: Tensor) -> Tensor:
    """`x` in float32 where mixed precision made it narrower; a wider one stays as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def clip_gradients(parameters: dict[str, torch.nn.Parameter], most: float) -> Tensor:
    """Scale all gradients to a norm of at most `most`; returns the norm before. Raises `NotFinite` by name."""
    try:
        return torch.nn.utils.clip_grad_norm_(parameters.values(), most, error_if_nonfinite=True)
    except RuntimeError as error:
        bad = [name for name, p in parameters.items() if p.grad is not None and not torch.isfinite(p.grad).all()]
        if not bad:
            raise
        raise NotFinite(f"the gradient of '{bad[0]}' ({len(bad)} of {len(parameters)} parameters) is NaN or infinite: "
                        "lower train.lr, or set train.precision to no; the weights are as before this step") from error
