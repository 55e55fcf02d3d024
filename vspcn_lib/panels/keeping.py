"""What a panel shows, and how it is kept: picture, state, table, the code that drew it; and how a state comes back."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from vspcn_lib.studies.tables import latex
from vspcn_lib.system.environment import environment
from vspcn_lib.views.pages import on_page

FORMATS = {"PNG, 300 dpi": ".png", "SVG": ".svg", "PDF": ".pdf"}
TABLES = {"table, CSV": ".csv", "table, LaTeX": ".tex"}


class StateError(ValueError):
    """A saved state does not fit the panel; the message says why and what to choose instead."""


@dataclass(frozen=True)
class Shown:
    """What a panel shows: a state, the result it gave and its text; figure and picture are drawn when asked for."""

    state: Any
    result: Any
    text: str
    draw: Callable[[Any, Any], Figure]

    @cached_property
    def figure(self) -> Figure:
        """The state as a matplotlib figure."""
        return self.draw(self.state, self.result)

    @cached_property
    def picture(self) -> bytes:
        """The figure as PNG, as a page without a kernel shows it."""
        return on_page(self.figure)


def keep(shown: Shown, folder: Path, title: str, source: dict[str, Any], suffix: str,
         table: pd.DataFrame | None = None) -> Path:
    """Write picture or table under a number of its own, beside it the state and numbers that made it.

    Raises OSError where the folder cannot be written to.
    """
    name = "".join(c if c.isalnum() else "-" for c in title.lower())
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [p.stem.removeprefix(f"{name}-") for p in folder.glob(f"{name}-*.*")]
    path = folder / f"{name}-{1 + max((int(n) for n in numbers if n.isdecimal()), default=0)}{suffix}"
    if suffix == ".csv":
        table.to_csv(path, index=False)
    elif suffix == ".tex":
        path.write_text(latex(table))
    else:
        dates = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[suffix]
        with matplotlib.rc_context({"svg.hashsalt": "vspcn"}):
            shown.figure.savefig(path, dpi=300, metadata=dates)
    record = {"title": title, "source": source, "state": dataclasses.asdict(shown.state), "numbers": shown.text,
              "environment": environment()}
    path.with_suffix(".json").write_text(json.dumps(record, indent=1, default=str) + "\n")
    return path


def state_in(text: str, title: str) -> dict[str, Any]:
    """The state in the JSON that `keep` wrote. Raises `StateError` for another panel's, or what is no such file."""
    try:
        record = json.loads(text)
        if not isinstance(record["state"], dict):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StateError("this is no saved state: choose the .json file beside a saved picture") from error
    if record.get("title") != title:
        raise StateError(f"this is a state of the panel '{record.get('title')}', not of '{title}': open it there")
    return record["state"]


def code(*functions: Callable[..., Any]) -> str:
    """The source of what computes and draws a panel, as it stands in the library."""
    return "\n".join(f"# {inspect.unwrap(f).__module__}\n{textwrap.dedent(inspect.getsource(f))}" for f in functions)


def named(run: Path | str) -> dict[str, str]:
    """What a record says of a run: its folder's name, and the sha256 of its checkpoint file."""
    with (Path(run) / "checkpoint.safetensors").open("rb") as file:
        return {"run": Path(run).resolve().name, "checkpoint": hashlib.file_digest(file, "sha256").hexdigest()}


def project_outputs() -> Path:
    """The folder `outputs` of the project, wherever the notebook lies; of the current folder where it is installed."""
    root = Path(__file__).resolve().parents[2]
    return (root if (root / "pyproject.toml").exists() else Path()) / "outputs"
