"""Which records are of the same data, and which of the same run: what one row of a table may hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vspcn_lib.config import Config, as_dict, read_config, update
from vspcn_lib.runs.folder import RunError
from vspcn_lib.runs.identity import DATA, KINDS, differences, of_result, unchecked


def anywhere(config: Config) -> Config:
    """`config` with the names of what lies on a disk and without the folders: no number depends on where it lies."""
    data, backbone = config.data, config.model.backbone
    name, at, file = backbone.partition("@")
    return update(config, {"data": {"root": "", "benchmark": _name(data.benchmark), "vectors": _name(data.vectors)},
                           "model": {"backbone": name + at + _name(file)}})


def _name(path: str) -> str:
    """The last part of a path, anything else as it is."""
    return Path(path).name if "/" in path else path


def config_of(record: dict[str, Any]) -> Config:
    """The config of a record, also of one older than its newest field, `anywhere`."""
    return anywhere(read_config(record["config"]))


def data_of(record: dict[str, Any]) -> dict[str, str]:
    """The identity of a record's data, 8 hex digits by kind; `unchecked` where an older record does not know it."""
    known = of_result(record["result"])
    return {kind: str(known[kind])[:8] if kind in known else "unchecked" for kind in KINDS}


def distinct(records: dict[str, dict[str, Any]], by_row: bool = False) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The records without those of a run that is there already under another name, and a sentence on each left out.

    The same run: equal settings, seed and data, and with `by_row` the same row of a table, as two rows may have the
    same settings. Raises `RunError` where such two have other numbers: nothing says which of them counts.
    """
    kept: dict[str, dict[str, Any]] = {}
    first: dict[str, str] = {}
    said = []
    for name, record in records.items():
        run = json.dumps([record["result"]["benchmark"], record["result"]["seed"], as_dict(config_of(record)),
                          data_of(record), record.get("row") if by_row else None], sort_keys=True)
        if (same := first.setdefault(run, name)) == name:
            kept[name] = record
            continue
        ours, theirs = ([r["result"][k] for k in ("U", "S", "H", "CZSL", "AUSUC")] for r in (record, kept[same]))
        if ours != theirs:
            raise RunError(f"the records {same} and {name} have the same settings, seed and data but other numbers "
                           f"(H {theirs[2]:.2f} and {ours[2]:.2f}), and count as one run: move one of them away")
        said.append(f"{name} is the run of {same} under another name: counted once")
    return kept, said


def remarks(records: dict[str, dict[str, Any]], by_row: bool = False) -> list[str]:
    """What a reader of a table of `records` must know: runs counted once, and data that older records do not know."""
    kept, said = distinct(records, by_row)
    old = {name: missing for name, r in kept.items() if (missing := unchecked(of_result(r["result"])))}
    if old:
        kinds = [kind for kind in KINDS if any(kind in missing for missing in old.values())]
        rest = [] if len(old) < 4 else [f"{len(old) - 2} more"]
        named = ", ".join([*list(old)[:2 if rest else 3], *rest])
        which = f"all {len(old)} records" if len(old) == len(kept) else f"{len(old)} of {len(kept)} records ({named})"
        said.append(f"unchecked: whether {which} are of the same {', '.join(kinds)}; they are older than those "
                    "checksums")
    return said


def check_same_data(records: dict[str, dict[str, Any]]) -> None:
    """Raise `RunError` that names two records of one table whose data differ; within a row also words and backbone."""
    for kinds, by_row in ((DATA, False), (KINDS, True)):
        known: dict[tuple[Any, str], tuple[str, str]] = {}
        for name, record in records.items():
            for kind, value in of_result(record["result"]).items():
                other, before = known.setdefault((by_row and record.get("row"), kind), (name, value))
                if kind in kinds and (changed := differences({kind: before}, {kind: value})):
                    raise RunError(f"the records {other} and {name} are of different data: {changed}; keep the records "
                                   "of each in a folder of their own")
