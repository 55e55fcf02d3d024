"""Panels over a trained model: for each a frozen state, a pure compute, a pure draw, and the shell around them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from vspcn_lib import metrics
from vspcn_lib.model import VSPCN
from vspcn_lib.panels.checks import images_in, prompted, spread
from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.curves import AlphaView
from vspcn_lib.panels.fields import Slider, field_help
from vspcn_lib.panels.keeping import named
from vspcn_lib.panels.opening import opening
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.views import gallery, plots
from vspcn_lib.views.probe import Probe


# ---- alpha ---
@dataclass(frozen=True)
class Alphas:
    """Weights of the attention in SVPF, SSPF and the adapter."""

    alpha_v: float
    alpha_s: float
    alpha_a: float


class AlphaProbe:
    """H of a trained model under other alphas, on a fixed set of test images; nothing is trained again.

    Every answer is kept by its alphas. `quick` asks the first images alone, which hold as many of either side.
    """

    def __init__(self, work: Workspace, model: VSPCN, indices: np.ndarray, tau: float, few: int = 16) -> None:
        self.tau, self.labels, self.unseen = tau, work.bench.labels[indices], work.bench.unseen_mask
        images = torch.cat([x for x, _, _ in work.batches(indices, augment=False).epoch(0)])
        sides = self.unseen[self.labels], ~self.unseen[self.labels]
        self.few = np.concatenate([np.flatnonzero(side)[:few // 2] for side in sides])
        self.probe = Probe(model, images, torch.as_tensor(work.bench.prototypes, device=images.device), first=self.few)
        c = model.config
        self.trained = Alphas(c.alpha_v, c.alpha_s, c.alpha_a)
        there = bool(c.visual_prompts), bool(c.semantic_prompts), bool(c.semantic_prompts and c.adapter)
        self.names = [n for n, acts in zip(("alpha_v", "alpha_s", "alpha_a"), there, strict=True) if acts]
        self.curves: dict[str, pd.DataFrame] = {}
        self.map = pd.DataFrame()
        self._kept: dict[tuple[bool, Alphas], dict[str, Any]] = {}
        self.filled, self.heard = Event(), lambda: None

    def compute(self, state: Alphas, stop: Event | None = None) -> dict[str, Any]:
        """U, S, H at the run's own tau, and the standard error of H: other images of these classes would differ so."""
        return self._answer(state, stop)

    def quick(self, state: Alphas) -> dict[str, Any]:
        """The same of few images, at once; the full answer where it is known already."""
        return self._kept.get((False, state)) or self._answer(state, quick=True)

    def _answer(self, state: Alphas, stop: Event | None = None, quick: bool = False,
                patient: bool = False) -> dict[str, Any]:
        if (quick, state) not in self._kept:
            labels = self.labels[self.few] if quick else self.labels
            scores = self.probe.scores(state.alpha_v, state.alpha_s, state.alpha_a, stop, quick, patient)
            right = metrics.predicted(scores, self.unseen, self.tau)
            rng, sides = np.random.default_rng(0), (self.unseen[labels], ~self.unseen[labels])
            drawn = np.array([[metrics.per_class_accuracy(right[i], labels[i])
                               for i in (rng.choice(np.flatnonzero(side), int(side.sum())) for side in sides)]
                              for _ in range(200)])
            self._kept[quick, state] = {"at": metrics.gzsl_metrics(scores, labels, self.unseen, self.tau),
                                        "error": float(metrics.harmonic(*drawn.T).std()), "images": len(labels)}
        return self._kept[quick, state]

    def trace(self, points: int = 9) -> pd.DataFrame:
        """H along each alpha with the others as trained; drawn behind the moving point. Moves go first."""
        for name in self.names:
            own = getattr(self.trained, name)
            values = np.union1d(np.linspace(0, 1, points), [own / 2, own])  # a low alpha has much below it to show
            found = [self._answer(dataclasses.replace(self.trained, **{name: float(v)}), patient=True)["at"].H
                     for v in values]
            self.curves[name] = pd.DataFrame({name: values, "H": found})
            self.heard()
        return pd.concat([c.rename(columns={n: "alpha"}).assign(name=n) for n, c in self.curves.items()])

    def chart(self, points: int = 5) -> pd.DataFrame:
        """H of the first images over alpha_v (rows) and alpha_s (columns), alpha_a as trained; kept."""
        values = np.linspace(0, 1, points)
        states = [[dataclasses.replace(self.trained, alpha_v=v, alpha_s=s) for s in map(float, values)]
                  for v in map(float, values)]
        self.map = pd.DataFrame([[self._answer(s, quick=True, patient=True)["at"].H for s in row] for row in states],
                                index=pd.Index(values, name="alpha_v"), columns=pd.Index(values, name="alpha_s"))
        return self.map

    def fill(self) -> None:
        """`trace`, first of three points and then dense, and `chart`; sets `filled`."""
        try:
            for points in (3, 9):
                self.trace(points)
            if {"alpha_v", "alpha_s"} <= set(self.names):
                self.chart()
        finally:
            self.filled.set()
            self.heard()

    def report(self) -> str:
        """For each alpha how far H moves along its trace, and which one moves it most."""
        spans = {n: (c["H"].min(), c["H"].max()) for n, c in self.curves.items()}
        lines = [f"{n} from 0 to 1: H between {low:.1f} and {high:.1f} (trained at {getattr(self.trained, n):g})"
                 for n, (low, high) in spans.items()]
        most = max(spans, key=lambda n: spans[n][1] - spans[n][0])
        error = self.compute(self.trained)["error"]
        return "\n".join([*lines, f"moves H most: {most}; one standard error of H: {error:.1f} points"])

    def draw(self, state: Alphas, result: dict[str, Any]) -> Figure:
        """H against each alpha: the trace, and the present state as a point in each."""
        figure = Figure(figsize=(9.0 + 2.4 * (not self.map.empty), 3.0), layout="constrained")
        axes, at = figure.subplots(1, len(self.names) + (not self.map.empty), squeeze=False)[0], result["at"]
        if not self.map.empty:
            gallery.alpha_map(axes[-1], self.map)
            axes = axes[:-1]
        for ax, colour, name in zip(axes, plots.COLOURS[:len(axes)], self.names, strict=True):
            if name in self.curves:
                ax.plot(self.curves[name][name], self.curves[name]["H"], "-", color=colour)
            ax.axvline(getattr(self.trained, name), color="0.8", lw=1)
            ax.errorbar(getattr(state, name), at.H, yerr=result["error"], fmt="o", color="black", capsize=3)
            ax.set(xlabel=name, xlim=(-0.03, 1.03), ylim=(0, 100))
        axes[0].set_ylabel("H on the probe (%)")
        figure.suptitle(f"U {at.U:.1f}   S {at.S:.1f}   H {at.H:.1f} ± {result['error']:.1f}", fontsize=11)
        return figure

    def describe(self, state: Alphas, result: dict[str, Any]) -> str:
        """The numbers under the picture, and how uncertain so few images make them."""
        at = result["at"]
        return (f"alpha_v {state.alpha_v:.2f}  alpha_s {state.alpha_s:.2f}  alpha_a {state.alpha_a:.2f}: "
                f"U {at.U:.1f}  S {at.S:.1f}  H {at.H:.1f} ± {result['error']:.1f} (standard error) on "
                f"{result['images']} test images, tau {metrics.tau_text(self.tau)}")


def alpha_panel(run: Path | str, images: int = 64) -> Panel:
    """Alpha sliders over a finished run, on `images` test images, half of them unseen; opens at the trained alphas.

    They are spread over classes: every class once before any class twice. Its curves fill in while it is in use;
    `panel.parts` is the `AlphaProbe`. Raises `PanelError` for a run without strong fusion or fewer than 2 images.
    """
    run = Path(run)
    prompted(run, strong=True)
    half = images_in("images", images, 2, 2**31) // 2
    folder = RunFolder(run)
    tau = float(folder.scores()["tau"])
    with opening("Alphas", "data and model", "images up to the deep blocks", "the trained alphas") as step:
        step()
        work, model = load_trained(folder, quiet=True)
        sides = work.bench.test_seen, work.bench.test_unseen
        step()
        parts = AlphaProbe(work, model, np.concatenate([spread(s, work.bench.labels[s], half) for s in sides]), tau)
        sliders = [Slider(n, 0.0, 1.0, 0.05, field_help(f"model.{n}")) for n in parts.names]
        step()
        panel = Panel("Alphas", parts.trained, sliders, parts.compute, parts.draw, parts.describe, source=named(run),
                      view=AlphaView(parts), quick=parts.quick)
    panel.parts = parts
    Thread(target=parts.fill, daemon=True).start()
    return panel
