"""What every live picture shares: its script, its style, and a text that is the same whenever it is printed."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import anywidget
import matplotlib
import numpy as np
from PIL import Image

HERE = Path(__file__).parent


def script(name: str) -> str:
    """The JavaScript of a live picture: what all share, and its own file."""
    return (HERE / "common.js").read_text() + (HERE / f"{name}.js").read_text()


class Live(anywidget.AnyWidget):
    """A picture drawn in the browser; colours follow JupyterLab's theme."""

    _css = (HERE / "live.css").read_text()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # no address, so that a stored output is the same in every run


def palette(name: str = "magma") -> bytes:
    """256 colours of matplotlib's colour map, three bytes each."""
    return (255 * matplotlib.colormaps[name](np.arange(256))[:, :3]).round().astype(np.uint8).tobytes()


def jpeg(pixels: np.ndarray, quality: int = 88) -> bytes:
    """An image uint8 [H,W,3] as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def atlas(pictures: Iterable[np.ndarray], count: int, side: int = 64) -> tuple[bytes, int]:
    """`count` pictures uint8 [3,H,W] as one JPEG of square tiles, and the number of its columns."""
    columns = max(1, math.ceil(math.sqrt(count)))
    sheet = Image.new("RGB", (columns * side, max(1, math.ceil(count / columns)) * side))
    for i, picture in enumerate(pictures):
        small = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).resize((side, side))
        sheet.paste(small, (i % columns * side, i // columns * side))
    buffer = io.BytesIO()
    sheet.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue(), columns
