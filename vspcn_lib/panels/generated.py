"""A panel on synthetic features: one class beside its real features, and H against their number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.fields import Choice, Steps
from vspcn_lib.panels.keeping import named
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.views import plots
from vspcn_lib.views.embeddings import tsne_layout
from vspcn_lib.views.generated import Opened, validation_curve


@dataclass(frozen=True)
class Seen:
    """The unseen class that is looked at, and the number of synthetic features a class."""

    kind: str
    samples: int


class Generated:
    """Real and synthetic features of the unseen classes in one t-SNE, and what a run's selection found."""

    def __init__(self, opened: Opened, each: int = 30) -> None:
        bench = opened.work.bench
        self.classes, self.result = bench.unseen_classes, opened.result
        self.names = [plots.plain_name(bench.class_names[c]) for c in self.classes]
        self.curve = validation_curve(opened.selection)
        rows = [np.flatnonzero(opened.labels == c)[:each] for c in self.classes]
        real = opened.real.numpy()[np.concatenate(rows)]
        drawn = opened.sample(self.classes, each)
        self.labels = np.concatenate([np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
                                      np.repeat(np.arange(len(rows)), each)])
        self.synthetic = np.arange(len(self.labels)) >= len(real)
        self.layout = tsne_layout(np.concatenate([real, drawn.reshape(-1, drawn.shape[2])]), 30)
        self.quality = opened.quality()

    def compute(self, state: Seen, stop: Event | None = None) -> dict[str, Any]:
        """The quality of the class, its mean over classes, and U, S, H on validation classes at `samples`."""
        at = self.curve["samples"].index(state.samples)
        own = self.quality[int(self.classes[self.names.index(state.kind)])]
        mean = {k: float(np.mean([q[k] for q in self.quality.values()])) for k in own}
        return {"own": own, "mean": mean, **{k: self.curve[k][at] for k in "USH"}}

    def draw(self, state: Seen, result: dict[str, Any]) -> Figure:
        """Left: the class in colour, real ones as dots and synthetic ones as crosses; right: U, S, H and the choice."""
        figure = Figure(figsize=(10.2, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        mine = self.labels == self.names.index(state.kind)
        for synthetic, mark, name in ((False, "o", "real"), (True, "x", "synthetic")):
            for own, colour, size in ((False, "0.8", 8), (True, plots.COLOURS[synthetic], 26)):
                chosen = (self.synthetic == synthetic) & (mine == own)
                left.scatter(*self.layout[chosen].T, marker=mark, color=colour, s=size, linewidths=0.9,
                             label=f"{name}, {state.kind}" if own else None)
        left.set(xticks=[], yticks=[], title="unseen classes, t-SNE of scaled features")
        left.legend(fontsize=8, frameon=False)
        for i, k in enumerate("USH"):
            right.plot(self.curve["samples"], self.curve[k], "o-", color=plots.COLOURS[i], label=k)
        right.axvline(state.samples, color="0.6", linestyle=":")
        right.set(xscale="log", xlabel="synthetic features a class (log)", ylabel="validation classes (%)",
                  title="the number of synthetic features calibrates")
        right.set_xticks(self.curve["samples"], [str(n) for n in self.curve["samples"]])
        right.minorticks_off()
        right.legend(frameon=False)
        return figure

    def describe(self, state: Seen, result: dict[str, Any]) -> str:
        """The quality numbers and the two readings."""
        words = "Fréchet distance {frechet:.0f}, 1-NN two-sample accuracy {1-NN:.0f} %, coverage {coverage:.0f} %"
        return (f"{state.kind}: {words.format(**result['own'])}\nall unseen classes: {words.format(**result['mean'])}\n"
                + "{samples} features a class: validation U {U:.1f}  S {S:.1f}  H {H:.1f}".format(
                    samples=state.samples, **{k: result[k] for k in "USH"})
                + "\ntest, at the {samples} chosen: U {U:.1f}  S {S:.1f}  H {H:.1f}".format(**self.result))


def generated_panel(run: Path) -> Panel:
    """Synthetic features of a finished `generate`. Raises `RunError` for a run of another kind."""
    parts = Generated(Opened(RunFolder(run)))
    return Panel("Synthetic features", Seen(parts.names[0], parts.curve["samples"][0]),
                 [Choice("kind", tuple(parts.names), "the unseen class to look at"),
                  Steps("samples", tuple(parts.curve["samples"]), "synthetic features of each validation class")],
                 parts.compute, parts.draw, parts.describe, source=named(run))
