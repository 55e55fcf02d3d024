"""What a panel needs of a run, of counts and classes: a sentence before any long work, not a stack trace after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vspcn_lib.config import ModelConfig
from vspcn_lib.runs.folder import RunFolder


class PanelError(ValueError):
    """A panel cannot be made of what it was given; the message names it and says what to give instead."""


def prompted(run: Path, strong: bool = False, both: bool = False) -> ModelConfig:
    """The model settings of a run of VSPCN with prompts; with `strong` fusion, with `both` kinds of prompts.

    Raises `PanelError` for any other run, `RunError` where `run` is no run folder.
    """
    c = RunFolder(run).config().model
    if c.method != "vspcn" or not c.visual_prompts + c.semantic_prompts:
        kind = "linear head" if c.method == "vspcn" else c.method
        raise PanelError(f"{run} is a run of the method '{kind}', which has none of VSPCN's prompts: choose a run of "
                         "VSPCN, such as outputs/demo/birdlets")
    if strong and not c.strong:
        raise PanelError(f"{run} was trained without strong fusion (model.strong), so no alpha can move: choose a "
                         "run with it, such as outputs/demo/birdlets")
    if both and not (c.visual_prompts and c.semantic_prompts):
        missing = "semantic" if c.visual_prompts else "visual"
        raise PanelError(f"{run} was trained without {missing} prompts: choose a run with both kinds, such as "
                         "outputs/demo/birdlets")
    return c


def images_in(name: str, value: int, low: int, high: int) -> int:
    """`value` as a whole number, at most `high`. Raises `PanelError` below `low`."""
    if isinstance(value, bool) or value != int(value) or value < low:
        raise PanelError(f"{name} = {value}: choose a whole number of {low} or more")
    return min(int(value), high)


def spread(indices: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """`count` of `indices` [n], every class of `labels` [n] once before any class twice; fewer lie evenly."""
    order = np.argsort(labels, kind="stable")
    _, first, number = np.unique(labels[order], return_index=True, return_counts=True)
    turn = np.arange(len(order)) - np.repeat(first, number)  # 0 for the first image of each class, 1 for the second
    by_turn = indices[order][np.argsort(turn, kind="stable")]
    if count < len(first):
        return by_turn[np.linspace(0, len(first) - 1, count).astype(int)]
    return by_turn[:count]
