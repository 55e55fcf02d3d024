"""What a process does with its memory: keeps what it freed for the next step, and says how much it took at most."""

from __future__ import annotations

import ctypes
import resource
import sys

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


def peak_mib(device: torch.device | str = "cpu") -> float:
    """The most memory that this process held so far, MiB: torch's counter on CUDA, else the resident set."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10
