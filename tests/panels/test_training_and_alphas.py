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
from vspcn_lib.panels.training import RetrainPanel, TrainingPanel
from vspcn_lib.runs.workspace import Workspace


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
    epochs = pd.DataFrame({"epoch": [1], "U": [10.0], "S": [20.0], "H": [13.3]})
    view.show(steps, epochs, {"before": steps})
    assert [line["name"] for line in view.losses.lines] == ["cls", "total", "before"]
    assert view.losses.lines[0]["y"] == [3.0, 2.0, 1.0] and view.losses.rules == [2.5]
    assert [line["name"] for line in view.validation.lines] == ["U", "S", "H"]


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
