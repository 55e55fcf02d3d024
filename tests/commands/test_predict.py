"""What `predict` says of photos: the scores of the evaluation, in the run's precision, a chunk of photos at a time."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from world import make_config, make_vit

import vspcn_lib.commands.predict as command
from vspcn_lib.commands.predict import predict
from vspcn_lib.data.images import ImageError
from vspcn_lib.runs import trained
from vspcn_lib.runs.evaluation import forward
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import run

LINEAR = {"visual_prompts": 0, "semantic_prompts": 0}


def _said(text: str, names: list[str]) -> np.ndarray:
    """The scores [n,C] that a text of `predict` gives."""
    found = re.findall(r"^ +(-?[0-9.]+)  (\w+) \(", text, re.MULTILINE)
    columns = np.array([names.index(name) for _, name in found]).reshape(-1, len(names))
    scores = np.array([float(score) for score, _ in found]).reshape(-1, len(names))
    return np.take_along_axis(scores, np.argsort(columns), 1)


@pytest.mark.parametrize("model", [LINEAR, {}], ids=["linear", "vspcn"])
def test_scores_are_those_of_the_evaluation_in_the_runs_precision(tiny_folder, tmp_path, monkeypatch, model):
    config = make_config(tiny_folder, model=model, train={"epochs": 1, "precision": "bf16"})
    work, out = Workspace.open(config, make_vit(), quiet=True), tmp_path / "run"
    run(config, out, work=work)
    saved = RunFolder(out).scores()
    photos = [work.bench.image_paths[i] for i in saved["indices"]]
    monkeypatch.setattr(trained, "load_backbone", lambda *_: make_vit())
    monkeypatch.setattr(command, "CHUNK", config.train.batch_size)  # the batches of the evaluation
    said = _said(predict(out, photos, len(saved["unseen"])), list(saved["class_names"]))
    expected = saved["scores"] + saved["tau"] * saved["unseen"]
    np.testing.assert_allclose(said, expected, atol=0.0051)  # two decimals are said
    net, kept = trained.load_alone(RunFolder(out))
    with torch.no_grad():  # in float32 they are others
        x = kept.normalise(torch.from_numpy(work.pixels[saved["indices"]]) / 255)
        plain = net.cpu().scores(forward(net, x), net.prototypes(torch.as_tensor(kept.prototypes)))
    assert np.abs(plain.numpy() - saved["scores"]).max() > 0.02


def test_many_photos_pass_in_chunks_and_a_bad_one_is_refused_before_the_model_is_loaded(tiny_folder, tmp_path,
                                                                                          monkeypatch, capsys):
    config, out = make_config(tiny_folder, model=LINEAR, train={"epochs": 1}), tmp_path / "run"
    run(config, out, work=Workspace.open(config, make_vit(), quiet=True))
    capsys.readouterr()
    photos = sorted(Path(tiny_folder, "images").rglob("*.png"))
    monkeypatch.setattr(trained, "load_backbone", lambda *_: make_vit())
    at_once, whole = predict(out, photos), []
    assert "predicting" not in capsys.readouterr().err  # 48 photos are one chunk
    embed = command.embed
    monkeypatch.setattr(command, "embed", lambda config, model, x: whole.append(len(x)) or embed(config, model, x))
    monkeypatch.setattr(command, "CHUNK", 20)
    assert predict(out, photos) == at_once and whole == [20, 20, 8]
    assert "predicting" in capsys.readouterr().err
    (tmp_path / "bad.png").write_bytes(b"no image")
    monkeypatch.setattr(command, "load_alone", lambda folder: pytest.fail("the model is loaded"))
    with pytest.raises(ImageError, match=r"bad\.png cannot be decoded"):
        predict(out, [*photos, tmp_path / "bad.png"])
