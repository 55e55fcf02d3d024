"""Where prompts look: every block and prompt of an image at once, one of them large, and the words it attends to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from vspcn_lib import metrics
from vspcn_lib.model import VSPCN
from vspcn_lib.panels.checks import images_in, prompted, spread
from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.fields import Choice, Slider
from vspcn_lib.panels.keeping import named
from vspcn_lib.panels.opening import opening
from vspcn_lib.panels.pictures import AttentionView
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.views import plots
from vspcn_lib.views.capture import attention_maps, evenness, vit_attention


@dataclass(frozen=True)
class Look:
    """Which image, block, stream and prompt (-1: their mean)."""

    image: int
    block: int
    stream: str
    prompt: int


NAMED = 0.02  # of the attention; less is not worth a name: over the 82 attributes of birdlets each has 0.012 by chance
SAME = 0.01  # of the attention elsewhere than in the mean over images: less is no difference between images


class Attention:
    """Where a stream's tokens look in a block of the ViT, and the words a semantic prompt attends to."""

    def __init__(self, work: Workspace, model: VSPCN, indices: np.ndarray, wrong: np.ndarray | None = None) -> None:
        self.work, self.model, self.indices = work, model, indices
        self.wrong = np.zeros(len(indices), bool) if wrong is None else wrong
        self.words = [plots.plain_name(n) for n in work.bench.attribute_names]
        counts = {"cls": 1, "visual": model.layout.visual, "semantic": model.layout.semantic}
        self.prompts = {stream: n for stream, n in counts.items() if n}
        self.own: np.ndarray | None = None
        self._seen: dict[int, tuple[dict[str, np.ndarray], np.ndarray | None]] = {}
        self._one = Lock()
        few = indices[np.linspace(0, len(indices) - 1, min(16, len(indices))).astype(int)]
        self.change, self.alike = self._changes(few)

    def pixels(self, image: int) -> np.ndarray:
        """An image uint8 [3,H,W]: a test image, or after the last of them the reader's own."""
        return self.own if image == len(self.indices) else self.work.pixels[self.indices[image]]

    def name(self, image: int) -> str:
        """The class of an image, as words."""
        if image == len(self.indices):
            return "your photo"
        return plots.plain_name(self.work.bench.class_names[self.work.bench.labels[self.indices[image]]])

    def show_own(self, pixels: np.ndarray) -> None:
        """Take the reader's own image, uint8 [3,H,W], after the last test image."""
        with self._one:
            self.own = pixels
            self._seen.pop(len(self.indices), None)

    def _look(self, pixels: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Attention to patches by stream [n,blocks,P,patches], mean over heads; and SSPF's [n,deep,P,K] where it is."""
        x = self.work.backbone.normalise(torch.from_numpy(np.array(pixels)).to(self.work.accelerator.device) / 255)
        with torch.no_grad(), attention_maps(self.model) as found:
            self.model(x)
        layout, rows = self.model.layout, {stream: [] for stream in self.prompts}
        for i in range(len(self.model.backbone.blocks)):
            prefix, visual, semantic, _ = layout.split(vit_attention(self.model, found, i + 1))
            for stream, part in (("cls", prefix[:, :1]), ("visual", visual), ("semantic", semantic)):
                if stream in rows:
                    rows[stream].append(part[..., -layout.patches:])
        deep = [found[n] for n in sorted((n for n in found if n.startswith("strong_semantic.") and n.endswith(
            ".attention")), key=lambda n: int(n.split(".")[1]))]
        return ({s: torch.stack(r, 1).numpy() for s, r in rows.items()}, torch.stack(deep, 1).numpy() if deep else None)

    def maps(self, image: int) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """What `_look` says of one image, without its first axis; computed once."""
        with self._one:  # maps are read by hooks in the model itself
            if image not in self._seen:
                rows, words = self._look(self.pixels(image)[None])
                self._seen[image] = {s: r[0] for s, r in rows.items()}, None if words is None else words[0]
            return self._seen[image]

    def grid(self, rows: np.ndarray) -> np.ndarray:
        """Rows [...,P,patches] to maps [...,1+P,patches] that each sum to 1: the mean of all prompts, then each."""
        found = np.concatenate([rows.mean(-2, keepdims=True), *([rows] if rows.shape[-2] > 1 else [])], axis=-2)
        return found / found.sum(-1, keepdims=True)

    def _changes(self, indices: np.ndarray) -> tuple[dict[str, np.ndarray], list[list[bool | None]]]:
        """By stream [blocks,1+P]: the share of a map that lies elsewhere than in the mean over these images.

        And [blocks][1+P] whether the strongest attribute of SSPF is the same in all of them, None in shallow blocks.
        """
        found: dict[str, list[np.ndarray]] = {stream: [] for stream in self.prompts}
        strongest = []
        for part in np.array_split(indices, max(1, len(indices) // 4)):
            rows, words = self._look(self.work.pixels[part])
            for stream, of_stream in rows.items():
                found[stream].append(self.grid(of_stream))
            if words is not None:
                many = [words] if words.shape[-2] > 1 else []
                strongest.append(np.concatenate([words.mean(-2, keepdims=True), *many], -2).argmax(-1))
        change = {s: np.abs(m - m.mean(0)).sum(-1).mean(0) / 2
                  for s, m in ((s, np.concatenate(parts)) for s, parts in found.items())}
        if not strongest:
            return change, []
        same = (top := np.concatenate(strongest)).min(0) == top.max(0)
        shallow = len(self.model.backbone.blocks) - len(same)
        return change, [[None] * same.shape[1]] * shallow + same.tolist()

    def prompt(self, state: Look) -> int:
        """The prompt shown: -1 for the mean, and a stream's last one where it has fewer than another stream."""
        return -1 if self.prompts[state.stream] == 1 else min(state.prompt, self.prompts[state.stream] - 1)

    def attended(self, state: Look, block: int, prompt: int) -> list[tuple[str, float]]:
        """At most eight attributes that a semantic prompt attends to, none below `NAMED`; -1 is the mean."""
        words, deep = self.maps(state.image)[1], block - 1 - self.model.first_strong
        if state.stream != "semantic" or words is None or deep < 0:
            return []
        own = words[deep].mean(0) if prompt < 0 else words[deep][prompt]
        return [(self.words[k], float(own[k])) for k in (-own).argsort(kind="stable")[:8] if own[k] >= NAMED]

    def compute(self, state: Look, stop: Event | None = None) -> dict[str, Any]:
        """The maps of all blocks and prompts [blocks,1+P,side,side], the one asked for, and its attributes' weights."""
        rows, side = self.maps(state.image)[0][state.stream], round(self.model.layout.patches ** 0.5)
        grid, prompt = self.grid(rows), self.prompt(state)
        grid = grid.reshape(*grid.shape[:2], side, side)
        return {"grid": grid, "map": grid[state.block - 1, prompt + 1],
                "words": self.attended(state, state.block, prompt)}

    def draw(self, state: Look, result: dict[str, Any]) -> Figure:
        """Image, overlay, and the attended attributes as bars."""
        pixels = self.pixels(state.image).transpose(1, 2, 0) / 255.0
        figure = Figure(figsize=(9.0, 3.1), layout="constrained")
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
        plots.overlay(axes[0], axes[1], pixels, result["map"], (0, None))
        axes[0].set_title(self.name(state.image), fontsize=9)
        axes[1].set_title(f"{state.stream}, block {state.block}", fontsize=9)
        if result["words"]:
            words, weights = zip(*result["words"], strict=True)
            axes[2].barh(words, weights, color=plots.COLOURS[2])
            axes[2].set_ylim(7.6, -0.6)  # bars as thick for one word as for eight, the strongest on top
            axes[2].set_xlabel("attention of SSPF")
        else:
            axes[2].axis("off")
            text = f"words: semantic stream,\nblocks with strong fusion,\nweights from {NAMED:g}"
            axes[2].text(0, 0.5, text, color="0.4")
        return figure

    def describe(self, state: Look, result: dict[str, Any]) -> str:
        """The centre of the map, how concentrated it is, the words with their weights, and which prompt that is."""
        m = result["map"]
        y, x = np.unravel_index(m.argmax(), m.shape)
        name = self.name(state.image)
        where = f"row {y + 1}, column {x + 1} of {len(m)}"
        lines = [f"{name}; strongest patch: {where}; spread {evenness(m):.2f} (1: even)"]
        if result["words"]:
            lines.append("attends to: " + ", ".join(f"{word} {weight:.2f}" for word, weight in result["words"][:5]))
        if state.stream == "cls" and state.prompt >= 0:
            lines.append("prompt: not used by cls")
        elif self.prompt(state) != state.prompt and state.stream != "cls":
            lines.append(f"prompt {state.prompt}: {state.stream} has {self.prompts[state.stream]}, its last is shown")
        same = self.change[state.stream][state.block - 1][self.prompt(state) + 1] < SAME
        lines.append("this map is the same for all images" if same else "this map differs between images")
        return "\n".join(lines)


def attention_panel(run: Path | str, images: int = 200) -> Panel:
    """Image, block, stream and prompt of a finished run; unseen classes first.

    `images` test images, a quarter of them of seen classes; all where there are fewer. Raises `PanelError` for a run
    without prompts.
    """
    run = Path(run)
    prompted(run)
    images, folder = images_in("images", images, 1, 2**31), RunFolder(run)
    with opening("Attention", "data and model", "which maps move with the image", "thumbnails and maps") as step:
        step()
        work, model = load_trained(folder, quiet=True)
        shares = (work.bench.test_unseen, images - images // 4), (work.bench.test_seen, images // 4)
        indices = np.concatenate([spread(w, work.bench.labels[w], n) for w, n in shares])
        saved = folder.scores()
        right = metrics.predicted(saved["scores"], saved["unseen"], float(saved["tau"])) == saved["labels"]
        wrong = np.isin(indices, saved["indices"][~right]) if "indices" in saved else None
        step()
        parts = Attention(work, model, indices, wrong)
        last, streams, most = len(model.backbone.blocks), tuple(parts.prompts), max(parts.prompts.values())
        step()
        return Panel("Attention", Look(0, last, streams[-1], -1),
                     [Slider("image", 0, len(parts.indices) - 1, 1, "unseen classes first"),
                      Slider("block", 1, last, 1, "of the ViT"), Choice("stream", streams),
                      *([Slider("prompt", -1, most - 1, 1, "-1: the mean of all prompts")] if most > 1 else [])],
                     parts.compute, parts.draw, parts.describe, source=named(run), view=AttentionView(parts))
