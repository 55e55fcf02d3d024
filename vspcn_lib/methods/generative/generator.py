"""What every generator is: fitted to features of seen classes, it samples features for attribute rows."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from vspcn_lib.methods.generative.features import GenerativeError, check, fitting

Batch = Callable[[], tuple[Tensor, Tensor]]
"""draws features [B,D] and their classes [B]"""


def random(*words: object) -> torch.Generator:
    """A generator of random numbers that `words` decide: a seed and a step, or a seed and an attribute row."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def normal(like: Tensor, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """N(0,I) of `shape`, with the type and on the device of `like`; the numbers are the same on every device."""
    return torch.randn(shape, generator=rng).to(like)


def noisy_rows(rows: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Unit rows [B,K] with N(0, share^2 / K) on each entry: noise of about `share` of a row's length."""
    return rows + share / math.sqrt(rows.shape[1]) * normal(rows, tuple(rows.shape), rng)


class Generator(nn.Module):
    """Draws features [n,D] for unit attribute rows [n,K]; a subclass says how, and how it is trained."""

    name: ClassVar[str]
    settings: Any
    """its frozen dataclass, with `steps` and `batch_size`"""

    def __init__(self, dim: int, attributes: int, settings: Any) -> None:
        super().__init__()
        self.dim, self.attributes, self.settings = dim, attributes, settings

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """The optimisers that `step` uses, in its order."""
        raise NotImplementedError

    def step(self, batch: Batch, rows: Tensor, rng: torch.Generator,
             optimisers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
        """One training step with the unit rows [S,K] of the trained classes; the losses by name."""
        raise NotImplementedError

    def draw(self, rows: Tensor, rng: torch.Generator) -> Tensor:
        """One feature vector [n,D] for each of the unit rows [n,K]."""
        raise NotImplementedError

    def rate(self, step: int) -> float:
        """The factor on every learning rate at `step`: a cosine to a hundredth, unless a method has its own."""
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / self.settings.steps))

    def space(self, features: Tensor) -> Tensor:
        """Scaled features [n,D] to where a classifier works on them; CE-GZSL has a space of its own."""
        return features

    @torch.no_grad()
    def sample(self, attributes: Tensor, n: int, seed: int) -> Tensor:
        """`n` features for each class, [C,n,D], of attribute rows [C,K].

        A class's features depend on its own row and `seed` alone, not on the company it is sampled in, and the first
        of them are the same whatever `n`. Raises `GenerativeError` for rows that do not fit.
        """
        rows = fitting(attributes, self.attributes)
        found = rows.new_empty(len(rows), n, self.dim)
        for row, out in zip(rows, found, strict=True):
            for start in range(0, n, BLOCK):  # in blocks of a fixed size, so that a longer draw begins as a shorter
                rng = random(seed, start, row.float().cpu().numpy().tobytes())
                drawn = self.draw(row.expand(BLOCK, -1), rng)
                out[start:start + BLOCK] = drawn[:n - start]
        return found


BLOCK = 100  # features drawn at once


def fit(kind: type[Generator], features: Tensor, targets: Tensor, attributes: Tensor, settings: Any, seed: int, *,
        state: dict[str, Any] | None = None, save: Callable[[dict[str, Any]], None] | None = None,
        names: list[str] | None = None, every: float = 300.0, stop: Callable[[], bool] = lambda: False, title: str = "",
        quiet: bool = True) -> Generator | None:
    """Train a generator on scaled `features` [n,D] of classes `targets` [n], whose rows are `attributes` [S,K].

    What is random follows from (seed, step), so training that goes on from a `state` gives the same bits. `save`
    gets a state every `every` seconds, at the end, and where `stop()` says so; then None is returned. The classes'
    `names` are for messages.
    Raises `GenerativeError` for what does not fit, and for a loss or a weight that is not finite; none is ever saved.
    """
    check(features, targets, attributes, names)
    rows = fitting(attributes, attributes.shape[1])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = kind(features.shape[1], rows.shape[1], settings).to(features)
    optimisers, first = generator.optimisers(), 0
    peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    if state:
        generator.load_state_dict(state["model"])
        for optimiser, kept in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        first = state["step"]
    size, saved = min(settings.batch_size, len(features)), time.monotonic()

    def check_finite(what: str, numbers: dict[str, Tensor], step: int) -> None:
        for name, value in numbers.items():
            bad = value[~torch.isfinite(value)]
            if len(bad):
                raise GenerativeError(f"{kind.name}: the {what} '{name}' is {bad[0].item()} at step {step}: lower "
                                      f"{kind.name}.lr; what was saved before is whole")

    def keep(step: int) -> None:
        check_finite("weight", generator.state_dict(), step - 1)  # a loss is that of the weights before the step
        if save:
            save({"step": step, "model": generator.state_dict(),
                  "optimisers": [optimiser.state_dict() for optimiser in optimisers]})

    bar = tqdm(range(first, settings.steps), title or kind.name, settings.steps, initial=first, leave=False,
               disable=quiet)
    for step in bar:
        rng = random(seed, step)

        def batch(rng: torch.Generator = rng) -> tuple[Tensor, Tensor]:
            chosen = torch.randperm(len(features), generator=rng)[:size].to(features.device)
            return features[chosen], targets[chosen]

        for optimiser, rates in zip(optimisers, peaks, strict=True):
            for group, peak in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = peak * generator.rate(step)
        parts = generator.step(batch, rows, rng, optimisers)
        stopping = stop()
        keeping = stopping or time.monotonic() - saved > every
        if keeping or step % 50 == 0 or step + 1 == settings.steps:
            check_finite("loss", parts, step)
            bar.set_postfix({name: f"{value.item():.3f}" for name, value in parts.items()})
        if keeping:
            keep(step + 1)
            saved = time.monotonic()
        if stopping:
            return None
    keep(settings.steps)
    return generator.eval()
