"""The protocol end to end with a tiny ViT: selection, retraining, one evaluation, resuming, leaks."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from vspcn_lib import losses, metrics, train
from vspcn_lib.config import Config, ConfigError, update
from vspcn_lib.data.images import Batches
from vspcn_lib.model import VSPCN
from vspcn_lib.runs import evaluation, heads
from vspcn_lib.runs.calibration import CalibrationError
from vspcn_lib.runs.evaluation import LeakError, guard
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.heads import ALONE
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.presets import LINEAR, preset
from vspcn_lib.train import Interrupted, fit, run, selection_split, thin
from vspcn_lib.zeroshot import Classes

BASE = {"data": {"size": 32}, "model": {"visual_prompts": 2, "semantic_prompts": 2, "first_strong_block": 3},
        "train": {"epochs": 2, "batch_size": 4}}


def _config(folder, **changes) -> Config:
    return update(update(Config(), BASE), {**changes, "data": {"benchmark": str(folder), "size": 32}})


@pytest.fixture
def config(tiny_folder) -> Config:
    return _config(tiny_folder)


def test_a_run_that_other_code_continued_says_so(config, tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run", config, resume=False)
    for commit, said in (("a1", "a1"), ("a1", "a1"), ("b2", "a1..b2"), ("b2", "a1..b2")):
        monkeypatch.setattr(evaluation, "environment", lambda commit=commit: {"commit": commit, "python": "3"})
        assert evaluation.made_by(folder) == {"commit": said, "python": "3"}
        folder.write_json("environment.json", evaluation.made_by(folder))


def test_a_run_writes_a_whole_record_and_its_metrics_come_from_its_scores(config, tiny_vit, tmp_path):
    out = tmp_path / "run"
    result = run(config, out, work=Workspace.open(config, tiny_vit))
    assert {p.name for p in out.iterdir()} >= {"config.json", "steps.jsonl", "epochs.jsonl", "selection.json",
                                               "checkpoint.safetensors", "scores.npz", "result.json"}
    saved = RunFolder(out).scores()
    assert saved["class_names"].tolist() == [f"bird_{i}" for i in range(8)]
    m = metrics.gzsl_metrics(saved["scores"], saved["labels"], saved["unseen"], result["tau"])
    assert (m.U, m.S, m.H, m.CZSL) == pytest.approx([result[k] for k in ("U", "S", "H", "CZSL")])
    assert result["oracle"]["H"] >= result["H"]
    begun = RunFolder(out).read_json("environment.json")
    assert result["environment"] == begun and begun["commit"]
    assert result["seed"] == 0 and len(result["split"]) == 16 and result["environment"]["versions"]["torch"]
    assert str(tmp_path) not in json.dumps({k: v for k, v in result.items() if k != "benchmark"})
    assert run(config, out, resume=True) == result  # finished: returned, nothing opened
    phases = [json.loads(line)["phase"] for line in (out / "steps.jsonl").read_text().splitlines()]
    assert phases[0] == "select" and phases[-1] == "final"


def test_the_linear_head_sees_the_same_features_as_the_vit(tiny_folder, tiny_vit, tmp_path):
    config = update(_config(tiny_folder), {"model": {"visual_prompts": 0, "semantic_prompts": 0}})
    work = Workspace.open(config, tiny_vit)
    found = work.features(np.array([1, 3]))
    images = torch.cat([x for x, _, _ in train.Workspace.open(_config(tiny_folder), tiny_vit).batches(
        np.array([1, 3]), augment=False).epoch(0)])
    assert torch.equal(found, tiny_vit.vit.forward_features(images)[:, 0])
    assert torch.equal(work.features(np.array([3, 1])), found[[1, 0]])
    assert run(config, tmp_path / "linear", work=work)["parameters"]["trainable"] == 32 * 6 + 6


def test_epochs_that_pass_in_a_blink_share_one_bar(tiny_folder, tiny_vit, tmp_path, capsys):
    config = _config(tiny_folder, model=LINEAR["model"], train={**LINEAR["train"], "epochs": 20})
    run(config, tmp_path / "linear", work=Workspace.open(config, tiny_vit))
    shown = capsys.readouterr().err
    assert shown.count(" 0%|") <= 10, shown  # photos, features of each new set, two phases; not one an epoch
    assert "select:" in shown and "scores" not in shown



@pytest.mark.parametrize("head_epochs", [0, 2])
def test_an_interrupted_run_resumes_to_the_very_same_numbers(config, tiny_vit, tmp_path, monkeypatch, head_epochs):
    config = update(config, {"train": {"head_epochs": head_epochs}})
    whole = run(config, tmp_path / "whole", work=Workspace.open(config, tiny_vit))
    calls, log = [], RunFolder.log

    def interrupt_third_step(self, name, row):
        log(self, name, row)
        calls.append(name)
        if calls.count("steps.jsonl") == 3 and name == "steps.jsonl":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunFolder, "log", interrupt_third_step)
    with pytest.raises(Interrupted, match="vspcn_lib resume"):
        run(config, tmp_path / "cut", work=Workspace.open(config, tiny_vit))
    monkeypatch.setattr(RunFolder, "log", log)
    again = run(config, tmp_path / "cut", resume=True, work=Workspace.open(config, tiny_vit))
    assert again["H"] == whole["H"] and again["tau"] == whole["tau"]
    a, b = (RunFolder(tmp_path / name).scores()["scores"] for name in ("whole", "cut"))
    np.testing.assert_array_equal(a, b)


def test_heads_alone_first_changes_heads_alone_and_lowers_their_loss(tiny_folder, tiny_vit):
    config = _config(tiny_folder, train={"head_epochs": 5, "batch_size": 4, "epochs": 2})
    work = Workspace.open(config, tiny_vit)
    model, images = work.model(), selection_split(work.bench, 0.2, 0)[0]
    before, values = {n: t.clone() for n, t in model.state().items()}, []

    def loss_parts(features, embedded, labels):
        rows = model.heads.prototypes(torch.as_tensor(work.bench.prototypes))
        parts = losses.total(model.heads.scores(embedded, rows), embedded, labels, rows[labels], 20.0, config.loss)
        values.append(parts["total"].item())
        return parts

    heads.start_heads(work, model, images, torch.arange(work.bench.num_classes), loss_parts)
    changed = {n for n, t in model.state().items() if not torch.equal(t, before[n])}
    assert changed == {n for n in before if n.startswith("heads.")}
    assert values[-1] < values[0] and all(p.grad is None for p in model.parameters())


def test_a_run_keeps_what_its_heads_alone_reach_and_says_where_that_is_more(config, tiny_vit, tmp_path, monkeypatch,
                                                                           capsys):
    result = run(config, tmp_path / "run", work=Workspace.open(config, tiny_vit))
    said, row = capsys.readouterr().out, result["head"]
    assert f"heads alone on the frozen ViT: validation H {row['H']:.1f}" in said
    assert ("made it worse" in said) == (row["H"] > result["validation"]["H"])
    for reached, worse in ((-1.0, False), (101.0, True)):
        with monkeypatch.context() as patch:
            patch.setattr(train, "head_alone", lambda *_, h=reached: {**row, "H": h})
            train.select(Workspace.open(config, tiny_vit), RunFolder.create(tmp_path / f"{worse}", config, False))
        assert ("made it worse" in capsys.readouterr().out) == worse
    # The same heads on features that no cache gave: photos through `features`, as every other method's start.
    alone = update(config, {**ALONE, "train": {"head_epochs": 30}})
    work = Workspace.open(alone, tiny_vit)
    inner, held = selection_split(work.bench, alone.train.held_out, alone.train.seed)
    model, classes = work.model(), np.unique(work.bench.labels[inner])
    monkeypatch.setattr(Workspace, "batches", lambda self, indices, augment: Batches(
        self.pixels, self.bench.labels, indices, 4, normalise=tiny_vit.normalise, device=torch.device("cpu")))
    position = torch.as_tensor(np.searchsorted(classes, np.arange(work.bench.num_classes)))
    known = Classes(torch.as_tensor(work.bench.prototypes[classes]))
    heads.start_heads(work, model, inner, position, lambda f, e, targets: model.loss(f, e, targets, known, alone))
    assert evaluation.validate(work, model, held, work.bench.val, 1)["H"] == pytest.approx(row["H"], abs=1e-9)


def test_leaks_are_errors(config, tiny_vit, tmp_path):
    work = Workspace.open(config, tiny_vit)
    bench, folder = work.bench, RunFolder.create(tmp_path / "r", config, False)
    with pytest.raises(LeakError, match="unseen"):
        fit(work, folder, "final", np.concatenate([bench.trainval, bench.test_unseen[:1]]), 1)
    with pytest.raises(LeakError, match="test images"):
        guard(bench, np.concatenate([bench.trainval, bench.test_seen[:1]]), bench.unseen_classes, "selection")
    inner, held = selection_split(bench, 0.2, 0)
    with pytest.raises(LeakError):  # a validation class in the selection phase's training
        fit(work, folder, "select", np.concatenate([inner, bench.val[:1]]), 1, (held, bench.val))


def test_selection_split_and_thinning_are_disjoint_and_complete(config, tiny_vit):
    bench = Workspace.open(config, tiny_vit).bench
    inner, held = selection_split(bench, 0.25, 1)
    assert not np.intersect1d(inner, held).size
    np.testing.assert_array_equal(np.union1d(inner, held), bench.train)
    assert not np.isin(bench.labels[inner], bench.val_classes).any()
    few = thin(bench, bench.trainval, 2, 0)
    assert np.bincount(bench.labels[few]).max() == 2 and np.isin(few, bench.trainval).all()


def test_nothing_to_calibrate_on_is_said_before_training_and_the_same_folder_takes_the_mended_settings(
        config, tiny_vit, tmp_path):
    one = update(config, {"data": {"images_per_class": 1}})
    with pytest.raises(CalibrationError, match=r"train\.calibration to raw"):
        run(one, tmp_path / "run", work=Workspace.open(one, tiny_vit))
    assert not (tmp_path / "run" / "steps.jsonl").exists()
    raw = update(one, {"train": {"calibration": "raw"}})
    assert run(raw, tmp_path / "run", work=Workspace.open(raw, tiny_vit))["calibration"]["by"] == "raw"


def test_wrong_folders_and_configs_are_named(config, tiny_vit, tmp_path):
    run(config, tmp_path / "run", work=Workspace.open(config, tiny_vit))
    with pytest.raises(RunError, match="already holds a run"):
        run(config, tmp_path / "run")
    with pytest.raises(RunError, match=r"train.lr \(0.001 -> 0.1\)"):
        run(update(config, {"train": {"lr": 0.1}}), tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="holds no run to resume"):
        run(config, tmp_path / "none", resume=True)
    with pytest.raises(RunError, match="trained on backbone"):
        RunFolder(tmp_path / "run").load_checkpoint({"tag": "other", "sha256": "f" * 64})
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"broken")
    with pytest.raises(RunError, match="damaged"):
        RunFolder(tmp_path / "run").load_checkpoint(tiny_vit.source)


def test_a_full_disk_keeps_what_was_saved(config, tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "r", config, False)
    folder.save_state({"phase": "select", "epoch": 3})
    zeros = np.zeros(2)
    folder.save_scores(scores=np.ones((2, 2)), labels=zeros, unseen=zeros, tau=zeros)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for name in ("pathlib.Path.write_bytes", "numpy.savez_compressed", "vspcn_lib.runs.folder.save_file",
                 "pathlib.Path.write_text"):
        monkeypatch.setattr(name, full)
    for write in (lambda: folder.save_state({}), lambda: folder.save_scores(scores=np.zeros(1)),
                  lambda: folder.save_checkpoint({}, {}), lambda: folder.write_json("result.json", {})):
        with pytest.raises(RunError, match=r"No space left.*--resume"):
            write()
    assert folder.load_state()["epoch"] == 3 and folder.scores()["scores"].shape == (2, 2)
    assert not list((tmp_path / "r").glob("partial-*"))


def test_size_must_fit_the_patch(config, tiny_vit):
    with pytest.raises(ConfigError, match="choose 32 or 40"):
        Workspace.open(update(config, {"data": {"size": 36}}), tiny_vit)
    assert replace(config.data, size=40).size == 40


@pytest.mark.parametrize(("change", "words"), [
    ({"model": {"alpha_v": 1.5}}, r"model.alpha_v = 1.5 is out of range.*\[0.0, 1.0\]"),
    ({"model": {"alpha_x": 0.5}}, "did you mean 'model.alpha_"), ({"modell": {}}, "unknown group"),
    ({"loss": {"lambda_ced": -1.0}}, "loss.lambda_ced"), ({"train": {"epochs": "3"}}, "must be int"),
    ({"model": {"embedding": "sideways"}}, "choose one of"), ({"loss": {"lambda_skd": float("nan")}}, "lambda_skd"),
])
def test_config_errors_name_the_field(change, words):
    with pytest.raises(ConfigError, match=words):
        update(Config(), change)


def test_presets(capsys):
    with pytest.raises(ConfigError, match="did you mean 'cub100'"):
        preset("cub10")
    assert VSPCN.cached(preset("cub100-linear")) and not VSPCN.cached(preset("cub100"))
    assert preset("sun").loss.lambda_skd == 0.35


def test_workspaces_of_both_precisions_live_in_one_process(tiny_folder, tiny_vit):
    plain, half = (Workspace.open(_config(tiny_folder, train={"precision": p}), tiny_vit) for p in ("no", "bf16"))
    for work, dtype in ((plain, torch.float32), (half, torch.bfloat16), (plain, torch.float32)):
        with work.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
