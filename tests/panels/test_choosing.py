"""Runs chosen from a list, compared in pairs, and looked into for their mistakes."""

import json
import shutil
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from vspcn_lib import metrics
from vspcn_lib.config import Config, as_dict
from vspcn_lib.data.folders import read_folder
from vspcn_lib.panels import chooser
from vspcn_lib.panels.checks import PanelError
from vspcn_lib.panels.chooser import Chooser, compare_panel, overlay_panel
from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.errors import Errors, ErrorView, Wrong
from vspcn_lib.panels.opening import opening, told
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.studies.tables import latex, paired_bootstrap
from vspcn_lib.views.found import find


@dataclass(frozen=True)
class Nothing:
    """A state without controls."""


def _scores(seed=0, tau=0.3):
    rng = np.random.default_rng(seed)
    labels, unseen = np.repeat(np.arange(6), 5), np.arange(6) > 3
    return {"scores": rng.normal(size=(30, 6)) + 1.5 * (np.arange(6) == labels[:, None]), "labels": labels,
            "unseen": unseen, "tau": np.array(tau), "indices": np.arange(30)}


@pytest.fixture
def places(tmp_path):
    """Two finished runs, one damaged, and two records, one with its score matrix."""
    outputs, records = tmp_path / "outputs", tmp_path / "records"
    result = {"H": 50.0, "benchmark": "birds", "seed": 0, "environment": {"commit": "0123456789ab"}}
    for i, name in enumerate(("one", "two")):
        folder = RunFolder(outputs / "deep" / name)
        folder.write_json("config.json", as_dict(Config()))
        folder.save_scores(**_scores(i))
        folder.write_json("result.json", {**result, "H": 50.0 + i})
    (outputs / "torn").mkdir()
    (outputs / "torn" / "config.json").write_text("{}")
    (outputs / "torn" / "result.json").write_text("{")
    (records / "scores").mkdir(parents=True)
    (records / "kept.json").write_text(json.dumps({"config": as_dict(Config()), "result": result}))
    (records / "study.json").write_text(json.dumps({"study": "x", "trials": []}))
    shutil.copy(outputs / "deep" / "one" / "scores.npz", records / "scores" / "kept.npz")
    return outputs, records


def test_every_finished_run_is_found_and_a_damaged_one_is_named(places):
    found, problems = find(*places)
    assert sorted(f.path.name for f in found) == ["kept.json", "one", "two"]
    assert len(problems) == 1 and "torn" in problems[0] and len({f.name for f in found}) == 3
    by = {f.path.name: f for f in found}
    assert by["two"].label.startswith("H 51.0 · birds · VSPCN") and "commit 0123456" in by["kept.json"].label
    np.testing.assert_array_equal(by["kept.json"].scores()["scores"], _scores(0)["scores"])
    assert by["one"].is_run and not by["kept.json"].is_run and not by["one"].is_generated
    RunFolder(by["one"].path).write_json("generate.json", {"run": "x", "settings": {"generator": "flow"}})
    again = {f.path.name: f for f in find(*places)[0]}
    assert again["one"].is_generated and " + flow" in again["one"].label and not again["two"].is_generated
    pd.testing.assert_frame_equal(by["one"].sweep(), metrics.tau_sweep(*(
        _scores(0)[k] for k in ("scores", "labels", "unseen"))))


def test_a_choice_replaces_the_panel_and_a_mistake_leaves_it(places, monkeypatch):
    monkeypatch.setattr(chooser, "all_runs", lambda: find(*places))

    def build(path):
        if path.name == "two":
            raise PanelError("this run does not fit")
        return Panel(path.name, Nothing(), [], lambda state, stop: 0, lambda state, result: Figure(figsize=(1, 1)),
                     lambda state, result: f"of {path.name}", path)

    chosen = Chooser(build, places[0] / "deep" / "one")
    assert chosen.panel.text == "of one" and "one" in chosen.list.value and "torn" in chosen.sentence
    before = chosen.panel
    chosen.open(places[0] / "deep" / "two")
    assert chosen.panel is before and "does not fit" in chosen.sentence
    chosen.open(places[0] / "deep" / "one")
    assert chosen.panel is not before and chosen.holder.children == (chosen.panel.box,) and chosen.sentence == ""
    opened = []
    monkeypatch.setattr(chosen, "open", opened.append)
    chosen.look()  # a list made anew is no choice
    assert opened == []


def test_a_chooser_says_which_step_of_opening_it_is_at(places, monkeypatch, capsys):
    monkeypatch.setattr(chooser, "all_runs", lambda: find(*places))
    said = []

    def build(_):
        with opening("a panel", "data", "pictures") as step:
            step()
            said.append(chosen.sentence if begun else "")
            step()
            said.append(chosen.sentence if begun else "")
        return overlay_panel({"mine": _scores(3)})

    begun = False
    chosen = Chooser(build, places[0] / "deep" / "one")
    assert "opening a panel" in capsys.readouterr().err  # no chooser yet: a bar where the cell's output is
    begun = True
    chosen.open(places[0] / "deep" / "one")
    assert "data (step 1 of 2), 0 s" in said[-2] and "pictures (step 2 of 2)" in said[-1]
    assert chosen.sentence == "" and capsys.readouterr().err == ""


def test_the_time_of_a_long_step_is_counted():
    heard = []
    with told(heard.append), opening("a panel", "data") as step:
        step()
        time.sleep(1.3)
    assert heard[0] == "opening a panel: begins, 0 s" and heard[-1] == "opening a panel: data (step 1 of 1), 1 s"
    ended = len(heard)
    time.sleep(0.7)
    assert len(heard) == ended


def test_several_runs_are_overlaid_by_name(places, monkeypatch):
    monkeypatch.setattr(chooser, "all_runs", lambda: find(*places))
    chosen = Chooser(overlay_panel, {"mine": _scores(3)}, several=True, fits=lambda found: found.scores_file)
    marked = {f.name: f for f in chosen.found.values()}
    chosen.open(marked)
    assert len(marked) == 3 and set(chosen.panel.view.parts.runs) == set(marked)


def test_two_runs_are_compared_with_their_paired_interval(places):
    runs = {f.name: f.of_classes() for f in find(*places)[0]}
    ours, theirs = sorted(runs)[:2]
    panel = compare_panel(runs, ours, theirs)
    difference, low, high = paired_bootstrap([runs[ours]], [runs[theirs]])
    assert f"difference {difference:+.1f} points" in panel.text and f"[{low:+.1f}, {high:+.1f}]" in panel.text
    assert panel.view.bars.values == [a for a in runs[ours]["classes"]["accuracy"] if a is not None]
    with pytest.raises(PanelError, match="no run 'mine'"):
        compare_panel(runs, "mine", theirs)


def test_errors_are_those_of_a_plain_loop_worst_first(tiny_folder):
    bench = read_folder(tiny_folder)
    rng = np.random.default_rng(0)
    indices = np.concatenate([bench.test_seen, bench.test_unseen])
    labels = bench.labels[indices]
    scores = rng.normal(size=(len(indices), bench.num_classes)) + (np.arange(bench.num_classes) == labels[:, None])
    saved = {"scores": scores, "labels": labels, "unseen": bench.unseen_mask, "indices": indices, "tau": np.array(0.2)}
    work = SimpleNamespace(bench=bench, pixels=rng.integers(0, 255, (len(bench.labels), 3, 8, 8), np.uint8))
    parts = Errors(work, saved)
    wrong = {}
    for i, row in enumerate(saved["scores"]):
        raised = [s + 0.2 * bool(u) for s, u in zip(row, bench.unseen_mask, strict=True)]
        if (c := max(range(len(raised)), key=raised.__getitem__)) != labels[i]:
            wrong[i] = raised[c] - raised[labels[i]], c
    assert list(parts.order) == sorted(wrong, key=lambda i: -wrong[i][0])
    assert sum(len(rows) for kind, rows in parts.of.items() if kind != "all") == len(wrong)
    assert parts.pairs()["images"].sum() == len(wrong)
    for row in parts.of["unseen taken for seen"]:
        assert bench.unseen_mask[labels[row]] and not bench.unseen_mask[wrong[row][1]]
    state = Wrong("all", 0)
    result = parts.compute(state)
    assert result["looked"]["row"] == parts.order[0] and isinstance(parts.draw(state, result), Figure)
    assert f"{len(wrong)} of {len(labels)} test images are wrong" in parts.describe(state, result)
    view = ErrorView(parts)
    view.show(state, result)
    assert view.gallery.labels == labels[parts.order].tolist() and view.gallery.picked == 0
    empty = replace(state, kind="seen taken for unseen", image=99)
    assert parts.row(empty) is None or parts.row(empty) == parts.of[empty.kind][-1]
    perfect = {**saved, "scores": 9.0 * (np.arange(bench.num_classes) == labels[:, None])}
    with pytest.raises(PanelError, match="recognises every test image"):
        Errors(work, perfect)


def test_a_table_becomes_latex_with_every_special_character_as_text():
    table = pd.DataFrame({"row & name": ["50 % ± 1_a", "{b}"], "H": [61.44, 7.0], "n": [3, 4], "AUSUC": [0.51234, 0.4]})
    lines = latex(table).splitlines()
    assert lines[:3] == [r"\begin{tabular}{lrrr}", r"\toprule", r"row \& name & H & n & AUSUC \\"]
    assert lines[4:6] == [r"50 \% $\pm$ 1\_a & 61.4 & 3 & 0.512 \\", r"\{b\} & 7.0 & 4 & 0.400 \\"]
    assert lines[6:] == [r"\bottomrule", r"\end{tabular}"]
