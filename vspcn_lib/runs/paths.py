"""Whether each path of VSPCN carries something of the image: what is lost where its output forgets the image.

A path that gives every image the same is a learned constant, as VPT-deep has them. Each path's output, or attention, is
replaced while test images are classified again; nothing is chosen by these numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from vspcn_lib import metrics
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.zeroshot import ZeroShotModel

RECORDED = 128  # images of a run's record, or two a class where that is more: paired differences are good to 2 points
CHUNK = 32  # images at a time; "another image's" is taken from the same chunk
HOW = {"mean": "output replaced by its mean over images", "other": "output replaced by another image's",
       "attention": "attention fixed at its mean over images", "removed": "output removed"}


@dataclass
class Means:
    """Means over images of what modules returned, summed up chunk by chunk."""

    sums: dict[nn.Module, Tensor] = field(default_factory=dict)
    images: dict[nn.Module, int] = field(default_factory=dict)

    def add(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """A forward hook; output [B,...]."""
        value = output.detach().float()
        self.sums[module] = self.sums.get(module, 0) + value.sum(0)
        self.images[module] = self.images.get(module, 0) + len(value)

    def of(self, module: nn.Module) -> Tensor:
        """The mean [...]."""
        return self.sums[module] / self.images[module]


@contextmanager
def replaced(parts: Sequence[nn.Module], how: str, means: Means) -> Iterator[None]:
    """Inside the `with` the paths `parts` give what `how` of `HOW` says; `means` are those of an untouched pass."""
    handles, alphas = [], []
    try:
        for part in parts:
            if how == "removed" and not part.adds:  # its output is what stays, not what is added
                alphas.append((part, part.alpha))
                part.alpha = 0.0
                continue
            target = part.attention if how == "attention" else part.output
            if how in ("mean", "attention"):
                mean = means.of(target)

                def put(module: nn.Module, inputs: tuple[Any, ...], output: Tensor, mean: Tensor = mean) -> Tensor:
                    return mean.to(output.dtype).expand_as(output)
            elif how == "other":
                def put(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
                    return output.roll(1, 0)
            else:
                def put(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
                    return torch.zeros_like(output)
            handles.append(target.register_forward_hook(put))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for part, alpha in alphas:
            part.alpha = alpha


@dataclass
class Images:
    """Images in fixed chunks, kept as they are before the first deep block: paths beyond it are all that runs again."""

    work: Workspace
    model: ZeroShotModel
    indices: np.ndarray
    kept: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    @classmethod
    def of(cls, work: Workspace, model: ZeroShotModel, most: int) -> Images:
        """Up to `most` test images, evenly from all classes, in an order that puts other classes beside each other."""
        bench, rng = work.bench, np.random.default_rng(0)
        test = rng.permutation(np.concatenate([bench.test_seen, bench.test_unseen]))
        rank = np.zeros(len(test), int)
        for c in np.unique(bench.labels[test]):
            rank[bench.labels[test] == c] = np.arange(np.sum(bench.labels[test] == c))
        indices = rng.permutation(test[np.argsort(rank, kind="stable")][:most])
        return cls(work, model, indices)

    def shallow(self, whole: bool = True) -> Iterator[tuple[Tensor, Tensor | None]]:
        """`model.shallow` of each chunk, computed anew if `whole`; the first time it is also kept, off the device."""
        device, kept = self.work.accelerator.device, []
        if self.kept and not whole:
            yield from (_moved(pair, device) for pair in self.kept)
            return
        for start in range(0, len(self.indices), CHUNK):
            chunk = self.work.batches(self.indices[start:start + CHUNK], augment=False)
            x = torch.cat([x for x, _, _ in chunk.epoch(0)])
            with self.work.autocast():
                pair = self.model.shallow(x)
            kept += [] if self.kept else [_moved(pair, torch.device("cpu"))]
            yield pair
        self.kept = self.kept or kept

    def scores(self, whole: bool) -> np.ndarray:
        """The score matrix [n,C]; from the first block on if `whole`."""
        model, work, out = self.model, self.work, []
        prototypes = model.prototypes(torch.as_tensor(work.bench.prototypes, device=work.accelerator.device))
        for tokens, attributes in self.shallow(whole):
            with work.autocast():
                embedded = model.embed(model.by_stream(model.deep(tokens, attributes)))
            out.append(model.scores(embedded, prototypes).float().cpu())
        return torch.cat(out).numpy()


def _moved(pair: tuple[Tensor, Tensor | None], device: torch.device) -> tuple[Tensor, Tensor | None]:
    tokens, attributes = pair
    return tokens.to(device), None if attributes is None else attributes.to(device)


def vanished(work: Workspace, model: ZeroShotModel) -> list[str]:
    """Trained parameters whose root mean square is below a hundredth of what it was when the model was built, by name.

    (`begin`, which comes after, rescales some values and norms a little.)
    """
    def size(parameter: Tensor) -> float:
        return float(parameter.detach().float().square().mean().sqrt())

    end = model.trainable()
    return [name for name, start in work.model().trainable().items() if size(end[name]) < 0.01 * size(start)]


@torch.inference_mode()
def measure(work: Workspace, model: ZeroShotModel, most: int = 0, hows: Sequence[str] = ("mean",),
            tau: float = 0.0) -> dict[str, Any]:
    """What each path is worth on up to `most` test images (0: `RECORDED`); {} for a model without paths that read them.

    `H` and `AUSUC` untouched, what has `vanished`, and for each of `hows`, path, and `all` together: their change in
    points of H and in AUSUC, and the share of predictions at `tau` that change. H is at the best tau of these images,
    before and after, so that a shift between seen and unseen classes does not count as a loss.
    """
    parts = model.paths()
    if not parts:
        return {}
    model.eval()
    most = most or max(RECORDED, 2 * work.bench.num_classes)
    images, means, every = Images.of(work, model, most), Means(), [m for ms in parts.values() for m in ms]
    watched = [part.output for part in every] + [part.attention for part in every]
    handles = [module.register_forward_hook(means.add) for module in watched]
    try:
        before = images.scores(whole=True)
    finally:
        for handle in handles:
            handle.remove()
    labels, unseen = work.bench.labels[images.indices], work.bench.unseen_mask
    predicted = metrics.predicted(before, unseen, tau)

    def numbers(scores: np.ndarray) -> tuple[float, float]:
        sweep = metrics.tau_sweep(scores, labels, unseen)
        return float(sweep["H"].max()), metrics.area(sweep)

    h, area = numbers(before)
    found: dict[str, Any] = {"images": len(images.indices), "H": round(h, 1), "AUSUC": round(area, 3),
                             "vanished": vanished(work, model)}
    asked = [(how, name, ms) for how in hows for name, ms in {**parts, "all": every}.items()]
    for how, name, chosen in tqdm(asked, "paths", leave=False, disable=work.quiet):
        with replaced(chosen, how, means):
            after = images.scores(whole=name in ("WVPF", "all"))
        changed_h, changed_area = numbers(after)
        found.setdefault(how, {})[name] = {
            "H": round(changed_h - h, 1), "AUSUC": round(changed_area - area, 3),
            "changed": round(float((metrics.predicted(after, unseen, tau) != predicted).mean()), 3)}
    return found
