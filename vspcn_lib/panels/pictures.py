"""Live pictures of panels that show images: layouts of points, fusion taken apart, attention of every block."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import numpy as np

from vspcn_lib.panels.live.bars import Bars
from vspcn_lib.panels.live.base import atlas, jpeg
from vspcn_lib.panels.live.overlay import Overlay
from vspcn_lib.panels.live.scatter import Scatter
from vspcn_lib.views import plots

WRAPPED = {"flex_flow": "row wrap"}


def shown(pixels: np.ndarray) -> bytes:
    """A cached image uint8 [3,H,W] as JPEG."""
    return jpeg(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


class LayoutView:
    """t-SNE layouts of several runs side by side; what is pointed at or pinned in one is so in all."""

    def __init__(self, parts: Any) -> None:
        self.parts, bench = parts, parts.work.bench
        tile = 64 if len(parts.indices) <= 2500 else 32
        pictures, columns = atlas((parts.work.pixels[i] for i in parts.indices), len(parts.indices), tile)
        self.scatter = Scatter(
            labels=parts.labels.tolist(), names=[plots.plain_name(n) for n in bench.class_names], runs=parts.names,
            unseen=bench.unseen_mask.tolist(), predicted=[parts.predicted[n].tolist() for n in parts.names],
            titles=[f"{n}: silhouette {v['all']['silhouette']:.2f}, unseen alone {v['unseen']['silhouette']:.2f}"
                    for n, v in parts.numbers.items()], atlas=pictures, tile=tile, columns=columns,
            side=min(440, 880 // len(parts.names)))
        self.box = widgets.VBox([self.scatter])
        self._perplexity: int | None = None

    def link(self, panel: Any) -> None:
        """The slider and the point picked are one number, in the browser."""
        self.scatter.picked = panel.state.image
        widgets.jslink((panel.controls["image"], "value"), (self.scatter, "picked"))

    def show(self, state: Any, result: dict[str, Any]) -> None:
        """Another perplexity brings other places; picking an image changes nothing that the browser has not done."""
        if state.perplexity != self._perplexity:
            self._perplexity = state.perplexity
            layouts = np.stack([result["layouts"][n] for n in self.parts.names])
            self.scatter.layouts = layouts.astype(np.float32).tobytes()


class FusionView:
    """The image with attention, bias and mix of the visual prompt over it; the same three of the semantic prompt."""

    def __init__(self, parts: Any) -> None:
        self.parts, bench = parts, parts.work.bench
        side = round(parts.model.layout.patches ** 0.5)
        name = plots.plain_name(bench.class_names[bench.labels[parts.index]])
        titles = ["SVPF: attention × {mix}", "SVPF: bias × {rest}", "SVPF: their mix"]
        self.maps = Overlay(image=shown(parts.work.pixels[parts.index]), name=name, cells=side, titles=titles,
                            mixed=[0, 1])
        self.bars = [Bars(tabled=False, sortable=False, width=270, height=170, digits=3, groups=[""], alt=title,
                          colours=[plots.COLOURS[2]], axes=["weight", ""]) for title in ("attention", "bias", "mix")]
        self.box = widgets.VBox([self.maps, widgets.HBox(self.bars, layout=widgets.Layout(**WRAPPED))])

    def link(self, panel: Any) -> None:
        """The visual mix follows its slider in the browser."""
        self.maps.mix = panel.state.alpha_v
        widgets.jslink((panel.controls["alpha_v"], "value"), (self.maps, "mix"))

    def show(self, state: Any, result: dict[str, dict[str, np.ndarray]]) -> None:
        """Maps of this block and prompt, and the attributes of the semantic one, the strongest of the mix first."""
        visual, semantic = result["visual"], result["semantic"]
        maps = np.stack([visual["attention"], visual["bias"], visual["mix"]]).astype(np.float32).tobytes()
        if maps[:8 * visual["bias"].size] != self.maps.maps[:8 * visual["bias"].size]:  # alpha moves only the mix
            self.maps.maps = maps
        order = semantic["mix"].argsort()[::-1][:12]
        top = float(max(part[order].max() for part in semantic.values()))
        for bars, (part, alpha) in zip(self.bars, (("attention", state.alpha_s), ("bias", 1 - state.alpha_s),
                                                   ("mix", None)), strict=True):
            with bars.hold_sync():
                bars.title = "SSPF: their mix" if alpha is None else f"SSPF: {part} × {alpha:.2f}"
                bars.span, bars.group = [0, top], [0] * len(order)
                bars.names = [self.parts.words[k] for k in order]
                bars.values = semantic[part][order].astype(float).tolist()
