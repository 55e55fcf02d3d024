"""What is in many files, by sha256, each read once and known again by its time stamps; and what is in tensors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm


def file_digests(paths: Sequence[Path], folder: Path, progress: bool = True) -> list[str]:
    """The hex sha256 of every file.

    What is known lies in `folder`, one small index for each list of paths: [size, mtime_ns, ctime_ns, sha256] a file.
    ctime changes with every write and cannot be set back, so only a file with all three unchanged is not read again.
    Raises OSError for a missing file, or where the index cannot be written.
    """
    places = [os.path.abspath(path) for path in paths]
    index = folder / f"{hashlib.sha256(chr(10).join(places).encode(errors='surrogateescape')).hexdigest()[:32]}.json"
    stamps = [[s.st_size, s.st_mtime_ns, s.st_ctime_ns] for s in map(os.stat, places)]
    known = _known(index, len(places))
    changed = [i for i, stamp in enumerate(stamps) if known[i][:3] != stamp]
    if changed:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing frees the interpreter lock
            found = pool.map(lambda i: _sha256(places[i]), changed)
            for i, digest in zip(changed, tqdm(found, "reading", len(changed), disable=not progress), strict=True):
                known[i] = [*stamps[i], digest]
        folder.mkdir(parents=True, exist_ok=True)
        partial = index.with_name(f"{index.stem}.{os.getpid()}.partial")
        try:
            partial.write_text(json.dumps(known, separators=(",", ":")))
            os.replace(partial, index)
        finally:
            partial.unlink(missing_ok=True)
    return [row[3] for row in known]


def _known(index: Path, count: int) -> list[list]:
    """The rows of an index; a missing or damaged one knows nothing."""
    try:
        rows = json.loads(index.read_text())
        if len(rows) == count and all(len(row) == 4 and len(row[3]) == 64 for row in rows):
            return rows
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    return [[]] * count


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_digest(state: dict[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return digest.hexdigest()
