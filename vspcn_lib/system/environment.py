"""What a record says of the machine and the code that made it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def cores() -> int:
    """Cores that this process may use: fewer than the machine has where a scheduler, or `taskset`, gave it fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _code(notebook: str) -> list[str]:
    """The sources of a notebook's cells, without outputs, counts and metadata."""
    return ["".join(cell["source"]) for cell in json.loads(notebook)["cells"]]


def commit(folder: Path) -> str:
    """The commit of `folder`'s repository, with -dirty where a tracked file differs from it; "unknown" outside of one.

    A notebook that was only run again, its cells as they are committed, is no difference: no number comes from outputs.
    """
    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=folder, text=True, capture_output=True,  # noqa: S603 - the user's own git
                              check=True).stdout

    def same_code(name: str) -> bool:
        try:
            return name.endswith(".ipynb") and _code((root / name).read_text()) == _code(git("show", f"HEAD:{name}"))
        except (OSError, ValueError, LookupError, TypeError, subprocess.CalledProcessError):
            return False

    try:
        found = git("describe", "--always", "--abbrev=12").strip()
        root = Path(git("rev-parse", "--show-toplevel").strip())
        changed = git("diff", "--name-only", "-z", "HEAD").split("\0")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found + "-dirty" * any(name and not same_code(name) for name in changed)


def environment() -> dict[str, Any]:
    """Versions, machine and commit that a record carries; no path and no host name."""
    packages = ("torch", "timm", "accelerate", "numpy", "gensim", "safetensors")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores()} CPU core{'s' * (cores() > 1)}"
    return {"commit": commit(Path(__file__).parent), "python": platform.python_version(), "device": device,
            "versions": {p: version(p) for p in packages}}
