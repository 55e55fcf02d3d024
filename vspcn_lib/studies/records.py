"""Small committed records of finished runs, and the table of them."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vspcn_lib import metrics
from vspcn_lib.config import Config, as_dict
from vspcn_lib.methods.registry import METHODS
from vspcn_lib.runs.folder import RunError, RunFolder, replacing
from vspcn_lib.runs.folder import read_scores as read_scores  # notebooks read committed matrices with the records
from vspcn_lib.studies.sameness import anywhere as anywhere
from vspcn_lib.studies.sameness import config_of as config_of
from vspcn_lib.studies.sameness import data_of, distinct
from vspcn_lib.studies.shown import Table


def write_record(run: Path, target: Path, **more: str) -> Path:
    """One JSON file: config, result, selection, the exact tau sweep and the accuracy of each class; no photo, no path.

    `more` are entries of the caller's own (the row of a table, the key of a run).

    Raises `RunError` for an unfinished run.
    """
    folder = RunFolder(run)
    result = folder.read_json("result.json")
    if result is None:
        raise RunError(f"{run} has no result.json: finish the run with --resume")
    if "inputs" not in result and (inputs := folder.read_json("inputs.json")):  # a run of an older version
        result = {**result, "inputs": inputs}
    saved, made = folder.scores(), folder.read_json("generate.json")
    sweep = metrics.tau_sweep(saved["scores"], saved["labels"], saved["unseen"])
    accuracy = metrics.class_accuracies(saved["scores"], saved["labels"], saved["unseen"], float(saved["tau"]))
    record = {**more, "config": as_dict(anywhere(folder.config())), "result": result,
              "selection": folder.read_json("selection.json"),
              "sweep": {c: [round(v, 4) for v in sweep[c]] for c in ("tau", "U", "S")},
              **({"generate": made["settings"]} if made else {}),
              "classes": {"accuracy": [None if np.isnan(a) else round(a, 3) for a in accuracy],
                          "unseen": saved["unseen"].tolist()}}
    with replacing(target) as partial:
        partial.write_text(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n")
    return target


RUN, STUDY, EXHIBIT = ("config", "result"), ("study", "trials"), ("provenance", "tsne", "curves")
PATHS = ("provenance", "mean", "blocks")


def read_records(folder: Path, entries: tuple[str, ...] = RUN) -> dict[str, dict[str, Any]]:
    """Every record of a folder by file name: of runs, or what else has these `entries` (`STUDY`, `EXHIBIT`).

    Raises `RunError` for a damaged file, or one of another kind.
    """
    return {path.stem: read_record(path, entries) for path in sorted(folder.glob("*.json"))}


def read_record(path: Path, entries: tuple[str, ...] = RUN) -> dict[str, Any]:
    """One record; raises `RunError` for a damaged file, or one of another kind."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"the record {path} is damaged ({str(error)[:200]}): restore it, or delete it and make it "
                       "again") from error
    if not isinstance(found, dict) or not set(entries) <= set(found):
        raise RunError(f"{path} is no record with {', '.join(entries)}: move it out of {path.parent}")
    return found


def method(record: dict[str, Any]) -> str:
    """The name of a record's row: VSPCN, linear head or baseline, readout, image size, thinned training set, bf16.

    Backbone and word vectors are named where they are not the default ones, and vectors where the method reads them.
    """
    config, usual = record["config"], Config()
    model, data = config["model"], config["data"]
    name = model.get("method", "vspcn")
    if name == "vspcn":
        name = "VSPCN" if model["visual_prompts"] + model["semantic_prompts"] else "linear head"
        if model["semantic_prompts"] and model.get("readout", "cls") == "cls":
            name += ", cls readout"
    name += ", unseen attributes in the loss" if reads_unseen(record) else ""
    thinned = f", {data['images_per_class']} images a class" if data["images_per_class"] else ""
    name += f" + {record['generate']['generator']}" if "generate" in record else ""
    half = ", bf16" if config["train"]["precision"] == "bf16" else ""
    whole, others = config_of(record), []
    if model["backbone"] != usual.model.backbone:
        others.append(model["backbone"].removeprefix("packaged:").partition("@")[0])
    if data["vectors"] != usual.data.vectors and METHODS[whole.model.method].reads_words(whole):
        others.append(Path(data["vectors"]).name)
    return ", ".join([f"{name}, {data['size']} px{thinned}{half}", *others])


def reads_unseen(record: dict[str, Any]) -> bool:
    """Whether the loss of a record's method reads attribute rows of unseen classes, though never their images."""
    return METHODS[record["config"].get("model", {}).get("method", "vspcn")].uses_unseen_prototypes


def summary(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Mean and standard deviation over seeds by benchmark and method: U, S, H at the run's own tau, oracle H, ...

    `gap` is oracle H - H, what the choice of tau costs; AUSUC needs no tau. Runs of other data or settings are rows of
    their own, which their names tell apart; a run recorded twice counts once, see `sameness.remarks`. Seconds are the
    median: one run on a busy machine should not speak for all.
    """
    if not records:
        raise RunError("there is no record to show: make one with `record RUN FILE`, or name their folder")
    rows = []
    for record in distinct(records)[0].values():
        r = record["result"]
        config = as_dict(config_of(record))
        settings = {f"{g}.{k}": v for g in config for k, v in config[g].items() if k != "seed"} | data_of(record)
        settings |= {f"generate.{k}": str(v) for k, v in record.get("generate", {}).items()}
        rows.append({"benchmark": r["benchmark"], "method": method(record), "settings": settings,
                     **{k: r[k] for k in ("U", "S", "H", "CZSL")}, "oracle H": r["oracle"]["H"],
                     "gap": r["oracle"]["H"] - r["H"], "AUSUC": r["AUSUC"], "trainable": r["parameters"]["trainable"],
                     "seconds": r["seconds"], "seeds": 1})
    for row in rows:  # runs of other settings are no seeds of each other: what differs becomes a part of the name
        others = [o["settings"] for o in rows if (o["benchmark"], o["method"]) == (row["benchmark"], row["method"])]
        differ = [k for k, v in row["settings"].items() if any(o.get(k) != v for o in others)]
        row["name"] = ", ".join([row["method"], *(f"{k} {row['settings'][k]}" for k in differ)])
    table = pd.DataFrame(rows).assign(method=[row["name"] for row in rows])
    groups = table.groupby(["benchmark", "method"])
    out = pd.DataFrame(index=groups.size().index)
    for c in ("U", "S", "H", "oracle H", "gap", "CZSL", "AUSUC"):
        digits = 3 if c == "AUSUC" else 1
        spread = groups[c].std().fillna(np.nan)
        out[c] = [f"{m:.{digits}f}" + ("" if np.isnan(s) else f" ± {s:.{digits}f}")
                  for m, s in zip(groups[c].mean(), spread, strict=True)]
    out["trainable"], out["seconds"] = groups["trainable"].first(), groups["seconds"].median().round().astype(int)
    out["seeds"] = groups.size()
    return Table(out.reset_index())


def markdown(table: pd.DataFrame) -> str:
    """A `summary` as a Markdown table."""
    rows = [list(table.columns), ["---"] * len(table.columns),
            *([html.escape(str(v), quote=False).replace("|", "\\|") for v in r] for r in table.itertuples(index=False))]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def provenance(file: str, record: dict[str, Any]) -> dict[str, Any]:
    """What a figure says of a record it was drawn from."""
    r = record["result"]
    return {"record": file, **{k: round(r[k], 4) for k in ("U", "S", "H", "CZSL", "AUSUC", "tau")},
            "oracle": {k: round(v, 4) for k, v in r["oracle"].items()}, "seed": r["seed"], "split": r["split"],
            "backbone": r["backbone"]["sha256"], "vectors": r["vectors"], "commit": r["environment"]["commit"],
            "versions": r["environment"]["versions"], "config": record["config"]}
