"""Panels: pure functions against the library's own numbers, and shells that survive what a reader types."""

import dataclasses
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from vspcn_lib import gallery, metrics
from vspcn_lib.config import Config, ConfigError, update
from vspcn_lib.controls import Panel
from vspcn_lib.curves import draw_curves, read_curves
from vspcn_lib.embeddings import class_separation
from vspcn_lib.fields import Choice, Slider, field_help
from vspcn_lib.folders import read_folder
from vspcn_lib.live import TrainingPanel
from vspcn_lib.panels import Attention, Look
from vspcn_lib.panels_features import Layouts, Map, Mix, StrongFusion
from vspcn_lib.panels_records import Calibration, Tau, calibration_panel, sweep_panel
from vspcn_lib.probe import Cancelled, Probe, alphas
from vspcn_lib.workspace import Workspace


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
    assert panel.text == "a 1.00" and bytes(panel.image.value).startswith(b"\x89PNG")
    assert panel.set(x=0.5, kind="b").text == "b 0.25" and panel.boxes["x"].value == "0.5"
    panel.boxes["x"].value = "-2"
    panel.wait()
    assert panel.text == "b 4.00" and panel.controls["x"].value == -2.0
    panel.set(**dataclasses.asdict(panel.first))
    assert panel.text == "a 1.00"


@pytest.mark.parametrize(("typed", "words"), [
    ("", "x is empty: enter a number from -2 to 2"), ("five", "is not a number"), ("7", "out of range"),
    ("nan", "out of range"), ("1e400", "out of range")])
def test_bad_input_is_a_sentence_and_the_panel_lives_on(tmp_path, typed, words):
    panel = _panel(tmp_path)
    panel.boxes["x"].value = typed
    panel.wait()
    assert words in panel.sentence and panel.text == "a 1.00"
    assert panel.set(x=0.5).text == "a 0.25" and panel.sentence == ""


def test_an_exception_is_shown_escaped_and_the_panel_lives_on(tmp_path):
    def compute(state, stop):
        if state.x > 1:
            raise RuntimeError("no <b>checkpoint</b>: train first")
        return state.x

    panel = _panel(tmp_path, compute).set(x=1.5)
    assert "no &lt;b&gt;checkpoint" in panel.message.value and "no <b>checkpoint" in panel.sentence
    assert panel.set(x=0.5).text == "a 0.50"


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
    assert first != second and first.read_bytes() == bytes(panel.image.value)
    record = json.loads(first.with_suffix(".json").read_text())
    assert record["state"] == {"x": 0.5, "kind": "a"} and record["numbers"] == "a 0.25"


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
    before = panel.image.value
    assert panel.set(run="two").image.value != before


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


def test_attention_maps_are_distributions_and_words_come_from_strong_fusion(world):
    work, model = world
    parts = Attention(work, model, work.bench.test_unseen)
    for stream in ("cls", "visual", "semantic"):
        found = parts.compute(Look(1, 4, stream, -1))
        assert found["map"].shape == (4, 4) and found["map"].sum() == pytest.approx(1, abs=1e-5)
        assert bool(found["words"]) == (stream == "semantic")
        assert isinstance(parts.draw(Look(1, 4, stream, 0), found), Figure)
    shallow = parts.compute(Look(1, 1, "semantic", 0))
    assert shallow["words"] == [] and "words" not in parts.describe(Look(1, 1, "semantic", 0), shallow)


def test_strong_fusion_is_shown_as_it_is_computed(world):
    work, model = world
    parts = StrongFusion(work, model, int(work.bench.test_unseen[0]))
    found = parts.compute(Mix(3, 1, 0.25, 0.5))
    for stream, alpha in (("visual", 0.25), ("semantic", 0.5)):
        p = found[stream]
        np.testing.assert_allclose(p["mix"], alpha * p["attention"] + (1 - alpha) * p["bias"], rtol=1e-6)
        assert p["mix"].sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found["visual"]["bias"], model.strong_visual[0].bias[1].softmax(0).detach(), rtol=1e-5)
    parts.draw(Mix(3, 1, 0.25, 0.5), found)


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


def test_class_separation_is_perfect_for_tight_classes():
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(4, 16)), np.repeat(np.arange(4), 10)
    tight = class_separation(centres[labels] + 0.01 * rng.normal(size=(40, 16)), labels)
    loose = class_separation(rng.normal(size=(40, 16)), labels)
    assert tight["silhouette"] > 0.95 and tight["intra/inter"] < 0.05
    assert abs(loose["silhouette"]) < 0.2 and loose["intra/inter"] == pytest.approx(1, abs=0.15)


def test_layouts_are_computed_once_for_every_perplexity(world):
    work, _ = world
    indices = np.concatenate([work.bench.test_seen, work.bench.test_unseen])
    x = np.random.default_rng(0).normal(size=(len(indices), 8)).astype(np.float32)
    parts = Layouts(work, indices, {"a": x, "b": x[:, ::-1].copy()}, (3, 5))
    assert parts.compute(Map(5, 0))["a"].shape == (len(indices), 2) and set(parts.numbers) == {"a", "b"}
    parts.draw(Map(3, len(indices) - 1), parts.compute(Map(3, 0)))


def test_training_panel_reports_a_missing_benchmark_as_a_sentence(tmp_path):
    config = update(Config(), {"data": {"benchmark": str(tmp_path / "nowhere")}})
    panel = TrainingPanel(config, tmp_path / "run").start().wait()
    assert "nowhere" in panel.status and not panel.running


def test_curves_are_read_as_far_as_they_are_written(tmp_path):
    assert [len(t) for t in read_curves(tmp_path)] == [0, 0]
    row = {"phase": "select", "step": 0, "lr": 0.1, "norm": 1.0, "cls": 2.0, "total": 2.0, "time": 1.0}
    (tmp_path / "steps.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row)[:20])
    steps, epochs = read_curves(tmp_path)
    assert len(steps) == 1 and isinstance(draw_curves(steps, epochs), Figure)


def test_pictures_of_a_benchmark_are_drawn(tiny_folder):
    bench = read_folder(Path(tiny_folder))
    for draw in (gallery.species_gallery, gallery.attribute_heatmap, gallery.split_bars):
        assert isinstance(draw(bench), Figure)
    study = {"trials": [{"model.alpha_v": a, "loss.lambda_skd": b, "H": a + b} for a in (0, 1) for b in (0.1, 0.2)]}
    assert isinstance(gallery.sweep_map(study), Figure)
