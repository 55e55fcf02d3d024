"""A panel on synthetic features: one class beside its real features, and H against their number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vspcn_lib.methods.generative.registry import GenerateConfig
from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.fields import Choice, Steps
from vspcn_lib.panels.keeping import named
from vspcn_lib.panels.opening import opening
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.studies.generate import generate
from vspcn_lib.views import plots
from vspcn_lib.views.embeddings import tsne_layout
from vspcn_lib.views.generated import Opened, halves, validation_curve

WORDS = {"frechet": "Fréchet distance", "1-NN": "1-NN accuracy (%)", "coverage": "coverage (%)",
         "own": "to its real mean", "other": "to the nearest other"}


@dataclass(frozen=True)
class Seen:
    """The unseen class that is looked at, and the number of synthetic features a class."""

    kind: str
    samples: int


class Generated:
    """Real and synthetic features of the unseen classes in one t-SNE, and what a run's selection found."""

    def __init__(self, opened: Opened, each: int = 30) -> None:
        bench = opened.work.bench
        self.classes, self.result = opened.tested, opened.result
        self.names = [plots.plain_name(bench.class_names[c]) for c in self.classes]
        self.curve = validation_curve(opened.selection)
        self.best = opened.selection["best"]["samples"]
        rows = [np.flatnonzero(opened.labels == c)[:each] for c in self.classes]
        real = opened.real.numpy()[np.concatenate(rows)]
        drawn = np.stack(list(opened.drawn(each).values()))
        self.labels = np.concatenate([np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
                                      np.repeat(np.arange(len(rows)), each)])
        self.synthetic = np.arange(len(self.labels)) >= len(real)
        self.layout = tsne_layout(np.concatenate([real, drawn.reshape(-1, drawn.shape[2])]), 30)
        self.quality = opened.quality()
        self.halves = _mean(halves(opened.real.numpy(), opened.labels, self.classes))

    def compute(self, state: Seen, stop: Event | None = None) -> dict[str, Any]:
        """The quality of the class, its mean over classes, and U, S, H on validation classes at `samples`."""
        at = self.curve["samples"].index(state.samples)
        own = self.quality[int(self.classes[self.names.index(state.kind)])]
        return {"own": own, "mean": _mean(self.quality), **{k: self.curve[k][at] for k in self.curve}}

    def draw(self, state: Seen, result: dict[str, Any]) -> Figure:
        """Left: the class in colour, real ones as dots and synthetic ones as crosses; right: U, S, H and the choice."""
        figure = Figure(figsize=(10.2, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        mine = self.labels == self.names.index(state.kind)
        for own, size in ((False, 8), (True, 26)):
            for synthetic, mark, name in ((False, "o", "real"), (True, "x", "synthetic")):
                colour = plots.COLOURS[synthetic] if own else ("0.85", "0.75")[synthetic]
                chosen = (self.synthetic == synthetic) & (mine == own)
                left.scatter(*self.layout[chosen].T, marker=mark, color=colour, s=size, linewidths=1.2 if own else 0.7,
                             label=f"{name}, {state.kind if own else 'other unseen classes'}")
        left.set(xticks=[], yticks=[], title="unseen classes, t-SNE of scaled features")
        left.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2)
        for i, k in enumerate("USH"):
            right.plot(self.curve["samples"], self.curve[k], "o-", color=plots.COLOURS[i], label=k)
        right.plot(self.curve["samples"], self.curve["H with tau"], "--", color=plots.COLOURS[2],
                   label="H with the best tau as well")
        right.plot(self.best, self.curve["H"][self.curve["samples"].index(self.best)], "D", ms=12, mfc="none",
                   mec="black", ls="", label="chosen")
        right.axvline(state.samples, color="0.6", linestyle=":")
        right.set(xscale="log", xlabel="synthetic features a class (log)", ylabel="validation classes (%)",
                  ylim=(0, None), title="the number of synthetic features calibrates")
        right.set_xticks(self.curve["samples"], [str(n) for n in self.curve["samples"]])
        right.minorticks_off()
        right.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=5)
        return figure

    def describe(self, state: Seen, result: dict[str, Any]) -> str:
        """The quality numbers and the two readings."""
        words = "Fréchet distance {frechet:.0f}, 1-NN two-sample accuracy {1-NN:.0f} %, coverage {coverage:.0f} %"
        own, mean = result["own"], result["mean"]
        return (f"{state.kind}: {words.format(**own)}\nall unseen classes: {words.format(**mean)}\n"
                f"half of the real images against the other half: {words.format(**self.halves)}\n"
                f"from the synthetic mean to the real one: {own['own']:.1f}, to the nearest of another class "
                f"{own['other']:.1f} (all classes: {mean['own']:.1f}, {mean['other']:.1f})\n"
                + "{samples} synthetic features a class: validation U {U:.1f}  S {S:.1f}  H {H:.1f}, with the best tau "
                  "as well H {H with tau:.1f}".format(**result)
                + f"\nvalidation chose {self.best}, {self.result['ratio']:g} for each real one; the final fit drew "
                + "{samples} a class: test U {U:.1f}  S {S:.1f}  H {H:.1f}".format(**self.result))

    def table(self, state: Seen, result: dict[str, Any]) -> pd.DataFrame:
        """One row an unseen class: its quality; below them their mean, and what two halves of the real images give."""
        rows = {**{name: self.quality[int(c)] for name, c in zip(self.names, self.classes, strict=True)},
                "mean of these classes": result["mean"], "two halves of the real images": self.halves}
        return pd.DataFrame([{"class": name, **{w: numbers.get(k, np.nan) for k, w in WORDS.items()}}
                             for name, numbers in rows.items()])


def _mean(numbers: dict[int, dict[str, float]]) -> dict[str, float]:
    """The mean over classes of each number."""
    return pd.DataFrame(numbers).mean(axis=1).to_dict()


def generated_run(run: Path, out: Path) -> Path:
    """The finished `generate` in `out`; made first, of `run` with the default settings, where it is not there yet."""
    if not (out / "result.json").exists():
        generate(run, out, GenerateConfig(), resume=(out / "config.json").exists())
    return out


def generated_panel(run: Path) -> Panel:
    """Synthetic features of a finished `generate`, at the number that was chosen.

    Raises `RunError` for a run of another kind.
    """
    with opening("Synthetic features", "data, model and features", "t-SNE and quality") as step:
        step()
        opened = Opened(RunFolder(run))
        step()
        parts = Generated(opened)
    return Panel("Synthetic features", Seen(parts.names[0], parts.best),
                 [Choice("kind", tuple(parts.names), "the unseen class to look at"),
                  Steps("samples", tuple(parts.curve["samples"]), "synthetic features of each validation class")],
                 parts.compute, parts.draw, parts.describe, source=named(run), table=parts.table)
