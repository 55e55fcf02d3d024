"""A run goes on, and is opened again, only with what it was started with."""

import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vspcn_lib import train
from vspcn_lib.config import Config, ConfigError, update
from vspcn_lib.encoders.weights import BackboneError
from vspcn_lib.methods.registry import method
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import Interrupted, run

BASE = {"data": {"size": 32}, "model": {"visual_prompts": 2, "semantic_prompts": 2, "first_strong_block": 3},
        "train": {"epochs": 2, "batch_size": 4}}
LINEAR = {"model": {"visual_prompts": 0, "semantic_prompts": 0}}


def _config(folder, **changes) -> Config:
    return update(update(Config(), BASE), {**changes, "data": {"benchmark": str(folder), "size": 32}})


@pytest.fixture
def finished(tiny_folder, tiny_vit, tmp_path):
    """A finished run of the linear head: its folder and config."""
    config = _config(tiny_folder, **LINEAR)
    run(config, tmp_path / "run", work=Workspace.open(config, tiny_vit))
    return tmp_path / "run", config


def test_a_checkpoint_of_another_config_or_with_other_weights_is_refused(finished, tiny_vit):
    out, config = finished
    work = Workspace.open(config, tiny_vit)
    assert load_trained(RunFolder(out), work)[1].training is False
    file = out / "checkpoint.safetensors"
    with safe_open(file, framework="pt") as opened:
        meta = opened.metadata()
    state = load_file(file)
    meta.pop("sha256")
    for changed in ({**state, "stray": torch.zeros(1)}, {n: t for n, t in state.items() if "embed" not in n},
                    {n: t[:2] if t.dim() == 2 else t for n, t in state.items()}):
        save_file({n: t.contiguous() for n, t in changed.items()}, file, metadata=meta)
        with pytest.raises(RunError, match=r"does not hold the weights of this model .* first '(stray|heads\.embed)"):
            load_trained(RunFolder(out), work)
    save_file(state, file, metadata=meta)
    settings = json.loads((out / "config.json").read_text())
    settings["model"]["scale"], settings["train"]["lr"] = 5.0, 0.1
    (out / "config.json").write_text(json.dumps(settings))
    with pytest.raises(RunError, match=r"model.scale \(20.0 -> 5.0\), train.lr \(0.001 -> 0.1\)"):
        load_trained(RunFolder(out), work)


def _swap(folder):
    splits = json.loads((folder / "splits.json").read_text())
    splits["trainval"][0], splits["test_seen"][0] = splits["test_seen"][0], splits["trainval"][0]
    (folder / "splits.json").write_text(json.dumps(splits))


def _exchange(folder):
    shutil.copy(folder / "images" / "bird_7" / "0.png", folder / "images" / "bird_0" / "0.png")
    (folder / "images" / "bird_7" / "0.png").write_bytes((folder / "images" / "bird_7" / "1.png").read_bytes())


def _revalue(folder):
    text = (folder / "attributes.csv").read_text().splitlines()
    text[1] = text[1].split(",")[0] + ",0.5" * (text[1].count(","))
    (folder / "attributes.csv").write_text("\n".join(text) + "\n")


def _rename(folder):
    file = folder / "attributes.csv"
    file.write_text(file.read_text().replace("crown", "head"))


@pytest.mark.parametrize(("change", "words"), [
    (_swap, "another split"), (_exchange, "another photos"), (_revalue, "another class attributes"),
    (_rename, "another word vectors")])
def test_data_that_changed_since_the_run_began_are_named(finished, tiny_folder, tiny_vit, tmp_path, change, words):
    out, config = finished
    if change is _rename:  # the linear head reads no words
        out, config = tmp_path / "words", _config(tiny_folder)
        run(config, out, work=Workspace.open(config, tiny_vit))
    change(tiny_folder)
    work = Workspace.open(config, tiny_vit)
    with pytest.raises(RunError, match=f"is finished, of other data than there are now: {words}"):
        run(config, out, resume=True, work=work)
    with pytest.raises(RunError, match=f"is finished, of other data than there are now: {words}"):
        run(config, out, resume=True)  # as the command line does, before anything is opened
    with pytest.raises(RunError, match=f"trained on other data, this is {words}"):
        load_trained(RunFolder(out), work)
    (out / "result.json").unlink()
    with pytest.raises(RunError, match=f"began with other data, this is {words}"):
        run(config, out, resume=True, work=work)


@pytest.mark.parametrize("text", ["[1]", "7", "{torn"])
def test_damaged_inputs_are_named(finished, tiny_vit, text):
    out, config = finished
    (out / "result.json").unlink()
    (out / "inputs.json").write_text(text)
    with pytest.raises(RunError, match=r"inputs.json (holds no checksums|is not valid JSON)"):
        run(config, out, resume=True, work=Workspace.open(config, tiny_vit))


def test_another_backbone_cannot_resume(finished, tiny_vit):
    out, config = finished
    (out / "result.json").unlink()
    tiny_vit.source = {**tiny_vit.source, "sha256": "1" * 64}
    with pytest.raises(RunError, match=r"another backbone \(000000000000 -> 111111111111\)"):
        run(config, out, resume=True, work=Workspace.open(config, tiny_vit))


@pytest.mark.real_cache
def test_a_mistyped_first_attempt_leaves_the_folder_free(tiny_folder, tiny_vit, tmp_path):
    wrong = _config(tiny_folder, model={"backbone": "vit_tiny_patch61_224"})
    with pytest.raises(BackboneError, match="timm has no model"):
        run(wrong, tmp_path / "run")
    misfit = _config(tiny_folder)
    with pytest.raises(ConfigError, match="not a multiple of the patch of 14 px"):  # the packaged ViT's
        run(misfit, tmp_path / "run")
    right = _config(tiny_folder, **LINEAR)
    assert run(right, tmp_path / "run", work=Workspace.open(right, tiny_vit))["H"] >= 0
    assert RunFolder(tmp_path / "run").config() == right
    with pytest.raises(RunError, match="already holds a run"):
        run(right, tmp_path / "run")


def test_images_are_shuffled_whether_or_not_they_are_augmented(tiny_folder, tiny_vit, monkeypatch):
    orders = {}
    real = Workspace.batches

    def watch(work, *args, **more):
        batches = real(work, *args, **more)
        if more.get("shuffle"):
            key = work.config.train.augment, method(work.config).cached(work.config)
            orders[key] = [np.concatenate([i for _, _, i in batches.epoch(e)]) for e in range(2)]
            raise StopIteration
        return batches

    monkeypatch.setattr(Workspace, "batches", watch)
    for augment in (True, False):
        for model in (BASE["model"], LINEAR["model"]):
            config = _config(tiny_folder, model=model, train={"augment": augment})
            work = Workspace.open(config, tiny_vit)
            with pytest.raises(StopIteration):
                train.fit(work, RunFolder(tiny_folder), "final", work.bench.trainval, 1)
    assert len(orders) == 4
    for first, second in orders.values():
        assert set(first) == set(second) == set(work.bench.trainval)
        assert not np.array_equal(first, np.sort(first)) and not np.array_equal(first, second)


def test_seconds_count_every_session_of_a_run(tiny_folder, tiny_vit, tmp_path, monkeypatch):
    config = _config(tiny_folder)
    clock, real, save = [0.0], time.monotonic, RunFolder.save_state

    def slow(folder, state):  # every state is 100 s of work
        clock[0] += 100
        save(folder, {**state, "seconds": state["seconds"] + 100})

    def stop_after_first(folder, state):
        slow(folder, state)
        raise Interrupted("stopped")

    monkeypatch.setattr(train.time, "monotonic", lambda: real() + clock[0])
    monkeypatch.setattr(RunFolder, "save_state", stop_after_first)
    for session in range(2):
        with pytest.raises(Interrupted):
            run(config, tmp_path / "run", resume=session > 0, work=Workspace.open(config, tiny_vit))
        clock[0] = 0.0  # another session: its clock knows nothing of the one before
    monkeypatch.setattr(RunFolder, "save_state", slow)
    result = run(config, tmp_path / "run", resume=True, work=Workspace.open(config, tiny_vit))
    states = 1 + result["validation"]["epoch"] + 1  # select 1 | select 2 | final 1 ..
    assert 100 * states <= result["seconds"] < 100 * states + 60


def test_copies_of_a_run_elsewhere_still_load(finished, tiny_vit, tmp_path):
    out, config = finished
    shutil.copytree(out, tmp_path / "copy")
    work = Workspace.open(config, tiny_vit)
    assert load_trained(RunFolder(tmp_path / "copy"), replace(work))[0].inputs == work.inputs
