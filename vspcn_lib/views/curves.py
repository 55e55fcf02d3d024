"""What a run wrote step by step and epoch by epoch, as tables and as a picture; also while it is still running."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vspcn_lib.system.files import whole_rows
from vspcn_lib.views import plots

LOG = ("phase", "step", "of_peak_lr", "lr", "norm", "time")  # columns of steps.jsonl that are no part of the loss


def read_curves(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """steps.jsonl and epochs.jsonl of a run folder as tables, as far as they are written."""
    return tuple(pd.DataFrame(whole_rows(folder / name)) for name in ("steps.jsonl", "epochs.jsonl"))


def phase_name(phase: str) -> str:
    """A phase of training in words: "select", "select 2" and so on of the folds of validation classes, "final"."""
    kind, _, fold = phase.partition(" ")
    return "retrain on trainval" if kind == "final" else f"selection, fold {fold}" if fold else "selection"


def borders(steps: pd.DataFrame) -> dict[int, str]:
    """After how many rows of steps.jsonl every later phase begins, and its name."""
    if not len(steps):
        return {}
    phase = steps["phase"].to_numpy()
    return {int(i): phase_name(phase[i]) for i in 1 + np.flatnonzero(phase[1:] != phase[:-1])}


def folds(epochs: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of epochs.jsonl by fold of validation classes, each of which counts its epochs from 1."""
    return [rows for _, rows in epochs.groupby("phase", sort=False)] if len(epochs) else []


def draw_curves(steps: pd.DataFrame, epochs: pd.DataFrame) -> Figure:
    """Loss parts by step and validation U, S, H by epoch, of several folds one line each, the first one thick."""
    figure = Figure(figsize=(9.0, 3.5), layout="constrained")
    losses, validation = figure.subplots(1, 2)
    if len(steps):
        parts = [c for c in steps.columns if c not in LOG]
        for i, part in enumerate(parts):
            losses.plot(range(1, len(steps) + 1), steps[part], label=part, lw=2 if part == "total" else 1,
                        **plots.line(i))
        for border, name in borders(steps).items():
            losses.axvline(border + 0.5, color="0.7", lw=1)
            losses.text(border + 0.5, 0.55, f" {name}", transform=losses.get_xaxis_transform(), rotation=90, fontsize=8,
                        color="0.4")
        figure.legend(*losses.get_legend_handles_labels(), fontsize=8, loc="outside lower left", ncols=6, frameon=False)
    losses.set(xlabel="step", ylabel="loss part")
    if len(epochs):
        for colour, name in zip(plots.COLOURS[:3], "USH", strict=True):
            for i, rows in enumerate(folds(epochs)):
                validation.plot(rows["epoch"], rows[name], "o-", color=colour, label=None if i else name,
                                lw=0.6 if i else None, ms=2.5 if i else None)
        figure.legend(*validation.get_legend_handles_labels(), fontsize=8, loc="outside lower right", ncols=3,
                      frameon=False)
    validation.xaxis.set_major_locator(MaxNLocator(integer=True))
    validation.set(xlabel="epoch", ylabel="validation (%)", ylim=(0, 100))
    return figure
