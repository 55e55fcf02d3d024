"""A training that is set by sliders and says how far it is; alpha curves that fill in, and first answers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from vspcn_lib.config import Config, update
from vspcn_lib.panels.curves import AlphaView, TrainingView
from vspcn_lib.panels.fields import Slider
from vspcn_lib.panels.trained import AlphaProbe, Alphas
from vspcn_lib.panels.training import RetrainPanel, TrainingPanel, epoch_steps
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import run
from vspcn_lib.views.curves import draw_curves, read_curves


@pytest.fixture
def world(tiny_folder, tiny_vit):
    config = update(Config(), {"data": {"benchmark": str(tiny_folder), "size": 32}, "train": {"epochs": 1},
                               "model": {"visual_prompts": 2, "semantic_prompts": 2, "first_strong_block": 3}})
    return Workspace.open(config, tiny_vit, quiet=True)


def test_every_setting_of_a_training_has_its_folder_and_earlier_ones_are_drawn_behind(world, tmp_path, monkeypatch):
    real = Workspace.open.__func__
    monkeypatch.setattr(Workspace, "open", classmethod(
        lambda cls, config, backbone=None, quiet=False: real(cls, config, world.backbone, quiet)))
    sliders = [Slider(f"loss.lambda_{name}", 0.0, 2.0, 0.1) for name in ("ced", "skd")]
    panel = RetrainPanel(world.config, tmp_path, sliders)
    assert panel.view.losses.lines == [] and "up to 1 epochs" in panel.numbers.value
    panel.controls["loss.lambda_ced"].value = 0.5
    panel.start().wait()
    assert panel.status == "finished" and panel.config.loss.lambda_ced == 0.5
    assert panel.config.loss.lambda_skd == world.config.loss.lambda_skd
    assert (tmp_path / "lambda_ced-0.5_lambda_skd-0.9" / "result.json").exists()
    first = [line["name"] for line in panel.view.losses.lines]
    assert "total" in first and not any("lambda" in name for name in first)
    panel.controls["loss.lambda_skd"].value = 0.0
    panel.start().wait()
    behind = [line["name"] for line in panel.view.losses.lines if "lambda" in line["name"]]
    assert len(behind) == 1 and behind[0].startswith("lambda_ced-0.5, lambda_skd-0.9 (validation H ")


def test_progress_names_step_phase_loss_rate_and_time_left(world, tmp_path):
    panel = TrainingPanel(replace(world.config, train=replace(world.config.train, batch_size=8)), tmp_path / "run")
    steps = pd.DataFrame({"phase": ["select"] * 5, "total": [3.0, 2.5, 2.0, 1.5, 1.25], "time": [0, 2, 4, 6, 8]})
    assert panel.progress(steps) == "step 5  ·  selection  ·  loss 1.250  ·  4 images/s"
    panel._epoch_steps = 5, 15
    panel._thread = SimpleNamespace(is_alive=lambda: True)
    assert panel.progress(steps).endswith("4 images/s  ·  about 30 s left") and "step 5 of 20" in panel.progress(steps)


def test_curves_show_parts_and_the_border_of_the_phases():
    view = TrainingView()
    steps = pd.DataFrame({"phase": ["select", "select", "final"], "step": [0, 1, 0], "cls": [3.0, 2.0, 1.0],
                          "total": [4.0, 3.0, 2.0], "lr": 0.1, "norm": 1.0, "time": [0.0, 1.0, 2.0]})
    epochs = pd.DataFrame({"phase": ["select"], "epoch": [1], "U": [10.0], "S": [20.0], "H": [13.3]})
    view.show(steps, epochs, {"before": steps})
    assert [line["name"] for line in view.losses.lines] == ["cls", "total", "before"]
    assert view.losses.lines[0]["y"] == [3.0, 2.0, 1.0] and view.losses.rules == [2.5]
    assert [line["name"] for line in view.validation.lines] == ["U", "S", "H"]
    assert not any(line["thin"] for line in view.validation.lines)


FOLDED = (pd.DataFrame({"phase": ["select"] * 4 + ["select 2"] * 4 + ["select 3"] * 2, "total": np.arange(10.0)}),
          pd.DataFrame({"phase": ["select"] * 2 + ["select 2"] * 2 + ["select 3"], "epoch": [1, 2, 1, 2, 1],
                        **{k: np.arange(5.0) + i for i, k in enumerate("USH")}}))


def test_every_fold_of_the_selection_is_a_line_of_its_own_and_none_is_the_retrain():
    steps, epochs = FOLDED
    view, figure = TrainingView(), draw_curves(steps, epochs)
    view.show(steps, epochs, {})
    assert view.losses.rules == [4.5, 8.5]
    losses, validation = figure.axes
    assert [t.get_text().strip() for t in losses.texts] == ["selection, fold 2", "selection, fold 3"]
    drawn = [(line.get_color(), list(line.get_xdata()), list(line.get_ydata())) for line in validation.get_lines()]
    live = [(line["colour"], line["x"], line["y"]) for line in view.validation.lines]
    expected = {(k, f): (epochs.loc[rows, "epoch"].tolist(), epochs.loc[rows, k].tolist())
                for k in "USH" for f, rows in enumerate(([0, 1], [2, 3], [4]))}
    for found in (drawn, live):
        assert sorted((x, y) for _, x, y in found) == sorted(expected.values())
        assert len({colour for colour, _, _ in found}) == 3
    assert [t.get_text() for legend in figure.legends for t in legend.get_texts()] == ["total", "U", "S", "H"]
    assert [line["name"] for line in view.validation.lines if not line["thin"]] == ["U", "S", "H"]
    whole = pd.concat([steps, pd.DataFrame({"phase": ["final"] * 3, "total": [1.0] * 3})], ignore_index=True)
    view.show(whole, epochs, {})
    assert view.losses.rules == [4.5, 8.5, 10.5]
    assert draw_curves(whole, epochs).axes[0].texts[-1].get_text() == " retrain on trainval"


def test_progress_counts_the_steps_of_every_fold(world, tmp_path):
    config = update(world.config, {"train": {"folds": 3, "epochs": 2, "batch_size": 4}})
    work = replace(world, config=config)
    panel = TrainingPanel(config, tmp_path / "run")
    assert "on each of 3 draws of validation classes" in panel.numbers.value
    panel._epoch_steps = epoch_steps(work)
    steps = FOLDED[0].assign(time=0.0)
    assert "  ·  selection, fold 3  ·  " in panel.progress(steps)
    assert "  ·  retrain on trainval  ·  " in panel.progress(steps.assign(phase="final"))
    result = run(config, tmp_path / "run", work=work)
    trained = read_curves(tmp_path / "run")[0]
    assert trained["phase"].nunique() == 4 and result["H"] >= 0
    assert f"step {len(trained)} of {len(trained)}  ·  retrain" in panel.progress(trained)
    half = trained[trained["phase"] == "select"]
    assert panel._share(half) == pytest.approx(len(half) / len(trained))


def test_a_first_answer_is_that_of_few_images_and_curves_fill_in(world):
    test = np.concatenate([world.bench.test_seen, world.bench.test_unseen])
    parts = AlphaProbe(world, world.model().eval(), test, 0.5, few=4)
    state = Alphas(0.3, 0.6, 0.2)
    quick, few = parts.quick(state), np.concatenate([world.bench.test_unseen[:2], world.bench.test_seen[:2]])
    alone = AlphaProbe(world, world.model().eval(), few, 0.5).compute(state)
    assert quick["images"] == 4 and quick["at"] == alone["at"]
    full = parts.compute(state)
    assert full["images"] == len(test) and parts.quick(state) is full and parts.compute(state) is full
    view = AlphaView(parts)
    view.link(None)
    assert "fill in" in view.said.value
    parts.fill()
    assert view.said.value == "" and view.map.value.startswith(b"\x89PNG")
    for name, own in (("alpha_v", 0.3), ("alpha_s", 0.8), ("alpha_a", 0.3)):
        line = view.curves[name].lines[0]
        assert {0.0, own / 2, own, 0.5, 1.0} <= set(line["x"]) and len(line["x"]) >= 10
        at = line["x"].index(own)
        assert line["y"][at] == parts.compute(parts.trained)["at"].H
    assert parts.map.shape == (5, 5)
    corner = replace(parts.trained, alpha_v=1.0, alpha_s=0.25)
    assert parts.map.loc[1.0, 0.25] == parts._answer(corner, None, quick=True)["at"].H
    view.show(state, full)
    assert view.curves["alpha_s"].point == [0.6, full["at"].H, full["error"]]
