"""Two more panels: one fusion taken apart at any alpha, and t-SNE of cls embeddings, ViT only beside VSPCN."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from vspcn_lib import metrics
from vspcn_lib.model import VSPCN
from vspcn_lib.panels.checks import PanelError, prompted
from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.fields import Choice, Slider, field_help
from vspcn_lib.panels.keeping import named
from vspcn_lib.panels.opening import is_told, opening
from vspcn_lib.panels.pictures import FusionView, LayoutView
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.system.environment import cores
from vspcn_lib.views import gallery, plots
from vspcn_lib.views.capture import attention_maps
from vspcn_lib.views.embeddings import Tested, cls_embeddings, separation, tsne_layout
from vspcn_lib.views.found import Found


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
        self.words = [plots.plain_name(n) for n in work.bench.attribute_names]
        self.prompts = {"visual": model.layout.visual, "semantic": model.layout.semantic}

    def compute(self, state: Mix, stop: Event | None = None) -> dict[str, dict[str, np.ndarray]]:
        """{"visual": {"attention", "bias", "mix"} over patches, "semantic": the same over attributes}."""
        found = {}
        for stream, alpha in (("visual", state.alpha_v), ("semantic", state.alpha_s)):
            name = f"strong_{stream}.{state.block - 1 - self.model.first_strong}"
            prompt = min(state.prompt, self.prompts[stream] - 1)  # the last one of a stream that has fewer
            attention = self.maps[f"{name}.attention"][0, prompt].numpy()
            bias = self.maps[f"{name}.bias_map"][prompt].numpy()
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
        span = 0.0, max(part.max() for part in result["visual"].values())  # one for the row: noise is no structure
        for ax, (part, title) in zip(axes[1:], titles.items(), strict=True):
            plots.overlay(axes[0], ax, pixels, result["visual"][part].reshape(side, side), span)
            ax.set_title(f"SVPF: {title}", fontsize=9)
        chosen = result["semantic"]["mix"].argsort()[::-1][:7]
        axes = bottom.subplots(1, 3, sharex=True, sharey=True)
        titles = {"attention": f"attention x {state.alpha_s:.2f}", "bias": f"bias x {1 - state.alpha_s:.2f}",
                  "mix": "their mix"}
        for ax, (part, title) in zip(axes, titles.items(), strict=True):
            ax.barh([self.words[k] for k in chosen[::-1]], result["semantic"][part][chosen[::-1]],
                    color=plots.COLOURS[2])
            ax.set_title(f"SSPF: {title}", fontsize=9)
        return figure

    def describe(self, state: Mix, result: dict[str, dict[str, np.ndarray]]) -> str:
        """What of each mix is attention, and how far attention and bias are from uniform: 0 prefers nothing."""
        lines = []
        for (stream, parts), alpha in zip(result.items(), (state.alpha_v, state.alpha_s), strict=True):
            far = {name: from_uniform(part) for name, part in parts.items()}
            few = self.prompts[stream] <= state.prompt
            lines.append(
                f"{stream}{f' (its last prompt, {self.prompts[stream] - 1})' if few else ''}: "
                f"{100 * alpha:.0f} % of the mix is attention, {100 - 100 * alpha:.0f} % learned bias; distance from "
                f"uniform (0 to 1): attention {far['attention']:.3f}, bias {far['bias']:.3f}, mix {far['mix']:.3f}")
        return "\n".join(lines)

    def table(self, state: Mix, result: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
        """One row an attribute: attention, bias and mix of the semantic prompt."""
        return pd.DataFrame({"attribute": self.words, **result["semantic"]})


def from_uniform(p: np.ndarray) -> float:
    """Total variation distance of a distribution [n] from the uniform one: sum |p - 1/n| / 2."""
    return float(np.abs(p - 1 / p.size).sum() / 2)


def fusion_panel(run: Path, image: int = 0) -> Panel:
    """Strong fusion of a finished run on its `image`-th unseen test image.

    Raises `PanelError` for a run without strong fusion or without both kinds of prompts, and an image out of range.
    """
    run = Path(run)
    prompted(run, strong=True, both=True)
    with opening("Strong fusion", "data and model", "the image") as step:
        step()
        work, model = load_trained(RunFolder(run), quiet=True)
        if not 0 <= image < len(work.bench.test_unseen):
            raise PanelError(f"image = {image}: choose an unseen test image, 0 to {len(work.bench.test_unseen) - 1}")
        step()
        parts, c = StrongFusion(work, model, int(work.bench.test_unseen[image])), model.config
        first, last = c.first_strong_block, len(model.backbone.blocks)
        return Panel("Strong fusion", Mix(last, 0, c.alpha_v, c.alpha_s),
                     [Slider("block", first, last, 1, "deep blocks only"),
                      Slider("prompt", 0, max(c.visual_prompts, c.semantic_prompts) - 1, 1, "which prompt"),
                      *(Slider(n, 0.0, 1.0, 0.05, field_help(f"model.{n}")) for n in ("alpha_v", "alpha_s"))],
                     parts.compute, parts.draw, parts.describe, source=named(run), view=FusionView(parts),
                     table=parts.table)


# ---- t-SNE ---
@dataclass(frozen=True)
class Map:
    """The perplexity of the layout, and the image picked."""

    perplexity: int
    image: int


class Layouts:
    """t-SNE layouts of several embeddings of the same images, each perplexity computed once, when first asked for."""

    def __init__(self, work: Workspace | Tested, indices: np.ndarray, embeddings: dict[str, np.ndarray],
                 predicted: dict[str, np.ndarray]) -> None:
        self.work, self.indices, self.names, self.predicted = work, indices, list(embeddings), predicted
        self.embeddings, self.found = embeddings, {}
        self.labels = work.bench.labels[indices]
        self.unseen = work.bench.unseen_mask[self.labels]
        for side, labels in (("test", self.labels), ("unseen test", self.labels[self.unseen])):
            found = len(np.unique(labels))
            if not 2 <= found < len(labels):
                raise PanelError(f"{work.bench.name} has {len(labels)} {side} images in {found} of its classes: how far"
                                 " classes stand apart needs two classes or more, and more images than classes")
        self.numbers = {n: separation(x, self.labels, self.unseen) for n, x in embeddings.items()}

    def compute(self, state: Map, stop: Event | None = None) -> dict[str, dict[str, Any]]:
        """The layout [n,2] of each embedding, and its `separation`."""
        missing = [name for name in self.names if (name, state.perplexity) not in self.found]
        with ThreadPoolExecutor(min(cores(), max(1, len(missing)))) as pool:  # each layout is a thread's work
            found = pool.map(lambda name: tsne_layout(self.embeddings[name], state.perplexity), missing)
            self.found |= {(name, state.perplexity): layout for name, layout in zip(missing, found, strict=True)}
        return {"layouts": {n: self.found[n, state.perplexity] for n in self.names}, "separation": self.numbers}

    def draw(self, state: Map, result: dict[str, dict[str, Any]]) -> Figure:
        """Unseen classes by colour and mark, seen ones grey; the picked image circled in both, and shown."""
        figure = Figure(figsize=(10.2, 4.4), layout="constrained")
        axes = figure.subplots(1, len(self.names) + 1, width_ratios=(1,) * len(self.names) + (0.5,))
        for ax, (name, xy) in zip(axes[:-1], result["layouts"].items(), strict=True):
            gallery.tsne_scatter(ax, xy, self.labels, self.unseen, name, self.numbers[name])
            ax.plot(*xy[state.image], "o", mfc="none", mec="black", ms=13, mew=2)
        gallery.class_legend(figure, self.labels[self.unseen], self.work.bench.class_names)
        axes[-1].imshow(self.work.pixels[self.indices[state.image]].transpose(1, 2, 0))
        kind = "unseen" if self.unseen[state.image] else "seen"
        name = plots.plain_name(self.work.bench.class_names[self.labels[state.image]])
        axes[-1].set(xticks=[], yticks=[])
        axes[-1].set_title(f"{name}\n({kind})", fontsize=9)
        return figure

    def describe(self, state: Map, result: dict[str, dict[str, Any]]) -> str:
        """The image picked, and the separation of classes in the embedding itself, not in the layout."""
        classes, picked = self.work.bench.class_names, state.image
        said = [f"{n}: {'right' if p[picked] == self.labels[picked] else plots.plain_name(classes[p[picked]])}"
                for n, p in self.predicted.items()]
        first = f"image {picked}, {plots.plain_name(classes[self.labels[picked]])}; " + "; ".join(said)
        return "\n".join([first, *self._numbers()])

    def _numbers(self) -> list[str]:
        return [f"{n}: {side} classes: silhouette {v['silhouette']:.2f}, intra/inter distance "
                f"{v['intra/inter']:.2f}" for n, both in self.numbers.items() for side, v in both.items()]

    def table(self, state: Map, result: dict[str, dict[str, Any]]) -> pd.DataFrame:
        """One row a run and side: silhouette and intra/inter distance."""
        return pd.DataFrame([{"run": n, "classes": side, **v} for n, both in self.numbers.items()
                             for side, v in both.items()])


def tsne_panel(runs: dict[str, Path | str | Found], perplexities: tuple[int, ...] = (10, 30)) -> Panel:
    """cls embeddings of the test images of several finished runs of one benchmark, side by side.

    Raises `PanelError` where there is no run or no perplexity, or where the runs are of different splits.
    """
    if not runs or not perplexities:
        raise PanelError("t-SNE needs at least one run and one perplexity: give a name and a run folder, such as "
                         "{'VSPCN': Path('outputs/demo/birdlets')}")
    folders = {name: run.path if isinstance(run, Found) else Path(run) for name, run in runs.items()}
    splits = {run: (RunFolder(run).read_json("result.json") or {}).get("split", "") for run in folders.values()}
    for run, split in splits.items():
        if split != splits[next(iter(splits))]:
            raise PanelError(f"{run} is a run of another split than {next(iter(splits))}: compare runs of one "
                             "benchmark")
    embeddings, predicted = {}, {}
    with opening("t-SNE", *(f"embeddings of {name}" for name in folders), "layouts") as step:
        for name, run in folders.items():
            step()
            tested, saved = cls_embeddings(run, progress=not is_told()), RunFolder(run).scores()
            embeddings[name] = tested.embedded
            predicted[name] = metrics.predicted(saved["scores"], saved["unseen"], float(saved["tau"]))
        step()
        parts = Layouts(tested, tested.indices, embeddings, predicted)
        return Panel("t-SNE", Map(perplexities[-1], len(parts.indices) - 1),
                     [Choice("perplexity", perplexities, "each layout is computed once, when first asked for"),
                      Slider("image", 0, len(parts.indices) - 1, 1, "the point to look at; unseen classes come last")],
                     parts.compute, parts.draw, parts.describe, view=LayoutView(parts), table=parts.table,
                     source={name: named(run) for name, run in folders.items()})
