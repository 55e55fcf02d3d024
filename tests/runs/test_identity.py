"""The identity of a run's data: compared where both know it, said where an older one does not."""

import shutil

import numpy as np
import pytest
import torch
from world import make_config, make_vit

from vspcn_lib.commands.predict import predict
from vspcn_lib.config import ConfigError
from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.runs import launcher, trained
from vspcn_lib.runs.counts import check_counts
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.identity import KINDS, differences, of_result, unchecked
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import run

LINEAR = {"visual_prompts": 0, "semantic_prompts": 0}


def test_what_both_know_is_compared_and_what_one_lacks_is_unchecked():
    new = {"split": "a" * 16, "photos": "b" * 64, "class attributes": "c" * 64, "word vectors": "d" * 64,
           "backbone": "e" * 64}
    old = of_result({"split": "a" * 16, "vectors": "vectors glove-50, 50-d, sha256 dddddddddddd",
                     "backbone": {"sha256": "e" * 64}})
    assert differences(old, new) == "" and unchecked(old) == ["photos", "class attributes"]
    assert unchecked(new) == [] and tuple(new) == KINDS
    for kind in KINDS:
        assert differences({**new, kind: "0" * 64}, new) == f"another {kind} (000000000000 -> {new[kind][:12]})"
    assert differences({**old, "word vectors": "0" * 12}, new).startswith("another word vectors")
    assert differences({**old, "word vectors": "0" * 12}, {**new, "word vectors": "none"}) == ""


def test_a_finished_run_is_said_to_be_unchecked_where_its_data_are_gone(tiny_folder, tmp_path, capsys):
    config = make_config(tiny_folder, model=LINEAR)
    result = run(config, tmp_path / "run", work=Workspace.open(config, make_vit()))
    assert set(result["inputs"]) == set(KINDS) and result["inputs"]["word vectors"] == "none"
    assert result["vectors"] == "no word vectors"
    shutil.rmtree(tiny_folder)
    assert run(config, tmp_path / "run", resume=True) == result
    assert "whether its data are still the same is unchecked" in capsys.readouterr().out


def test_an_older_run_goes_on_and_says_what_is_unchecked(tiny_folder, tmp_path, capsys):
    config = make_config(tiny_folder, model=LINEAR)
    work = Workspace.open(config, make_vit())
    folder = RunFolder.create(tmp_path / "old", config, resume=False)
    folder.write_json("inputs.json", {k: v for k, v in work.inputs.items() if k != "photos"})
    folder.write_json("environment.json", {"commit": "x", "versions": {}, "device": "d"})
    folder.log("steps.jsonl", {"phase": "select", "step": 0})
    result = run(config, tmp_path / "old", resume=True, work=work)
    assert "did not keep photos: unchecked" in capsys.readouterr().out and "photos" not in result["inputs"]


def test_methods_that_read_no_words_take_attributes_without_names(tiny_folder, tmp_path):
    file = tiny_folder / "attributes.csv"
    head, *rows = file.read_text().splitlines()
    nameless = ",".join(["class", *(f"qx{i}zz" for i in range(head.count(",")))])
    file.write_text("\n".join([nameless, *rows]) + "\n")
    for model in (LINEAR, *({"method": m} for m in ("eszsl", "vpt-shallow", "vpt-deep", "finetune"))):
        work = Workspace.open(make_config(tiny_folder, model=model), make_vit())
        assert work.vector_source == "no word vectors" and work.word_vectors.shape == (6, 0)
        assert sum(p.numel() for p in work.model().parameters())
    for model in ({}, {"method": "sp"}):
        with pytest.raises(ValueError, match="word"):
            Workspace.open(make_config(tiny_folder, model=model), make_vit())


@pytest.mark.parametrize("model", [LINEAR, {}], ids=["linear", "vspcn"])
def test_predict_works_from_the_run_folder_alone_and_as_with_the_benchmark(tiny_folder, tmp_path, monkeypatch, model):
    config = make_config(tiny_folder, model=model)
    work = Workspace.open(config, make_vit())
    out = tmp_path / "run"
    run(config, out, work=work)
    photo = tmp_path / "one.png"
    shutil.copy(tiny_folder / "images" / "bird_1" / "0.png", photo)
    monkeypatch.setattr(trained, "load_backbone", lambda *_: make_vit())
    kept = (out / "classes.npz").read_bytes()
    (out / "classes.npz").unlink()  # as a run of an older version
    with monkeypatch.context() as patch:
        patch.setattr(trained.Workspace, "open", classmethod(lambda cls, *_, **__: work))
        through_the_benchmark = predict(out, [photo], 8)
    (out / "classes.npz").write_bytes(kept)
    shutil.rmtree(tiny_folder)
    assert predict(out, [photo], 8) == through_the_benchmark and through_the_benchmark.count("bird_") == 8
    for top in (0, -1):
        with pytest.raises(ConfigError, match="--top"):
            predict(out, [photo], top)
    with np.load(out / "classes.npz") as found:
        arrays = dict(found)
    np.savez(out / "classes.npz", **{**arrays, "prototypes": arrays["prototypes"] + 1})
    with pytest.raises(RunError, match="another class attributes"):
        predict(out, [photo])
    (out / "classes.npz").write_bytes(kept[:50])
    with pytest.raises(RunError, match=r"classes\.npz is damaged"):
        predict(out, [photo])


def test_what_a_launcher_asks_for_in_vain_is_said_and_changes_nothing(tiny_folder, monkeypatch, capsys):
    config = make_config(tiny_folder)
    assert launcher.ignored(config) == []
    for variable, value in {"MIXED_PRECISION": "bf16", "GRADIENT_ACCUMULATION_STEPS": "4", "USE_FSDP": "true"}.items():
        monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    said = launcher.ignored(config)
    assert len(said) == 3 and "--train.precision" in said[0] and "--train.accumulate" in said[1]
    same = make_config(tiny_folder, train={"precision": "bf16", "accumulate": 4})
    assert [s.split()[0] for s in launcher.ignored(same)] == ["--use_fsdp"]
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    work = Workspace.open(config, make_vit())
    assert "--train.precision" in capsys.readouterr().out
    weight = torch.ones(1, requires_grad=True)
    work.accelerator.backward(weight.sum())
    assert weight.grad.item() == 1.0  # accelerate would have divided it by 4


def test_counts_too_small_are_one_sentence_for_every_method(tiny_folder):
    work = Workspace.open(make_config(tiny_folder), make_vit())
    bench, some = work.bench, work.bench.train
    for method in ("vspcn", "eszsl", "vpt-deep", "sp", "finetune"):
        config = make_config(tiny_folder, model={"method": method})
        check_counts(config, bench, "select", some, (some[:1], bench.val))
        with pytest.raises(BenchmarkError, match="no held-out images"):
            check_counts(config, bench, "select", some, (some[:0], bench.val))
        with pytest.raises(BenchmarkError, match="no images of validation classes"):
            check_counts(config, bench, "select", some, (some[:1], bench.val[:0]))
        with pytest.raises(BenchmarkError, match="1 images of 1 classes"):
            check_counts(config, bench, "select", some[:1], None)
