"""Two more panels: one fusion taken apart at any alpha, and t-SNE of cls embeddings, ViT only beside VSPCN."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import torch
from matplotlib.figure import Figure

from vspcn_lib import gallery, plots
from vspcn_lib.capture import attention_maps
from vspcn_lib.controls import Choice, Panel, Slider, field_help
from vspcn_lib.embeddings import cls_embeddings, separation, tsne_layout
from vspcn_lib.model import VSPCN
from vspcn_lib.runs import RunFolder
from vspcn_lib.trained import load_trained
from vspcn_lib.workspace import Workspace


# ---- strong fusion, taken apart ---
@dataclass(frozen=True)
class Mix:
    """Which deep block and prompt, and the alphas of both strong fusions."""

    block: int
    prompt: int
    alpha_v: float
    alpha_s: float


class StrongFusion:
    """Attention, learned bias and their mix for one image: a delta(QK^T) + (1 - a) delta(B)."""

    def __init__(self, work: Workspace, model: VSPCN, index: int) -> None:
        self.work, self.model, self.index = work, model, index
        x = next(iter(work.batches(np.array([index]), augment=False).epoch(0)))[0]
        with torch.no_grad(), attention_maps(model) as found:
            model(x)
        self.maps = dict(found)
        self.words = [n.removeprefix("has_").replace("::", ": ").replace("_", " ") for n in work.bench.attribute_names]

    def compute(self, state: Mix, stop: Event | None = None) -> dict[str, dict[str, np.ndarray]]:
        """{"visual": {"attention", "bias", "mix"} over patches, "semantic": the same over attributes}."""
        found = {}
        for stream, alpha in (("visual", state.alpha_v), ("semantic", state.alpha_s)):
            name = f"strong_{stream}.{state.block - 1 - self.model.first_strong}"
            attention = self.maps[f"{name}.attention"][0, state.prompt].numpy()
            bias = self.maps[f"{name}.bias_map"][state.prompt].numpy()
            found[stream] = {"attention": attention, "bias": bias, "mix": alpha * attention + (1 - alpha) * bias}
        return found

    def draw(self, state: Mix, result: dict[str, dict[str, np.ndarray]]) -> Figure:
        """Above: over the patches of the image; below: over the attributes, the strongest named."""
        figure = Figure(figsize=(9.4, 5.2), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.15, 1))
        axes = top.subplots(1, 4)
        side = round(self.model.layout.patches ** 0.5)
        pixels = self.work.pixels[self.index].transpose(1, 2, 0) / 255.0
        titles = {"attention": f"attention x {state.alpha_v:.2f}", "bias": f"bias x {1 - state.alpha_v:.2f}",
                  "mix": "their mix"}
        for ax, (part, title) in zip(axes[1:], titles.items(), strict=True):
            plots.overlay(axes[0], ax, pixels, result["visual"][part].reshape(side, side))
            ax.set_title(f"SVPF: {title}", fontsize=9)
        chosen = result["semantic"]["mix"].argsort()[::-1][:7]
        axes = bottom.subplots(1, 3, sharey=True)
        titles = {"attention": f"attention x {state.alpha_s:.2f}", "bias": f"bias x {1 - state.alpha_s:.2f}",
                  "mix": "their mix"}
        for ax, (part, title) in zip(axes, titles.items(), strict=True):
            ax.barh([self.words[k] for k in chosen[::-1]], result["semantic"][part][chosen[::-1]],
                    color=plots.COLOURS[2])
            ax.set_title(f"SSPF: {title}", fontsize=9)
        return figure

    def describe(self, state: Mix, result: dict[str, dict[str, np.ndarray]]) -> str:
        """Whether each mix is a distribution, and what of it is attention."""
        return "\n".join(
            f"{stream}: the mix sums to {parts['mix'].sum():.3f}; {100 * alpha:.0f} % of it is attention, "
            f"{100 - 100 * alpha:.0f} % learned bias"
            for (stream, parts), alpha in zip(result.items(), (state.alpha_v, state.alpha_s), strict=True))


def fusion_panel(run: Path, image: int = 0) -> Panel:
    """Strong fusion of a finished run on its `image`-th unseen test image."""
    work, model = load_trained(RunFolder(run))
    parts, c = StrongFusion(work, model, int(work.bench.test_unseen[image])), model.config
    first, last = c.first_strong_block, len(model.backbone.blocks)
    return Panel("Strong fusion", Mix(last, 0, c.alpha_v, c.alpha_s),
                 [Slider("block", first, last, 1, "deep blocks only"),
                  Slider("prompt", 0, min(c.visual_prompts, c.semantic_prompts) - 1, 1, "which prompt"),
                  *(Slider(n, 0.0, 1.0, 0.05, field_help(f"model.{n}")) for n in ("alpha_v", "alpha_s"))],
                 parts.compute, parts.draw, parts.describe)


# ---- t-SNE ---
@dataclass(frozen=True)
class Map:
    """The perplexity of the layout, and the image picked."""

    perplexity: int
    image: int


class Layouts:
    """t-SNE layouts of several embeddings of the same images for several perplexities, computed once."""

    def __init__(self, work: Workspace, indices: np.ndarray, embeddings: dict[str, np.ndarray],
                 perplexities: tuple[int, ...]) -> None:
        self.work, self.indices, self.names = work, indices, list(embeddings)
        self.labels = work.bench.labels[indices]
        self.unseen = work.bench.unseen_mask[self.labels]
        self.numbers = {n: separation(x, self.labels, self.unseen) for n, x in embeddings.items()}
        self.found = {(n, p): tsne_layout(x, p) for n, x in embeddings.items() for p in perplexities}

    def compute(self, state: Map, stop: Event | None = None) -> dict[str, np.ndarray]:
        """The layout [n,2] of each embedding."""
        return {n: self.found[n, state.perplexity] for n in self.names}

    def draw(self, state: Map, result: dict[str, np.ndarray]) -> Figure:
        """Classes by colour, unseen ones filled; the picked image circled in both, and shown."""
        figure = Figure(figsize=(10.2, 4.0), layout="constrained")
        axes = figure.subplots(1, len(result) + 1, width_ratios=(1,) * len(result) + (0.5,))
        for ax, (name, xy) in zip(axes, result.items(), strict=False):
            gallery.tsne_scatter(ax, xy, self.labels, self.unseen, name, self.numbers[name])
            ax.plot(*xy[state.image], "o", mfc="none", mec="red", ms=13, mew=2)
        axes[-1].imshow(self.work.pixels[self.indices[state.image]].transpose(1, 2, 0))
        kind = "unseen" if self.unseen[state.image] else "seen"
        name = self.work.bench.class_names[self.labels[state.image]].replace("_", " ")
        axes[-1].set(xticks=[], yticks=[])
        axes[-1].set_title(f"{name}\n({kind})", fontsize=9)
        return figure

    def describe(self, state: Map, result: dict[str, np.ndarray]) -> str:
        """Separation of classes in the embedding itself, not in the layout."""
        return "\n".join(f"{n}: {side} classes: silhouette {v['silhouette']:.2f}, intra/inter distance "
                         f"{v['intra/inter']:.2f}" for n, both in self.numbers.items() for side, v in both.items())


def tsne_panel(runs: dict[str, Path], perplexities: tuple[int, ...] = (10, 30)) -> Panel:
    """cls embeddings of the test images of several finished runs of one benchmark, side by side."""
    embeddings, indices, work = {}, None, None
    for name, run in runs.items():
        work, indices, embeddings[name] = cls_embeddings(run, indices)
    parts = Layouts(work, indices, embeddings, perplexities)
    return Panel("t-SNE", Map(perplexities[-1], len(indices) - 1),
                 [Choice("perplexity", perplexities, "layouts are computed beforehand"),
                  Slider("image", 0, len(indices) - 1, 1, "the point to look at; unseen classes come last")],
                 parts.compute, parts.draw, parts.describe)
