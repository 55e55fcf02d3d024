"""Why tau does not carry over, and what each calibrator makes of it: margins in selection and in the final model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vspcn_lib import metrics
from vspcn_lib.runs.calibration import NAMES, Held, calibration_share, carry, hold_out, land
from vspcn_lib.runs.counts import thin
from vspcn_lib.runs.evaluation import score
from vspcn_lib.runs.folder import RunFolder, replacing
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.calibration import gaps
from vspcn_lib.train import fit, select, selection_split
from vspcn_lib.views.plots import COLOURS


@dataclass(frozen=True)
class Scored:
    """A score matrix [n,C] with the images' labels [n] (columns) and the unseen classes [C] bool."""

    scores: np.ndarray
    labels: np.ndarray
    unseen: np.ndarray

    @cached_property
    def margins(self) -> np.ndarray:
        """Best seen minus best unseen score [n], of every image."""
        return self.scores[:, ~self.unseen].max(1).astype(np.float64) - self.scores[:, self.unseen].max(1)

    def at(self, tau: float) -> metrics.GZSLMetrics:
        """U, S, H and CZSL at `tau`."""
        return metrics.gzsl_metrics(self.scores, self.labels, self.unseen, tau)

    @cached_property
    def best(self) -> float:
        """The tau of the best H here: of the test matrix the oracle's."""
        return metrics.best_tau(metrics.tau_sweep(self.scores, self.labels, self.unseen))


@dataclass(frozen=True)
class Story:
    """What one run scored: validation images in selection; held-out training images and test images in the end."""

    selection: Scored
    held: Scored
    test: Scored

    def landing(self, name: str, tau: float) -> float:
        """Where calibrator `name` puts a `tau` of selection in the final model; reads no test image."""
        s, h = self.selection, self.held
        return land(name, carry(tau, Held.of(s.scores, s.labels, s.unseen)), Held(h.scores, h.labels, h.unseen))

    def table(self, tau: float) -> pd.DataFrame:
        """One row a calibrator, and the oracle: tau in the final model, test U, S, H, and the gap to the oracle."""
        best = self.test.at(self.test.best).H
        rows = []
        for name in [*NAMES, "oracle"]:
            chosen = self.test.best if name == "oracle" else self.landing(name, tau)
            m = self.test.at(chosen)
            rows.append({"calibrator": name, "tau": chosen, "U": m.U, "S": m.S, "H": m.H, "gap": best - m.H})
        return pd.DataFrame(rows)


PARTS = ("selection", "held", "test")


def write_story(work: Workspace, target: Path) -> Path:
    """Run the protocol of `work` and keep every score that the story needs as one .npz; no photo, no path."""
    t, most, parts = work.config.train, work.config.data.images_per_class, {}
    with TemporaryDirectory() as place:
        best = select(work, RunFolder.create(Path(place) / "a", work.config, False))["best"]
        bench = work.bench
        inner, held = selection_split(bench, t.held_out, t.seed)
        model, _ = fit(work, RunFolder.create(Path(place) / "b", work.config, False), "select",
                       thin(bench, inner, most, t.seed), best["epoch"], (held, bench.val))
        images = np.concatenate([thin(bench, i, most, t.seed) for i in (held, bench.val)])
        classes = bench.seen_classes
        parts["selection"] = (score(work, model, images, classes), np.searchsorted(classes, bench.labels[images]),
                              np.isin(classes, bench.val_classes))
        indices, held = hold_out(bench, thin(bench, bench.trainval, most, t.seed), calibration_share(t), t.seed)
        model, _ = fit(work, RunFolder.create(Path(place) / "c", work.config, False), "final", indices, best["epoch"])
        for name, images in (("held", held), ("test", np.concatenate([bench.test_seen, bench.test_unseen]))):
            scores = score(work, model, images, np.arange(bench.num_classes))
            parts[name] = scores, bench.labels[images], bench.unseen_mask
    arrays = {f"{name}_{field}": value for name, values in parts.items()
              for field, value in zip(("scores", "labels", "unseen"), values, strict=True)}
    with replacing(target) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return target


def read_story(file: Path) -> Story:
    """The story that `write_story` kept."""
    with np.load(file) as found:
        return Story(*(Scored(*(found[f"{name}_{field}"] for field in ("scores", "labels", "unseen")))
                       for name in PARTS))


def _histogram(ax: Axes, margins: dict[str, np.ndarray], bins: np.ndarray, lines: dict[str, tuple[float, str]]) -> None:
    for (name, values), colour in zip(margins.items(), COLOURS, strict=False):
        ax.hist(values, bins, density=True, alpha=0.45, color=colour, label=f"{name} ({len(values)})")
    for i, (name, (tau, style)) in enumerate(lines.items()):
        ax.axvline(tau, color="black", ls=style, lw=1.5)
        ax.text(tau, 0.72 - 0.08 * i, f" {name} {metrics.tau_text(tau)}", transform=ax.get_xaxis_transform(), va="top",
                fontsize=8)
    ax.set(xlabel="margin: best seen − best unseen score", yticks=[])
    ax.legend(fontsize=8, loc="upper left", frameon=False)


def draw_story(story: Story, tau: float, calibrator: str) -> Figure:
    """Margins in selection with `tau`, in the final model with what `calibrator` makes of it, and H of every one."""
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
    s, test, table = story.selection, story.test, story.table(tau)
    every = np.concatenate([s.margins, story.held.margins, test.margins])
    bins = np.linspace(*np.quantile(every, (0.002, 0.998)), 40)
    is_unseen, landed = s.unseen[s.labels], story.landing(calibrator, tau)
    _histogram(left, {"held-out seen": s.margins[~is_unseen], "validation classes": s.margins[is_unseen]}, bins,
               {"tau": (tau, "-")})
    _histogram(middle, {"held-out seen": story.held.margins,
                        "unseen test (nobody may look)": test.margins[test.unseen[test.labels]]}, bins,
               {calibrator: (landed, "-"), "oracle": (test.best, ":")})
    top = max(left.get_ylim()[1], middle.get_ylim()[1])
    for ax, title in ((left, "selection"), (middle, "final model")):
        ax.set(title=title, ylim=(0, 1.35 * top))
    colours = [COLOURS[1] if n == "oracle" else COLOURS[0] if n == calibrator else COLOURS[5]
               for n in table["calibrator"]]
    right.barh(table["calibrator"], table["H"], color=colours)
    for i, (h, gap) in enumerate(zip(table["H"], table["gap"], strict=True)):
        right.text(h, i, f" {h:.1f}" if gap < 0.05 else f" {h:.1f} (−{gap:.1f})", va="center", fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="test H (%)", xlim=(0, 1.45 * max(1.0, table["H"].max())))
    return figure


def draw_gaps(records: dict[str, dict[str, Any]]) -> Figure:
    """The study's figure: the gap to the oracle of every nested trial, by record, calibrator and number of folds."""
    table = gaps(records)
    figure = Figure(figsize=(3.3 * len(records) + 1.2, 3.8), layout="constrained")
    for ax, (name, part) in zip(figure.subplots(1, len(records), squeeze=False, sharey=True)[0],
                                table.groupby("record"), strict=True):
        counts = sorted(part["folds"].unique())
        for k, (folds, colour) in enumerate(zip(counts, COLOURS, strict=False)):
            for i, calibrator in enumerate(NAMES):
                found = part[(part["folds"] == folds) & (part["calibrator"] == calibrator)]["gap"]
                place = i + 0.36 * (k - (len(counts) - 1) / 2)
                ax.plot(found, np.full(len(found), place), "o", color=colour, alpha=0.35, ms=4, mec="none")
                ax.plot(found.mean(), place, "|", color=colour, ms=13, mew=2.5,
                        label=f"{folds} fold{'s' if folds > 1 else ''}, mean" if i == 0 else None)
        ax.set(yticks=range(len(NAMES)), yticklabels=list(NAMES), title=name)
        ax.set_xlabel("oracle H − H (points)")
        ax.set_xlim(left=-0.3)
    ax.invert_yaxis()
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    return figure
