"""Panels over records alone, no model needed: the tau slider, and a recorded sweep to walk through."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vspcn_lib import gallery, metrics, plots
from vspcn_lib.controls import Choice, Panel, Slider, Steps, field_help


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

    def compute(self, state: Tau, stop: Event | None = None) -> dict[str, Any]:
        """Metrics at `state.tau` and accuracies [C] there and at tau 0, unseen classes apart."""
        r = self.runs[state.run]
        triple = r["scores"], r["labels"], r["unseen"]
        return {"at": metrics.gzsl_metrics(*triple, state.tau), "oracle": metrics.best_tau(self.sweeps[state.run]),
                "validation": float(r["tau"]), "AUSUC": _ausuc(self, state.run),
                "now": metrics.class_accuracies(*triple, state.tau), "plain": metrics.class_accuracies(*triple, 0.0)}

    def draw(self, state: Tau, result: dict[str, Any]) -> Figure:
        """The curve with the point at tau, and what this tau does to each class."""
        figure = Figure(figsize=(9.6, 4.0), layout="constrained")
        curve, bars = figure.subplots(1, 2, width_ratios=(1, 1.25))
        for colour, (name, sweep) in zip(plots.COLOURS, self.sweeps.items(), strict=False):
            curve.plot(sweep["U"], sweep["S"], color=colour, label=name, lw=2 if name == state.run else 1)
        at = result["at"]
        curve.plot(at.U, at.S, "o", color="black", markersize=9)
        curve.set(xlim=(0, 100), ylim=(0, 100), xlabel="U, unseen accuracy (%)", ylabel="S, seen accuracy (%)",
                  title=f"tau {state.tau:+.2f}:  U {at.U:.1f}   S {at.S:.1f}   H {at.H:.1f}")
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
        """The numbers under the picture."""
        at = result["at"]
        return (f"{state.run}, tau {state.tau:+.2f}: U {at.U:.2f}  S {at.S:.2f}  H {at.H:.2f}  CZSL {at.CZSL:.2f}  "
                f"AUSUC {result['AUSUC']:.3f}\nvalidation tau {result['validation']:+.2f}, "
                f"oracle tau {result['oracle']:+.2f} (chosen on test labels: not a result)")


@lru_cache(maxsize=32)
def _ausuc(of: Calibration, run: str) -> float:
    r = of.runs[run]
    return metrics.ausuc(r["scores"], r["labels"], r["unseen"])


def calibration_panel(runs: dict[str, dict[str, np.ndarray]]) -> Panel:
    """The tau slider over saved score matrices by name, starting at the first run's validation tau."""
    parts, first = Calibration(runs), next(iter(runs))
    span = float(np.ceil(max(abs(s["tau"]).replace(np.inf, 0).max() for s in parts.sweeps.values())))
    return Panel("Calibration", Tau(first, round(float(runs[first]["tau"]), 2)),
                 [Choice("run", tuple(runs)), Slider("tau", -span, span, 0.05, "added to every unseen class's score")],
                 parts.compute, parts.draw, parts.describe)


# ---- a recorded sweep ---
class SweepWalk:
    """Validation numbers of one trial of a study record (`sweep.write_study`), found by the values of its axes."""

    def __init__(self, study: dict[str, Any]) -> None:
        self.study, self.trials = study, pd.DataFrame(study["trials"])
        self.axes = [c for c in self.trials.columns if "." in c]
        self.fields = {name.partition(".")[2]: name for name in self.axes}
        best = self.trials.loc[self.trials["H"].idxmax()]
        self.State = dataclasses.make_dataclass("Point", [(field, float) for field in self.fields], frozen=True)
        self.best = self.State(**{field: float(best[name]) for field, name in self.fields.items()})

    def compute(self, state: Any, stop: Event | None = None) -> dict[str, Any] | None:
        """The best recorded trial at these values, None where none was run."""
        there = np.logical_and.reduce([np.isclose(self.trials[n], getattr(state, f)) for f, n in self.fields.items()])
        found = self.trials[there]
        return None if found.empty else found.loc[found["H"].idxmax()].to_dict()

    def draw(self, state: Any, result: dict[str, Any] | None) -> Figure:
        """The map of the study, the present values marked."""
        return gallery.sweep_map(self.study, {name: getattr(state, field) for field, name in self.fields.items()})

    def describe(self, state: Any, result: dict[str, Any] | None) -> str:
        """Validation U, S, H at these values, and how far below the best of the study."""
        at = ", ".join(f"{field} {getattr(state, field):g}" for field in self.fields)
        if result is None:
            return f"{at}: not in the record"
        return (f"{at}: validation U {result['U']:.1f}  S {result['S']:.1f}  H {result['H']:.1f} "
                f"({result['H'] - self.trials['H'].max():+.1f} against the best of {len(self.trials)} trials)")


def sweep_panel(study: dict[str, Any]) -> Panel:
    """A slider for each axis of a recorded study, over the values that were run; starts at the winner."""
    parts = SweepWalk(study)
    steps = [Steps(field, tuple(float(v) for v in sorted(parts.trials[name].unique())), field_help(name))
             for field, name in parts.fields.items()]
    return Panel(f"Sweep {study['study']}", parts.best, steps, parts.compute, parts.draw, parts.describe)
