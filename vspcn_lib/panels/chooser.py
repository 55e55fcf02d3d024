"""A run is chosen from a list of all that there are, not by its path; and two runs are compared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from vspcn_lib.panels.checks import PanelError
from vspcn_lib.panels.controls import OnPage, Panel, heard, spoken
from vspcn_lib.panels.fields import Choice
from vspcn_lib.panels.keeping import project_outputs
from vspcn_lib.panels.live.bars import Bars
from vspcn_lib.panels.opening import told
from vspcn_lib.panels.records import calibration_panel
from vspcn_lib.studies.tables import paired_bootstrap
from vspcn_lib.views import plots
from vspcn_lib.views.found import Found, find


def all_runs() -> tuple[list[Found], list[str]]:
    """Every run in the project's outputs/ and every record in its records/, and a sentence for what is damaged."""
    return find(project_outputs(), project_outputs().parent / "records")


class Chooser(OnPage):
    """A drop-down of runs over the panel that `build` makes of the chosen one; the panel in use is `panel`.

    `build` takes a run folder, or with `several` a dictionary {name: `Found`} of all that are marked. `first` opens:
    a run folder, or a dictionary. Only runs that `fits` says yes to are listed, without it those that hold a model.
    """

    def __init__(self, build: Callable[[Any], Panel], first: Any, several: bool = False,
                 fits: Callable[[Found], bool] = lambda found: found.is_run and not found.is_generated) -> None:
        self.build, self.several, self.fits = build, several, fits
        self.message, self.holder = widgets.HTML(), widgets.VBox()
        kind, height = (widgets.SelectMultiple, "96px") if several else (widgets.Dropdown, None)
        self.list = kind(options=[], layout=widgets.Layout(width="min(900px, 100%)", height=height),
                         tooltip="finished runs in outputs/ and records; Ctrl adds one" if several else
                         "finished runs in outputs/")
        again = widgets.Button(description="Look again", layout=widgets.Layout(width="100px"),
                               tooltip="list runs that have finished since")
        again.on_click(lambda _: self.look())
        label = widgets.Label("runs" if several else "run", layout=widgets.Layout(width="40px"))
        row = widgets.HBox([label, self.list, again, self.message], layout=widgets.Layout(flex_flow="row wrap"))
        self.box = widgets.VBox([row, self.holder])
        self._busy = threading.Lock()
        self.panel = build(first)
        self.holder.children = [self.panel.box]
        self.look(first)
        self.list.observe(lambda change: self._chosen(change["new"]), "value")

    def look(self, first: Any = None) -> None:
        """List every run anew; what was chosen stays chosen, `first` is marked where it is in the list."""
        found, problems = all_runs()
        self.found = {f.label: f for f in found if self.fits(f)}
        kept = self.list.value
        places = [Path(p).resolve() for p in (first.values() if isinstance(first, dict) else [first])
                  if isinstance(p, str | Path)]
        self._listing = True  # no choice of the reader's
        if self.several:
            self.list.options = tuple(self.found)
            self.list.value = tuple(v for v in kept if v in self.found)
        else:
            here = [label for label, f in self.found.items() if f.path.resolve() in places]
            self.list.options = (("choose a run", None), *((label, label) for label in self.found))
            self.list.value = here[0] if here else kept if kept in self.found else None
        self._listing = False
        self.message.value = spoken("; ".join(problems), wrong=bool(problems))

    @property
    def sentence(self) -> str:
        """What the chooser says: empty, that it is opening a run, or what went wrong."""
        return heard(self.message)

    def _chosen(self, value: Any) -> None:
        if value and not self._listing:
            chosen = {self.found[v].name: self.found[v] for v in value} if self.several else self.found[value].path
            threading.Thread(target=self.open, args=(chosen,), daemon=True).start()

    def open(self, chosen: Any) -> None:
        """Build the panel of what was `chosen` in the place of the one before; a mistake leaves that as it is."""
        with self._busy:
            self._say("opening ...")
            try:
                with told(self._say):
                    panel = self.build(chosen)
            except Exception as error:  # shown to the reader; the panel before it lives on
                self.message.value = spoken(f"{type(error).__name__}: {error}", wrong=True)
                return
            self.panel, self.holder.children = panel, [panel.box]
            self.message.value = ""

    def _say(self, sentence: str) -> None:
        self.message.value = spoken(sentence)

    @property
    def shows(self) -> Panel:
        """The panel in use."""
        return self.panel


def overlay_panel(runs: dict[str, Any]) -> Panel:
    """The tau panel over several runs: {name: `Found`, or arrays of `RunFolder.scores`}."""
    return calibration_panel({name: r.scores() if isinstance(r, Found) else r for name, r in runs.items()})


# ---- two runs, compared ---
@dataclass(frozen=True)
class Pair:
    """The names of two runs."""

    ours: str
    theirs: str


class Comparison:
    """H of one run minus H of another, with its paired interval, and the same of every class's accuracy."""

    def __init__(self, runs: dict[str, dict[str, Any]]) -> None:
        self.runs = runs
        self.bars = Bars(groups=["seen", "unseen"], axes=["", "accuracy: ours − theirs (points)"], changes=True,
                         columns=["theirs", "ours"], span=[0, 100], width=760, height=300, digits=0,
                         alt="difference of every class's accuracy")
        self.box = widgets.VBox([self.bars])

    def compute(self, state: Pair, stop: Event | None = None) -> dict[str, Any]:
        """`difference`, `low`, `high` of `paired_bootstrap`, and accuracies [C] of both."""
        a, b = self.runs[state.ours], self.runs[state.theirs]
        difference, low, high = paired_bootstrap([a], [b])
        accuracy = [np.array(r["classes"]["accuracy"], dtype=float) for r in (a, b)]
        return {"difference": difference, "low": low, "high": high, "ours": accuracy[0], "theirs": accuracy[1],
                "unseen": np.array(a["classes"]["unseen"])}

    def draw(self, state: Pair, result: dict[str, Any]) -> Figure:
        """The difference of every class's accuracy, largest first."""
        figure = Figure(figsize=(9.0, 3.2), layout="constrained")
        ax, change = figure.subplots(), result["ours"] - result["theirs"]
        order = np.argsort(-change, kind="stable")
        order = order[~np.isnan(change[order])]
        ax.bar(range(len(order)), change[order], color=[plots.COLOURS[int(result["unseen"][c])] for c in order])
        ax.set(xlabel="class (orange: unseen, blue: seen)", ylabel="ours − theirs (points)", xticks=[],
               title=f"H {result['difference']:+.1f} [{result['low']:+.1f}, {result['high']:+.1f}]")
        return figure

    def describe(self, state: Pair, result: dict[str, Any]) -> str:
        """The difference of H, its interval, and whether that decides anything."""
        decides = "the interval does not hold 0" if result["low"] > 0 or result["high"] < 0 else (
            "the interval holds 0: these runs do not tell the two apart")
        hs = [self.runs[n]["result"]["H"] for n in (state.ours, state.theirs)]
        return (f"ours   H {hs[0]:.1f}  {state.ours}\ntheirs H {hs[1]:.1f}  {state.theirs}\n"
                f"difference {result['difference']:+.1f} points, paired 95 % interval over test classes "
                f"[{result['low']:+.1f}, {result['high']:+.1f}]: {decides}")

    def link(self, panel: Panel) -> None:
        """Nothing moves but by a choice."""

    def show(self, state: Pair, result: dict[str, Any]) -> None:
        """The bars of this pair."""
        there = np.flatnonzero(~np.isnan(result["ours"] - result["theirs"]))
        names = self.runs[state.ours].get("names") or [f"class {c}" for c in range(len(result["ours"]))]
        with self.bars.hold_sync():
            self.bars.names, self.bars.group = [names[c] for c in there], result["unseen"][there].astype(int).tolist()
            self.bars.values, self.bars.zero = result["ours"][there].tolist(), result["theirs"][there].tolist()


def compare_panel(runs: dict[str, dict[str, Any]], ours: str, theirs: str) -> Panel:
    """Two runs by name, of records with `classes` (`Found.of_classes`), and how far apart they are.

    Raises `PanelError` for a name that is not among them.
    """
    for name in (ours, theirs):
        if name not in runs:
            raise PanelError(f"there is no run '{name}': choose one of {', '.join(runs)}")
    parts = Comparison(runs)
    return Panel("Comparison", Pair(ours, theirs), [Choice("ours", tuple(runs)), Choice("theirs", tuple(runs))],
                 parts.compute, parts.draw, parts.describe, source={"records": [ours, theirs]}, view=parts)


def comparable(benchmark: str) -> dict[str, dict[str, Any]]:
    """Every run and record of a benchmark that keeps the accuracy of each class, by name."""
    found = [f for f in all_runs()[0] if f.record["result"]["benchmark"] == benchmark]
    return {f.name: f.of_classes() for f in found if f.scores_file or "classes" in f.record}
