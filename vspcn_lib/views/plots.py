"""Arrays in, Axes out: the pictures of the workbench."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

if "IPython" not in sys.modules:
    matplotlib.use("Agg", force=False)  # commands only write files; a notebook keeps its own backend
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vspcn_lib.views.pages import on_page

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe-Ito, safe for colour-blind eyes


def plain_name(name: str) -> str:
    """An attribute or class name as words for a figure: `has_wing_color::red` -> wing color: red; `$` is no formula."""
    return name.removeprefix("has_").replace("::", ": ").replace("_", " ").replace("$", r"\$")


def line(i: int) -> dict[str, str]:
    """Colour and dashes of the i-th line of a picture; after the last colour they begin anew with other dashes."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", ":", "-.")[i // len(COLOURS) % 4]}


def seen_unseen_curve(curves: dict[str, pd.DataFrame], results: dict[str, Any], ax: Axes | None = None) -> Axes:
    """U against S over all tau, one line a `tau_sweep`; a dot at U and S of its result, a star at the oracle's.

    Percent on both axes; thin grey lines join points of equal H.
    """
    ax = ax or plt.subplots(figsize=(5.2, 5.2), layout="constrained")[1]
    limit = max(1.0, min(100.0, 1.08 * max(sweep[c].max() for sweep in curves.values() for c in "US")))
    ax.set(xlim=(0, limit), ylim=(0, limit), xlabel="U, unseen accuracy (%)", ylabel="S, seen accuracy (%)")
    grid = np.linspace(0.5, limit, 200)  # inside the limits, so that every line has room for its label
    U, S = np.meshgrid(grid, grid)
    if levels := range(10, int(limit), 10):
        lines = ax.contour(U, S, 2 * U * S / (U + S), levels=levels, colors="0.88", linewidths=0.8)
        ax.clabel(lines, fmt="H %d", fontsize=7, colors="0.6")
    for i, (name, sweep) in enumerate(curves.items()):
        style = line(i)
        u, s, h = (sweep[c].to_numpy() for c in "USH")
        ax.plot(u, s, label=name, **style)
        best = int(h.argmax())
        # A sweep's taus are middles of steps: on which side of one a chosen tau lies, they do not say.
        ax.plot(results[name]["U"], results[name]["S"], "o", color=style["color"])
        ax.plot(u[best], s[best], "*", color=style["color"], markersize=11, markeredgecolor="white")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, title_fontsize=8,
              title="• tau chosen without test images   ★ oracle tau")
    return ax


def overlay(plain: Axes, mixed: Axes, image: np.ndarray, attention: np.ndarray,
            span: tuple[float | None, float | None] = (None, None)) -> None:
    """The image [H,W,3] in 0..1 on `plain`, and a map [side,side] laid over its grey copy on `mixed`.

    `span`: the values that are darkest and brightest, each map's own without it; maps that are compared need one span.
    """
    plain.imshow(image)
    mixed.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=1)
    mixed.imshow(attention, cmap="magma", alpha=0.6, interpolation="bilinear", vmin=span[0], vmax=span[1],
                 extent=(-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5))
    for ax in (plain, mixed):
        ax.set(xticks=[], yticks=[])


def attention_grid(images: np.ndarray, maps: dict[str, np.ndarray], titles: Sequence[str], axes: np.ndarray) -> None:
    """Images [n,H,W,3] in 0..1 in the first column, then each stream's map [n,side,side] laid over them."""
    for row, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes[row, 0].set_ylabel(title, fontsize=8)
        for column, (stream, attention) in enumerate(maps.items(), 1):
            overlay(axes[row, 0], axes[row, column], image, attention[row])
            if row == 0:
                axes[row, column].set_title(stream)
    axes[0, 0].set_title("image")


def png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as PNG bytes, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _teach_notebooks() -> None:
    """Have a notebook show a `Figure` that pyplot does not know (it is not thread-safe) as its picture."""
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()) is not None:
        shell.display_formatter.formatters["image/png"].for_type(Figure, on_page)


_teach_notebooks()


def save(figure_or_axes: object, path: Path, numbers: dict[str, Any] | None = None) -> Path:
    """Write a figure (or an Axes' figure) to `path` (.png) and close it; the same bytes when nothing changed.

    With `numbers` also a PDF, and a JSON of the numbers drawn and where they come from, of the same name.
    """
    figure = getattr(figure_or_axes, "figure", figure_or_axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    if numbers is not None:
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None, "Creator": None, "Producer": None})
        text = json.dumps({**numbers, "matplotlib": matplotlib.__version__}, indent=1, allow_nan=False)
        path.with_suffix(".json").write_text(text + "\n")
    plt.close(figure)
    return path
