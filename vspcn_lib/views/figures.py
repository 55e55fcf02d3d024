"""`make figures`: every figure from committed records alone, as PNG, PDF and its numbers with their provenance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vspcn_lib import metrics
from vspcn_lib.config import DataConfig
from vspcn_lib.data.benchmarks import birdlets_folder
from vspcn_lib.data.birdlets import contact_sheet
from vspcn_lib.data.images import decode
from vspcn_lib.runs.workspace import open_benchmark
from vspcn_lib.studies import sameness, tables
from vspcn_lib.studies.calibration import ranking
from vspcn_lib.studies.records import EXHIBIT, PATHS, STUDY, markdown, method, provenance, read_records
from vspcn_lib.views import gallery, plots
from vspcn_lib.views.calibration import draw_gaps
from vspcn_lib.views.curves import draw_curves
from vspcn_lib.views.paths import paths_figure

# Ablations whose rows stand in the table of encoders too: on the default backbone, with the default word vectors.
DEFAULT_ENCODERS = ("cub100-small", "cub100", "awa35")


def draw_figures(records: Path, target: Path) -> list[Path]:
    """Draw what the records below `records` hold into `target`; the same bytes when nothing changed.

    Seen-unseen curve of each benchmark (first seed of each method), ablation bars, sweeps, the comparison of
    calibrators, reports of paths, and of each exhibit attention maps, t-SNE and training curves; PDF and JSON lie
    beside each, and the tables of runs, calibrators and encoders as Markdown. Returns the PNG files of these. birdlets'
    contact sheet comes from the renderer, so it has no numbers.
    """
    found = read_records(records)
    found = sameness.distinct(found)[0]
    benchmarks = sorted({r["result"]["benchmark"] for r in found.values()})
    drawn = [_seen_unseen(benchmark, split, found, target) for benchmark in benchmarks
             for split in _splits(benchmark, found)]
    if "birdlets" in benchmarks:  # one bird a species, rendered by the project itself
        contact_sheet(birdlets_folder(), target / "birdlets.png")
    encoded = read_records(records / "encoders")
    for folder in sorted(p for p in (records / "ablation").glob("*") if p.is_dir()):
        runs = read_records(folder)
        if folder.name in DEFAULT_ENCODERS:
            encoded |= {f"{folder.name}/{name}": run for name, run in runs.items()}
        figure = gallery.ablation_bars(tables.ablation_table(runs))
        sources = {file: provenance(file, record) for file, record in runs.items()}
        drawn.append(plots.save(figure, target / f"ablation_{folder.name}.png", sources))
    if encoded:
        (target / "encoders.md").write_text(markdown(tables.encoder_table(encoded)))
    for name, study in read_records(records / "sweeps", STUDY).items():
        drawn.append(plots.save(gallery.sweep_map(study), target / f"sweep_{name}.png", study))
    # The studies of the linear head, which are many and decide, and those of VSPCN, which are few.
    for name, folder in (("calibration", "calibration"), ("calibration_vspcn", "calibration/vspcn")):
        if nested := read_records(records / folder, STUDY):
            drawn.append(plots.save(draw_gaps(nested), target / f"{name}.png", nested))
            (target / f"{name}.md").write_text(markdown(ranking(nested).map(
                lambda cell: f"{cell:.2f}" if isinstance(cell, float) else cell)))
    for name, report in read_records(records / "paths", PATHS).items():
        drawn.append(plots.save(paths_figure(report), target / f"paths_{name}.png", report))
    for name, exhibit in read_records(records / "exhibits", EXHIBIT).items():
        drawn += _exhibit(name, exhibit, target)
    return drawn


def fill_tables(root: Path) -> list[Path]:
    """Put the tables that the pages of `root` name between their marks; returns the pages that have changed.

    In README.md and docs/*.md the lines from `<!-- table: FILE -->` to `<!-- /table -->` hold what FILE, a path from
    `root`, holds.
    """
    changed = []
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        text = page.read_text() if page.exists() else ""
        filled = re.sub(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)",
                        lambda mark: f"{mark[1]}{(root / mark[2]).read_text()}{mark[3]}", text, flags=re.DOTALL)
        if filled != text:
            page.write_text(filled)
            changed.append(page)
    return changed


def _splits(benchmark: str, found: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """The data that records of a benchmark are of, each by its split, photos and class attributes."""
    return sorted({_data(r, found) for r in found.values() if r["result"]["benchmark"] == benchmark})


def _data(record: dict[str, Any], found: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """Split, photos and class attributes; what an older record does not know is taken to be what all others of its
    benchmark and split have, where they agree (`sameness.remarks` says that it is unchecked)."""
    known = sameness.data_of(record)
    alike = [d for r in found.values() if r["result"]["benchmark"] == record["result"]["benchmark"]
             and (d := sameness.data_of(r))["split"] == known["split"]]
    for kind in sameness.DATA:
        others = {d[kind] for d in alike} - {"unchecked"}
        if known[kind] == "unchecked" and len(others) == 1:
            known[kind] = others.pop()
    return tuple(known[kind] for kind in sameness.DATA)


def _seen_unseen(benchmark: str, data: tuple[str, ...], found: dict[str, dict[str, Any]], target: Path) -> Path:
    """The curves of a benchmark; of other data under one name each gets a picture, named by what tells them apart."""
    every = _splits(benchmark, found)
    apart = [value for i, value in enumerate(data) if len({other[i] for other in every}) > 1]
    curves, results, sources = {}, {}, {}
    for file, record in found.items():
        name = method(record)
        if record["result"]["benchmark"] == benchmark and _data(record, found) == data and name not in curves:
            sweep = pd.DataFrame(record["sweep"])
            sweep["H"] = metrics.harmonic(sweep["U"].to_numpy(), sweep["S"].to_numpy())
            curves[name], results[name] = sweep, record["result"]
            sources[name] = provenance(file, record)
    axes = plots.seen_unseen_curve(curves, results)
    axes.set_title({"cub100": "CUB-100 (not the paper's CUB)", "awa35": "AWA-35 (not the paper's AWA2)"}.get(benchmark,
                                                                                                           benchmark))
    # A folder benchmark is called what its owner likes.
    name = re.sub("[^A-Za-z0-9_.-]", "-", "-".join([benchmark, *apart]))
    return plots.save(axes, target / f"seen_unseen_{name}.png", sources)


def _exhibit(name: str, exhibit: dict[str, Any], target: Path) -> list[Path]:
    """The figures of one record of `exhibits.write_exhibit`."""
    source, tsne = exhibit["provenance"], exhibit["tsne"]
    figure = draw_curves(pd.DataFrame(exhibit["curves"]["steps"]), pd.DataFrame(exhibit["curves"]["epochs"]))
    drawn = [plots.save(figure, target / f"training_{name}.png", {"provenance": source, "curves": exhibit["curves"]})]
    labels, unseen = (np.array(tsne[key]) for key in ("labels", "unseen"))
    figure = gallery.tsne_figure({n: np.array(xy) for n, xy in tsne["layouts"].items()}, labels, unseen,
                                 tsne["separation"], tsne.get("names"))
    drawn.append(plots.save(figure, target / f"tsne_{name}.png", {"provenance": source, **tsne}))
    looked = exhibit.get("attention")
    if looked:  # of birdlets alone: their pictures are made here again, a photo could not be
        bench, size = open_benchmark(DataConfig()), source["config"]["data"]["size"]
        pictures = [decode(bench.image_paths[i], size).transpose(1, 2, 0) / 255.0 for i in looked["indices"]]
        maps = {stream: np.array(m) for stream, m in looked["maps"].items()}
        figure = gallery.attention_figure(np.stack(pictures), maps, looked["titles"])
        drawn.append(plots.save(figure, target / f"attention_{name}.png", {"provenance": source, **looked}))
    return drawn
