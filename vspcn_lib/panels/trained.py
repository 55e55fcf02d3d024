"""Panels over a trained model: for each a frozen state, a pure compute, a pure draw, and the shell around them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from vspcn_lib import metrics
from vspcn_lib.model import VSPCN
from vspcn_lib.panels.checks import images_in, prompted, spread
from vspcn_lib.panels.controls import Panel, named
from vspcn_lib.panels.fields import Choice, Slider, field_help
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.views import plots
from vspcn_lib.views.capture import attention_maps, vit_attention
from vspcn_lib.views.probe import Probe
from vspcn_lib.views.trained import load_trained


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
        there = bool(c.visual_prompts), bool(c.semantic_prompts), bool(c.semantic_prompts and c.adapter)
        self.names = [n for n, acts in zip(("alpha_v", "alpha_s", "alpha_a"), there, strict=True) if acts]
        self.curves: dict[str, pd.DataFrame] = {}

    def compute(self, state: Alphas, stop: Event | None = None) -> dict[str, Any]:
        """U, S, H at the run's own tau, and the standard error of H: other images of these classes would differ so."""
        scores = self.probe.scores(state.alpha_v, state.alpha_s, state.alpha_a, stop)
        right = (scores + self.tau * self.unseen).argmax(1)
        rng, sides = np.random.default_rng(0), (self.unseen[self.labels], ~self.unseen[self.labels])
        drawn = np.array([[metrics.per_class_accuracy(right[i], self.labels[i])
                           for i in (rng.choice(np.flatnonzero(side), int(side.sum())) for side in sides)]
                          for _ in range(200)])
        return {"at": metrics.gzsl_metrics(scores, self.labels, self.unseen, self.tau),
                "error": float(metrics.harmonic(*drawn.T).std())}

    def trace(self, points: int = 3) -> pd.DataFrame:
        """H along each alpha with the others as trained; kept, and drawn behind the moving point."""
        trained = self.compute(self.trained)
        for name in self.names:
            values = np.union1d(np.linspace(0, 1, points), getattr(self.trained, name))
            states = [dataclasses.replace(self.trained, **{name: float(v)}) for v in values]
            found = [trained if state == self.trained else self.compute(state) for state in states]
            self.curves[name] = pd.DataFrame({name: values, "H": [f["at"].H for f in found]})
        return pd.concat([c.rename(columns={n: "alpha"}).assign(name=n) for n, c in self.curves.items()])

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
        figure = Figure(figsize=(9.0, 3.0), layout="constrained")
        axes, at = figure.subplots(1, len(self.names), sharey=True, squeeze=False)[0], result["at"]
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
                f"{len(self.labels)} test images of {len(np.unique(self.labels))} classes, tau {self.tau:+.2f}")


def alpha_panel(run: Path, images: int = 64) -> tuple[Panel, AlphaProbe]:
    """Alpha sliders over a finished run, on `images` test images, half of them unseen; opens at the trained alphas.

    They are spread over classes: every class once before any class twice. Raises `PanelError` for a run without strong
    fusion or fewer than 2 images.
    """
    prompted(run, strong=True)
    half = images_in("images", images, 2, 2**31) // 2
    folder = RunFolder(run)
    tau = float(folder.scores()["tau"])
    work, model = load_trained(folder)
    halves = [spread(part, work.bench.labels[part], half) for part in (work.bench.test_seen, work.bench.test_unseen)]
    parts = AlphaProbe(work, model, np.concatenate(halves), tau)
    parts.trace()
    sliders = [Slider(n, 0.0, 1.0, 0.05, field_help(f"model.{n}")) for n in parts.names]
    panel = Panel("Alphas", parts.trained, sliders, parts.compute, parts.draw, parts.describe, source=named(run))
    return panel, parts


# ---- attention ---
@dataclass(frozen=True)
class Look:
    """Which image, block, stream and prompt (-1: their mean)."""

    image: int
    block: int
    stream: str
    prompt: int


NAMED = 0.02  # of the attention; less is not worth a name: over the 82 attributes of birdlets each has 0.012 by chance


class Attention:
    """Where a stream's tokens look in a block of the ViT, and the words a semantic prompt attends to."""

    def __init__(self, work: Workspace, model: VSPCN, indices: np.ndarray) -> None:
        self.work, self.model, self.indices = work, model, indices
        self.words = [plots.plain_name(n) for n in work.bench.attribute_names]
        counts = {"cls": 1, "visual": model.layout.visual, "semantic": model.layout.semantic}
        self.prompts = {stream: n for stream, n in counts.items() if n}
        self.seen_before: dict[int, dict[str, torch.Tensor]] = {}
        self._one = Lock()

    def maps(self, image: int) -> dict[str, torch.Tensor]:
        """Every attention map of one image, computed once."""
        with self._one:  # maps are read by hooks in the model itself
            if image not in self.seen_before:
                x = next(iter(self.work.batches(self.indices[image:image + 1], augment=False).epoch(0)))[0]
                with torch.no_grad(), attention_maps(self.model) as found:
                    self.model(x)
                self.seen_before[image] = dict(found)
            return self.seen_before[image]

    def prompt(self, state: Look) -> int:
        """The prompt shown: -1 for the mean, and a stream's last one where it has fewer than another stream."""
        return -1 if state.stream == "cls" else min(state.prompt, self.prompts[state.stream] - 1)

    def compute(self, state: Look, stop: Event | None = None) -> dict[str, Any]:
        """The map over patches [side,side], summing to 1, and the attributes with their weights (semantic stream).

        At most eight, and none that has less than `NAMED` of the attention.
        """
        maps, layout = self.maps(state.image), self.model.layout
        prefix, visual, semantic, _ = layout.split(vit_attention(self.model, maps, state.block))
        rows = {"cls": prefix[0, :1], "visual": visual[0], "semantic": semantic[0]}[state.stream]
        prompt = self.prompt(state)
        rows = rows.mean(0) if prompt < 0 else rows[prompt]
        patches = rows[-layout.patches:]
        side = round(layout.patches ** 0.5)
        words: list[tuple[str, float]] = []
        deep = state.block - 1 - self.model.first_strong
        if state.stream == "semantic" and f"strong_semantic.{deep}.attention" in maps:
            own = maps[f"strong_semantic.{deep}.attention"][0]
            own = own.mean(0) if prompt < 0 else own[prompt]
            words = [(self.words[k], float(own[k])) for k in own.argsort(descending=True)[:8] if own[k] >= NAMED]
        return {"map": (patches / patches.sum()).reshape(side, side).numpy(), "words": words}

    def draw(self, state: Look, result: dict[str, Any]) -> Figure:
        """Image, overlay, and the attended attributes as bars."""
        pixels = self.work.pixels[self.indices[state.image]].transpose(1, 2, 0) / 255.0
        figure = Figure(figsize=(9.0, 3.1), layout="constrained")
        axes = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
        plots.overlay(axes[0], axes[1], pixels, result["map"], (0, None))
        name = plots.plain_name(self.work.bench.class_names[self.work.bench.labels[self.indices[state.image]]])
        axes[0].set_title(name, fontsize=9)
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
        entropy = -(m * np.log(np.maximum(m, 1e-12))).sum() / np.log(m.size)
        y, x = np.unravel_index(m.argmax(), m.shape)
        lines = [f"strongest patch: row {y + 1}, column {x + 1} of {len(m)}; spread {entropy:.2f} (1: even)"]
        if result["words"]:
            lines.append("attends to: " + ", ".join(f"{word} {weight:.2f}" for word, weight in result["words"][:5]))
        if state.stream == "cls" and state.prompt >= 0:
            lines.append("prompt: not used by cls")
        elif self.prompt(state) != state.prompt and state.stream != "cls":
            lines.append(f"prompt {state.prompt}: {state.stream} has {self.prompts[state.stream]}, its last is shown")
        return "\n".join(lines)


def attention_panel(run: Path, images: int = 24) -> Panel:
    """Image, block, stream and prompt of a finished run; unseen classes first.

    `images` test images, a quarter of them of seen classes; all where there are fewer. Raises `PanelError` for a run
    without prompts.
    """
    prompted(run)
    images = images_in("images", images, 1, 2**31)
    work, model = load_trained(RunFolder(run))
    shares = (work.bench.test_unseen, images - images // 4), (work.bench.test_seen, images // 4)
    parts = Attention(work, model, np.concatenate([spread(w, work.bench.labels[w], n) for w, n in shares]))
    last, streams = len(model.backbone.blocks), tuple(parts.prompts)
    return Panel("Attention", Look(0, last, streams[-1], -1),
                 [Slider("image", 0, len(parts.indices) - 1, 1, "unseen classes first"),
                  Slider("block", 1, last, 1, "of the ViT"), Choice("stream", streams),
                  Slider("prompt", -1, max(parts.prompts.values()) - 1, 1, "-1: the mean of all prompts")],
                 parts.compute, parts.draw, parts.describe, source=named(run))
