"""Several processes, one result: rows gathered in order, gradients summed, one voice on when to stop.

What travels in a step, with ViT-B/16, 8 + 8 prompts, 312 attributes and a global batch of B over n processes:
- gradients once: 36 million float32, 146 MB; a ring moves 2 x 146 MB a process whatever n is: 12 ms at 25 GB/s. At
  n = 256 the latency of the ring's 510 hops, 5 us each, is 3 ms more.
- features: 3 streams x B x 768 x 4 bytes, 9.4 MB at B = 1024. Heads and losses of the whole batch run in every process:
  3 x B x (768 + C) x 312 x 6 = 5 GFLOP at B = 1024 and C = 150, 0.12 TFLOP at C = 20,000; the ViT takes 0.07 TFLOP for
  one image, so this stays small as long as a process has more than a few images.
What lies on disk and in memory: 3 x 224 x 224 bytes an image, 150 KB: 1.8 GB for CUB, 5.6 GB for AWA2, 56 GB at ten
times AWA2 and 560 GB at a hundred times; batches map the file and hold one batch. A score matrix is n x C x 4 bytes.
What is done by one process alone: stat of every image (microseconds each), the first decoding (threads on one node),
metrics (a pass over the scores), and writing the run folder, which all nodes must see.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from vspcn_lib.runs.folder import together


def state() -> PartialState:
    """Who this process is among those of `accelerate launch`, or alone; without a GPU they talk through gloo."""
    with together():
        return PartialState(cpu=not torch.accelerator.is_available())


def share(indices: np.ndarray, acc: Accelerator) -> np.ndarray:
    """This process's consecutive part of `indices`; disjoint, complete, of lengths that differ by one at most."""
    return np.array_split(indices, acc.num_processes)[acc.process_index]


def _every_part(part: Tensor, lengths: list[int], acc: Accelerator) -> list[Tensor]:
    """`part` [n_r, ...] of every process, by process. The lengths are known to all, so that none is guessed."""
    padded = part.new_zeros(max(lengths), *part.shape[1:])
    padded[:len(part)] = part.detach()
    with together():
        whole = acc.gather(padded)
    whole = whole.view(acc.num_processes, max(lengths), *part.shape[1:])
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
    with together():
        total = acc.reduce(torch.cat(flat), reduction="sum")
    for p, part in zip(used, total[:-1].split([p.numel() for p in used]), strict=True):
        p.grad = part.view_as(p).to(p.grad.dtype)
    return bool(total[-1] > 0)
