"""A figure on a notebook's page: no background, and ink that is legible on a light page as on a dark one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import is_color_like, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.spines import Spine
from matplotlib.text import Text

INK = "#777777"  # contrast 4.5 on white, 4.2 on JupyterLab's dark page (#111)
DARKEST = 0.55  # grey, and darker than this, becomes ink


def on_page(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as PNG for a page of either theme, the same bytes for the same figure; the figure stays as it is."""
    buffer = io.BytesIO()
    with _ink(figure):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, transparent=True)
    return buffer.getvalue()


@contextmanager
def _ink(figure: Figure) -> Iterator[None]:
    """Dark grey and black text, lines and frames in `INK` inside the `with`; text inside an image or a mesh stays."""
    before: list[tuple[Callable[[Any], Any], Any]] = []

    def change(setter: Callable[[Any], Any], old: Any) -> None:
        if not (is_color_like(old) or isinstance(old, np.ndarray)):
            return  # "auto" and "none"
        colours = to_rgba_array(old)
        dark, grey = colours[:, :3].max(1) < DARKEST, np.ptp(colours[:, :3], axis=1) < 0.1
        if len(colours) and (dark & grey & (colours[:, 3] > 0)).all():
            before.append((setter, old))
            setter(INK)

    try:
        for artist in figure.findobj():
            if isinstance(artist, Text) and not _inside(artist):
                change(artist.set_color, artist.get_color())
            elif isinstance(artist, Line2D):
                change(artist.set_color, artist.get_color())
                change(artist.set_markeredgecolor, artist.get_markeredgecolor())
            elif isinstance(artist, Spine | LineCollection):
                change(artist.set_edgecolor, artist.get_edgecolor())
            elif isinstance(artist, Legend):
                frame = artist.get_frame()
                before.append((frame.set_alpha, frame.get_alpha()))
                frame.set_alpha(0)
        yield
    finally:
        for setter, old in reversed(before):
            setter(old)


def _inside(text: Text) -> bool:
    """Whether a text is written over an image or a mesh, on whose colours it was chosen."""
    axes = text.axes
    return isinstance(axes, Axes) and text in axes.texts and bool(axes.images or axes.collections)
