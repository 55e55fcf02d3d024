"""Which calibrator carries tau over best: nested validation inside trainval, where no test image exists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vspcn_lib import metrics
from vspcn_lib.config import Config, ConfigError, as_dict, check_range, update
from vspcn_lib.data.splits import Benchmark, BenchmarkError
from vspcn_lib.methods.registry import method
from vspcn_lib.runs.calibration import NAMES, calibration_share, class_folds, hold_out
from vspcn_lib.runs.folder import RunFolder, replacing
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.sameness import anywhere
from vspcn_lib.system.environment import environment
from vspcn_lib.train import run

SEEN_TEST = 0.2  # share of the outer seen classes' images that play seen test images: that of cub100's split


def nested_split(bench: Benchmark, draw: int) -> Benchmark:
    """The trainval images of `bench` alone as a benchmark of its own; real test images and unseen classes are not in
    it. Of its classes the real share plays unseen, of the others the real share is validation classes, by `draw`.

    Raises `BenchmarkError` where too few classes are left for all three parts, or too few images to hold any out.
    """
    rng, images, seen = np.random.default_rng([draw, 3]), bench.trainval, bench.seen_classes
    order, labels = rng.permutation(len(seen)), np.searchsorted(seen, bench.labels[images])
    if len(seen) < 4:
        raise BenchmarkError(f"{bench.name}: {len(seen)} seen classes are too few for nested validation. It needs 4: "
                             "one that plays unseen, one to validate by, two to train on")
    outer = min(max(1, round(len(seen) * len(bench.unseen_classes) / bench.num_classes)), len(seen) - 3)
    inner = min(max(1, round((len(seen) - outer) * len(bench.val_classes) / len(seen))), len(seen) - outer - 2)
    test = np.isin(labels, order[:outer])
    parts = replace(bench, image_paths=tuple(bench.image_paths[i] for i in images), labels=labels, notes=(),
                    published=False, class_names=tuple(bench.class_names[c] for c in seen),
                    prototypes=bench.prototypes[seen],
                    trainval=np.flatnonzero(~test), test_seen=np.flatnonzero(~test), test_unseen=np.flatnonzero(test),
                    val_classes=np.sort(order[outer:outer + inner]))
    fit, held = hold_out(parts, parts.trainval, SEEN_TEST, draw)
    return replace(parts, trainval=fit, test_seen=held).check()


def nested(work: Workspace, draw: int) -> Workspace:
    """A workspace of `nested_split`, with the pixels and frozen features of its images alone."""
    images = work.bench.trainval
    if method(work.config).cached(work.config):
        work.features(images)
    known = {name: (values[images], done[images]) for name, (values, done) in work.known.items()}
    return replace(work, bench=nested_split(work.bench, draw), pixels=work.pixels[images], known=known, quiet=True)


def study(config: Config, draws: int, folds: Sequence[int], runs: Path, target: Path,
          work: Workspace | None = None) -> dict[str, Any]:
    """The whole protocol on `draws` nested splits, with each number of `folds`; every calibrator is scored on it.

    A run folder each under `runs`, so that an interrupted study continues; one record, `target`. A trial with folds 0
    is that of one fold without a hold-out, for what the hold-out costs. Raises `ConfigError` for a number out of range
    or more folds than there are sets of classes,
    `BenchmarkError` or `CalibrationError` where a draw leaves too few classes or images, before anything trains.
    """
    check_range("--draws", draws, 1, 1000)
    for count in folds:
        check_range("--folds", count, 0, 100)
    if not any(folds):
        raise ConfigError("--folds compares calibrators by numbers of folds and needs one of 1 or more: 0 alone is the "
                          "trial without a hold-out")
    if config.train.calibration == "raw":
        raise ConfigError("train.calibration = raw holds no image out, and the other calibrators need some: choose "
                          "another, all are compared in any case")
    work, trials = work or Workspace.open(config), []
    for draw in range(draws):  # every split that will be needed, before anything trains
        bench = nested_split(work.bench, draw)
        class_folds(bench, max(1, *folds), draw)
        hold_out(bench, bench.trainval, calibration_share(config.train), draw)
    for draw in range(draws):
        inner = nested(work, draw)
        for count in folds:
            plain = {} if count else {"calibration": "raw"}
            c = update(config, {"train": {"seed": draw, "folds": count or 1, **plain}})
            out = runs / f"draw{draw}-folds{count}"
            result = run(c, out, resume=(out / "config.json").exists(), work=replace(inner, config=c))
            trials.append({"draw": draw, "folds": count, **trial(out, result)})
            print(json.dumps({k: trials[-1][k] for k in ("draw", "folds", "oracle", "H")}), flush=True)
    record = {"study": "calibration", "benchmark": work.bench.name, "split": work.bench.split_hash,
              "config": as_dict(anywhere(config)), "backbone": work.backbone.source, "environment": environment(),
              "trials": trials}
    with replacing(target) as partial:
        partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return record


def trial(out: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Of a finished nested run: H at the tau of every calibrator and at the oracle's, and those taus."""
    saved, taus = RunFolder(out).scores(), result["calibration"]["taus"]
    matrix = saved["scores"], saved["labels"], saved["unseen"]
    return {"epoch": result["validation"]["epoch"], "oracle": round(result["oracle"]["H"], 4),
            "oracle_tau": round(result["oracle"]["tau"], 5), "AUSUC": round(result["AUSUC"], 5),
            "H": {name: round(metrics.gzsl_metrics(*matrix, tau).H, 4) for name, tau in taus.items()},
            "tau": {name: round(tau, 5) for name, tau in taus.items()}, "seconds": result["seconds"]}


def gaps(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row a trial and calibrator: record, draw, folds, calibrator, and the gap oracle H - H in points."""
    rows = [{"record": name, "draw": t["draw"], "folds": t["folds"], "calibrator": calibrator,
             "gap": t["oracle"] - h}
            for name, record in records.items() for t in record["trials"] if t["folds"] for calibrator, h in
            t["H"].items()]
    return pd.DataFrame(rows)


def ranking(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Calibrators and numbers of folds, best first: the mean gap of each record, their mean, and the worst trial.

    Only what every record has is compared.
    """
    table = gaps(records).groupby(["calibrator", "folds", "record"])["gap"].agg(["mean", "max"]).unstack("record")
    table = table.dropna()
    out = table["mean"].copy()
    out["mean"], out["worst"] = table["mean"].mean(axis=1), table["max"].max(axis=1)
    order = {name: i for i, name in enumerate(NAMES)}
    out = out.reset_index()
    out["order"] = out["calibrator"].map(order)
    return out.sort_values(["mean", "folds", "order"]).drop(columns="order").reset_index(drop=True)
