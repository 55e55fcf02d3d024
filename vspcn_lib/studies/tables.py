"""Records to the paper's tables: mean and spread over seeds, both taus side by side, paired confidence intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vspcn_lib.config import Config, update
from vspcn_lib.metrics import MetricsError, harmonic
from vspcn_lib.runs.folder import RunError
from vspcn_lib.studies.records import reads_unseen
from vspcn_lib.studies.rows import GENERATED, ROWS
from vspcn_lib.studies.sameness import check_same_data, config_of, distinct, remarks
from vspcn_lib.studies.shown import Table

# The paper's H on CUB (200 classes, ViT-B/16): another data set and backbone than any record here.
CUB = ("cub", "cub100")
PAPER_H = {"ViT only": 59.3, "full": 75.7}
ENCODED = {"ViT only": "linear head", "full": "VSPCN"}  # the rows of `encoder_table`, by their names there
UNSEEN = " †"  # behind the name of a row whose loss reads attributes of unseen classes


def tidy(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row a run: row of the table, seed, U, S, H, oracle H and the gap to it, how tau was chosen, CZSL, AUSUC, ...

    `fold std` is the standard deviation of validation H over class folds, NaN where there was one.
    """
    rows = []
    for name, record in records.items():
        r = record["result"]
        rows.append({"record": name, "benchmark": r["benchmark"], "px": record["config"]["data"]["size"],
                     "row": record.get("row", name), "seed": r["seed"], **{k: r[k] for k in ("U", "S", "H")},
                     "oracle H": r["oracle"]["H"], "gap": r["oracle"]["H"] - r["H"],
                     "tau by": r.get("calibration", {"by": "raw"})["by"],
                     "fold std": r["validation"].get("spread", {"H": np.nan})["H"],
                     "CZSL": r["CZSL"], "AUSUC": r["AUSUC"], "validation H": r["validation"]["H"],
                     "trainable": r["parameters"]["trainable"], "total": r["parameters"]["total"],
                     "seconds": r["seconds"], "GiB": r["peak_gib"], "commit": r["environment"]["commit"]})
    return pd.DataFrame(rows)


def paired_bootstrap(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], draws: int = 4000,
                     seed: int = 0) -> tuple[float, float, float]:
    """H of `ours` minus H of `theirs`, and its 95 % interval, percent points.

    Classes are the sampling unit (U and S are means over classes): every draw resamples the unseen and the
    seen test classes, the same for both methods and all seeds; H is averaged over seeds. Arguments: records
    with `classes`, one a seed, of one benchmark. Raises `MetricsError` where their classes differ.
    """
    unseen = np.array(ours[0]["classes"]["unseen"])
    if any(record["classes"]["unseen"] != ours[0]["classes"]["unseen"] for record in [*ours, *theirs]):
        raise MetricsError("the records are of different class splits: compare runs of one benchmark")

    def accuracies(records: list[dict[str, Any]]) -> np.ndarray:
        return np.array([record["classes"]["accuracy"] for record in records], dtype=float)

    a, b = accuracies(ours), accuracies(theirs)
    tested = ~np.isnan(a[0])
    u, s = np.flatnonzero(unseen & tested), np.flatnonzero(~unseen & tested)
    rng = np.random.default_rng(seed)
    us, ss = rng.choice(u, (draws, len(u))), rng.choice(s, (draws, len(s)))

    def h(x: np.ndarray, us: np.ndarray, ss: np.ndarray) -> np.ndarray:
        return harmonic(x[:, us].mean(-1), x[:, ss].mean(-1)).mean(0)

    low, high = np.percentile(h(a, us, ss) - h(b, us, ss), [2.5, 97.5])
    return float(h(a, u, s) - h(b, u, s)), float(low), float(high)


def _spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± sample standard deviation, the mean alone of one value."""
    more = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{more}"


def _difference(ours: Iterable[dict[str, Any]], theirs: Iterable[dict[str, Any]]) -> str:
    """`paired_bootstrap` of the seeds that both have, as text; empty where there are none."""
    others = list(theirs)
    pairs = [(r, q) for r in ours for q in others if r["result"]["seed"] == q["result"]["seed"]]
    if not pairs:
        return ""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*paired_bootstrap(*map(list, zip(*pairs, strict=True))))


def ablation_table(records: dict[str, dict[str, Any]], reference: str = "full") -> pd.DataFrame:
    """The paper's ablation table from `execute`'s records, in the order of `rows.ROWS`, as text.

    `U`, `S`, `H` at the run's own tau, `oracle H` at the tau of the best test H, `gap` between the two, `validation H`
    by which settings are chosen, mean ± std over seeds, and its mean spread over class folds where there are several;
    a mark behind rows whose loss reads unseen attributes;
    `H - reference` with its paired 95 % interval, of the seeds that both rows have, and for generated rows the same
    against the run that each starts from, read out by its tau; `paths at work`, the points of H that are lost where
    every fusion path gives each image the mean over images (`runs/paths.py`); the paper's own H on its own data.
    A run recorded twice counts once. Raises `RunError` for records of different data.
    """
    records = distinct(records, by_row=True)[0]
    check_same_data(records)
    runs = tidy(records)
    if runs.empty:
        return runs
    by_row = {row: [r for r in records.values() if r["row"] == row] for row in (*ROWS, *GENERATED)}
    rows = []
    for row, found in by_row.items():
        if not found:
            continue
        of = runs[runs["row"] == row]
        cells = {"row": row + UNSEEN * reads_unseen(found[0])}
        for c in ("U", "S", "H", "oracle H", "gap", "validation H", "CZSL", "AUSUC"):
            cells[c] = _spread(of[c], 3 if c == "AUSUC" else 1)
        if of["fold std"].notna().any():
            cells["validation H"] += f" (folds ± {of['fold std'].mean():.1f})"
        cells["tau by"] = ", ".join(sorted(set(of["tau by"])))
        for title, other in {f"H - {reference}": reference, "H - its start": GENERATED.get(row, [""])[0]}.items():
            cells[title] = _difference(found, by_row.get(other, ())) if row != other else ""
        worth = [r["result"]["paths"]["mean"]["all"]["H"] for r in found if "paths" in r["result"]]
        cells["paths at work"] = f"{-np.mean(worth):.1f}" if worth else ""
        on_cub = found[0]["result"]["benchmark"] in CUB
        cells |= {"paper H": f"{PAPER_H[row]:.1f}" if on_cub and row in PAPER_H else "", "seeds": str(len(of)),
                  "trainable": f"{of['trainable'].iloc[0]:,}", "total": f"{of['total'].iloc[0]:,}",
                  "seconds": f"{of['seconds'].mean():.0f}", "GiB": f"{of['GiB'].max():.1f}"}
        rows.append(cells)
    table = Table(rows)
    return table.drop(columns=[c for c in ("H - its start", "paths at work") if not table[c].any()])


def generation_table(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """H read by tau beside H by generation, a row for each of `rows.GENERATED` that has a record, as text.

    `H by tau` is that of the run whose features were used, in the seeds that both have, `difference` the paired 95 %
    interval of the two; `with a tau too` reads the generated classifier by a tau as well. `synthetic` and `a real one`
    are the features of an unseen class that validation chose, in all and for each real one of a seen class.
    A run recorded twice counts once. Raises `RunError` for records of different data.
    """
    records = distinct(records, by_row=True)[0]
    check_same_data(records)
    rows = []
    for row, (start, _) in GENERATED.items():
        found = [r for r in records.values() if r.get("row") == row and "generate" in r]
        if not found:
            continue
        seeds = {r["result"]["seed"] for r in found}
        starts = [q for q in records.values() if q.get("row") == start and q["result"]["seed"] in seeds]
        cells = {"features of": start, "generator": row.removeprefix(row.partition(" + ")[0] + " + "),
                 "H by tau": _spread([q["result"]["H"] for q in starts]) if starts else "not recorded",
                 "H by generation": _spread([r["result"]["H"] for r in found]),
                 "difference": _difference(found, starts),
                 "with a tau too": _spread([r["result"]["with_tau"]["H"] for r in found])}
        cells |= {c: _spread([r["result"][c] for r in found]) for c in ("U", "S", "CZSL")}
        cells |= {"synthetic": ", ".join(str(r["result"]["samples"]) for r in found),
                  "a real one": ", ".join(f"{r['result']['ratio']:g}" for r in found),
                  "folds": ", ".join(sorted({str(r["generate"]["folds"]) for r in found})), "seeds": str(len(found))}
        rows.append(cells)
    return Table(rows)


def encoder_table(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Benchmark by backbone by text encoder, the linear head (`ViT only`) and VSPCN (`full`) of each, as text.

    `text buys` is H minus the H with glove-50 at the same backbone, `backbone buys` H minus that of packaged:vit-s14
    with the same text encoder, each with its paired 95 % interval, of the seeds that both have; empty where another
    setting differs too. A linear head reads no words, so its text encoder is none. Records of other rows are left out,
    and a run recorded twice counts once. Raises `RunError` where what would be one row has other settings or data, or
    a benchmark other photos.
    """
    usual = (Config().model.backbone.removeprefix("packaged:"), Config().data.vectors)
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    places: dict[str, dict[str, dict[str, Any]]] = {}
    found = {name: record for name, record in records.items() if record.get("row") in ENCODED}
    for name, record in distinct(found, by_row=True)[0].items():
        config, row = config_of(record), record["row"]
        thinned = f", {config.data.images_per_class} images a class" if config.data.images_per_class else ""
        key = (f"{record['result']['benchmark']}, {config.data.size} px{thinned}",
               config.model.backbone.removeprefix("packaged:"),
               "none" if row == "ViT only" else config.data.vectors, ENCODED[row])
        groups.setdefault(key, {})[name] = record
        places.setdefault(record["result"]["benchmark"], {})[name] = {**record, "row": key}
    for rows in places.values():
        check_same_data(rows)  # of one row words and backbone too, which are known by a file's name

    def rest(record: dict[str, Any]) -> Config:
        """What two records must have in common, whatever their encoders and seed."""
        return update(config_of(record), {"data": {"vectors": usual[1]}, "model": {"backbone": Config().model.backbone},
                                          "train": {"seed": 0}})

    def buys(key: tuple[str, ...], other: tuple[str, ...]) -> str:
        ours, theirs = groups[key].values(), groups.get(other, {}).values()
        alike = all(rest(r) == rest(q) for r in ours for q in theirs)
        return _difference(ours, theirs) if other != key and alike else ""

    def order(key: tuple[str, ...]) -> tuple[Any, ...]:  # defaults first, VSPCN below the linear head
        return key[0], key[3] == ENCODED["full"], key[1] != usual[0], key[2] != usual[1], key

    cells = []
    for key in sorted(groups, key=order):
        place, backbone, text, method = key
        runs = list(groups[key].values())
        if len({r["result"]["seed"] for r in runs}) < len(runs) or any(rest(r) != rest(runs[0]) for r in runs):
            raise RunError(f"{place}, {method}, {backbone}, {text}: the records {', '.join(groups[key])} have other "
                           "settings, and would be averaged: keep one study in a folder")
        of = tidy(groups[key])
        row = {"benchmark": place, "method": method, "backbone": backbone, "text encoder": text}
        for c in ("U", "S", "H", "gap", "CZSL", "AUSUC", "validation H"):
            row[c] = _spread(of[c], 3 if c == "AUSUC" else 1)
        row["text buys"] = buys(key, (place, backbone, usual[1], method))
        row["backbone buys"] = buys(key, (place, usual[0], text, method))
        cells.append(row | {"seeds": str(len(of)), "trainable": f"{of['trainable'].iloc[0]:,}",
                            "total": f"{of['total'].iloc[0]:,}", "seconds": f"{of['seconds'].mean():.0f}"})
    return Table(cells)


_SPECIAL = {**{c: "\\" + c for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
            "^": r"\textasciicircum{}", "±": r"$\pm$", "\u2212": "$-$"}


def latex(table: pd.DataFrame) -> str:
    """A table for a paper: LaTeX with the rules of booktabs, numbers to the right, every special character as text."""
    def row(cells: Any) -> str:
        return " & ".join("".join(_SPECIAL.get(c, c) for c in str(cell)) for cell in cells) + r" \\"

    right = [pd.api.types.is_numeric_dtype(table[c]) for c in table.columns]
    body = table.copy()
    for column in body.columns[[pd.api.types.is_float_dtype(body[c]) for c in body.columns]]:
        digits = 3 if body[column].abs().max() <= 1 else 1
        body[column] = [f"{v:.{digits}f}" for v in body[column]]
    columns = "".join("r" if r else "l" for r in right)
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", row(table.columns), r"\midrule",
                      *map(row, body.itertuples(index=False)), r"\bottomrule", r"\end{tabular}", ""])


def caption(records: dict[str, dict[str, Any]]) -> str:
    """What must be known to read an `ablation_table`: data and backbone, ours and the paper's, and the two taus."""
    ours = sorted({f"{r['result']['benchmark']}, {r['config']['data']['size']} px, {r['result']['backbone']['tag']}, "
                   f"split {r['result']['split']}" for r in records.values()})
    made = sorted({f"{r['result']['environment']['commit']} on {r['result']['environment']['device']}"
                   for r in records.values()})
    mark = (" †: the loss of this method reads the attributes of unseen classes (in selection those of the validation "
            "classes), never their images.") if any(map(reads_unseen, records.values())) else ""
    worth = (" `paths at work`: points of H lost, on some test images at their best tau, where every fusion path gives "
             "each image the mean over images; near 0, fusion is a learned constant."
             if any("paths" in r["result"] for r in records.values()) else "")
    paper = (" `paper H`: the paper's own, on CUB (200 classes) with ViT-B/16 of ImageNet-1k; other data and another "
             "backbone, so only the order of rows compares."
             if any(r["result"]["benchmark"] in CUB for r in records.values()) else "")
    return (f"Ours: {'; '.join(ours)}; made by {', '.join(made)} (other work may have run beside it: `seconds` are no "
            f"benchmark).{paper} U, S, H at a tau chosen without test images, by the calibrator in `tau by`; "
            "`validation H` chooses settings; `oracle H` picks tau on test labels and is no result, `gap` is what is "
            "lost to it. Brackets: paired 95 % bootstrap interval over test classes, of the seeds that both rows have."
            f"{worth}{mark}"
            + "".join(f" {said[0].upper()}{said[1:]}." for said in remarks(records, by_row=True)))
