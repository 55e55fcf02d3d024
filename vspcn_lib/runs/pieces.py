"""The gradient of one batch, in as many pieces as the device's memory asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from vspcn_lib.runs.processes import batch_features
from vspcn_lib.zeroshot import ZeroShotModel

Objective = Callable[[dict[str, Tensor], dict[str, Tensor], Tensor], dict[str, Tensor]]


class DeviceFull(RuntimeError):
    """Not even one image at a time fits into the device's memory."""


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed, on the device or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class Pieces:
    """`backward(x, rows, targets, objective)`: gradients of objective(features, embedded, targets)["total"] / `share`,
    added up.

    Where memory runs out, the images pass the ViT in halves, quarters, ... and nothing else changes: features of all
    pieces are computed first, then heads, batch statistics and loss see the whole batch once, and each piece passes
    the ViT again with the gradient that its features got. The result is the whole batch's to rounding, at the price
    of one more forward pass; so neither the heads' BatchNorm nor L_CED, which is no mean over images, notices.
    Of several processes each has its own images [n_r,...] of the batch, and heads and loss see the features of all;
    they take no smaller pieces. `micro` is the largest piece that may be tried. Raises `DeviceFull` where a single
    image does not fit.
    """

    def __init__(self, model: ZeroShotModel, accelerator: Accelerator, autocast: Callable[[], torch.autocast],
                 share: float, micro: int) -> None:
        self.model, self.accelerator, self.autocast, self.share, self.micro = model, accelerator, autocast, share, micro

    def backward(self, x: Tensor, rows: Tensor, targets: Tensor, objective: Objective) -> dict[str, Tensor]:
        """The loss parts of this process's images [n_r,3,H,W] and their classes' attribute rows [n_r,K], or of all
        cached features [B,...]; targets [B] of the whole batch; gradients are in `.grad`.
        """
        parameters = list(self.model.trainable().values())
        # What a failed attempt may have touched: gradients of the batches before, and the heads' running statistics.
        held = [p.grad for p in parameters]
        kept = {name: value.clone() for name, value in self.model.heads.named_buffers()}
        while True:
            self.model.zero_grad(set_to_none=True)
            try:
                parts = self._whole(x, rows, targets, objective) if self.micro >= len(x) or x.dim() != 4 else (
                    self._split(x, rows, targets, objective))
                break
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.accelerator.num_processes > 1:  # the others do not know, and would wait
                    raise DeviceFull("out of device memory in one of several processes: start all of them again with "
                                     "a smaller train.batch_size and train.accumulate as much larger") from error
                if self.micro == 1 or x.dim() != 4:
                    raise DeviceFull("not even one image at a time fits into the device's memory: choose a smaller "
                                     "data.size or train.batch_size, or another device") from error
            # Outside of `except`: the traceback would keep the failed attempt's tensors alive.
            self.micro = max(1, min(self.micro, len(x)) // 2)
            for name, value in self.model.heads.named_buffers():
                value.copy_(kept[name])
            if x.is_cuda:
                torch.cuda.empty_cache()
        for parameter, before in zip(parameters, held, strict=True):
            if before is not None:
                parameter.grad = before if parameter.grad is None else parameter.grad + before
        return parts

    def _whole(self, x: Tensor, rows: Tensor, targets: Tensor, objective: Objective) -> dict[str, Tensor]:
        with self.autocast():
            if x.dim() == 4:
                features = batch_features(self.model.training_features(x, rows), len(targets), self.accelerator)
            else:
                features = self.model.unfrozen(x)
            embedded = self.model.embed(features)
        parts = objective(features, embedded, targets)
        self.accelerator.backward(parts["total"] / self.share)
        return parts

    def _split(self, x: Tensor, rows: Tensor, targets: Tensor, objective: Objective) -> dict[str, Tensor]:
        with torch.no_grad(), self.autocast():
            found = [self.model.training_features(*piece) for piece in self._pieces(x, rows)]
        features = {s: torch.cat([f[s] for f in found]).requires_grad_() for s in found[0]}
        with self.autocast():
            embedded = self.model.embed(features)
        parts = objective(features, embedded, targets)
        self.accelerator.backward(parts["total"] / self.share)
        used = [s for s, f in features.items() if f.grad is not None]
        slices = {s: features[s].grad.split(self.micro) for s in used}
        for i, piece in enumerate(self._pieces(x, rows)):
            with self.autocast():
                again = self.model.training_features(*piece)
            torch.autograd.backward([again[s] for s in used], [slices[s][i] for s in used])
        return parts

    def _pieces(self, x: Tensor, rows: Tensor) -> zip[tuple[Tensor, Tensor]]:
        return zip(x.split(self.micro), rows.split(self.micro), strict=True)
