"""Panels that put methods side by side: their seen-unseen curves, and where MSDN looks beside VSPCN."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from vspcn_lib import metrics
from vspcn_lib.methods.msdn import MSDN
from vspcn_lib.model import VSPCN
from vspcn_lib.panels.checks import PanelError, images_in, prompted, spread
from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.fields import Choice, Slider
from vspcn_lib.panels.keeping import named
from vspcn_lib.panels.live.curve import Curve
from vspcn_lib.panels.opening import opening
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.views import plots
from vspcn_lib.views.capture import evenness, prompt_attention
from vspcn_lib.views.found import Found, swept
from vspcn_lib.views.peers import region_attention, shared


# ---- seen-unseen curves ---
@dataclass(frozen=True)
class Chosen:
    """The run whose curve is thick."""

    run: str


class Curves:
    """U against S over every tau, of runs and records by name, and what each reaches at its own tau."""

    def __init__(self, runs: dict[str, Found | dict[str, Any]]) -> None:
        self.records = {n: r.record if isinstance(r, Found) else r for n, r in runs.items()}
        self.sweeps = {n: r.sweep() if isinstance(r, Found) else swept(r) for n, r in runs.items()}
        results = {n: r["result"] for n, r in self.records.items()}
        of = sorted({self._data(r) for r in self.records.values()})
        if len(of) != 1:
            raise PanelError("curves can be compared on the same images alone; these runs are of "
                             + (" and of ".join(of) or "none: mark at least one"))
        self.numbers = pd.DataFrame([{"run": n, **{k: r[k] for k in ("tau", "U", "S", "H")},
                                      "oracle H": r["oracle"]["H"], "gap": r["oracle"]["H"] - r["H"],
                                      "AUSUC": r["AUSUC"]} for n, r in results.items()])

    @staticmethod
    def _data(record: dict[str, Any]) -> str:
        """Benchmark, split, image size and thinning of a record."""
        data, r = record["config"]["data"], record["result"]
        thinned = f", {data['images_per_class']} images a class" if data["images_per_class"] else ""
        return f"{r['benchmark']} ({data['size']} px{thinned}, split {r['split']})"

    def compute(self, state: Chosen, stop: Event | None = None) -> dict[str, Any]:
        """The row of `numbers` of the run."""
        return self.numbers[self.numbers["run"] == state.run].iloc[0].to_dict()

    def draw(self, state: Chosen, result: dict[str, Any]) -> Figure:
        """All curves, the chosen one thick; dots at the tau chosen without test images, stars at the oracle's."""
        figure = Figure(figsize=(5.6, 6.2), layout="constrained")
        axes = figure.subplots()
        plots.seen_unseen_curve(self.sweeps, {n: r["result"] for n, r in self.records.items()}, axes)
        for line in axes.get_lines():
            line.set_linewidth(2.6 if line.get_label() == state.run else 1.2)
        return figure

    def describe(self, state: Chosen, result: dict[str, Any]) -> str:
        """The numbers of the chosen run, and the order of all by AUSUC."""
        order = self.numbers.sort_values("AUSUC", ascending=False)
        tau = metrics.tau_text(result["tau"])
        return ("{run}: tau {}, U {U:.1f}  S {S:.1f}  H {H:.1f}; oracle H {oracle H:.1f}, {gap:.1f} points "
                "above it (chosen on test labels: not a result); AUSUC {AUSUC:.3f}\n".format(tau, **result)
                + "by AUSUC, which needs no tau: "
                + "; ".join(f"{n} {a:.3f}" for n, a in zip(order["run"], order["AUSUC"], strict=True)))

    def table(self, state: Chosen, result: dict[str, Any]) -> pd.DataFrame:
        """One row a run."""
        return self.numbers


class CurvesView:
    """The curves, live: point at one for its numbers, click at one to choose it."""

    def __init__(self, parts: Curves) -> None:
        self.parts = parts
        self.lines, self.own, marks = [], {}, []
        for i, (name, sweep) in enumerate(parts.sweeps.items()):
            style, r, taus = plots.line(i), parts.records[name]["result"], sweep["tau"].tolist()
            # U and S of a result are those of one row alone; of its tau the sweep knows but the middles of the steps.
            self.own[name] = int(np.hypot(sweep["U"] - r["U"], sweep["S"] - r["S"]).argmin())
            taus[self.own[name]] = r["tau"]
            self.lines.append({"name": name, "colour": style["color"], "dash": style["linestyle"],
                               "x": sweep["U"].round(2).tolist(), "y": sweep["S"].round(2).tolist(), "rows": taus})
            marks += [{"x": m["U"], "y": m["S"], "shape": shape, "line": name,
                       "label": f"{name}, {which} tau {metrics.tau_text(m['tau'])}: H {m['H']:.1f}"}
                      for which, shape, m in (("own", "diamond", r), ("oracle", "star", r["oracle"]))]
        top = min(100.0, 1.05 * max(max(line["x"] + line["y"]) for line in self.lines))
        self.curve = Curve(lines=self.lines, marks=marks, harmonic=True, span={"x": [0, top], "y": [0, top]},
                           names=["U", "S", "tau"], axes=["U, unseen accuracy (%)", "S, seen accuracy (%)"],
                           alt="seen accuracy against unseen accuracy for every tau, one line a run", width=620,
                           height=470)
        self.box = widgets.VBox([self.curve])

    def link(self, panel: Panel) -> None:
        """A click at a curve chooses its run."""
        self.curve.observe(lambda change: setattr(panel.controls["run"], "value", change["new"]), "on")

    def show(self, state: Chosen, result: dict[str, Any]) -> None:
        """The point at the run's own tau, unless a click has put it elsewhere on this curve."""
        if self.curve.on != state.run:
            with self.curve.hold_sync():
                self.curve.on, self.curve.at = state.run, self.own[state.run]


def curves_panel(runs: dict[str, Found | dict[str, Any]]) -> Panel:
    """Seen-unseen curves of runs or records by name: `Found`, or records with their `sweep`.

    Raises `PanelError` where there is none, or where they are of other images.
    """
    parts = Curves(runs)
    return Panel("Seen-unseen curves", Chosen(next(iter(runs))), [Choice("run", tuple(runs))], parts.compute,
                 parts.draw, parts.describe, source={"runs": list(runs)}, view=CurvesView(parts), table=parts.table)


# ---- attention of a peer ---
@dataclass(frozen=True)
class Beside:
    """Which unseen image, VSPCN's stream, and which of the class's attributes by its part in MSDN's score (0: all)."""

    image: int
    stream: str
    attribute: int


class PeerAttention:
    """Where VSPCN's last block and MSDN's attributes look in the same unseen images.

    `took` says by run and image of the benchmark what it was taken for.
    """

    def __init__(self, work: Workspace, ours: VSPCN, theirs: MSDN, took: dict[str, dict[int, str]],
                 images: int) -> None:
        self.work, self.ours, self.theirs, self.took, bench = work, ours, theirs, took, work.bench
        self.indices = spread(bench.test_unseen, bench.labels[bench.test_unseen], images)
        self.names = [plots.plain_name(n) for n in bench.class_names]
        self.words = [plots.plain_name(n) for n in bench.attribute_names]
        self._one = Lock()  # maps of VSPCN are read by hooks in the model itself
        self.streams = tuple(self.look(0)[0])

    def look(self, image: int) -> tuple[dict[str, np.ndarray], Any, np.ndarray]:
        """VSPCN's maps [side,side] by stream, MSDN's `Regions`, and the unit attribute row [1,K] of the true class."""
        index = self.indices[image]
        device = self.work.accelerator.device
        pixels = torch.from_numpy(np.array(self.work.pixels[index]))[None].to(device) / 255
        row = torch.as_tensor(self.work.bench.prototypes[self.work.bench.labels[index]])[None].to(device)
        images = self.work.backbone.normalise(pixels)
        with self._one:
            own = {s: m[0].numpy() for s, m in prompt_attention(self.ours, images).items()}
        return own, region_attention(self.theirs, images), self.theirs.prototypes(row).cpu().numpy()

    def compute(self, state: Beside, stop: Event | None = None) -> dict[str, Any]:
        """Both maps [side,side], the attribute or None, terms [K], the class's attributes by them, what is shared."""
        own, regions, row = self.look(state.image)
        terms, has = regions.terms(row)[0], np.flatnonzero(row[0] > 0)
        order = has[(-terms[has]).argsort(kind="stable")]
        which = None if state.attribute == 0 else int(order[min(state.attribute, len(order)) - 1])
        theirs = regions.of_class(row)[0] if which is None else regions.maps[0, which]
        mine = own[state.stream]
        return {"ours": mine, "theirs": theirs, "attribute": which, "terms": terms, "order": order,
                "shared": shared(mine, theirs)}

    def name(self, state: Beside) -> str:
        """The class of the image."""
        return self.names[self.work.bench.labels[self.indices[state.image]]]

    def draw(self, state: Beside, result: dict[str, Any]) -> Figure:
        """The image, VSPCN's map, MSDN's map, and the terms of the true class's attributes in its score by MSDN."""
        figure = Figure(figsize=(10.2, 3.0), layout="constrained")
        axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.1))
        pixels = self.work.pixels[self.indices[state.image]].transpose(1, 2, 0) / 255.0
        span = 0.0, float(max(result["ours"].max(), result["theirs"].max()))  # one for both: an even map stays even
        for ax, key in zip(axes[1:3], ("ours", "theirs"), strict=True):
            plots.overlay(axes[0], ax, pixels, result[key], span)
        looked = "all attributes of the class" if result["attribute"] is None else self.words[result["attribute"]]
        for ax, title in zip(axes, (self.name(state), f"VSPCN, {state.stream}, last block", f"MSDN, {looked}"),
                             strict=False):
            ax.set_title(title, fontsize=9)
        top = result["order"][:8]
        axes[3].barh([self.words[k] for k in top], result["terms"][top],
                     color=[plots.COLOURS[1 if k == result["attribute"] else 2] for k in top])
        axes[3].invert_yaxis()
        axes[3].tick_params(axis="y", labelsize=8)
        axes[3].set_title("MSDN: parts of the class's score", fontsize=9)
        return figure

    def describe(self, state: Beside, result: dict[str, Any]) -> str:
        """What each run took the image for, how even each map is, and what they have in common."""
        index = int(self.indices[state.image])
        said = "; ".join(f"{n}: {took[index]}" for n, took in self.took.items())
        where = "weighted by those of the class" if result["attribute"] is None else (
            f"'{self.words[result['attribute']]}', number {1 + list(result['order']).index(result['attribute'])} of "
            f"{len(result['order'])} of the class by its part in the score")
        ours, theirs = (evenness(result[side]) for side in ("ours", "theirs"))
        return (f"{self.name(state)}; taken for: {said}\nspread (1: even): VSPCN {ours:.2f}, MSDN {theirs:.2f}; "
                f"{100 * result['shared']:.0f} % of both maps lie in the same places\n"
                f"MSDN's attributes: {where}")


def taken(run: Path, names: list[str]) -> dict[int, str]:
    """What a finished run takes each test image for at its own tau, by the image's number; `names` [C] of classes.

    Raises `PanelError` for a run of an older version, which does not keep those numbers.
    """
    saved = RunFolder(run).scores()
    if "indices" not in saved:
        raise PanelError(f"{run} does not keep which images its scores are of: train again with this version")
    best = metrics.predicted(saved["scores"], saved["unseen"], float(saved["tau"]))
    return {int(i): "right" if c == y else names[c] for i, c, y in zip(saved["indices"], best, saved["labels"],
                                                                       strict=True)}


def peer_attention_panel(ours: Path | str, theirs: Path | str, images: int = 48) -> Panel:
    """Attention of a finished run of VSPCN beside that of MSDN, for `images` unseen images, every class in turn.

    Raises `PanelError` for runs of other methods, or of other splits or image sizes.
    """
    ours, theirs, images = Path(ours), Path(theirs), images_in("images", images, 1, 2**31)
    prompted(ours)
    if (method := RunFolder(theirs).config().model.method) != "msdn":
        raise PanelError(f"{theirs} is a run of the method '{method}': only MSDN's attention of attributes to regions "
                         "is drawn here, choose a run of it")
    with opening("Attention of two methods", "VSPCN's data and model", "MSDN's") as step:
        step()
        work, model = load_trained(RunFolder(ours), quiet=True)
        step()
        other, peer = load_trained(RunFolder(theirs), quiet=True)
    if (work.config.data.size, work.inputs["split"]) != (other.config.data.size, other.inputs["split"]):
        raise PanelError(f"{ours} and {theirs} are of other splits or image sizes: compare runs on the same images")
    names, both = [plots.plain_name(n) for n in work.bench.class_names], {"VSPCN": ours, "MSDN": theirs}
    parts = PeerAttention(work, model, peer, {n: taken(run, names) for n, run in both.items()}, images)
    return Panel("Attention of two methods", Beside(0, parts.streams[-1], 0),
                 [Slider("image", 0, len(parts.indices) - 1, 1, "unseen images, every class in turn"),
                  Choice("stream", parts.streams, "VSPCN's"),
                  Slider("attribute", 0, min(8, len(parts.words)), 1,
                         "MSDN's, by its part in the class's score; 0: all of them")],
                 parts.compute, parts.draw, parts.describe, source={n: named(run) for n, run in both.items()})
