"""`make demo`: the linear head and VSPCN on birdlets, one table, three pictures."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from vspcn_lib import metrics
from vspcn_lib.data.benchmarks import birdlets_folder
from vspcn_lib.data.birdlets import contact_sheet
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.presets import preset
from vspcn_lib.train import run
from vspcn_lib.views import gallery, plots
from vspcn_lib.views.trained import unseen_attention

COLUMNS = ("method", "U", "S", "H", "oracle H", "CZSL", "AUSUC", "trainable", "seconds")

PLAN = """birdlets is a benchmark that this project draws itself: 40 species of birds, 12 never seen in training.
  1  draw the birds, and one picture of all species              seconds
  2  train a linear head on the frozen ViT                       under a minute
  3  train VSPCN: choose the epoch on validation classes, then
     train on all training classes, then test once               about two minutes
  4  print one table, draw two pictures                          seconds
Times are for two idle cores; bars show what is left. Ctrl-C stops, the same command continues.
"""


def table(rows: dict[str, dict[str, Any]]) -> str:
    """One line a result record: percent at the validation tau, H at the oracle tau, AUSUC in 0..1."""
    wide = max([12, *(len(name) + 1 for name in rows)])
    lines = ["{:<{wide}}{:>7}{:>7}{:>7}{:>10}{:>7}{:>7}{:>12}{:>9}".format(*COLUMNS, wide=wide)]
    for name, r in rows.items():
        lines.append(f"{name:<{wide}}{r['U']:7.1f}{r['S']:7.1f}{r['H']:7.1f}{r['oracle']['H']:10.1f}{r['CZSL']:7.1f}"
                     f"{r['AUSUC']:7.3f}{r['parameters']['trainable']:12,}{r['seconds']:9.0f}")
    return "\n".join(lines)


def demo(out: Path, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Say what comes, draw birds, train both methods into `out` (finished parts are kept), print table and pictures."""
    start = time.time()
    print(PLAN, flush=True)
    sheet = contact_sheet(birdlets_folder(), out / "birdlets.png")
    print(f"birdlets, one bird a species: {sheet} ({time.time() - start:.0f} s)\n", flush=True)
    rows, curves = {}, {}
    work = Workspace.open(preset("birdlets"))  # once for both, with the words that the linear head leaves out
    for title, name in {"linear head": "birdlets-linear", "VSPCN": "birdlets"}.items():
        config = preset(name)
        config = replace(config, train=replace(config.train, seed=seed))
        folder, work = out / name, replace(work, config=config)
        rows[title] = run(config, folder, resume=(folder / "config.json").exists(), work=work)
        saved = RunFolder(folder).scores()
        curves[title] = metrics.tau_sweep(saved["scores"], saved["labels"], saved["unseen"])
    curve = plots.save(plots.seen_unseen_curve(curves, rows), out / "seen_unseen.png")
    attention = draw_attention(out / "birdlets", out / "attention.png", work)
    print(f"\nbirdlets, 28 seen + 12 unseen species, seed {seed}; epoch and tau chosen on validation classes\n")
    print(table(rows))
    print("\n'oracle H' picks tau on the test labels, as much of the literature does; it is not a result.")
    print(f"\npictures: {sheet}\n          {curve}\n          {attention}\n{time.time() - start:.0f} s in all")
    return rows


def draw_attention(run_folder: Path, target: Path, work: Workspace) -> Path:
    """The picture of `unseen_attention` of a finished run, with its open workspace."""
    work, model = load_trained(RunFolder(run_folder), work)
    chosen, maps = unseen_attention(work, model)
    titles = [plots.plain_name(work.bench.class_names[c]) for c in work.bench.labels[chosen]]
    return plots.save(gallery.attention_figure(work.pixels[chosen].transpose(0, 2, 3, 1) / 255.0, maps, titles), target)
