"""What a process does with its memory: keeps what it freed for the next step, and says how much it took at most."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have the C allocator keep freed tensors' memory; true where it could be asked (Linux with glibc).

    glibc gives every tensor above a few hundred kB back to the system and fetches it anew, page by page, in the next
    step: on a two-core virtual machine half of a training step went into page faults. Numbers do not change; the
    process keeps its peak until it ends. CUDA tensors have PyTorch's own cache already.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def room(shape: tuple[int, ...], largest: int | None = None) -> np.ndarray:
    """A float32 array to fill; above `largest` bytes (a quarter of the machine's memory) it lies in an unnamed file."""
    if largest is None:
        largest = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4 if hasattr(os, "sysconf") else 2**32
    if 4 * math.prod(shape) <= largest:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:  # the map keeps it; it goes with the map
        return np.memmap(file, np.float32, "w+", shape=shape)


def peak_mib(device: torch.device | str = "cpu") -> float:
    """The most memory that this process held so far, MiB: torch's counter on CUDA, else the resident set.

    0 where the system counts neither.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:  # not ru_maxrss, which a child process takes over from its parent
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10
