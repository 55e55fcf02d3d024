"""Pictures of a benchmark and of recorded tables: gallery, heat map, split, ablation bars, sweep map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

from vspcn_lib.data.splits import Benchmark
from vspcn_lib.views.plots import COLOURS, attention_grid, plain_name


def species_gallery(bench: Benchmark, columns: int = 10, side: int = 96) -> Figure:
    """The first image of every class with its name, unseen classes in orange; of a class without images the name."""
    rows = -(-len(bench.class_names) // columns)
    figure = Figure(figsize=(columns * 1.05, rows * 1.25), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for c, (ax, name) in enumerate(zip(axes, bench.class_names, strict=False)):
        own = np.flatnonzero(bench.labels == c)
        if len(own):
            with Image.open(bench.image_paths[own[0]]) as image:
                ax.imshow(ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (side, side)))
        ax.set_title(plain_name(name).replace(" ", "\n", 1), fontsize=5.5,
                     color=COLOURS[1] if bench.unseen_mask[c] else "black")
    for ax in axes:
        ax.axis("off")
    return figure


def attribute_heatmap(bench: Benchmark, attributes: int = 40) -> Figure:
    """The `attributes` that vary most between classes, classes and attributes clustered (seaborn); unseen in orange."""
    chosen = np.sort(bench.prototypes.std(0).argsort()[::-1][:attributes])
    table = pd.DataFrame(bench.prototypes[:, chosen], index=[plain_name(n) for n in bench.class_names],
                         columns=[plain_name(bench.attribute_names[k]) for k in chosen])
    grid = sns.clustermap(table, cmap="viridis", figsize=(10, 6.6), xticklabels=1, yticklabels=1,
                          dendrogram_ratio=0.08, cbar_pos=(0.005, 0.9, 0.02, 0.09))
    grid.ax_heatmap.tick_params(labelsize=6)
    unseen = {plain_name(bench.class_names[c]) for c in bench.unseen_classes}
    for tick in grid.ax_heatmap.get_yticklabels():
        tick.set_color(COLOURS[1] if tick.get_text() in unseen else "black")
    grid.figure.set_layout_engine("none")
    return _detached(grid.figure)


def split_bars(bench: Benchmark) -> Figure:
    """Images of every class by the part of the split they are in."""
    figure = Figure(figsize=(9.6, 2.6), layout="constrained")
    ax, bottom = figure.subplots(), np.zeros(len(bench.class_names))
    parts = {"train": bench.train, "train, validation classes": bench.val, "test seen": bench.test_seen,
             "test unseen": bench.test_unseen}
    order = np.concatenate([np.setdiff1d(bench.seen_classes, bench.val_classes), bench.val_classes,
                            bench.unseen_classes])
    for colour, (name, indices) in zip((COLOURS[0], COLOURS[5], COLOURS[2], COLOURS[1]), parts.items(), strict=True):
        count = np.bincount(bench.labels[indices], minlength=len(bottom))[order]
        ax.bar(range(len(order)), count, bottom=bottom, color=colour, label=name)
        bottom += count
    ax.set(xlabel="class", ylabel="images", xlim=(-1, len(order)), ylim=(0, 1.35 * bottom.max()))
    ax.legend(ncols=4, fontsize=8, loc="upper center", frameon=False)
    return figure


def ablation_bars(table: pd.DataFrame) -> Figure:
    """H of every row of an `ablation_table` at its own and at the oracle tau, the paper's own H as a mark."""
    figure = Figure(figsize=(7.2, 0.36 * len(table) + 1.4), layout="constrained")
    ax, place = figure.subplots(), np.arange(len(table))
    for shift, colour, column, label in ((-0.18, COLOURS[0], "H", "H, tau chosen without test"),
                                         (0.18, COLOURS[5], "oracle H", "H, oracle tau")):
        numbers = table[column].str.split(" ± ", expand=True).astype(float)
        spread = numbers[1].fillna(0) if 1 in numbers else None
        ax.barh(place + shift, numbers[0], 0.34, xerr=spread, color=colour, label=label, error_kw={"lw": 1})
    known = np.flatnonzero(table["paper H"] != "")
    if len(known):
        ax.plot(table["paper H"].iloc[known].astype(float), known, "k|", ms=14, label="paper (CUB-200, ViT-B/16)")
    ax.set(yticks=place, yticklabels=table["row"], xlabel="H (%)", xlim=(0, 100))
    ax.invert_yaxis()
    figure.legend(fontsize=8, loc="outside lower center", ncols=3, frameon=False)
    return figure


def sweep_map(study: dict[str, Any], at: dict[str, float] | None = None) -> Figure:
    """Validation H of a recorded study: a heat map for two axes, otherwise one panel an axis; `at` is marked."""
    trials = pd.DataFrame(study["trials"])
    names = [c for c in trials.columns if "." in c]
    if len(names) == 2:
        figure = Figure(figsize=(5.4, 3.8), layout="constrained")
        ax, grid = figure.subplots(), trials.pivot_table("H", *names, aggfunc="max")
        sns.heatmap(grid, annot=True, fmt=".1f", cmap="viridis", ax=ax, cbar_kws={"label": "validation H (%)"})
        ax.invert_yaxis()
        if at is not None:
            row, column = (list(axis).index(at[n]) for n, axis in zip(names, (grid.index, grid.columns), strict=True))
            ax.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=3))
        return figure
    figure = Figure(figsize=(max(4.2, 3.2 * len(names)), 3.2), layout="constrained")
    def shown(value: Any) -> Any:  # truth values and words are places on an axis, by name
        return str(value) if isinstance(value, bool | np.bool_) else value

    for ax, name in zip(figure.subplots(1, len(names), squeeze=False, sharey=True)[0], names, strict=True):
        best = trials.groupby(name)["H"].max()
        ax.plot([shown(v) for v in best.index], best.to_numpy(), "-", color=COLOURS[0])
        ax.plot([shown(v) for v in trials[name]], trials["H"], "o", color=COLOURS[5])
        ax.set(xlabel=name, ylabel="validation H (%)" if name == names[0] else "")
        if at is not None:
            ax.axvline(shown(at[name]), color=COLOURS[1], lw=2)
    return figure


def alpha_map(ax: Axes, table: pd.DataFrame) -> None:
    """H over two alphas: rows and columns named by their index, values in percent."""
    sns.heatmap(table, annot=True, fmt=".0f", cmap="viridis", ax=ax, cbar=False, annot_kws={"fontsize": 7}, vmin=0,
                vmax=100)
    ax.invert_yaxis()
    ax.tick_params(labelsize=7)
    ax.set_title("H (%), few images", fontsize=9)


def tsne_scatter(ax: Axes, xy: np.ndarray, labels: np.ndarray, unseen: np.ndarray, name: str,
                 numbers: dict[str, dict[str, float]]) -> None:
    """A t-SNE layout [n,2]: unseen classes [n] bool by colour and mark, seen ones grey; their `separation` above."""
    ax.scatter(*xy[~unseen].T, s=7, c="0.82", linewidths=0)
    for i, c in enumerate(np.unique(labels[unseen])):
        ax.scatter(*xy[labels == c].T, s=16, linewidths=0, **_mark(i))
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"{name}\nsilhouette {numbers['all']['silhouette']:.2f}, unseen alone "
                 f"{numbers['unseen']['silhouette']:.2f}", fontsize=9)


def _mark(i: int) -> dict[str, str]:
    """Colour and mark of the i-th class: no two of the first 48 alike."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": "o^sDvPX*"[i // len(COLOURS) % 8]}


def class_legend(figure: Figure, labels: np.ndarray, names: Sequence[str], most: int = 16) -> None:
    """Below the figure the names of the classes in `labels` with their marks of `tsne_scatter`; none of over `most`."""
    classes = np.unique(labels)
    if len(classes) <= most:
        handles = [Line2D([], [], ls="", ms=5, label=plain_name(names[c]), **_mark(i)) for i, c in enumerate(classes)]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7, frameon=False)


def tsne_figure(layouts: dict[str, np.ndarray], labels: np.ndarray, unseen: np.ndarray,
                numbers: dict[str, dict[str, dict[str, float]]], names: list[str] | None = None) -> Figure:
    """t-SNE layouts [n,2] of several methods side by side, with their `separation`; `names` [C] of the classes."""
    figure = Figure(figsize=(3.9 * len(layouts), 4.1 if names is None else 4.8), layout="constrained")
    if names is not None:
        class_legend(figure, labels[unseen], names)
    for ax, (name, xy) in zip(figure.subplots(1, len(layouts), squeeze=False)[0], layouts.items(), strict=True):
        tsne_scatter(ax, xy, labels, unseen, name, numbers[name])
    return figure


def attention_figure(images: np.ndarray, maps: dict[str, np.ndarray], titles: list[str]) -> Figure:
    """Images [n,H,W,3] in 0..1, and beside each what every stream looks at, maps [n,side,side] by stream."""
    figure = Figure(figsize=(1.5 * (1 + len(maps)), 1.5 * len(images)), layout="constrained")
    attention_grid(images, maps, titles, figure.subplots(len(images), 1 + len(maps), squeeze=False))
    return figure


def _detached(figure: Any) -> Figure:
    """A pyplot figure that pyplot forgets, so that it is shown once and closed."""
    import matplotlib.pyplot as plt

    plt.close(figure)
    return figure
