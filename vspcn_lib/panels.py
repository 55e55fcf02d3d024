"""Panels over a trained model: for each a frozen state, a pure compute, a pure draw, and the shell around them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from vspcn_lib import metrics, plots
from vspcn_lib.capture import attention_maps
from vspcn_lib.controls import Choice, Panel, Slider, field_help
from vspcn_lib.model import VSPCN
from vspcn_lib.probe import Probe
from vspcn_lib.runs import RunFolder
from vspcn_lib.trained import load_trained
from vspcn_lib.workspace import Workspace


# ---- alpha ---
@dataclass(frozen=True)
class Alphas:
    """Weights of the attention in SVPF, SSPF and the adapter."""

    alpha_v: float
    alpha_s: float
    alpha_a: float


class AlphaProbe:
    """H of a trained model under other alphas, on a fixed set of test images; nothing is trained again."""

    def __init__(self, work: Workspace, model: VSPCN, indices: np.ndarray, tau: float) -> None:
        self.tau, self.labels, self.unseen = tau, work.bench.labels[indices], work.bench.unseen_mask
        images = torch.cat([x for x, _, _ in work.batches(indices, augment=False).epoch(0)])
        self.probe = Probe(model, images, torch.as_tensor(work.bench.prototypes, device=images.device))
        c = model.config
        self.trained = Alphas(c.alpha_v, c.alpha_s, c.alpha_a)
        self.curves: dict[str, pd.DataFrame] = {}

    def compute(self, state: Alphas, stop: Event | None = None) -> metrics.GZSLMetrics:
        """U, S, H at the run's own tau."""
        scores = self.probe.scores(state.alpha_v, state.alpha_s, state.alpha_a, stop)
        return metrics.gzsl_metrics(scores, self.labels, self.unseen, self.tau)

    def trace(self, points: int = 5) -> pd.DataFrame:
        """H along each alpha with the others as trained; kept, and drawn behind the moving point."""
        for name in ("alpha_v", "alpha_s", "alpha_a"):
            values = np.union1d(np.linspace(0, 1, points), getattr(self.trained, name))
            found = [self.compute(Alphas(**{**self.trained.__dict__, name: float(v)})).H for v in values]
            self.curves[name] = pd.DataFrame({name: values, "H": found})
        return pd.concat([c.rename(columns={n: "alpha"}).assign(name=n) for n, c in self.curves.items()])

    def draw(self, state: Alphas, result: metrics.GZSLMetrics) -> Figure:
        """H against each alpha: the trace, and the present state as a point in each."""
        figure = Figure(figsize=(9.0, 3.0), layout="constrained")
        axes = figure.subplots(1, 3, sharey=True)
        for ax, colour, name in zip(axes, plots.COLOURS, ("alpha_v", "alpha_s", "alpha_a"), strict=False):
            if name in self.curves:
                ax.plot(self.curves[name][name], self.curves[name]["H"], "-", color=colour)
            ax.axvline(getattr(self.trained, name), color="0.8", lw=1)
            ax.plot(getattr(state, name), result.H, "o", color="black")
            ax.set(xlabel=name, xlim=(-0.03, 1.03), ylim=(0, 100))
        axes[0].set_ylabel("H on the probe (%)")
        figure.suptitle(f"U {result.U:.1f}   S {result.S:.1f}   H {result.H:.1f}", fontsize=11)
        return figure

    def describe(self, state: Alphas, result: metrics.GZSLMetrics) -> str:
        """The numbers under the picture."""
        return (f"alpha_v {state.alpha_v:.2f}  alpha_s {state.alpha_s:.2f}  alpha_a {state.alpha_a:.2f}: "
                f"U {result.U:.1f}  S {result.S:.1f}  H {result.H:.1f} on {len(self.labels)} test images, "
                f"tau {self.tau:+.2f}")


def alpha_panel(run: Path, images: int = 64) -> tuple[Panel, AlphaProbe]:
    """Alpha sliders over a finished run, on `images` test images spread over all classes, half of them unseen."""
    folder = RunFolder(run)
    tau = float(folder.scores()["tau"])
    work, model = load_trained(folder)
    halves = [part[np.linspace(0, len(part) - 1, images // 2).astype(int)]
              for part in (work.bench.test_seen, work.bench.test_unseen)]
    parts = AlphaProbe(work, model, np.concatenate(halves), tau)
    sliders = [Slider(n, 0.0, 1.0, 0.05, field_help(f"model.{n}")) for n in ("alpha_v", "alpha_s", "alpha_a")]
    return Panel("Alphas", parts.trained, sliders, parts.compute, parts.draw, parts.describe), parts


# ---- attention ---
@dataclass(frozen=True)
class Look:
    """Which image, block, stream and prompt (-1: their mean)."""

    image: int
    block: int
    stream: str
    prompt: int


class Attention:
    """Where a stream's tokens look in a block of the ViT, and the words a semantic prompt attends to."""

    def __init__(self, work: Workspace, model: VSPCN, indices: np.ndarray) -> None:
        self.work, self.model, self.indices = work, model, indices
        self.words = [n.removeprefix("has_").replace("::", ": ").replace("_", " ") for n in work.bench.attribute_names]
        self.seen_before: dict[int, dict[str, torch.Tensor]] = {}

    def maps(self, image: int) -> dict[str, torch.Tensor]:
        """Every attention map of one image, computed once."""
        if image not in self.seen_before:
            x = next(iter(self.work.batches(self.indices[image:image + 1], augment=False).epoch(0)))[0]
            with torch.no_grad(), attention_maps(self.model) as found:
                self.model(x)
            self.seen_before[image] = dict(found)
        return self.seen_before[image]

    def compute(self, state: Look, stop: Event | None = None) -> dict[str, Any]:
        """The map over patches [side,side], summing to 1, and the attributes with their weights (semantic stream)."""
        maps, layout = self.maps(state.image), self.model.layout
        prefix, visual, semantic, _ = layout.split(maps[f"backbone.vit.blocks.{state.block - 1}.attn"].mean(1))
        rows = {"cls": prefix[0, :1], "visual": visual[0], "semantic": semantic[0]}[state.stream]
        rows = rows.mean(0) if state.prompt < 0 or state.stream == "cls" else rows[state.prompt]
        patches = rows[-layout.patches:]
        side = round(layout.patches ** 0.5)
        words: list[tuple[str, float]] = []
        deep = state.block - 1 - self.model.first_strong
        if state.stream == "semantic" and f"strong_semantic.{deep}.attention" in maps:
            own = maps[f"strong_semantic.{deep}.attention"][0]
            own = own.mean(0) if state.prompt < 0 else own[state.prompt]
            words = [(self.words[k], float(own[k])) for k in own.argsort(descending=True)[:8]]
        return {"map": (patches / patches.sum()).reshape(side, side).numpy(), "words": words}

    def draw(self, state: Look, result: dict[str, Any]) -> Figure:
        """Image, overlay, and the attended attributes as bars."""
        pixels = self.work.pixels[self.indices[state.image]].transpose(1, 2, 0) / 255.0
        figure = Figure(figsize=(9.0, 3.1), layout="constrained")
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
        plots.overlay(axes[0], axes[1], pixels, result["map"])
        name = self.work.bench.class_names[self.work.bench.labels[self.indices[state.image]]].replace("_", " ")
        axes[0].set_title(name, fontsize=9)
        axes[1].set_title(f"{state.stream}, block {state.block}", fontsize=9)
        if result["words"]:
            words, weights = zip(*result["words"], strict=True)
            axes[2].barh(words[::-1], weights[::-1], color=plots.COLOURS[2])
            axes[2].set_xlabel("attention of SSPF")
        else:
            axes[2].axis("off")
            axes[2].text(0, 0.5, "words: semantic stream,\nblocks with strong fusion", color="0.4")
        return figure

    def describe(self, state: Look, result: dict[str, Any]) -> str:
        """The centre of the map, how concentrated it is, and the words."""
        m = result["map"]
        entropy = -(m * np.log(np.maximum(m, 1e-12))).sum() / np.log(m.size)
        y, x = np.unravel_index(m.argmax(), m.shape)
        words = ", ".join(word for word, _ in result["words"][:5])
        return (f"strongest patch: row {y + 1}, column {x + 1} of {len(m)}; spread {entropy:.2f} (1: everywhere alike)"
                + (f"\nattends to: {words}" if words else ""))


def attention_panel(run: Path, images: int = 24) -> Panel:
    """Image, block, stream and prompt of a finished run; unseen classes first."""
    work, model = load_trained(RunFolder(run))
    unseen, seen = ([w[i] for i in np.linspace(0, len(w) - 1, n).astype(int)] for w, n in
                    ((work.bench.test_unseen, images - images // 4), (work.bench.test_seen, images // 4)))
    parts = Attention(work, model, np.array([*unseen, *seen]))
    last, prompts = len(model.backbone.blocks), max(model.layout.visual, model.layout.semantic)
    return Panel("Attention", Look(0, last, "semantic", -1),
                 [Slider("image", 0, images - 1, 1, "unseen classes first"), Slider("block", 1, last, 1, "of the ViT"),
                  Choice("stream", ("cls", "visual", "semantic")),
                  Slider("prompt", -1, prompts - 1, 1, "-1: the mean of all prompts")],
                 parts.compute, parts.draw, parts.describe)
