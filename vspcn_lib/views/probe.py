"""A fixed set of images under other alphas: activations up to the last shallow block are kept, deep blocks rerun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock

import numpy as np
import torch
from torch import Tensor

from vspcn_lib.config import check_range
from vspcn_lib.model import VSPCN


class Cancelled(RuntimeError):
    """A newer request made this one worthless."""


@contextmanager
def alphas(model: VSPCN, alpha_v: float, alpha_s: float, alpha_a: float) -> Iterator[None]:
    """Other alphas inside the `with`, the trained ones after it. Raises `ConfigError` outside [0, 1]."""
    wanted = {"alpha_v": alpha_v, "alpha_s": alpha_s, "alpha_a": alpha_a}
    for name, value in wanted.items():
        check_range(name, value, 0.0, 1.0)
    parts = [(m, alpha_v) for m in getattr(model, "strong_visual", [])]
    parts += [(m, alpha_s) for m in getattr(model, "strong_semantic", [])]
    parts += [(m, alpha_a) for m in getattr(model, "adapters", [])]
    before = [m.alpha for m, _ in parts]
    try:
        for module, value in parts:
            module.alpha = value
        yield
    finally:
        for (module, _), value in zip(parts, before, strict=True):
            module.alpha = value


class Probe:
    """Scores of `images` [n,3,H,W] over the classes of `attributes` [C,K] for any alphas, without shallow blocks."""

    def __init__(self, model: VSPCN, images: Tensor, attributes: Tensor, chunk: int = 16) -> None:
        self.model, self._one = model.eval(), Lock()
        with torch.no_grad():
            self.prototypes = model.prototypes(attributes)
            self.kept = [model.shallow(part) for part in images.split(chunk)]

    @torch.no_grad()
    def scores(self, alpha_v: float, alpha_s: float, alpha_a: float, stop: Event | None = None) -> np.ndarray:
        """The score matrix [n,C]; one caller at a time. Raises `Cancelled` once `stop` is set."""
        out = []
        # Alphas are set in the model itself: a second computation at the same time would run under the first one's.
        with self._one, alphas(self.model, alpha_v, alpha_s, alpha_a):
            for tokens, attributes in self.kept:
                if stop is not None and stop.is_set():
                    raise Cancelled
                features = self.model.by_stream(self.model.deep(tokens, attributes))
                out.append(self.model.scores(self.model.embed(features), self.prototypes))
        return torch.cat(out).cpu().numpy()
