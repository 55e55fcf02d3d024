"""Panels: pure functions against the library's own numbers, and shells that survive what a reader types."""

import base64
import configparser
import dataclasses
import hashlib
import io
import itertools
import json
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import entropy

from vspcn_lib import metrics
from vspcn_lib.config import Config, ConfigError, as_dict, update
from vspcn_lib.data.folders import read_folder
from vspcn_lib.panels import controls
from vspcn_lib.panels import features as panels_features
from vspcn_lib.panels import training as live
from vspcn_lib.panels.attention import NAMED, Attention, Look, attention_panel
from vspcn_lib.panels.checks import PanelError, spread
from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.features import Layouts, Map, Mix, StrongFusion, from_uniform, fusion_panel, tsne_panel
from vspcn_lib.panels.fields import Choice, Slider, field_help, plain
from vspcn_lib.panels.keeping import StateError, named, project_outputs
from vspcn_lib.panels.pictures import AttentionView, LayoutView
from vspcn_lib.panels.records import Calibration, Tau, calibration_panel, sweep_panel
from vspcn_lib.panels.stored import WIDGET, pre_save_hook
from vspcn_lib.panels.trained import AlphaProbe, alpha_panel
from vspcn_lib.panels.training import TrainingPanel, epoch_steps
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.presets import preset
from vspcn_lib.views import gallery, plots
from vspcn_lib.views.capture import attention_maps
from vspcn_lib.views.curves import draw_curves, read_curves
from vspcn_lib.views.embeddings import class_separation
from vspcn_lib.views.probe import Cancelled, Probe, alphas


@dataclasses.dataclass(frozen=True)
class State:
    """Two controls."""

    x: float
    kind: str


def _panel(tmp_path, compute=lambda state, stop: state.x**2) -> Panel:
    controls = [Slider("x", -2.0, 2.0, 0.1, "a <number>"), Choice("kind", ("a", "b"))]
    return Panel("Squares", State(1.0, "a"), controls, compute, lambda state, result: Figure(figsize=(1, 1)),
                 lambda state, result: f"{state.kind} {result:.2f}", tmp_path)


def test_a_move_changes_numbers_and_reset_brings_them_back(tmp_path):
    panel = _panel(tmp_path)
    assert panel.text == "a 1.00" and panel.image.alt == "Squares: a 1.00" and panel.image.value.startswith(b"\x89PNG")
    assert panel.set(x=0.5, kind="b").text == "b 0.25" and panel.controls["x"].value == 0.5
    panel.controls["x"].typed = ["-2", 1]
    panel.wait()
    assert panel.text == "b 4.00" and panel.controls["x"].value == -2.0
    panel.set(**dataclasses.asdict(panel.first))
    assert panel.text == "a 1.00"


@pytest.mark.parametrize(("typed", "words"), [
    ("", "x is empty: enter a number from -2 to 2"), ("five", "is not a number"), ("7", "out of range"),
    ("nan", "out of range"), ("1e400", "out of range")])
def test_bad_input_is_a_sentence_and_the_panel_lives_on(tmp_path, typed, words):
    panel = _panel(tmp_path)
    panel.controls["x"].typed = [typed, 1]
    panel.wait()
    assert words in panel.sentence and panel.text == "a 1.00" and words in panel.controls["x"].wrong
    assert panel.set(x=0.5).text == "a 0.25" and panel.sentence == panel.controls["x"].wrong == ""


def test_reset_and_any_other_move_heal_a_bad_text_box(tmp_path):
    panel = _panel(tmp_path)
    panel.controls["x"].typed = ["five", 1]
    panel.reset()
    assert panel.controls["x"].wrong == panel.sentence == ""
    panel.controls["x"].typed = ["five", 2]
    panel.controls["kind"].value = "b"
    panel.wait()
    assert panel.controls["x"].wrong == panel.sentence == "" and panel.text == "b 1.00"


def test_a_bad_box_keeps_its_sentence_while_an_older_computation_ends(tmp_path):
    gate = threading.Event()
    panel = _panel(tmp_path, lambda state, stop: gate.wait(20) and state.x if state.x == 2.0 else state.x)
    panel.controls["x"].value = 2.0
    panel.controls["x"].typed = ["five", 1]
    gate.set()
    panel.wait()
    assert "is not a number" in panel.sentence and panel.text == "a 2.00"


@pytest.mark.parametrize(("values", "words"), [
    ({"y": 1.0}, r"has no control 'y': choose one of x, kind"), ({"x": 3.0}, "out of range"),
    ({"kind": "c"}, "choose one of a, b"), ({"x": 0.5, "kind": "c"}, "choose one of a, b")])
def test_set_refuses_what_a_reader_could_not_enter_and_moves_nothing(tmp_path, values, words):
    panel = _panel(tmp_path)
    with pytest.raises(ValueError, match=words):
        panel.set(**values)
    assert panel.state == State(1.0, "a") and panel.controls["x"].value == 1.0


def test_whole_numbers_are_asked_for_as_such():
    whole = Slider("image", 0, 9, 1)
    assert whole.parse("3.0") == 3 and isinstance(whole.parse(np.int64(3)), int)
    with pytest.raises(ValueError, match=r"2\.5 is not a whole number: enter a whole number from 0 to 9"):
        whole.parse("2.5")


def test_neither_reset_nor_the_buttons_wait_for_a_computation(tmp_path):
    gate = threading.Event()
    panel = _panel(tmp_path, lambda state, stop: gate.wait(20) and 0.0 if state.x == 2.0 else state.x)
    panel.controls["x"].value = 2.0
    start = time.monotonic()
    panel._save_clicked()
    panel.reset()
    assert time.monotonic() - start < 5
    gate.set()
    panel.wait()
    assert panel.text == "a 1.00" and json.loads((tmp_path / "squares-1.json").read_text())["state"]["x"] == 1.0


def test_even_an_exit_in_a_computation_leaves_the_panel_alive(tmp_path):
    def compute(state, stop):
        if state.x > 1:
            raise SystemExit("over")
        return state.x

    panel = _panel(tmp_path, compute).set(x=1.5)
    assert "over" in panel.sentence and panel.set(x=0.5).text == "a 0.50"


def test_a_computation_that_cancels_itself_leaves_no_spinner(tmp_path):
    def compute(state, stop):
        if state.x > 1:
            time.sleep(0.5)
            raise Cancelled
        return state.x

    panel = _panel(tmp_path, compute).set(x=1.5)
    time.sleep(0.1)
    assert panel.sentence == "" and panel.text == "a 1.00"


def test_working_takes_the_place_of_an_old_error(tmp_path):
    gate = threading.Event()

    def compute(state, stop):
        if state.x == 1.5:
            raise RuntimeError("no checkpoint")
        return gate.wait(20) and 0.0 if state.x == 2.0 else state.x

    panel = _panel(tmp_path, compute).set(x=1.5)
    assert "no checkpoint" in panel.sentence
    panel.controls["x"].value = 2.0
    time.sleep(0.6)
    assert panel.sentence == "working ..."
    gate.set()
    panel.wait()
    time.sleep(0.4)
    assert panel.sentence == ""


def test_an_exception_is_shown_escaped_and_the_panel_lives_on(tmp_path):
    def compute(state, stop):
        if state.x > 1:
            raise RuntimeError("no <b>checkpoint</b>: train first")
        return state.x

    panel = _panel(tmp_path, compute).set(x=1.5)
    assert "no &lt;b&gt;checkpoint" in panel.message.value and "no <b>checkpoint" in panel.sentence
    assert panel.result is None and not panel.image.value and panel.numbers.value == "" and panel.picture == b""
    assert panel.image.layout.visibility == "hidden"
    saved = json.loads(panel.save().with_suffix(".json").read_text())  # what was shown last, with its own state
    assert saved["state"]["x"] == 1.0 and saved["numbers"] == "a 1.00"
    assert panel.set(x=0.5).text == "a 0.50" and panel.image.layout.visibility == "visible"


def test_a_page_without_a_kernel_gets_the_picture_only_where_there_is_one(tmp_path, monkeypatch):
    def compute(state, stop):
        if state.x > 1:
            raise RuntimeError("no checkpoint")
        return state.x

    shown = []
    monkeypatch.setattr(controls, "display", lambda bundle, raw, display_id: shown.append(bundle))
    panel = _panel(tmp_path, compute)
    panel._ipython_display_()
    panel.redraw_page()  # on no page
    assert len(shown) == 1
    panel.set(x=1.5)._ipython_display_()
    assert base64.b64decode(shown[0]["image/png"]) == panel.shown.picture and "a 1.00" in shown[0]["text/plain"]
    assert "image/png" not in shown[1] and "no checkpoint" in shown[1]["text/plain"]


def test_a_page_is_drawn_anew_in_its_place_with_what_is_known_by_then(tmp_path, monkeypatch):
    places, titles = [], iter(["early", "later"])

    class Place:
        def __init__(self):
            self.bundles = []

        def update(self, bundle, raw):
            self.bundles.append(bundle)

    monkeypatch.setattr(controls, "display", lambda bundle, raw, display_id: places.append(Place()) or places[-1])

    def draw(state, result):
        figure = Figure(figsize=(2, 1))
        figure.suptitle(next(titles))
        return figure

    panel = Panel("A panel", State(1.0, "a"), [Slider("x", 0.0, 2.0, 0.5)], lambda state, stop: state.x, draw,
                  lambda state, result: f"a {result:.2f}", saved=tmp_path)
    assert panel.figure._suptitle.get_text() == "early"
    panel._ipython_display_()
    panel.redraw_page()
    assert panel.figure._suptitle.get_text() == "later" and len(places) == 1
    (bundle,) = places[0].bundles
    assert base64.b64decode(bundle["image/png"]) == panel.picture and bundle["text/plain"] == "A panel\na 1.00"
    assert controls.WIDGET in bundle


def test_a_newer_move_cancels_the_older_computation(tmp_path):
    cancelled, started = [], threading.Event()

    def compute(state, stop):
        if state.x == 2.0:
            started.set()
            if stop.wait(20):
                cancelled.append(state.x)
                raise Cancelled
        return state.x

    panel = _panel(tmp_path, compute)
    panel.controls["x"].value = 2.0
    assert started.wait(5)
    time.sleep(0.4)
    assert "working" in panel.message.value
    assert panel.set(x=0.5).text == "a 0.50" and cancelled == [2.0] and "working" not in panel.message.value


def test_save_writes_the_picture_and_what_made_it(tmp_path):
    panel = _panel(tmp_path).set(x=0.5)
    first, second = panel.save(), panel.save()
    with Image.open(first) as kept:
        assert first != second and kept.size == (300, 300)  # one inch
    record = json.loads(first.with_suffix(".json").read_text())
    assert record["state"] == {"x": 0.5, "kind": "a"} and record["numbers"] == "a 0.25"
    first.unlink()
    first.with_suffix(".json").unlink()
    assert panel.save().name == "squares-3.png"  # never a name that was used
    panel.saved = tmp_path / "file"
    panel.saved.write_text("in the way")
    panel._save_clicked()
    assert "could not save in" in panel.sentence and "vspcn-wrong" in panel.message.value


def test_a_state_comes_back_from_its_file_and_no_other_file_moves_anything(tmp_path):
    panel = _panel(tmp_path).set(x=0.5, kind="b")
    kept = {suffix: panel.save(suffix).with_suffix(".json") for suffix in (".svg", ".pdf")}
    assert kept[".svg"].with_suffix(".svg").read_text().lstrip().startswith("<?xml")
    assert kept[".pdf"].with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    panel.reset()
    assert panel.load(str(kept[".pdf"])).text == "b 0.25"
    for words, text in (("no saved state", "[1, 2]"), ("of the panel 'Other'", '{"title": "Other", "state": {}}'),
                        ("out of range", '{"title": "Squares", "state": {"x": 9}}')):
        panel._loaded(({"content": memoryview(text.encode())},))
        assert words in panel.sentence and panel.text == "b 0.25"
    with pytest.raises(StateError, match="no saved state"):
        panel.load(kept[".svg"].with_suffix(".svg"))
    with pytest.raises(ValueError, match="has no table"):
        panel.save(".csv")


def test_what_is_finished_is_shown_although_a_newer_move_waits(tmp_path):
    gates, begun, seen = {x: threading.Event() for x in (0.5, 1.5)}, threading.Event(), []

    def compute(state, stop):
        if state.x in gates:
            begun.set()
            gates[state.x].wait(20)
        return state.x

    panel = _panel(tmp_path, compute)
    panel.numbers.observe(lambda change: seen.append(change["new"]), "value")
    panel.controls["x"].value = 0.5
    assert begun.wait(20)
    panel.controls["x"].value = 1.5
    gates[0.5].set()
    gates[1.5].set()
    panel.wait()
    assert ["0.50" in s for s in seen] == [True, False] and panel.text == "a 1.50"


def test_a_first_answer_is_marked_and_the_full_one_follows_when_the_slider_rests(tmp_path):
    seen = []
    panel = Panel("Squares", State(1.0, "a"), [Slider("x", -2.0, 2.0, 0.1)], lambda state, stop: "full",
                  lambda state, result: Figure(figsize=(1, 1)), lambda state, result: f"{state.x:g} {result}", tmp_path,
                  quick=lambda state: "quick")
    panel.numbers.observe(lambda change: seen.append(change["new"]), "value")
    for x in (0.5, 0.6, 0.7):
        panel.controls["x"].value = x
        time.sleep(0.05)
    panel.wait()
    assert seen[-2:] == [f"<pre class='vspcn-numbers'>{t}</pre>" for t in ("0.7 quick …", "0.7 full")]
    assert all("quick …" in s for s in seen[:-1])


def test_the_code_of_a_panel_is_the_librarys_own(tmp_path):
    panel = calibration_panel({"one": _scores(np.random.default_rng(0))})
    panel._show_code(True)
    assert "def compute(self, state: Tau" in panel.source_code.value and panel.source_code.layout.display == ""


def test_a_stored_notebook_keeps_pictures_and_no_live_view_beside_one():
    both, live = {"image/png": "x", WIDGET: {}}, {WIDGET: {}}
    model = {"type": "notebook", "content": {"metadata": {"widgets": {}}, "cells": [
        {"outputs": [{"data": both}, {"data": live}, {"name": "stdout"}]}, {"cell_type": "markdown"}]}}
    pre_save_hook(model, path="x")
    assert both == {"image/png": "x"} and live == {WIDGET: {}} and model["content"]["metadata"] == {}
    pre_save_hook({"type": "file", "content": "text"})


def test_the_browser_gets_what_moves_tau_exactly():
    r = _scores(np.random.default_rng(3))
    panel = calibration_panel({"one": r})
    line, bars = panel.view.curve.lines[0], panel.view.bars
    triple = r["scores"], r["labels"], r["unseen"]
    steps = np.frombuffer(bars.steps).reshape(-1, 3)
    for tau in (*np.linspace(-6, 6, 25), *np.random.default_rng(4).choice(steps[:, 0], 5) + 1e-5):
        m, at = metrics.gzsl_metrics(*triple, tau), np.searchsorted(line["at"], tau) - 1
        assert (line["x"][at], line["y"][at]) == pytest.approx((m.U, m.S), abs=1e-3)
        values = np.array(bars.values)
        np.add.at(values, steps[steps[:, 0] < tau, 1].astype(int), steps[steps[:, 0] < tau, 2])
        np.testing.assert_allclose(values, metrics.class_accuracies(*triple, tau), atol=1e-9)
    panel.view.curve.at = 1.25  # the browser links the slider too; a click on another curve chooses its run
    two = calibration_panel({"one": r, "two": _scores(np.random.default_rng(4))})
    two.view.curve.on = "two"
    two.wait()
    assert two.text.startswith("two,") and two.controls["run"].value == "two"


def test_help_texts_carry_no_raw_markup():
    assert plain("weight of the *attention* in SVPF [a_v]; `x`\n two") == "weight of the attention in SVPF (a_v); x two"
    hints = [calibration_panel({"one": _scores(np.random.default_rng(0))}).controls["tau"].hint]
    hints += [Slider("a", 0.0, 1.0, 0.1, field_help(f"model.{n}")).widget(0.5).hint for n in ("alpha_v", "alpha_s")]
    assert not any(c in hint for hint in hints for c in "*`[]")


def test_pictures_are_saved_in_the_projects_outputs_and_name_their_run(tmp_path, monkeypatch):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(tmp_path)
    assert project_outputs() == root / "outputs"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "checkpoint.safetensors").write_bytes(b"weights")
    assert named(tmp_path / "mine") == {"run": "mine", "checkpoint": hashlib.sha256(b"weights").hexdigest()}


def test_help_comes_from_the_config():
    assert "SVPF" in field_help("model.alpha_v") and "peak" in field_help("train.lr")


def _scores(rng):
    labels, unseen = rng.integers(0, 9, 80), np.arange(9) > 5
    return {"scores": rng.normal(size=(80, 9)), "labels": labels, "unseen": unseen, "tau": np.array(0.4)}


def test_calibration_shows_the_metrics_of_its_tau():
    r = _scores(np.random.default_rng(0))
    panel = calibration_panel({"one": r, "two": _scores(np.random.default_rng(1))})
    for tau in (0.0, 0.35):
        panel.set(tau=tau)
        m = metrics.gzsl_metrics(r["scores"], r["labels"], r["unseen"], tau)
        assert f"U {m.U:.2f}  S {m.S:.2f}  H {m.H:.2f}" in panel.text
    parts = Calibration({"one": r})
    found = parts.compute(Tau("one", 0.35))
    assert found["oracle"] == metrics.best_tau(metrics.tau_sweep(r["scores"], r["labels"], r["unseen"]))
    before = panel.picture
    assert panel.set(run="two").picture != before
    with pytest.raises(PanelError, match="no run to calibrate"):
        calibration_panel({})


def test_calibration_names_who_wins_and_who_loses():
    scores = np.array([[2.0, 0, 1], [2, 0, 1], [2, 0, 1], [0, 2, 1]])
    r = {"scores": scores, "labels": np.array([2, 2, 0, 1]), "unseen": np.array([False, False, True]),
         "tau": np.array(0.0), "class_names": np.array(["Red_bird", "Grey_bird", "Blue_bird"])}
    panel = calibration_panel({"one": r})
    low, high = panel.controls["tau"].min, panel.controls["tau"].max  # beyond the margins of 1 and -1
    assert "win most: none; lose most: none" in panel.text
    assert "win most: Blue bird +100; lose most: Red bird -100, Grey bird -100" in panel.set(tau=high).text
    marks = panel.result["marks"]
    assert marks["validation"] == metrics.gzsl_metrics(r["scores"], r["labels"], r["unseen"], 0.0)
    assert marks["oracle"].H == max(panel.at(tau=t)["at"].H for t in (low, 0.0, 0.5, high))
    old = calibration_panel({"old": {k: v for k, v in r.items() if k != "class_names"}})
    assert "class 2" in old.set(tau=high).text


@pytest.mark.parametrize("units", [1.0, 1e-3, 400.0])
def test_the_panel_opens_at_the_runs_own_numbers_whatever_the_units_of_its_scores(units):
    r = _scores(np.random.default_rng(5))
    r["scores"] = units * np.exp(r["scores"]) / np.exp(r["scores"]).sum(1, keepdims=True)  # probabilities, as ZSLViT's
    triple = r["scores"], r["labels"], r["unseen"]
    margins = np.sort(metrics.flips(*triple)["margin"].unique())
    closest = np.diff(margins).argmin()
    r["tau"] = margins[closest] + 0.4 * (margins[closest + 1] - margins[closest])  # in the shortest step of all
    panel, own = calibration_panel({"one": r}), metrics.gzsl_metrics(*triple, float(r["tau"]))
    assert panel.state.tau == r["tau"] and panel.result["at"] == own == panel.result["marks"]["validation"]
    line, view = panel.view.curve.lines[0], panel.view.curve
    row = np.searchsorted(line["at"], view.at) - 1  # where the browser puts the point
    assert (line["x"][row], line["y"][row]) == pytest.approx((own.U, own.S), abs=1e-3)
    slider, reach = panel.controls["tau"], abs(margins).max()
    assert slider.min < -reach and reach < slider.max <= 1.02 * reach
    assert 400 <= (slider.max - slider.min) / slider.step <= 1005
    assert f"one, tau {metrics.tau_text(r['tau'])}: U {own.U:.2f}" in panel.text
    for tau, expected in ((slider.min, 0.0), (slider.max, own.CZSL)):
        assert panel.at(tau=tau)["at"].U == expected


@settings(deadline=None)
@given(st.floats(1e-9, 1e9))
def test_a_slider_reaches_beyond_its_range_in_a_few_hundred_round_steps(reach):
    slider = Slider.beyond("tau", reach)
    assert slider.low == -slider.high and reach < slider.high <= reach + 1.001 * slider.step
    assert 399.99 <= 2 * reach / slider.step <= 1000.01 and f"{slider.step:.0e}"[0] in "125"
    assert slider.parse(f"{slider.high!r}") == slider.high and Slider.beyond("tau", 0.0).high > 1


@pytest.fixture
def world(tiny_folder, tiny_vit) -> tuple[Workspace, torch.nn.Module]:
    config = update(Config(), {"data": {"benchmark": str(tiny_folder), "size": 32},
                               "model": {"visual_prompts": 2, "semantic_prompts": 2, "first_strong_block": 3}})
    work = Workspace.open(config, tiny_vit)
    return work, work.model().eval()


def test_the_probe_equals_the_whole_model_at_any_alpha_and_leaves_it_as_it_was(world):
    work, model = world
    indices = work.bench.test_unseen[:5]
    images = torch.cat([x for x, _, _ in work.batches(indices, augment=False).epoch(0)])
    rows = torch.as_tensor(work.bench.prototypes)
    probe = Probe(model, images, rows, chunk=2)
    before = [m.alpha for m in model.strong_visual]
    for values in ((0.05, 0.8, 0.1), (1.0, 0.0, 0.7)):
        found = probe.scores(*values)
        with torch.no_grad(), alphas(model, *values):
            whole = model.heads.scores(model(images).embedded, model.heads.prototypes(rows))["cls"]
        np.testing.assert_allclose(found, whole.numpy(), atol=1e-4)
    assert [m.alpha for m in model.strong_visual] == before
    with pytest.raises(ConfigError, match="alpha_s"):
        probe.scores(0.1, 1.2, 0.1)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        probe.scores(0.1, 0.2, 0.1, stop)
    assert [m.alpha for m in model.strong_visual] == before


def test_two_threads_do_not_compute_under_each_others_alphas(world):
    work, model = world
    images = torch.cat([x for x, _, _ in work.batches(work.bench.test_unseen[:6], augment=False).epoch(0)])
    probe = Probe(model, images, torch.as_tensor(work.bench.prototypes), chunk=1)
    settings = [(0.0, 1.0, 0.9), (1.0, 0.0, 0.0)]
    alone = [probe.scores(*s) for s in settings]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(lambda i: probe.scores(*settings[i % 2]), range(12))):
            np.testing.assert_allclose(found, alone[i % 2], atol=1e-5)


def test_a_first_answer_is_a_part_of_the_full_one_and_is_not_computed_twice(world, monkeypatch):
    work, model = world
    images = torch.cat([x for x, _, _ in work.batches(work.bench.test_unseen[:6], augment=False).epoch(0)])
    rows, first = torch.as_tensor(work.bench.prototypes), [4, 1, 2]
    plain = Probe(model, images, rows).scores(0.3, 0.6, 0.2)
    probe, computed, deep = Probe(model, images, rows, chunk=2, first=first), [], model.deep
    monkeypatch.setattr(model, "deep", lambda tokens, s: computed.append(len(tokens)) or deep(tokens, s))
    np.testing.assert_allclose(probe.scores(0.3, 0.6, 0.2, few=True), plain[first], atol=1e-5)
    assert computed == [2, 1]
    np.testing.assert_allclose(probe.scores(0.3, 0.6, 0.2), plain, atol=1e-5)  # in the images' own order
    assert computed == [2, 1, 2, 1]
    np.testing.assert_allclose(probe.scores(0.3, 0.6, 0.2), plain, atol=1e-5)
    assert len(computed) == 8 and not probe._begun  # what is complete is not kept twice


def test_a_patient_computation_waits_for_every_other_one(world, monkeypatch):
    work, model = world
    images = torch.cat([x for x, _, _ in work.batches(work.bench.test_unseen[:6], augment=False).epoch(0)])
    probe, deep, order = Probe(model, images, torch.as_tensor(work.bench.prototypes), chunk=1), model.deep, []
    begun, asked = threading.Event(), threading.Event()

    def noted(tokens, attributes):
        order.append(model.strong_visual[0].alpha)
        begun.set()
        assert asked.wait(20)
        return deep(tokens, attributes)

    monkeypatch.setattr(model, "deep", noted)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(probe.scores, 0.9, 0.5, 0.5, patient=True)
        assert begun.wait(20)
        quick = pool.submit(probe.scores, 0.1, 0.5, 0.5)
        while not probe._asking:
            pass
        asked.set()
        assert quick.result(20).shape == slow.result(20).shape
    assert order == [0.9] + 6 * [0.1] + 5 * [0.9]


def test_a_probe_covers_every_class_before_it_repeats_one():
    labels = np.repeat(np.arange(5), (9, 1, 4, 2, 6))
    for count in (5, 7, 12):
        found = labels[spread(np.arange(len(labels)), labels, count)]
        assert len(found) == count and set(found) == set(range(5))
    assert np.bincount(labels[spread(np.arange(len(labels)), labels, 7)]).max() == 2
    assert len(set(labels[spread(np.arange(len(labels)), labels, 3)])) == 3
    assert sorted(spread(np.arange(len(labels)), labels, 99)) == list(range(len(labels)))


def test_the_probes_error_falls_with_the_number_of_images(world):
    work, model = world
    test = np.concatenate([work.bench.test_seen, work.bench.test_unseen])
    few, many = (AlphaProbe(work, model, np.tile(test, n), 0.5) for n in (1, 9))
    classes = np.arange(work.bench.num_classes)
    for p in (few, many):  # two of three images are recognised, by scores far above tau
        guess = np.where(np.arange(len(p.labels)) % 3 < 2, p.labels, (p.labels + 1) % len(classes))
        p.probe.scores = lambda *_, guess=guess: 9.0 * (guess[:, None] == classes)
    errors = [p.compute(p.trained)["error"] for p in (few, many)]
    assert errors[0] > 1.5 * errors[1] > 0
    few.trace(points=2)
    assert few.report().count("from 0 to 1") == 3 and "standard error" in few.report()


@pytest.mark.parametrize(("changes", "builder", "words"), [
    ({"visual_prompts": 0, "semantic_prompts": 0}, attention_panel, "method 'linear head', which has none"),
    ({"visual_prompts": 0, "semantic_prompts": 0}, fusion_panel, "method 'linear head', which has none"),
    ({"method": "eszsl"}, alpha_panel, "method 'eszsl', which has none"),
    ({"strong": False, "adapter": False}, alpha_panel, "without strong fusion"),
    ({"visual_prompts": 0}, fusion_panel, "without visual prompts")])
def test_a_run_that_does_not_fit_is_a_sentence_before_anything_is_loaded(tmp_path, changes, builder, words):
    config = update(Config(), {"model": changes, "data": {"benchmark": str(tmp_path / "nowhere")}})
    RunFolder(tmp_path).write_json("config.json", as_dict(config))
    with pytest.raises(PanelError, match=words):
        builder(tmp_path)
    with pytest.raises(RunError, match="no run folder"):
        builder(tmp_path / "mistyped")
    assert not (tmp_path / "mistyped").exists()


def test_counts_and_dictionaries_that_do_not_fit_are_sentences(world, tmp_path):
    work, _ = world
    RunFolder(tmp_path).write_json("config.json", as_dict(Config()))
    with pytest.raises(PanelError, match="images = 1: choose a whole number of 2 or more"):
        alpha_panel(tmp_path, images=1)
    with pytest.raises(PanelError, match="images = 0"):
        attention_panel(tmp_path, images=0)
    with pytest.raises(PanelError, match="at least one run"):
        tsne_panel({})
    with pytest.raises(PanelError, match="no finished trial"):
        sweep_panel({"study": "empty", "trials": []})
    one = np.flatnonzero(work.bench.labels == work.bench.unseen_classes[0])
    with pytest.raises(PanelError, match="in 1 of its classes"):
        Layouts(work, one, {"a": np.ones((len(one), 4))}, {})


def test_attention_maps_are_distributions_and_words_come_from_strong_fusion(world):
    work, model = world
    parts = Attention(work, model, work.bench.test_unseen)
    for stream in ("cls", "visual", "semantic"):
        found = parts.compute(Look(1, 4, stream, -1))
        assert found["map"].shape == (4, 4) and found["map"].sum() == pytest.approx(1, abs=1e-5)
        assert all(weight >= NAMED for _, weight in found["words"]) and (stream == "semantic" or not found["words"])
        assert isinstance(parts.draw(Look(1, 4, stream, 0), found), Figure)
    shallow = parts.compute(Look(1, 1, "semantic", 0))
    assert shallow["words"] == [] and "attends" not in parts.describe(Look(1, 1, "semantic", 0), shallow)
    deep = parts.compute(Look(1, 4, "semantic", 0))
    word, weight = deep["words"][0]
    assert f"attends to: {word} {weight:.2f}" in parts.describe(Look(1, 4, "semantic", 0), deep)
    even = entropy(deep["map"].ravel(), base=deep["map"].size)
    assert f"; spread {even:.2f} (1: even)" in parts.describe(Look(1, 4, "semantic", 0), deep)
    assert [len(row) for row in parts.alike] == [3] * 4 and parts.alike[1] == [None] * 3
    state = Look(1, 4, "semantic", 1)
    grid = parts.compute(state)["grid"]
    assert grid.shape == (4, 3, 4, 4)
    x = next(iter(work.batches(parts.indices[1:2], augment=False).epoch(0)))[0]
    with torch.no_grad(), attention_maps(model) as found:
        model(x)
    own = model.layout.split(found["backbone.vit.blocks.3.attn"].mean(1))[2][0, 1, -model.layout.patches:]
    np.testing.assert_allclose(grid[3, 2].ravel(), own / own.sum(), rtol=1e-4)
    view = AttentionView(parts)
    view.link(panel := SimpleNamespace(state=state, controls={"image": Slider("image", 0, 5, 1).widget(1)}, moved=[]))
    panel._moved = panel.moved.append
    view.show(state, parts.compute(state))
    assert view.grid.picked == [3, 2] and panel.moved == []
    view.grid.picked = [1, 0]  # a click
    assert panel.moved == [{"block": 2, "prompt": -1}]
    assert "not used by cls" in parts.describe(Look(1, 4, "cls", 1), parts.compute(Look(1, 4, "cls", 1)))


def test_streams_with_fewer_prompts_show_their_last_one_and_say_so(tiny_folder, tiny_vit):
    config = update(Config(), {"data": {"benchmark": str(tiny_folder), "size": 32},
                               "model": {"visual_prompts": 3, "semantic_prompts": 1, "first_strong_block": 3}})
    work = Workspace.open(config, tiny_vit)
    model = work.model().eval()
    parts, state = Attention(work, model, work.bench.test_unseen), Look(0, 4, "semantic", 2)
    np.testing.assert_array_equal(parts.compute(state)["map"], parts.compute(Look(0, 4, "semantic", 0))["map"])
    assert "semantic has 1, its last is shown" in parts.describe(state, parts.compute(state))
    fusion = StrongFusion(work, model, int(work.bench.test_unseen[0]))
    assert "its last prompt, 0" in fusion.describe(Mix(3, 2, 0.5, 0.5), fusion.compute(Mix(3, 2, 0.5, 0.5)))


def test_strong_fusion_is_shown_as_it_is_computed(world):
    work, model = world
    parts = StrongFusion(work, model, int(work.bench.test_unseen[0]))
    found = parts.compute(Mix(3, 1, 0.25, 0.5))
    for stream, alpha in (("visual", 0.25), ("semantic", 0.5)):
        p = found[stream]
        np.testing.assert_allclose(p["mix"], alpha * p["attention"] + (1 - alpha) * p["bias"], rtol=1e-6)
        assert p["mix"].sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found["visual"]["bias"], model.strong_visual[0].bias[1].softmax(0).detach(), rtol=1e-5)
    figure = parts.draw(Mix(3, 1, 0.25, 0.5), found)
    maps = [ax.get_images()[-1] for ax in figure.axes[1:4]]
    assert len({m.get_clim() for m in maps}) == 1, "maps of one row need one scale"
    assert len({ax.get_xlim() for ax in figure.axes[4:]}) == 1
    bias = found["visual"]["bias"]
    assert f"bias {np.abs(bias - 1 / len(bias)).sum() / 2:.3f}" in parts.describe(Mix(3, 1, 0.25, 0.5), found)
    assert from_uniform(np.full(8, 1 / 8)) == 0 and from_uniform(np.eye(8)[0]) == pytest.approx(7 / 8)


def test_a_recorded_sweep_is_walked_by_its_own_values():
    values = [(a, b, 10 * a + b) for a in (0.0, 0.5, 1.0) for b in (1.0, 2.0)][:-1]  # (1, 2) was not run
    trials = [{"number": i, "loss.lambda_ced": a, "loss.lambda_skd": b, "U": h, "S": h, "H": h, "tau": 0.0, "epoch": 1}
              for i, (a, b, h) in enumerate(values)]
    panel = sweep_panel({"study": "pairs", "trials": trials})
    assert dataclasses.asdict(panel.state) == {"lambda_ced": 1.0, "lambda_skd": 1.0} and "H 11.0 (+0.0" in panel.text
    before = panel.image.value
    assert "H 2.0 (-9.0 against the best of 5 trials)" in panel.set(lambda_ced=0.0, lambda_skd=2.0).text
    assert panel.image.value != before
    assert "not in the record" in panel.set(lambda_ced=1.0).text
    single = sweep_panel({"study": "one", "trials": [{k: v for k, v in t.items() if k != "loss.lambda_skd"}
                                                     for t in trials]})
    assert "lambda_ced 1: validation" in single.text


@pytest.mark.parametrize("axes", [("model.weak",), ("model.embedding",), ("model.weak", "model.embedding")])
def test_a_sweep_over_words_and_truth_values_is_walked_too(axes):
    options = {"model.weak": (False, True), "model.embedding": ("semantic-to-visual", "visual-to-semantic")}
    trials = [{"number": i, **dict(zip(axes, values, strict=True)), "U": i, "S": i, "H": float(i), "tau": 0.0}
              for i, values in enumerate(itertools.product(*(options[a] for a in axes)))]
    panel = sweep_panel({"study": "words", "trials": trials})
    first = {a.partition(".")[2]: options[a][0] for a in axes}
    before = panel.image.value
    assert "H 0.0" in panel.set(**first).text and panel.image.value != before
    assert str(next(iter(first.values()))) in panel.text


def test_class_separation_is_perfect_for_tight_classes():
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(4, 16)), np.repeat(np.arange(4), 10)
    tight = class_separation(centres[labels] + 0.01 * rng.normal(size=(40, 16)), labels)
    loose = class_separation(rng.normal(size=(40, 16)), labels)
    assert tight["silhouette"] > 0.95 and tight["intra/inter"] < 0.05
    assert abs(loose["silhouette"]) < 0.2 and loose["intra/inter"] == pytest.approx(1, abs=0.15)


def test_layouts_are_computed_once_for_every_perplexity(world, monkeypatch):
    work, _ = world
    indices = np.concatenate([work.bench.test_seen, work.bench.test_unseen])
    x = np.random.default_rng(0).normal(size=(len(indices), 8)).astype(np.float32)
    calls = []
    monkeypatch.setattr(panels_features, "tsne_layout", lambda x, p: calls.append(p) or x[:, :2] + p)
    predicted = {"a": work.bench.labels[indices], "b": 0 * indices}
    parts = Layouts(work, indices, {"a": x, "b": x[:, ::-1].copy()}, predicted)
    for perplexity in (3, 5, 3):
        found = parts.compute(Map(perplexity, 0))
        np.testing.assert_array_equal(found["layouts"]["a"], x[:, :2] + perplexity)
        figure = parts.draw(Map(perplexity, len(indices) - 1), found)
        state = Map(perplexity, 0)
        assert "image 0" in parts.describe(state, found) and "a: right" in parts.describe(state, found)
    view = LayoutView(parts)
    view.show(Map(5, 0), parts.compute(Map(5, 0)))
    sent = np.frombuffer(view.scatter.layouts, np.float32).reshape(2, len(indices), 2)
    np.testing.assert_allclose(sent[0], x[:, :2] + 5)
    with Image.open(io.BytesIO(view.scatter.atlas)) as sheet:
        assert sheet.size == (64 * view.scatter.columns, 64 * -(-len(indices) // view.scatter.columns))
        tile = np.asarray(sheet, float)[:64, :64].mean((0, 1))
    np.testing.assert_allclose(tile, work.pixels[indices[0]].mean((1, 2)), atol=6)  # the first image is the first tile
    assert calls == [3, 3, 5, 5]
    unseen = {gallery.plain_name(work.bench.class_names[c]) for c in work.bench.unseen_classes}
    assert {text.get_text() for text in figure.legends[0].get_texts()} == unseen


def test_no_two_of_many_unseen_classes_look_alike_and_a_long_legend_is_left_out():
    marks = [tuple(gallery._mark(i).values()) for i in range(48)]
    assert len(set(marks)) == 48
    figure = Figure()
    gallery.class_legend(figure, np.arange(17), [str(i) for i in range(17)])
    assert not figure.legends


def test_training_panel_reports_a_missing_benchmark_as_a_sentence(tmp_path):
    config = update(Config(), {"data": {"benchmark": str(tmp_path / "nowhere")}})
    panel = TrainingPanel(config, tmp_path / "run").start().wait()
    assert "nowhere" in panel.status and not panel.running


def test_a_training_panel_keeps_its_words_and_bars_out_of_other_cells(world, tmp_path, monkeypatch, capsys):
    work, _ = world
    config = replace(work.config, train=replace(work.config.train, epochs=2, batch_size=4))
    opened = []
    real, stdout = Workspace.open.__func__, sys.stdout

    def open_tiny(cls, config, backbone=None, quiet=False):
        opened.append(quiet)
        return real(cls, config, work.backbone, quiet)

    monkeypatch.setattr(Workspace, "open", classmethod(open_tiny))
    panel = TrainingPanel(config, tmp_path / "run")
    thread, seen = panel.start()._thread, []
    while thread.is_alive():
        assert sys.stdout is stdout
        panel.refresh()
        seen.append(panel.bar.value)
        thread.join(0.05)
    panel.wait()
    out = capsys.readouterr()
    assert panel.status == "finished" and opened == [True] and out.out == "" and out.err == ""
    assert panel.bar.value == 1.0 and max(seen) <= 1.0
    steps, _ = read_curves(tmp_path / "run")
    counts, planned = steps.groupby("phase").size(), epoch_steps(work_of(config, work))
    best = json.loads((tmp_path / "run" / "selection.json").read_text())["best"]["epoch"]
    assert counts["select"] == 2 * planned[0] and counts["final"] == best * planned[1]
    (tmp_path / "run" / "result.json").unlink()
    assert panel._share(steps) == 0.99  # every step is counted, of both phases
    half = steps[steps["phase"] == "select"]
    assert panel._share(half) == pytest.approx(len(half) / len(steps))


def test_the_demos_run_is_finished_in_its_own_folder_alone(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(live, "project_outputs", lambda: tmp_path)
    monkeypatch.setattr(live, "run", lambda *args, **more: calls.append((*args, more)))
    assert live.demo_run() == tmp_path / "demo" / "birdlets"
    assert live.demo_run("birdlets-linear").name == "birdlets-linear"
    assert [(config, out.name, more) for config, out, more in calls] == [
        (preset(name), name, {"resume": False}) for name in ("birdlets", "birdlets-linear")]


def work_of(config: Config, work: Workspace) -> Workspace:
    """The same data under another config."""
    return replace(work, config=config)


def test_curves_are_read_as_far_as_they_are_written(tmp_path):
    assert [len(t) for t in read_curves(tmp_path)] == [0, 0]
    row = {"phase": "select", "step": 0, "lr": 0.1, "norm": 1.0, "cls": 2.0, "total": 2.0, "time": 1.0}
    (tmp_path / "steps.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row)[:20])
    steps, epochs = read_curves(tmp_path)
    assert len(steps) == 1 and isinstance(draw_curves(steps, epochs), Figure)


def test_pictures_of_a_benchmark_are_drawn(tiny_folder):
    bench = read_folder(Path(tiny_folder))
    names = {gallery.plain_name(n) for n in bench.class_names}
    birds = [ax for ax in gallery.species_gallery(bench).axes if ax.get_images()]
    assert {ax.get_title().replace("\n", " ") for ax in birds} == names
    orange = {ax.get_title().replace("\n", " ") for ax in birds if ax.title.get_color() == plots.COLOURS[1]}
    assert orange == {gallery.plain_name(bench.class_names[c]) for c in bench.unseen_classes}
    heat = gallery.attribute_heatmap(bench).axes
    rows = next(ax for ax in heat if {t.get_text() for t in ax.get_yticklabels()} == names).get_yticklabels()
    unseen = {gallery.plain_name(bench.class_names[c]) for c in bench.unseen_classes}
    assert {t.get_text() for t in rows if t.get_color() == plots.COLOURS[1]} == unseen
    bars = gallery.split_bars(bench).axes[0]
    assert sum(p.get_height() for p in bars.patches) == len(bench.trainval) + len(bench.test_seen) + len(
        bench.test_unseen)
    study = {"trials": [{"model.alpha_v": a, "loss.lambda_skd": b, "H": a + b} for a in (0, 1) for b in (0.1, 0.2)]}
    cells = {t.get_text() for t in gallery.sweep_map(study).axes[0].texts}
    assert cells == {"0.1", "0.2", "1.1", "1.2"}


def test_lines_beyond_the_sixth_are_drawn_and_differ():
    assert len({tuple(plots.line(i).values()) for i in range(24)}) == 24
    sweep = metrics.tau_sweep(*[_scores(np.random.default_rng(0))[k] for k in ("scores", "labels", "unseen")])
    results = {f"run {i}": {"U": 10.0 + i, "S": 20.0} for i in range(8)}
    ax = plots.seen_unseen_curve({name: sweep for name in results}, results)
    dots = [(*line.get_xdata(), *line.get_ydata()) for line in ax.get_lines() if line.get_marker() == "o"]
    assert dots == [(r["U"], r["S"]) for r in results.values()]  # whatever tau a middle of a step is nearest to
    assert len(ax.get_legend().get_texts()) == 8
    inside = [t for t in ax.texts if t.get_text().startswith("H ")]
    limit = ax.get_xlim()[1]
    assert len(inside) >= len(range(10, int(limit), 10)) - 1 >= 3  # the last line may be too short for its label
    assert all(max(t.get_position()) <= limit for t in inside)
    plt.close(ax.figure)
    steps = pd.DataFrame({"phase": ["select"], **{f"part {i}": [1.0] for i in range(8)}})
    assert len(draw_curves(steps, pd.DataFrame()).axes[0].get_lines()) == 8


def test_the_filter_of_notebook_outputs_masks_commits_and_no_numbers():
    config = configparser.ConfigParser(interpolation=None)
    config.read(Path(__file__).resolve().parents[1] / "nbval.cfg")
    masked = lambda text: re.sub(config["commit"]["regex"], "HASH", text)  # noqa: E731
    assert masked("at 82b1d383816e, 821d9263ad1a-dirty") == "at HASH, HASH"
    for kept in ("0.123456789012", "1234567 of 9019542", "H 69.7460000001", "facade", "123456789012"):
        assert masked(kept) == kept
