"""Live curves of two panels: H along each alpha, and a run that is being trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from matplotlib.figure import Figure

from vspcn_lib.panels.live.curve import Curve
from vspcn_lib.panels.live.picture import Picture
from vspcn_lib.views import gallery, plots
from vspcn_lib.views.curves import LOG, borders, folds

WRAPPED = {"flex_flow": "row wrap"}


class AlphaView:
    """H along each alpha with the present point on it, and a map of H over alpha_v and alpha_s; they fill in."""

    def __init__(self, parts: Any) -> None:
        self.parts = parts
        self.curves = {n: Curve(width=300, height=250, span={"x": [0, 1], "y": [0, 100]}, names=[n, "H", ""],
                                axes=[n, "H on the probe (%)"], rules=[getattr(parts.trained, n)], on=n,
                                alt=f"H of the probe for {n} from 0 to 1; the dashed line is the trained value")
                       for n in parts.names}
        self.map = Picture(alt="H over alpha_v and alpha_s", width=290)
        self.said = widgets.HTML()
        self.box = widgets.VBox([widgets.HBox([*self.curves.values(), self.map], layout=widgets.Layout(**WRAPPED)),
                                 self.said])
        parts.heard = self.refresh

    def refresh(self) -> None:
        """Draw what of the curves and the map is known by now."""
        for colour, (name, curve) in zip(plots.COLOURS, self.curves.items(), strict=False):
            if (found := self.parts.curves.get(name)) is not None:
                curve.lines = [{"name": name, "colour": colour, "dash": "-", "dots": True, "x": found[name].tolist(),
                                "y": found["H"].tolist()}]
        if not self.parts.map.empty and not self.map.value:
            figure = Figure(figsize=(2.9, 2.6), layout="constrained")
            gallery.alpha_map(figure.subplots(), self.parts.map)
            self.map.value = plots.png(figure, 160)
        self.said.value = "" if self.parts.filled.is_set() else (
            "<span role='status' class='vspcn-said'>the curves fill in; the sliders work meanwhile</span>")

    def link(self, panel: Any) -> None:
        """Points move with an answer, not with a slider."""
        self.refresh()

    def show(self, state: Any, result: dict[str, Any]) -> None:
        """The point of each curve at the present alphas, its standard error as a bar."""
        for name, curve in self.curves.items():
            curve.point = [getattr(state, name), result["at"].H, result["error"]]
            curve.said = f"H {result['at'].H:.1f} ± {result['error']:.1f}"


class TrainingView:
    """Loss parts by step, and validation U, S, H by epoch, as they come; later folds as thin lines."""

    def __init__(self) -> None:
        self.losses = Curve(width=460, height=290, axes=["step", "loss part"], names=["step", "loss", ""],
                            alt="parts of the loss by step", on="total", said="no step yet: press Start")
        self.validation = Curve(width=380, height=290, axes=["epoch", "validation (%)"], names=["epoch", "%", ""],
                                span={"y": [0, 100]}, alt="validation U, S and H by epoch", on="H", said="validation")
        self.box = widgets.HBox([self.losses, self.validation], layout=widgets.Layout(**WRAPPED))

    def show(self, steps: pd.DataFrame, epochs: pd.DataFrame, earlier: dict[str, pd.DataFrame]) -> None:
        """The curves of one run, and the total loss of earlier ones behind it."""
        parts = [c for c in steps.columns if c not in LOG]
        lines = [_line(part, i, [*range(1, len(steps) + 1)], steps[part]) for i, part in enumerate(parts)]
        lines += [_line(name, i + len(parts), [*range(1, len(old) + 1)], old["total"])
                  for i, (name, old) in enumerate(earlier.items()) if len(old)]
        with self.losses.hold_sync():
            self.losses.lines = lines
            self.losses.rules = [border + 0.5 for border in borders(steps)]
            self.losses.said = "" if lines else "no step yet: press Start"
        if len(epochs):
            self.validation.lines = [{**_line(n, i, rows["epoch"].tolist(), rows[n]), "dots": True, "thin": fold > 0}
                                     for fold, rows in enumerate(folds(epochs)) for i, n in enumerate("USH")]


def _line(name: str, i: int, x: list[float], y: pd.Series) -> dict[str, Any]:
    style = plots.line(i)
    return {"name": name, "colour": style["color"], "dash": style["linestyle"], "x": x, "y": y.round(4).tolist()}


def earlier_runs(folder: Path) -> list[Path]:
    """Run folders directly inside `folder` that hold steps, the newest last."""
    return sorted((p.parent for p in folder.glob("*/steps.jsonl")), key=lambda p: (p / "steps.jsonl").stat().st_mtime)
