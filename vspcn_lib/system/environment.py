"""What a record says of the machine and the code that made it."""

from __future__ import annotations

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


def environment() -> dict[str, Any]:
    """Versions, machine and commit that a record carries; no path and no host name."""
    packages = ("torch", "timm", "accelerate", "numpy", "gensim", "safetensors")
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(command, cwd=here, text=True, capture_output=True,  # noqa: S603 - the user's own git
                                check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores()} CPU core{'s' * (cores() > 1)}"
    return {"commit": commit, "python": platform.python_version(), "device": device,
            "versions": {p: version(p) for p in packages}}
