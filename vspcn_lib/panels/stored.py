"""What of a panel is stored in a notebook: its picture and its text, never the live view, which needs a kernel."""

from __future__ import annotations

from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"


def drop_views(notebook: dict[str, Any]) -> None:
    """Take the live view out of every output that also has a picture, and the widgets' state out of the notebook.

    JupyterLab prefers a live view to all else in an output and shows "model not found" where no kernel holds it.
    """
    notebook.get("metadata", {}).pop("widgets", None)
    for cell in notebook.get("cells", []):
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"].pop(WIDGET, None)


def pre_save_hook(model: dict[str, Any], **_: Any) -> None:
    """JupyterLab's hook before a file is written."""
    if model.get("type") == "notebook" and isinstance(model.get("content"), dict):
        drop_views(model["content"])
