"""Run notebooks top to bottom and keep them in the form that is committed: `make notebooks`, or `python rerun.py 05`.

Kept: counts, text, pictures. Dropped: widget state and views, progress bars, timing, warnings.
"""

from __future__ import annotations

import base64
import io
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image

from vspcn_lib.panels.stored import WIDGET, drop_views


def smaller(picture: str) -> str:
    """A base64 PNG with 150 solid and 100 transparent colours: a third of the bytes, hard to tell apart by eye."""
    with Image.open(io.BytesIO(base64.b64decode(picture))) as opened:
        pixels = np.array(opened.convert("RGBA"))
    clear = pixels[..., 3] < 255
    index, colours = np.zeros(clear.shape, np.uint8), np.zeros((0, 4), np.uint8)
    # Of Pillow's methods the second alone keeps transparency; its colours are coarse, and go to the edges of letters.
    for part, most, method, channels in ((~clear, 150, Image.Quantize.MEDIANCUT, 3),
                                         (clear, 100, Image.Quantize.FASTOCTREE, 4)):
        if part.any():
            few = Image.fromarray(pixels[part][None, :, :channels]).quantize(most, method, dither=Image.Dither.NONE)
            index[part] = np.asarray(few)[0] + len(colours)
            colours = np.concatenate([colours, np.reshape(few.getpalette("RGBA"), (-1, 4)).astype(np.uint8)])
    image = Image.fromarray(index)
    image.putpalette(colours[:, :3].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, transparency=colours[:, 3].tobytes())
    return base64.b64encode(buffer.getvalue()).decode()


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Drop what differs from run to run and what only a live kernel can use."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python"}}
    drop_views(notebook)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        outputs = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                continue
            if "data" in output:
                if WIDGET in output.data:  # a progress bar
                    continue
                if "image/png" in output.data:
                    output.data["image/png"] = smaller(output.data["image/png"])
            outputs.append(output)
        if "outputs" in cell:
            cell.outputs = outputs


def keep_picture(notebook: nbformat.NotebookNode, target: Path) -> None:
    """The notebook's last picture, for the README's tour."""
    pictures = [output.data["image/png"] for cell in notebook.cells for output in cell.get("outputs", [])
                if "image/png" in output.get("data", {})]
    if pictures:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base64.b64decode(pictures[-1]))


def main(names: list[str]) -> None:
    """Run the notebooks whose file names start with one of `names`; all of them without names."""
    here = Path(__file__).parent
    for path in sorted(here.glob("*.ipynb")):
        if names and not any(path.name.startswith(name) for name in names):
            continue
        start, notebook = time.time(), nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(here)}}).execute()
        normalise(notebook)
        nbformat.write(notebook, path)
        keep_picture(notebook, here.parent / "figures" / "tour" / f"{path.name[:2]}.png")
        print(f"{path.name:34s} {time.time() - start:5.0f} s  {path.stat().st_size / 1024:5.0f} KB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
