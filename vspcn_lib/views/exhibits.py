"""What a trained run has to show, kept as one small record, so that its figures need neither weights nor photos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vspcn_lib.config import as_dict
from vspcn_lib.runs.folder import RunError, RunFolder, replacing
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.studies.records import anywhere, provenance
from vspcn_lib.views.curves import LOG, read_curves
from vspcn_lib.views.embeddings import cls_embeddings, separation, tsne_layout
from vspcn_lib.views.plots import plain_name
from vspcn_lib.views.trained import unseen_attention


def write_exhibit(runs: dict[str, Path], target: Path, perplexity: int = 30) -> Path:
    """t-SNE of every run in `runs` (method: run folder), training curves and attention maps of the last one.

    Attention maps are kept for birdlets only: they are shown over pictures that anybody can render again.
    Raises `RunError` for an unfinished run.
    """
    name, run = list(runs.items())[-1]
    folder = RunFolder(run)
    result = folder.read_json("result.json")
    if result is None:
        raise RunError(f"{run} has no result.json: finish the run with `python -m vspcn_lib resume {run}`")
    layouts, numbers = {}, {}
    for method, path in runs.items():
        found = cls_embeddings(path)
        embedded, labels = found.embedded, found.bench.labels[found.indices]
        unseen = found.bench.unseen_mask[labels]
        layouts[method] = _rounded(tsne_layout(embedded, perplexity), 2)
        numbers[method] = {side: {k: round(v, 4) for k, v in both.items()}
                           for side, both in separation(embedded, labels, unseen).items()}
    steps, epochs = read_curves(run)
    record: dict[str, Any] = {
        "provenance": {"method": name, **provenance(target.stem, {"result": result, "config": as_dict(
            anywhere(folder.config()))})},
        "tsne": {"perplexity": perplexity, "labels": labels.tolist(), "unseen": unseen.tolist(),
                 "names": found.bench.class_names, "layouts": layouts,
                 "separation": numbers},
        "curves": {"steps": _columns(steps[["phase", "step", *(c for c in steps if c not in LOG)]]),
                   "epochs": _columns(epochs.drop(columns=["time"]))}}
    if found.bench.name == "birdlets":
        work, model = load_trained(folder)
        chosen, maps = unseen_attention(work, model)
        record["attention"] = {"indices": chosen.tolist(),
                               "titles": [plain_name(work.bench.class_names[c]) for c in work.bench.labels[chosen]],
                               "maps": {stream: _rounded(m, 5) for stream, m in maps.items()}}
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        partial.write_text(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n")
    return target


def _rounded(values: np.ndarray, digits: int) -> list:
    return np.round(values.astype(np.float64), digits).tolist()


def _columns(table: Any) -> dict[str, list]:
    """A table's columns as lists, numbers to four digits."""
    return {c: [round(v, 4) if isinstance(v, float) else v for v in table[c].tolist()] for c in table.columns}
