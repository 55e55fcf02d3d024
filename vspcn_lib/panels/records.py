"""Panels over records alone, no model needed: the tau slider, and a recorded sweep to walk through."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from threading import Event
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vspcn_lib import metrics
from vspcn_lib.metrics import tau_text
from vspcn_lib.panels.checks import PanelError
from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.fields import Choice, Slider, Steps, field_help, spelled
from vspcn_lib.panels.live.bars import Bars
from vspcn_lib.panels.live.curve import Curve
from vspcn_lib.views import gallery, plots


# ---- tau ---
@dataclass(frozen=True)
class Tau:
    """Which run, and the calibration added to unseen classes, in score units."""

    run: str
    tau: float


class Calibration:
    """U, S, H and every class's accuracy at a tau, of saved score matrices {name: arrays of `RunFolder.scores`}."""

    def __init__(self, runs: dict[str, dict[str, np.ndarray]]) -> None:
        self.runs = runs
        self.sweeps = {n: metrics.tau_sweep(r["scores"], r["labels"], r["unseen"]) for n, r in runs.items()}
        self.fixed = {n: self._fixed(r, self.sweeps[n]) for n, r in runs.items()}
        self.names = {n: [gallery.plain_name(str(c)) for c in r["class_names"]] if "class_names" in r else
                      [f"class {c}" for c in range(len(r["unseen"]))] for n, r in runs.items()}

    @staticmethod
    def _fixed(r: dict[str, np.ndarray], sweep: pd.DataFrame) -> dict[str, Any]:
        """What no tau of the slider changes: computed once, so that a move costs two passes over the scores."""
        triple, taus = (r["scores"], r["labels"], r["unseen"]), {"validation": float(r["tau"]),
                                                                 "oracle": metrics.best_tau(sweep)}
        return {**taus, "AUSUC": metrics.area(sweep), "plain": metrics.class_accuracies(*triple, 0.0),
                "marks": {name: metrics.gzsl_metrics(*triple, tau) for name, tau in taus.items()}}

    def compute(self, state: Tau, stop: Event | None = None) -> dict[str, Any]:
        """Metrics at `state.tau` and accuracies [C] there and at tau 0, unseen classes apart."""
        r = self.runs[state.run]
        triple = r["scores"], r["labels"], r["unseen"]
        return {**self.fixed[state.run], "at": metrics.gzsl_metrics(*triple, state.tau),
                "now": metrics.class_accuracies(*triple, state.tau)}

    def draw(self, state: Tau, result: dict[str, Any]) -> Figure:
        """The curve with the point at tau, and what this tau does to each class."""
        figure = Figure(figsize=(9.6, 4.0), layout="constrained")
        curve, bars = figure.subplots(1, 2, width_ratios=(1, 1.25))
        for i, (name, sweep) in enumerate(self.sweeps.items()):
            curve.plot(sweep["U"], sweep["S"], label=name, lw=2 if name == state.run else 1, **plots.line(i))
        at = result["at"]
        curve.plot(at.U, at.S, "o", color="black", markersize=9)
        for (name, m), mark in zip(result["marks"].items(), ("D", "*"), strict=True):
            size = 6 if mark == "D" else 11
            curve.plot(m.U, m.S, mark, mfc="white", mec="black", ms=size, ls="", label=f"{name} tau")
        curve.set(xlim=(0, 100), ylim=(0, 100), xlabel="U, unseen accuracy (%)", ylabel="S, seen accuracy (%)",
                  title=f"tau {tau_text(state.tau)}:  U {at.U:.1f}   S {at.S:.1f}   H {at.H:.1f}")
        curve.legend(loc="lower left", fontsize=8)
        unseen = self.runs[state.run]["unseen"]
        order = np.concatenate([np.flatnonzero(unseen), np.flatnonzero(~unseen)])
        order = order[~np.isnan(result["now"][order])]
        colours = [plots.COLOURS[1] if unseen[c] else plots.COLOURS[0] for c in order]
        change = (result["now"] - result["plain"])[order]
        bars.vlines(np.arange(len(order)), 0, change, color=colours, lw=max(1, 260 / len(order)))
        bars.set(xlabel="class (orange: unseen, blue: seen)", ylabel="accuracy change against tau 0 (points)",
                 ylim=(-102, 102), xticks=[])
        bars.axhline(0, color="0.6", lw=0.8)
        return figure

    def describe(self, state: Tau, result: dict[str, Any]) -> str:
        """The numbers under the picture, and the classes that win and lose most against tau 0."""
        at, change, names = result["at"], result["now"] - result["plain"], self.names[state.run]
        order = np.argsort(np.nan_to_num(change), kind="stable")
        most = {"win": [c for c in order[::-1] if change[c] > 0], "lose": [c for c in order if change[c] < 0]}
        named = [f"{side} most: " + (", ".join(f"{names[c]} {change[c]:+.0f}" for c in found[:3]) or "none")
                 for side, found in most.items()]
        return (f"{state.run}, tau {tau_text(state.tau)}: U {at.U:.2f}  S {at.S:.2f}  H {at.H:.2f}  "
                f"CZSL {at.CZSL:.2f}  AUSUC {result['AUSUC']:.3f}\nvalidation tau {tau_text(result['validation'])}, "
                f"oracle tau {tau_text(result['oracle'])} (chosen on test labels: not a result)\n"
                + "; ".join(named))


    def table(self, state: Tau, result: dict[str, Any]) -> pd.DataFrame:
        """One row a class: its side, test images, accuracy at tau 0 and at this tau, and the difference."""
        r = self.runs[state.run]
        found = pd.DataFrame({"class": self.names[state.run], "side": np.where(r["unseen"], "unseen", "seen"),
                              "test images": np.bincount(r["labels"], minlength=len(r["unseen"])),
                              "accuracy at tau 0": result["plain"],
                              f"accuracy at tau {tau_text(state.tau)}": result["now"],
                              "change": result["now"] - result["plain"]})
        return found[found["test images"] > 0].reset_index(drop=True)


class CalibrationView:
    """The seen-unseen curves with a point to drag, and each class's accuracy: both follow tau in the browser alone."""

    def __init__(self, parts: Calibration) -> None:
        self.parts = parts
        self.flips = {n: metrics.flips(r["scores"], r["labels"], r["unseen"]) for n, r in parts.runs.items()}
        lines = [self._line(n, **plots.line(i)) for i, n in enumerate(parts.runs)]
        marks = [{"x": m.U, "y": m.S, "shape": {"validation": "diamond", "oracle": "star"}[which], "line": n,
                  "label": f"{n}, {which} tau {tau_text(parts.fixed[n][which])}: H {m.H:.1f}"}
                 for n in parts.runs for which, m in parts.fixed[n]["marks"].items()]
        top = min(100.0, 1.05 * max(max(line["x"] + line["y"]) for line in lines))
        self.curve = Curve(lines=lines, marks=marks, harmonic=True, span={"x": [0, top], "y": [0, top]},
                           names=["U", "S", "tau"], axes=["U, unseen accuracy (%)", "S, seen accuracy (%)"],
                           alt="seen accuracy against unseen accuracy for every tau; a click sets tau")
        self.bars = Bars(span=[0, 100], columns=["at tau 0", "now"], groups=["seen", "unseen"], changes=True, digits=0,
                         axes=["accuracy (%)", "accuracy change against tau 0 (points)"],
                         alt="accuracy of every class, against tau 0")
        self.box = widgets.HBox([self.curve, self.bars], layout=widgets.Layout(flex_flow="row wrap"))
        self._run = ""

    def _line(self, name: str, color: str, linestyle: str) -> dict[str, Any]:
        """U and S of a run, row i for every tau above at[i]: the exact steps of `metrics.flips`."""
        r, flips = self.parts.runs[name], self.flips[name]
        counts = np.bincount(r["labels"], minlength=len(r["unseen"]))
        sides = [max(1, int(((counts > 0) & (r["unseen"] == side)).sum())) for side in (False, True)]
        label = flips["label"].to_numpy()
        worth = 100 * flips["change"].to_numpy() / counts[label] / np.take(sides, r["unseen"][label].astype(int))
        margin, step = np.unique(flips["margin"].to_numpy(), return_inverse=True)
        start = metrics.gzsl_metrics(r["scores"], r["labels"], r["unseen"], self._lowest(name))
        u, s = (np.cumsum([first, *np.bincount(step, np.where(mine, worth, 0.0), len(margin))])
                for first, mine in ((start.U, r["unseen"][label]), (start.S, ~r["unseen"][label])))
        return {"name": name, "colour": color, "dash": linestyle, "x": u.round(3).tolist(), "y": s.round(3).tolist(),
                "at": [-1e9, *margin.tolist()]}

    def _lowest(self, name: str) -> float:
        """A tau below every margin: no image is called unseen."""
        return float(self.parts.sweeps[name]["tau"].min()) - 1

    def link(self, panel: Panel) -> None:
        """tau is one number of slider, curve and bars, in the browser; a click on another curve chooses its run."""
        for follower in (self.curve, self.bars):
            follower.at = panel.state.tau
            widgets.jslink((panel.controls["tau"], "value"), (follower, "at"))
        self.curve.observe(lambda change: setattr(panel.controls["run"], "value", change["new"]), "on")

    def show(self, state: Tau, result: dict[str, Any]) -> None:
        """Another run brings other bars; a move of tau nothing that the browser has not done already."""
        if state.run == self._run:
            return
        self._run, r = state.run, self.parts.runs[state.run]
        there = np.flatnonzero(~np.isnan(result["plain"]))
        place = np.cumsum(~np.isnan(result["plain"])) - 1
        counts, flips = np.bincount(r["labels"], minlength=len(r["unseen"])), self.flips[state.run]
        label = flips["label"].to_numpy()
        steps = np.stack([flips["margin"], place[label], 100 * flips["change"] / counts[label]], 1)
        start = metrics.class_accuracies(r["scores"], r["labels"], r["unseen"], self._lowest(state.run))
        with self.bars.hold_sync():
            self.bars.names, self.bars.group = [self.parts.names[state.run][c] for c in there], [
                int(u) for u in r["unseen"][there]]
            self.bars.values, self.bars.zero = start[there].tolist(), result["plain"][there].tolist()
            self.bars.steps = steps.astype(np.float64).tobytes()
        self.curve.on = state.run


def calibration_panel(runs: dict[str, dict[str, np.ndarray]]) -> Panel:
    """The tau slider over saved score matrices by name, starting at the first run's validation tau.

    Raises `PanelError` where there is no run.
    """
    if not runs:
        raise PanelError("there is no run to calibrate: give a name and its scores, such as {'mine': "
                         "RunFolder(Path('outputs/mine')).scores()}")
    parts, first = Calibration(runs), next(iter(runs))
    view, own = CalibrationView(parts), {n: float(r["tau"]) for n, r in runs.items()}
    reach = max([*map(abs, own.values()), *(f["margin"].abs().max() for f in view.flips.values() if len(f))])
    source = {n: {"scores": hashlib.sha256(np.ascontiguousarray(r["scores"]).tobytes()).hexdigest()}
              for n, r in runs.items()}
    controls = Choice("run", tuple(runs)), Slider.beyond("tau", reach, "added to every unseen class's score")
    return Panel("Calibration", Tau(first, own[first]), list(controls), parts.compute, parts.draw, parts.describe,
                 source=source, view=view, table=parts.table)


# ---- a recorded sweep ---
class SweepWalk:
    """Validation numbers of one trial of a study record (`sweep.write_study`), found by the values of its axes."""

    def __init__(self, study: dict[str, Any]) -> None:
        self.study, self.trials = study, pd.DataFrame(study["trials"])
        if self.trials.empty:
            raise PanelError(f"the study '{study['study']}' has no finished trial: run `vspcn sweep` first")
        self.axes = [c for c in self.trials.columns if "." in c]
        self.fields = {name.partition(".")[2]: name for name in self.axes}
        self.values = {field: tuple(sorted(self.trials[name].unique().tolist()))  # numbers, words or truth values
                       for field, name in self.fields.items()}
        best = max(study["trials"], key=lambda trial: trial["H"])
        self.State = dataclasses.make_dataclass("Point", [(field, Any) for field in self.fields], frozen=True)
        self.best = self.State(**{field: best[name] for field, name in self.fields.items()})

    def compute(self, state: Any, stop: Event | None = None) -> dict[str, Any] | None:
        """The best recorded trial at these values, None where none was run."""
        there = np.logical_and.reduce([self.trials[n] == getattr(state, f) for f, n in self.fields.items()])
        found = self.trials[there]
        return None if found.empty else found.loc[found["H"].idxmax()].to_dict()

    def draw(self, state: Any, result: dict[str, Any] | None) -> Figure:
        """The map of the study, the present values marked."""
        return gallery.sweep_map(self.study, {name: getattr(state, field) for field, name in self.fields.items()})

    def describe(self, state: Any, result: dict[str, Any] | None) -> str:
        """Validation U, S, H at these values, and how far below the best of the study."""
        at = ", ".join(f"{field} {spelled(getattr(state, field))}" for field in self.fields)
        if result is None:
            return f"{at}: not in the record"
        return (f"{at}: validation U {result['U']:.1f}  S {result['S']:.1f}  H {result['H']:.1f} "
                f"({result['H'] - self.trials['H'].max():+.1f} against the best of {len(self.trials)} trials)")


def sweep_panel(study: dict[str, Any]) -> Panel:
    """A slider for each axis of a recorded study, over the values that were run; starts at the winner."""
    parts = SweepWalk(study)
    steps = [Steps(field, parts.values[field], field_help(name)) for field, name in parts.fields.items()]
    source = {"study": study["study"], "commit": study.get("environment", {}).get("commit", "unknown")}
    return Panel(f"Sweep {study['study']}", parts.best, steps, parts.compute, parts.draw, parts.describe, source=source)
