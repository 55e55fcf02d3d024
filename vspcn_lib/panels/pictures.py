"""Live pictures of panels that show images: layouts of points, fusion taken apart, attention of every block."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from vspcn_lib.data.images import ImageError, decode
from vspcn_lib.panels.live.bars import Bars
from vspcn_lib.panels.live.base import atlas, jpeg
from vspcn_lib.panels.live.grid import Grid
from vspcn_lib.panels.live.overlay import Overlay
from vspcn_lib.panels.live.scatter import Scatter
from vspcn_lib.panels.live.thumbs import Thumbs
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


class AttentionView:
    """Thumbnails to choose from (or the reader's own photo), the grid of all maps with one large, and its words."""

    def __init__(self, parts: Any) -> None:
        self.parts, bench = parts, parts.work.bench
        pictures, columns = atlas((parts.work.pixels[i] for i in parts.indices), len(parts.indices), 56)
        self.thumbs = Thumbs(title="image", labels=bench.labels[parts.indices].tolist(), atlas=pictures, tile=56,
                             names=[plots.plain_name(n) for n in bench.class_names], columns=columns, height=96,
                             unseen=bench.unseen_mask.tolist(), wrong=parts.wrong.tolist())
        self.grid = Grid(cells=round(parts.model.layout.patches ** 0.5), small=26, side=250,
                         rows=list(range(1, len(parts.model.backbone.blocks) + 1)))
        self.bars = Bars(tabled=False, sortable=False, width=330, height=250, digits=2, groups=[""], span=[0, 1],
                         colours=[plots.COLOURS[2]], axes=["attention of SSPF", ""], alt="attributes attended to")
        self.upload = widgets.FileUpload(accept="image/*", description="Your photo",
                                         layout=widgets.Layout(width="130px"))
        self.said = widgets.HTML()
        self.buttons = [self.upload, self.said]
        self.box = widgets.VBox([self.thumbs,
                                 widgets.HBox([self.grid, self.bars], layout=widgets.Layout(**WRAPPED))])
        self._shown: tuple[int, str] | None = None

    def link(self, panel: Any) -> None:
        """A thumbnail is the slider's number, in the browser; a cell of the grid moves block and prompt."""
        self.panel, self.thumbs.picked = panel, panel.state.image
        widgets.jslink((panel.controls["image"], "value"), (self.thumbs, "picked"))
        self.grid.observe(self._picked, "picked")
        self.upload.observe(lambda change: self._own(change["new"]), "value")

    def _picked(self, change: dict[str, Any]) -> None:
        row, column = change["new"]
        if [row, column] != self._cell(self.panel.state):
            self.panel._moved({"block": row + 1, "prompt": column - 1})

    def _cell(self, state: Any) -> list[int]:
        return [state.block - 1, self.parts.prompt(state) + 1]

    def _own(self, files: tuple[dict[str, Any], ...]) -> None:
        for file in files[-1:]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "photo"
                path.write_bytes(bytes(file["content"]))
                try:
                    pixels = decode(path, self.parts.work.config.data.size)
                except ImageError:
                    self.said.value = "this file is no image that can be read: choose a JPEG or PNG file"
                    return
            self.said.value = ""
            self.parts.show_own(pixels)
            self._shown = None
            place = len(self.parts.indices)
            self.panel.widen("image", place)
            self.panel._moved({"image": place})
            self.panel._request()  # a second photo has the same place

    def show(self, state: Any, result: dict[str, Any]) -> None:
        """The maps of another image or stream; otherwise only which one is large."""
        parts, cell = self.parts, self._cell(state)
        with self.grid.hold_sync():
            if self._shown != (state.image, state.stream):
                self._shown = state.image, state.stream
                maps = result["grid"]
                self.grid.image = shown(parts.pixels(state.image))
                self.grid.columns = ["mean", *(f"prompt {i}" for i in range(maps.shape[1] - 1))]
                self.grid.change = parts.change[state.stream].round(4).tolist()
                self.grid.alike = parts.alike if state.stream == "semantic" else []
                self.grid.words = [[", ".join(f"{w} {v:.2f}" for w, v in parts.attended(state, b, p)[:3])
                                    for p in range(-1, maps.shape[1] - 1)] for b in self.grid.rows]
                self.grid.maps = maps.astype(np.float32).tobytes()
            self.grid.picked = cell
        with self.bars.hold_sync():
            self.bars.title = f"{state.stream}, block {state.block}" + ("" if result["words"] else ": no words here")
            self.bars.names = [word for word, _ in result["words"]]
            self.bars.values = [weight for _, weight in result["words"]]
            self.bars.group = [0] * len(result["words"])
