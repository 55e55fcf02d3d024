"""What a generator is trained on: one vector an image from the streams of a model, checked and scaled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STREAMS = ("cls", "visual", "semantic")


class GenerativeError(ValueError):
    """Features, classes or attributes cannot train a generator; the message names what does not fit."""


def join(features: dict[str, Tensor], streams: str) -> Tensor:
    """One vector an image [n,D']: the stream that is named, or with "all" every stream that exists, side by side.

    Raises `GenerativeError` for a stream that the model does not have, and for a model that has none.
    """
    if not set(features) & set(STREAMS):
        raise GenerativeError(f"this run's model gives an image a vector by none of the streams {', '.join(STREAMS)}: "
                              "start from a run of VSPCN, of the linear head, of VPT or of fine-tuning")
    if streams == "all":
        return torch.cat([features[s].float() for s in STREAMS if s in features], dim=1)
    if streams not in features:
        raise GenerativeError(f"streams = {streams!r}: this run's model has only {', '.join(features)}; choose one of "
                              "these, or all")
    return features[streams].float()


def check(features: Tensor, targets: Tensor, attributes: Tensor, names: list[str] | None = None) -> None:
    """Raise `GenerativeError` for NaN, a class without features, or attributes that do not fit.

    `features` [n,D], `targets` [n] in 0..C-1, `attributes` [C,K], `names` of the C classes.
    """
    if attributes.dim() != 2 or not len(attributes):
        raise GenerativeError(f"attributes must be one row a class [C,K], not {tuple(attributes.shape)}")
    if features.dim() != 2 or len(features) != len(targets):
        raise GenerativeError(f"features [n,D] and targets [n] do not fit: {tuple(features.shape)}, "
                              f"{tuple(targets.shape)}")
    names = names or [str(c) for c in range(len(attributes))]
    bad = ~torch.isfinite(features).all(1)
    if bad.any():
        raise GenerativeError(f"{int(bad.sum())} of {len(features)} feature vectors hold NaN or infinite values, first "
                              f"number {int(bad.nonzero()[0])}: the run's weights are damaged, train it again")
    unfit = (~torch.isfinite(attributes).all(1) | ~attributes.any(1)).nonzero()
    if len(unfit):
        raise GenerativeError(f"the attributes of class '{names[int(unfit[0])]}' hold NaN, infinite values or only "
                              "zeros: mend that row")
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(attributes):
        raise GenerativeError(f"targets lie in {int(targets.min())}..{int(targets.max())}, but there are "
                              f"{len(attributes)} rows of attributes: give the row of each class that has features")
    empty = (torch.bincount(targets, minlength=len(attributes)) == 0).nonzero()
    if len(empty):
        raise GenerativeError(f"class '{names[int(empty[0])]}' has no feature vector ({len(empty)} such classes): give "
                              "it images, or leave its attributes out")


def fitting(attributes: Tensor, width: int) -> Tensor:
    """`attributes` [C,K] as unit rows. Raises `GenerativeError` where K is not `width`, or a row is not finite."""
    if attributes.dim() != 2 or attributes.shape[1] != width:
        raise GenerativeError(f"attribute rows of shape {tuple(attributes.shape)} do not fit a generator that was "
                              f"trained with {width} attributes: use the rows of the same benchmark")
    if not torch.isfinite(attributes).all() or not attributes.any(1).all():
        raise GenerativeError("an attribute row holds NaN, infinite values or only zeros: mend that row")
    return nn.functional.normalize(attributes, dim=1)


class Scaler(nn.Module):
    """(x - shift) / factor for each dimension, from training features alone.

    standardise: mean 0 and standard deviation 1. minmax: the range of the training features to [0,1], as CE-GZSL's
    release has it; test features may leave it.
    """

    def __init__(self, features: Tensor, how: str) -> None:
        super().__init__()
        if how == "minmax":
            shift, factor = features.amin(0), features.amax(0) - features.amin(0)
        else:
            shift, factor = features.mean(0), features.std(0, correction=0)
        self.register_buffer("shift", shift)
        # A dimension that never changes in training says nothing: it is moved to 0 and not blown up.
        self.register_buffer("factor", torch.where(factor > 1e-6 * factor.max().clamp(min=1e-12), factor, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        """Features [n,D] to scaled ones."""
        return (features - self.shift) / self.factor

    def back(self, scaled: Tensor) -> Tensor:
        """Scaled features [n,D] to those of the model."""
        return scaled * self.factor + self.shift
