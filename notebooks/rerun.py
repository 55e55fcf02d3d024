"""Run notebooks top to bottom and keep them in the form that is committed: `make notebooks`, or `python rerun.py 05`.

Kept: counts, text, pictures. Dropped: widget state and views, progress bars, timing, warnings.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

WIDGET = "application/vnd.jupyter.widget-view+json"


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Drop what differs from run to run and what only a live kernel can use."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                         "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        outputs = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                continue
            if "data" in output:
                progress = WIDGET in output.data and "image/png" not in output.data
                output.data.pop(WIDGET, None)
                if progress:
                    continue
            outputs.append(output)
        if "outputs" in cell:
            cell.outputs = outputs


def main(names: list[str]) -> None:
    """Run the notebooks whose file names start with one of `names`; all of them without names."""
    here = Path(__file__).parent
    for path in sorted(here.glob("*.ipynb")):
        if names and not any(path.name.startswith(name) for name in names):
            continue
        start, notebook = time.time(), nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(here)}}).execute()
        normalise(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name:34s} {time.time() - start:5.0f} s  {path.stat().st_size / 1024:5.0f} KB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
