"""Every finished run and every record that can be looked at, with what a reader chooses by: H, data, method, date."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vspcn_lib import metrics
from vspcn_lib.runs.folder import RunError, RunFolder, read_scores
from vspcn_lib.studies.records import RUN, method


@dataclass(frozen=True)
class Found:
    """A finished run folder, or a record: a JSON file, and beside the records of `scores/` a score matrix."""

    path: Path
    """the run folder, or the record's .json"""
    scores_file: Path | None
    """scores.npz of the run, or the record's matrix in scores/; None where only numbers are recorded"""
    record: dict[str, Any]
    """`config` and `result`, for a record also `classes`, and `generate` for what a generator made"""

    @property
    def is_run(self) -> bool:
        """Whether there is a run folder to open."""
        return self.path.is_dir()

    @property
    def is_generated(self) -> bool:
        """Whether it is of a generator of features: then its folder holds no model of images."""
        return "generate" in self.record

    @property
    def name(self) -> str:
        """Method, size and seed, and where it lies: no two are alike."""
        row = self.record.get("row") or method(self.record)
        return f"{row}, seed {self.record['result']['seed']} ({self.path.parent.name}/{self.path.stem})"

    @property
    def label(self) -> str:
        """One line of a drop-down: H first, then data, method, when it was made (a record: by which commit)."""
        r = self.record["result"]
        made = (datetime.fromtimestamp((self.path / "result.json").stat().st_mtime, UTC).strftime("%Y-%m-%d")
                if self.is_run else f"commit {r['environment']['commit'][:7]}")
        return f"H {r['H']:.1f} · {r['benchmark']} · {self.name} · {made}"

    def scores(self) -> dict[str, np.ndarray]:
        """The score matrix. Raises `RunError` where none was kept."""
        if self.scores_file is None:
            raise RunError(f"{self.path} keeps no score matrix: choose a run of yours, or a record in records/scores")
        return read_scores(self.scores_file)

    def sweep(self) -> pd.DataFrame:
        """U, S and H over every tau: as recorded, or of the score matrix. Raises `RunError` where neither was kept."""
        if "sweep" in self.record:
            return swept(self.record)
        saved = self.scores()
        return metrics.tau_sweep(saved["scores"], saved["labels"], saved["unseen"])

    def of_classes(self) -> dict[str, Any]:
        """The record with `classes`: accuracy of each class [C] at the validation tau, and which are unseen.

        Raises `RunError` for a record older than those.
        """
        if "classes" in self.record:
            return self.record
        saved = self.scores()
        accuracy = metrics.class_accuracies(saved["scores"], saved["labels"], saved["unseen"], float(saved["tau"]))
        return {**self.record, "classes": {"accuracy": [None if np.isnan(a) else float(a) for a in accuracy],
                                           "unseen": saved["unseen"].tolist()}}


def swept(record: dict[str, Any]) -> pd.DataFrame:
    """The `sweep` of a record as `metrics.tau_sweep` gives it."""
    table = pd.DataFrame(record["sweep"])
    return table.assign(H=metrics.harmonic(table["U"], table["S"]))


def find(outputs: Path, records: Path) -> tuple[list[Found], list[str]]:
    """Every finished run below `outputs` and every record below `records`, runs first, newest first; and a sentence for
    each that cannot be read."""
    found, problems = [], []
    runs = sorted(outputs.rglob("result.json"), key=lambda p: -p.stat().st_mtime)
    for file in runs:
        folder = RunFolder(file.parent)
        try:
            record = {"config": folder.read_json("config.json"), "result": folder.read_json("result.json")}
            if record["config"] is None or not isinstance(record["result"], dict) or "H" not in record["result"]:
                continue  # no run: a record of something else that has the same name
            if made := folder.read_json("generate.json"):
                record["generate"] = made["settings"]
            scores = file.parent / "scores.npz"
            found.append(Found(file.parent, scores if scores.exists() else None, record))
        except RunError as error:
            problems.append(str(error))
    for file in sorted(records.rglob("*.json")):
        try:
            record = json.loads(file.read_text())
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{file} is damaged ({str(error)[:80]})")
            continue
        if isinstance(record, dict) and set(RUN) <= set(record) and "H" in record["result"]:
            scores = records / "scores" / f"{file.stem}.npz"
            found.append(Found(file, scores if file.parent == records and scores.exists() else None, record))
    return found, problems
