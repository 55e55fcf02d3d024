"""The cls embeddings of a run's test images: kept when they are scored, so that a picture of them needs no model."""

from __future__ import annotations

import numpy as np

from vspcn_lib.runs.folder import RunError, RunFolder, replacing

NAME = "embedded.npy"


def keep_embedded(folder: RunFolder, values: np.ndarray) -> None:
    """Write the embeddings [n,E] of the test images, in the order of the score matrix."""
    with replacing(folder.path / NAME) as partial, partial.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def read_embedded(folder: RunFolder) -> np.ndarray | None:
    """What `keep_embedded` wrote; None where nothing was: an older run, one of several processes, or no cls stream.

    Raises `RunError` for a damaged file.
    """
    file = folder.path / NAME
    if not file.exists():
        return None
    try:
        found = np.load(file, allow_pickle=False)
        if found.ndim != 2 or found.dtype != np.float32 or len(found) != len(folder.scores()["labels"]):
            raise ValueError(f"it holds {found.dtype} {list(found.shape)}, not a row for each test image")
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"{file} is damaged ({str(error)[:120]}): delete it, and it is computed again") from error
    return found
