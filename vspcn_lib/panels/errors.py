"""The wrong test images of a run, worst first: what they were taken for, which attributes spoke, who is confused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from vspcn_lib.metrics import tau_text
from vspcn_lib.panels.checks import PanelError
from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.fields import Choice, Slider
from vspcn_lib.panels.keeping import named
from vspcn_lib.panels.live.bars import Bars
from vspcn_lib.panels.live.base import atlas
from vspcn_lib.panels.live.thumbs import Thumbs
from vspcn_lib.panels.opening import opening
from vspcn_lib.runs.evaluation import embed
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.views import plots

KINDS = ("all", "unseen taken for seen", "unseen taken for unseen", "seen taken for seen", "seen taken for unseen")


@dataclass(frozen=True)
class Wrong:
    """Which kind of mistake, and the number of the image among those, worst first."""

    kind: str
    image: int


class Errors:
    """Every mistake of saved scores [n,C] at a tau, ordered by how far the true class lies below the winner."""

    def __init__(self, work: Workspace, saved: dict[str, np.ndarray], model: Any = None) -> None:
        self.work, self.model = work, model
        bench = self.bench = work.bench
        self.names = [plots.plain_name(n) for n in bench.class_names]
        self.scores = saved["scores"] + float(saved["tau"]) * saved["unseen"]
        self.labels, self.indices, self.tau = saved["labels"], saved["indices"], float(saved["tau"])
        self.best = (-self.scores).argsort(1, kind="stable")[:, :3]
        margin = self.scores.max(1) - self.scores[np.arange(len(self.labels)), self.labels]
        wrong = np.flatnonzero(self.best[:, 0] != self.labels)
        if not len(wrong):
            raise PanelError("this run recognises every test image: there is no error to look at")
        self.order = wrong[(-margin[wrong]).argsort(kind="stable")]  # rows of the scores, worst first
        self.margin = margin
        side = np.where(bench.unseen_mask, "unseen", "seen")
        kinds = [f"{side[self.labels[i]]} taken for {side[self.best[i, 0]]}" for i in self.order]
        self.of = {kind: np.array([r for r, k in zip(self.order, kinds, strict=True) if kind in ("all", k)], int)
                   for kind in KINDS}
        self._spoke: dict[int, list[list[str]]] = {}

    def row(self, state: Wrong) -> int | None:
        """The row of the scores that is looked at; None where there is no mistake of this kind."""
        rows = self.of[state.kind]
        return int(rows[min(state.image, len(rows) - 1)]) if len(rows) else None

    @torch.no_grad()
    def spoke(self, row: int) -> list[list[str]]:
        """For each of the three best classes the attributes whose terms of the score are largest, of one image.

        Empty where embeddings have no axis an attribute (semantic-to-visual) or no model was given.
        """
        if self.model is None or self.work.config.model.embedding != "visual-to-semantic":
            return [[], [], []]
        if row not in self._spoke:
            x = next(iter(self.work.batches(self.indices[row:row + 1], augment=False).epoch(0)))[0]
            embedded = self.model.read(embed(self.work.config, self.model, x))[0].cpu().float()
            prototypes = self.model.prototypes(torch.as_tensor(self.bench.prototypes, device=x.device)).cpu()
            words = [plots.plain_name(n) for n in self.bench.attribute_names]
            terms = (embedded * prototypes[self.best[row].copy()]).numpy()
            self._spoke[row] = [[words[k] for k in (-t).argsort(kind="stable")[:3]] for t in terms]
        return self._spoke[row]

    def pairs(self, kind: str = "all") -> pd.DataFrame:
        """How often each class was taken for another, the most frequent pairs first."""
        rows = self.of[kind]
        found = pd.DataFrame({"true": self.labels[rows], "taken for": self.best[rows, 0]})
        table = found.groupby(["true", "taken for"]).size().rename("images").reset_index()
        table = table.sort_values(["images", "true"], ascending=[False, True], kind="stable", ignore_index=True)
        unseen = self.bench.unseen_mask
        return pd.DataFrame({"true class": [self.names[c] for c in table["true"]],
                             "its side": np.where(unseen[table["true"]], "unseen", "seen"),
                             "taken for": [self.names[c] for c in table["taken for"]],
                             "that side": np.where(unseen[table["taken for"]], "unseen", "seen"),
                             "images": table["images"]})

    def compute(self, state: Wrong, stop: Event | None = None) -> dict[str, Any]:
        """The image looked at, its three best classes with scores and attributes, and the confused pairs."""
        row = self.row(state)
        looked = None if row is None else {"row": row, "best": self.best[row], "spoke": self.spoke(row),
                                           "scores": self.scores[row, self.best[row]]}
        return {"looked": looked, "pairs": self.pairs(state.kind)}

    def draw(self, state: Wrong, result: dict[str, Any]) -> Figure:
        """The first images of this kind with what they were taken for, and the pairs most confused."""
        figure = Figure(figsize=(10.0, 4.0), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
        axes = left.subplots(2, 5).ravel()
        for ax in axes:
            ax.axis("off")
        for ax, row in zip(axes, self.of[state.kind], strict=False):
            ax.imshow(self.work.pixels[self.indices[row]].transpose(1, 2, 0))
            ax.set_title(f"{self.names[self.labels[row]]}\nnot {self.names[self.best[row, 0]]}", fontsize=6)
        ax, top = right.subplots(), result["pairs"].head(10)
        ax.barh(range(len(top)), top["images"], color=[plots.COLOURS[int(s == "unseen")] for s in top["its side"]])
        ax.set(yticks=range(len(top)), xlabel="images")
        ax.set_title("most confused (orange: unseen)", fontsize=9, loc="right")
        ax.set_yticklabels([f"{a} → {b}" for a, b in zip(top["true class"], top["taken for"], strict=True)], fontsize=6)
        ax.invert_yaxis()
        return figure

    def describe(self, state: Wrong, result: dict[str, Any]) -> str:
        """How many mistakes of each kind; the image looked at, its best classes and the attributes that spoke."""
        counts = ", ".join(f"{kind} {len(rows)}" for kind, rows in self.of.items() if kind != "all")
        lines = [f"{len(self.order)} of {len(self.labels)} test images are wrong at tau {tau_text(self.tau)}: {counts}"]
        if (looked := result["looked"]) is not None:
            row = looked["row"]
            lines.append(f"true class: {self.names[self.labels[row]]}, {self.margin[row]:.2f} below the winner")
            for c, score, words in zip(looked["best"], looked["scores"], looked["spoke"], strict=True):
                lines.append(f"  {score:6.2f}  {self.names[c]}" + (f": {', '.join(words)}" if words else ""))
        return "\n".join(lines)

    def table(self, state: Wrong, result: dict[str, Any]) -> pd.DataFrame:
        """The confused pairs."""
        return result["pairs"]


class ErrorView:
    """A gallery of the mistakes to click at, worst first, and the pairs most confused as bars."""

    def __init__(self, parts: Errors) -> None:
        self.parts = parts
        pictures, columns = atlas((parts.work.pixels[parts.indices[r]] for r in parts.order), len(parts.order))
        self.gallery = Thumbs(title="wrong images", atlas=pictures, columns=columns, names=parts.names, shown=64,
                              wide=130, height=300, unseen=parts.bench.unseen_mask.tolist())
        self.bars = Bars(width=900, height=200, digits=0, groups=["of seen classes", "of unseen classes"],
                         axes=["images", ""], columns=["", "images"], alt="pairs of classes most confused",
                         title="most confused", sort="height")
        self.box = widgets.VBox([self.gallery, self.bars])
        self._kind = ""

    def link(self, panel: Panel) -> None:
        """A click on an image moves the slider."""
        self.gallery.observe(lambda change: panel._moved({"image": int(change["new"])}), "picked")

    def show(self, state: Wrong, result: dict[str, Any]) -> None:
        """The gallery of another kind; otherwise which image is picked."""
        parts, rows = self.parts, self.parts.of[state.kind]
        if state.kind != self._kind:
            self._kind = state.kind
            pictures, columns = atlas((parts.work.pixels[parts.indices[r]] for r in rows), len(rows))
            top = result["pairs"].head(40)
            with self.gallery.hold_sync():
                self.gallery.atlas, self.gallery.columns = pictures, columns
                self.gallery.labels = parts.labels[rows].tolist()
                self.gallery.captions = [[f"is {parts.names[parts.labels[r]]}",
                                          *(f"{n}. {parts.names[c]}" for n, c in enumerate(parts.best[r], 1))]
                                         for r in rows]
            with self.bars.hold_sync():
                self.bars.names = [f"{a} → {b}" for a, b in zip(top["true class"], top["taken for"], strict=True)]
                self.bars.values = top["images"].astype(float).tolist()
                self.bars.group = (top["its side"] == "unseen").astype(int).tolist()
        self.gallery.picked = min(state.image, max(0, len(rows) - 1))


def error_panel(run: Path | str) -> Panel:
    """The mistakes of a finished run at its validation tau. Raises `PanelError` where there is none."""
    run = Path(run)
    folder = RunFolder(run)
    saved = folder.scores()
    if "indices" not in saved:
        raise PanelError(f"{run} does not keep which images its scores are of: train again with this version")
    with opening("Errors", "data and model", "the wrong images") as step:
        step()
        work, model = load_trained(folder, quiet=True)
        step()
        parts = Errors(work, saved, model)
        return Panel("Errors", Wrong("all", 0), [Choice("kind", KINDS),
                                                 Slider("image", 0, len(parts.order) - 1, 1, "worst first")],
                     parts.compute, parts.draw, parts.describe, source=named(run), view=ErrorView(parts),
                     table=parts.table)
