"""The tour's short animated picture, from the real notebook in a browser: `python tests/panels/tour.py`.

Notebook 05 shows birdlets' numbers alone, so the picture holds no photo.
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
from pathlib import Path

from browser import ROOT, laboratory, open_notebook, window
from PIL import Image

FRAMES, WIDTH = 36, 760
SIZE = """() => { const a = document.querySelector('.vspcn-range').getBoundingClientRect();
  const all = [...document.querySelectorAll('.vspcn svg')].slice(0, 2).map((e) => e.getBoundingClientRect());
  return {x: a.left - 4, y: a.top - 40, width: Math.max(...all.map((b) => b.right)) - a.left + 12,
          height: Math.max(...all.map((b) => b.bottom)) - a.top + 46}; }"""


def record(target: Path) -> Path:
    """Drag tau from right to left and back, one frame a step; `target` is written as GIF."""
    frames = []
    with tempfile.TemporaryDirectory() as place, laboratory(Path(place) / "home") as lab, window(Path(place)) as page:
        open_notebook(page, lab, "05_calibration", ".vspcn svg rect")
        page.locator(".vspcn svg").first.evaluate("e => e.scrollIntoView({block: 'center'})")
        page.wait_for_timeout(800)
        slider, clip = page.locator(".vspcn-range input[type=range]").first.bounding_box(), page.evaluate(SIZE)
        y = slider["y"] + slider["height"] / 2
        for i in range(FRAMES):
            share = 0.62 + 0.16 * math.cos(2 * math.pi * i / FRAMES)
            page.mouse.move(slider["x"] + share * slider["width"], y)
            page.mouse.down() if i == 0 else None
            page.wait_for_timeout(120)
            shot = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
            frames.append(shot.resize((WIDTH, round(WIDTH * shot.height / shot.width)), Image.Resampling.LANCZOS))
        page.mouse.up()
    colours = frames[0].quantize(160)
    small = [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]
    small[0].save(target, save_all=True, append_images=small[1:], duration=110, loop=0, optimize=True)
    return target


if __name__ == "__main__":
    path = record(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "figures" / "tour" / "tau.gif")
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
