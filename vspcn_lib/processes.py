"""Several processes, one result: rows gathered in order, gradients summed, one voice on when to stop."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn


def share(indices: np.ndarray, acc: Accelerator) -> np.ndarray:
    """This process's consecutive part of `indices`; disjoint, complete, of lengths that differ by one at most."""
    return np.array_split(indices, acc.num_processes)[acc.process_index]


def _every_part(part: Tensor, lengths: list[int], acc: Accelerator) -> list[Tensor]:
    """`part` [n_r, ...] of every process, by process. The lengths are known to all, so that none is guessed."""
    padded = part.new_zeros(max(lengths), *part.shape[1:])
    padded[:len(part)] = part.detach()
    whole = acc.gather(padded).view(acc.num_processes, max(lengths), *part.shape[1:])
    return [rows[:n] for rows, n in zip(whole, lengths, strict=True)]


def gather(part: Tensor, total: int, acc: Accelerator) -> Tensor:
    """The rows [total, ...] whose `share`s the processes hold, in order: none twice, none lost."""
    if acc.num_processes == 1:
        return part
    lengths = [len(p) for p in np.array_split(np.arange(total), acc.num_processes)]
    return torch.cat(_every_part(part, lengths, acc))


def own_rows(total: int, acc: Accelerator) -> np.ndarray:
    """This process's rows of a batch of `total`; where there are fewer rows than processes, at least the first."""
    own = share(np.arange(total), acc)
    return own if len(own) else np.arange(1)


def batch_features(features: dict[str, Tensor], total: int, acc: Accelerator) -> dict[str, Tensor]:
    """Features [n_r,D] of this process's rows to those of the whole batch [total,D], the others without gradient.

    Heads, their batch statistics and losses then see the global batch: a log of batch means, as in L_CED, is not the
    mean of the processes' logs. Each process differentiates by its own rows; `sum_gradients` adds them up.
    """
    if acc.num_processes == 1:
        return features
    lengths = [len(p) for p in np.array_split(np.arange(total), acc.num_processes)]
    start, n = sum(lengths[:acc.process_index]), lengths[acc.process_index]
    out = {}
    for stream, part in features.items():
        whole = torch.cat(_every_part(part[:n], lengths, acc))
        out[stream] = torch.cat([whole[:start], part[:n], whole[start + n:]]) + 0 * part.sum()
    return out


def sum_gradients(model: nn.Module, parameters: Iterable[nn.Parameter], acc: Accelerator, stop: bool) -> bool:
    """Sum gradients over the processes, in one message; true where any process was asked to `stop`.

    The heads' gradients come from the whole batch in every process already, so they are averaged.
    """
    if acc.num_processes == 1:
        return stop
    heads, used = {id(p) for p in model.heads.parameters()}, list(parameters)
    flat = [p.grad.float().flatten() / (acc.num_processes if id(p) in heads else 1) for p in used]
    flat.append(torch.tensor([float(stop)], device=acc.device))
    total = acc.reduce(torch.cat(flat), reduction="sum")
    for p, part in zip(used, total[:-1].split([p.numel() for p in used]), strict=True):
        p.grad = part.view_as(p).to(p.grad.dtype)
    return bool(total[-1] > 0)
