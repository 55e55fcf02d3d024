"""A row of a table holds runs of the same data, each once."""

import json

import pytest
from world import make_config, make_vit

from vspcn_lib.commands.cli import main
from vspcn_lib.config import Config, ConfigError, as_dict, update
from vspcn_lib.runs.folder import RunError
from vspcn_lib.runs.identity import KINDS
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies import runner
from vspcn_lib.studies.records import read_records, summary, write_record
from vspcn_lib.studies.runner import Job, finished
from vspcn_lib.studies.sameness import anywhere, check_same_data, distinct, remarks
from vspcn_lib.studies.tables import ablation_table, caption
from vspcn_lib.train import run


@pytest.fixture
def records(tiny_folder, tmp_path):
    """Two seeds of one run, as records."""
    for seed in (0, 1):
        config = make_config(tiny_folder, model={"visual_prompts": 0, "semantic_prompts": 0}, train={"seed": seed})
        run(config, tmp_path / f"run{seed}", work=Workspace.open(config, make_vit()))
        write_record(tmp_path / f"run{seed}", tmp_path / "records" / f"s{seed}.json", row="full", key="k")
    return tmp_path / "records"


def _changed(record, **changes):
    result = record["result"]
    return {**record, "result": {**result, **changes, "inputs": {**result["inputs"], **changes.get("inputs", {})}}}


def test_a_record_keeps_the_names_of_files_and_folders_and_no_path():
    here = {"data": {"root": "/home/a/data", "benchmark": "/home/a/my birds", "vectors": "../w2v/CUB.npy"},
            "model": {"backbone": "vit_tiny_patch16_224@/home/a/w.safetensors"}}
    kept = anywhere(update(Config(), here))
    assert (kept.data.root, kept.data.benchmark, kept.data.vectors) == ("", "my birds", "CUB.npy")
    assert kept.model.backbone == "vit_tiny_patch16_224@w.safetensors" and anywhere(kept) == kept
    assert anywhere(Config()) == Config()
    assert json.dumps(as_dict(kept)).count("/") == 0


def test_other_data_are_rows_of_their_own_and_a_run_counts_once(records, tmp_path, capsys):
    found = read_records(records)
    assert summary(found)["seeds"].tolist() == [2] and remarks(found) == []
    again = {**found, "again": json.loads((records / "s0.json").read_text())}
    assert summary(again)["seeds"].tolist() == [2]
    assert distinct(again)[1] == ["again is the run of s0 under another name: counted once"]
    with pytest.raises(RunError, match="s0 and again have the same settings, seed and data but other numbers"):
        summary({**found, "again": _changed(found["s0"], H=99.0)})
    for kind in KINDS:
        words = {"word vectors": "a" * 64}  # as of a method that reads some
        other = {"a": _changed(found["s0"], inputs=words), "b": _changed(found["s1"], inputs={**words, kind: "f" * 64})}
        table = summary(other)
        assert table["seeds"].tolist() == [1, 1] and any(f"{kind} ffffffff" in name for name in table["method"])
        with pytest.raises(RunError, match=f"a and b are of different data: another {kind}"):
            ablation_table(other)
    old = _changed(found["s1"])
    del old["result"]["inputs"]
    table = summary({"a": found["s0"], "b": old})
    assert table["seeds"].tolist() == [1, 1] and any("photos unchecked" in name for name in table["method"])
    assert "photos, class attributes" in caption({"a": found["s0"], "b": old}) and "Unchecked" in caption({"a": old})
    (records / "again.json").write_bytes((records / "s0.json").read_bytes())
    assert main(["figures", "--records", str(records), "--out", str(tmp_path / "fig")]) == 0
    assert "counted once" in capsys.readouterr().out and "counted once" in (tmp_path / "fig/results.md").read_text()


def test_words_and_backbone_may_differ_between_rows_but_not_within(records):
    found = read_records(records)
    other = _changed(found["s1"], inputs={"word vectors": "f" * 64})
    check_same_data({"a": found["s0"], "b": {**other, "row": "SP"}})
    backbone = _changed(found["s1"], inputs={"backbone": "f" * 64})
    with pytest.raises(RunError, match="another backbone"):
        check_same_data({"a": found["s0"], "b": backbone})


def test_a_job_is_finished_only_with_the_data_of_now(records, tiny_folder, tmp_path, monkeypatch):
    config, now = make_config(tiny_folder), dict.fromkeys(KINDS, "a" * 64)
    job = Job("full", config)
    monkeypatch.setattr(runner, "look_up", lambda _: dict(now))

    def write(inputs):
        result = {"inputs": inputs} if inputs else {}
        (records / f"{job.name}.json").write_text(json.dumps(
            {"row": "full", "key": job.key, "config": as_dict(config), "result": result}))

    write(now)
    assert finished(job, records)
    write({})
    assert finished(job, records)  # an older record: unchecked, and `execute` says so
    assert runner.execute([job], tmp_path / "runs", records) == {}
    for kind in KINDS:
        write({**now, kind: "b" * 64})
        with pytest.raises(ConfigError, match=f"is of other data than there are now: another {kind}"):
            finished(job, records, any_code=True)
