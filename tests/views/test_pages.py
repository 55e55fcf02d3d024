"""A figure on a page: legible in both themes, without a background, and left as it was."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vspcn_lib.views.pages import INK, on_page


def _luminance(colour):
    """Of WCAG 2: relative luminance of sRGB in 0..1."""
    c = np.asarray(colour, dtype=float)
    return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))


def _figure():
    figure = Figure(figsize=(4, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.errorbar([0, 1], [0, 1], yerr=0.3, color="#D55E00", ecolor="black")
    left.set_title("a title")
    left.legend(["a name"])
    right.imshow(np.ones((2, 2)), vmin=0, vmax=1)
    right.text(0, 0, "1.0", color="black")  # over the image, on whose colour it was chosen
    right.set_ylabel("unseen", color="#D55E00")
    return figure


@pytest.mark.parametrize("page", ["#ffffff", "#111111"])
def test_ink_is_legible_on_both_pages(page):
    light, dark = sorted((_luminance(to_rgb(INK)), _luminance(to_rgb(page))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 4


def test_nothing_dark_is_left_but_inside_images_and_the_figure_stays_as_it_was():
    figure = _figure()
    figure.savefig(io.BytesIO())  # ticks get their labels when they are drawn
    before = [(t.get_text(), t.get_color()) for t in figure.findobj(Text)]
    shown = on_page(figure)
    assert [(t.get_text(), t.get_color()) for t in figure.findobj(Text)] == before
    assert on_page(figure) == shown
    pixels = np.asarray(Image.open(io.BytesIO(shown)).convert("RGBA")).astype(int)
    assert pixels[0, 0, 3] == 0 and pixels[-1, -1, 3] == 0
    solid = pixels[pixels[..., 3] > 250][:, :3]
    grey = solid[np.ptp(solid, axis=1) < 12]
    ink = round(255 * to_rgb(INK)[0])
    dark = (grey.max(1) < ink - 12).sum()
    figure.axes[1].texts[0].remove()
    without = np.asarray(Image.open(io.BytesIO(on_page(figure))).convert("RGBA")).astype(int)
    rest = without[without[..., 3] > 250][:, :3]
    assert dark > 0 == (rest[np.ptp(rest, axis=1) < 12].max(1) < ink - 12).sum()
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        figure.savefig(buffer, format="png")
    plain = np.asarray(Image.open(buffer).convert("RGBA"))
    assert plain[0, 0].tolist() == [255, 255, 255, 255] and (plain[..., :3].max(2) < 60).any()  # a saved one is as ever
