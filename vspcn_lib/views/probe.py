"""A fixed set of images under other alphas: activations up to the last shallow block are kept, deep blocks rerun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Event

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
    """Scores of `images` [n,3,H,W] over the classes of `attributes` [C,K] for any alphas, without shallow blocks.

    They are computed `chunk` images at a time, those at the places `first` in chunks of their own: what was computed
    of them for a first answer is not computed again for the full one.
    """

    def __init__(self, model: VSPCN, images: Tensor, attributes: Tensor, chunk: int = 8,
                 first: Sequence[int] = ()) -> None:
        self.model = model.eval()
        few, later = len(first), np.setdiff1d(np.arange(len(images)), first)
        order = np.concatenate([np.asarray(first, dtype=int), later])
        images = images[torch.as_tensor(order)]
        self.ahead, self.back = -(-few // chunk), np.argsort(order)
        self._begun: dict[tuple[float, float, float], list[Tensor]] = {}
        self._free, self._busy, self._asking = Condition(), False, 0
        with torch.inference_mode():
            self.prototypes = model.prototypes(attributes)
            self.kept = [model.shallow(part) for side in (images[:few], images[few:]) for part in side.split(chunk)
                         if len(part)]

    @torch.inference_mode()
    def scores(self, alpha_v: float, alpha_s: float, alpha_a: float, stop: Event | None = None, few: bool = False,
               patient: bool = False) -> np.ndarray:
        """The score matrix [n,C]; if `few`, [len(first),C] of those alone. Raises `Cancelled` once `stop` is set.

        A `patient` caller lets every other one go before each of its chunks.
        """
        wanted, place = (alpha_v, alpha_s, alpha_a), self.ahead if few else len(self.kept)
        with self._free:
            self._asking += not patient
        try:
            parts = self._begun.get(wanted, [])
            for tokens, attributes in self.kept[len(parts):place]:
                with self._turn(patient), alphas(self.model, *wanted):
                    if stop is not None and stop.is_set():
                        raise Cancelled
                    features = self.model.by_stream(self.model.deep(tokens, attributes))
                    parts = [*parts, self.model.scores(self.model.embed(features), self.prototypes)]
                self._begun[wanted] = parts
        finally:
            with self._free:
                self._asking -= not patient
                self._free.notify_all()
        found = torch.cat(parts[:place]).cpu().numpy()
        if few:
            return found
        self._begun.pop(wanted, None)
        return found[self.back]

    @contextmanager
    def _turn(self, patient: bool) -> Iterator[None]:
        """One chunk at a time: alphas are set in the model itself, where another one would run under them."""
        with self._free:
            self._free.wait_for(lambda: not (self._busy or (patient and self._asking)))
            self._busy = True
        try:
            yield
        finally:
            with self._free:
                self._busy = False
                self._free.notify_all()
