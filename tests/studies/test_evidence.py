"""Ablation rows, the runner and its tables."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vspcn_lib.commands.cli import main
from vspcn_lib.config import Config, ConfigError, as_dict, read_config, update
from vspcn_lib.metrics import class_accuracies, gzsl_metrics
from vspcn_lib.runs.folder import RunError
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies import code, runner
from vspcn_lib.studies import sweep as sweep_module
from vspcn_lib.studies.ablation import ablate
from vspcn_lib.studies.code import code_version
from vspcn_lib.studies.presets import preset
from vspcn_lib.studies.records import method, summary
from vspcn_lib.studies.rows import ROWS, named, row
from vspcn_lib.studies.runner import Job, execute, finished
from vspcn_lib.studies.sweep import parse_axis, sweep
from vspcn_lib.studies.tables import ablation_table, caption, encoder_table, generation_table, paired_bootstrap
from vspcn_lib.system.environment import cores
from vspcn_lib.train import Interrupted
from vspcn_lib.views.figures import draw_figures


def test_rows_are_distinct_changes_of_the_base():
    base = preset("cub100-small")
    configs = [json.dumps(as_dict(row(base, name)), sort_keys=True) for name in ROWS]
    assert len(set(configs)) == len(ROWS) and row(base, "full") == base
    # a mean with a head that nothing trains, or that is not there, would be no baseline
    assert {row(base, name).model.readout for name in ROWS
            if not row(base, name).model.semantic_prompts or not row(base, name).loss.lambda_skd} == {"cls"}
    with pytest.raises(ConfigError, match=r"set model\.readout to cls"):
        update(base, {"loss": {"lambda_skd": 0.0}})
    with pytest.raises(ConfigError, match="did you mean 'VPT-deep'"):
        row(base, "VPT-dep")


def test_a_key_follows_config_and_code_but_not_comments(tmp_path, monkeypatch):
    job = Job("full", Config())
    assert job.key != Job("full", update(Config(), {"model": {"alpha_v": 0.1}})).key
    shutil.copytree(code.HOUSE, tmp_path / "vspcn_lib", ignore=shutil.ignore_patterns("__pycache__"))
    before = code_version("train", "model")
    monkeypatch.setattr(code, "HOUSE", tmp_path / "vspcn_lib")

    def version() -> str:
        code_version.cache_clear()
        return code_version("train", "model")

    losses, fusion = tmp_path / "vspcn_lib/losses.py", tmp_path / "vspcn_lib/fusion.py"
    losses.write_text("# a remark\n" + losses.read_text())
    assert version() == before
    whole = losses.read_text()
    cut = whole.index("def classification")  # a definition that moves to another file changes nothing
    losses.write_text(whole[:cut] + "def jsd" + whole[cut:].split("def jsd", 1)[1])
    fusion.write_text(fusion.read_text() + "\n\n" + whole[cut:].split("def jsd", 1)[0])
    assert version() == before
    losses.write_text(losses.read_text().replace("0.5 * ((p.exp()", "0.6 * ((p.exp()"))
    assert version() != before
    code_version.cache_clear()


def _die_without_ar(out, slot, place):
    """Stands in for a run: one of the processes dies."""
    if "no-ar" in out.name:
        (out / "log.txt").write_text("out of memory\n")
        os._exit(9)


def test_the_runner_skips_the_finished_and_goes_past_the_failed(tiny_folder, tmp_path, monkeypatch):
    base = update(Config(), {"data": {"benchmark": str(tiny_folder), "size": 32}})
    jobs = [Job("full", base), Job("no AR", update(base, {"loss": {"gamma": 0.0}})), Job("no CED", base)]
    monkeypatch.setattr(runner, "finish", _die_without_ar)
    records = tmp_path / "records"
    records.mkdir()

    def write(out, target, row, key):
        target.write_text(json.dumps({"row": row, "key": key, "config": as_dict(base), "result": {}}))

    monkeypatch.setattr(runner, "write_record", write)
    failed = execute(jobs, tmp_path / "runs", records)
    assert list(failed) == ["no-ar-seed0"] and "exit status 9, out of memory" in failed["no-ar-seed0"]
    assert [finished(job, records) for job in jobs] == [True, False, True]
    monkeypatch.setattr(runner, "code_version", lambda *start: "other")
    assert not finished(jobs[0], records) and finished(jobs[0], records, any_code=True)


def _wait_for_the_other(out, slot, place):
    """Stands in for a run that ends only while another runs beside it."""
    (out.parent / f"slot{slot}").write_text(str(place["threads"]))
    for _ in range(600):
        if len(list(out.parent.glob("slot*"))) == 2:
            return
        time.sleep(0.1)
    sys.exit(1)


def test_as_many_runs_at_a_time_as_asked_for_share_the_cores(tiny_folder, tmp_path, monkeypatch):
    base = update(Config(), {"data": {"benchmark": str(tiny_folder), "size": 32}})
    monkeypatch.setattr(runner, "finish", _wait_for_the_other)
    monkeypatch.setattr(runner, "write_record", lambda out, target, row, key: target.write_text("{}"))
    (tmp_path / "records").mkdir()
    jobs = [Job("full", base), Job("no CED", base)]
    assert execute(jobs, tmp_path / "runs", tmp_path / "records", processes=2) == {}
    threads = [int(file.read_text()) for file in (tmp_path / "runs").glob("slot*")]
    assert threads == [max(1, cores() // 2)] * 2
    with pytest.raises(ConfigError, match="--processes = -1 is out of range"):
        ablate(base, ["full"], 1, tmp_path / "runs", tmp_path / "records", processes=-1)
    with pytest.raises(ConfigError, match="--seeds = 0 is out of range"):
        ablate(base, ["full"], 0, tmp_path / "runs", tmp_path / "records")


def test_records_of_other_data_are_not_replaced(tmp_path):
    base = update(Config(), {"data": {"size": 84}})
    kept = tmp_path / "full-seed0.json"
    kept.write_text(json.dumps({"row": "full", "key": "k", "config": as_dict(base), "result": {}}))
    with pytest.raises(ConfigError, match=r"full-seed0\.json is of other data.*choose another --records"):
        ablate(update(base, {"data": {"size": 56}}), ["full"], 1, tmp_path / "runs", tmp_path)
    assert "key" in kept.read_text()


def test_a_key_does_not_depend_on_where_the_data_lie():
    assert Job("full", Config()).key == Job("full", update(Config(), {"data": {"root": "elsewhere"}})).key


def _record(rng, row, seed, lift):
    accuracy = np.clip(rng.uniform(20, 60, 12) + lift, 0, 100)
    v = lift + 10 * seed  # every column has a value of its own
    unseen = np.arange(12) >= 8
    return {"row": row, "config": {"data": {"size": 84}}, "classes": {"accuracy": [*accuracy[:-1], None],
                                                                      "unseen": unseen.tolist()},
            "result": {"benchmark": "cub100", "seed": seed, "U": v + 1.0, "S": v + 2.0, "H": v + 3.0, "CZSL": v + 4.0,
                       "AUSUC": 0.1 + seed / 10, "oracle": {"H": v + 5.0}, "validation": {"H": v + 6.0},
                       "seconds": v + 7.0, "peak_gib": v + 8.0, "parameters": {"trainable": 9, "total": 10},
                       "environment": {"commit": "x"}}}


def test_paired_bootstrap_is_paired_and_its_estimate_is_the_plain_difference():
    rng = np.random.default_rng(0)
    ours, theirs = ([_record(rng, "full", s, lift) for s in range(2)] for lift in (0, 10))
    assert paired_bootstrap(ours, ours) == (0.0, 0.0, 0.0)

    def h(records):
        values = []
        for r in records:
            a, u = np.array(r["classes"]["accuracy"][:-1], float), np.array(r["classes"]["unseen"][:-1])
            U, S = a[u].mean(), a[~u].mean()
            values.append(2 * U * S / (U + S))
        return np.mean(values)

    difference, low, high = paired_bootstrap(theirs, ours)
    assert difference == pytest.approx(h(theirs) - h(ours)) and low < difference < high
    other = [{**ours[0], "classes": {**ours[0]["classes"], "unseen": [True] * 12}}]
    with pytest.raises(ValueError, match="different class splits"):
        paired_bootstrap(ours, other)
    table = ablation_table({str(i): r for i, r in enumerate([*ours, _record(rng, "ViT only", 0, 0)])})
    assert list(table["row"]) == ["ViT only", "full"] and table["paper H"].tolist() == ["59.3", "75.7"]
    row = table.set_index("row").loc["full"]  # two seeds, 10 apart: a sample deviation of 7.1
    assert row.drop("H - full").to_dict() == {
        "U": "6.0 ± 7.1", "S": "7.0 ± 7.1", "H": "8.0 ± 7.1", "oracle H": "10.0 ± 7.1", "gap": "2.0 ± 0.0",
        "validation H": "11.0 ± 7.1", "CZSL": "9.0 ± 7.1", "tau by": "raw",
        "AUSUC": "0.150 ± 0.071", "paper H": "75.7", "seeds": "2", "trainable": "9", "total": "10", "seconds": "12",
        "GiB": "18.0"}
    elsewhere = {str(i): {**r, "result": {**r["result"], "benchmark": "awa35"}} for i, r in enumerate(ours)}
    assert ablation_table(elsewhere)["paper H"].tolist() == [""]  # the paper's numbers are of CUB
    lower = [_record(rng, "ViT only", 0, -15)]
    table = ablation_table({str(i): r for i, r in enumerate([*ours, *lower])}).set_index("row")
    difference, low, high = paired_bootstrap(lower, ours[:1])  # seed 0 is all they share
    assert table.loc["ViT only", "H - full"] == f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]" and difference < -5
    assert table.loc["full", "H - full"] == ""


def test_the_share_of_the_paths_is_a_column_where_a_row_has_paths():
    rng = np.random.default_rng(0)
    ours = [_record(rng, "full", s, 0) for s in range(2)]
    for r, lost in zip(ours, (-4.0, -7.0), strict=True):
        r["result"]["paths"] = {"mean": {"all": {"H": lost}}}
    table = ablation_table({str(i): r for i, r in enumerate([*ours, _record(rng, "VPT-deep", 0, 0)])}).set_index("row")
    assert table["paths at work"].to_dict() == {"full": "5.5", "VPT-deep": ""}


def test_methods_whose_loss_reads_unseen_attributes_are_marked_in_every_table():
    rng = np.random.default_rng(0)
    records = {}
    for i, name in enumerate(("full", "PSVMA", "ZSLViT", "MSDN")):
        config = as_dict(row(preset("cub100-small"), name))
        made = _record(rng, name, 0, 0)
        records[str(i)] = {**made, "config": config,
                           "result": {**made["result"], "backbone": {"tag": "t"}, "split": "s",
                                      "environment": {"commit": "x", "device": "d"}}}
    assert ablation_table(records)["row"].tolist() == ["full", "PSVMA †", "ZSLViT", "MSDN †"]
    assert "†: the loss" in caption(records) and "†" not in caption({k: records[k] for k in "02"})
    marked = summary(records).set_index("method").index
    assert sorted(n.split(",")[0] for n in marked if "unseen attributes in the loss" in n) == ["msdn", "psvma"]


def test_h_by_tau_stands_beside_h_by_generation_in_the_seeds_that_both_have():
    rng = np.random.default_rng(0)
    start, made = _record(rng, "ViT only", 0, 0), [_record(rng, "ViT only + flow", s, 20) for s in range(2)]
    for r in made:
        r["generate"] = {"folds": 0}
        r["result"] |= {"with_tau": {"H": 40.0 + r["result"]["seed"]}, "samples": 64, "ratio": 4.0}
    table = generation_table({"a": start, "b": made[0], "c": made[1]})
    difference, low, high = paired_bootstrap(made[:1], [start])
    assert table.to_dict("records") == [{
        "features of": "ViT only", "generator": "flow", "H by tau": "3.0", "H by generation": "28.0 ± 7.1",
        "difference": f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]", "with a tau too": "40.5 ± 0.7",
        "U": "26.0 ± 7.1", "S": "27.0 ± 7.1", "CZSL": "29.0 ± 7.1", "synthetic": "64, 64", "a real one": "4, 4",
        "folds": "0", "seeds": "2"}]
    alone = generation_table({"b": made[0]}).iloc[0]
    assert alone["H by tau"] == "not recorded" and alone["difference"] == "" and generation_table({"a": start}).empty


def test_what_an_encoder_buys_is_paired_with_the_default_at_the_same_other_encoder():
    rng = np.random.default_rng(0)

    def of(row, seed, lift, **changes):
        made = _record(rng, row, seed, lift)
        config = update(Config(), {"data": {"size": 84, "vectors": changes.get("text", "glove-50")}, "model": {
            "backbone": f"packaged:{changes.get('vit', 'vit-s14')}"}, "train": {"seed": seed}})
        return {**made, "config": as_dict(config)}

    records = {"a": of("full", 0, 0), "b": of("full", 0, 5, text="minilm"), "c": of("full", 1, 9, text="minilm"),
               "d": of("full", 0, 7, vit="clip-vit-b16", text="minilm"), "e": of("ViT only", 0, -9),
               "f": of("ViT only", 0, -2, vit="clip-vit-b16"), "g": of("VPT-deep", 0, 3)}
    table = encoder_table(records)
    assert table[["method", "backbone", "text encoder", "seeds"]].values.tolist() == [
        ["linear head", "vit-s14", "none", "1"], ["linear head", "clip-vit-b16", "none", "1"],
        ["VSPCN", "vit-s14", "glove-50", "1"], ["VSPCN", "vit-s14", "minilm", "2"],
        ["VSPCN", "clip-vit-b16", "minilm", "1"]]
    text = "{:+.1f} [{:+.1f}, {:+.1f}]"
    head, words, vit = (text.format(*paired_bootstrap([records[x]], [records[y]])) for x, y in ("fe", "ba", "db"))
    assert table["text buys"].tolist() == ["", "", "", words, ""]  # of seed 0 alone; clip has no glove-50 to compare
    assert table["backbone buys"].tolist() == ["", head, "", "", vit]
    assert encoder_table({**records, "copy of a": records["a"]}).equals(table)

    def like(name, **changes):
        config = update(read_config(records[name]["config"]), changes)
        return {**records[name], "config": as_dict(config),
                "result": {**records[name]["result"], "seed": config.train.seed}}

    with pytest.raises(RunError, match="VSPCN, vit-s14, glove-50: the records a, h have other settings"):
        encoder_table({**records, "h": like("a", train={"seed": 1, "lr": 0.5})})
    other_photos = like("a", train={"seed": 1})
    other_photos["result"]["inputs"], records["a"]["result"]["inputs"] = {"photos": "1" * 64}, {"photos": "2" * 64}
    with pytest.raises(RunError, match="the records a and h are of different data: another photos"):
        encoder_table({**records, "h": other_photos})
    assert encoder_table({**records, "d": like("d", train={"lr": 0.5})})["backbone buys"].tolist()[-1] == ""
    assert len(encoder_table({**records, "h": like("e", train={"seed": 1}, data={"vectors": "minilm"})})) == len(table)


def test_a_group_of_rows_stands_for_its_members():
    assert named(["full", "peers"]) == ("full", "PSVMA", "PSVMA, frozen", "ZSLViT", "ZSLViT, frozen", "MSDN")


def test_runs_of_other_settings_are_no_seeds_of_each_other():
    rng = np.random.default_rng(0)
    records = {}
    for i, changes in enumerate(({"seed": 0}, {"seed": 1}, {"seed": 0, "lr": 3e-3})):
        records[str(i)] = {**_record(rng, "full", changes["seed"], 0),
                           "config": as_dict(update(Config(), {"train": changes}))}
    table = summary(records)
    assert table["seeds"].tolist() == [2, 1]
    assert [name.split(", ")[-1] for name in table["method"]] == ["train.lr 0.001", "train.lr 0.003"]
    assert summary({k: records[k] for k in "01"})["method"].tolist() == [method(records["0"])]


def test_another_backbone_and_other_vectors_are_named_vectors_only_where_they_are_read():
    def named_so(**changes):
        return method({**_record(np.random.default_rng(0), "full", 0, 0),
                       "config": as_dict(update(update(Config(), {"data": {"vectors": "/data/w2v.npy"}, "model": {
                           "backbone": "packaged:clip-vit-b16"}}), changes))}).split(", ")[1:]

    assert named_so() == ["cls readout", "112 px", "clip-vit-b16", "w2v.npy"]
    assert named_so(model={"visual_prompts": 0, "semantic_prompts": 0}) == ["112 px", "clip-vit-b16"]
    of_a_file = named_so(model={"backbone": "vit_tiny_patch16_224@/data/tiny.npz"})
    assert of_a_file[-2:] == ["vit_tiny_patch16_224", "w2v.npy"]
    assert named_so(model={"backbone": Config().model.backbone}, data={"vectors": "glove-50"})[-1] == "112 px"


def test_class_accuracies_average_to_u_and_s():
    rng = np.random.default_rng(1)
    scores, labels, unseen = rng.normal(size=(60, 6)), rng.integers(0, 5, 60), np.arange(6) > 3
    each, whole = class_accuracies(scores, labels, unseen, 0.3), gzsl_metrics(scores, labels, unseen, 0.3)
    assert np.isnan(each[5]) and np.nanmean(each[4:]) == pytest.approx(whole.U)
    assert each[:4].mean() == pytest.approx(whole.S)


@pytest.mark.real_cache
def test_every_row_runs_on_birdlets(tmp_path, capsys):
    assert main(["ablate", "--preset", "birdlets", "--seeds", "1", "--fast", "--out", str(tmp_path / "runs"),
                 "--records", str(tmp_path / "records")]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ROWS) and len(list((tmp_path / "records").glob("*.json"))) == len(ROWS)
    note = (tmp_path / "records" / "table.md").read_text().splitlines()[-1]
    assert all(word in note for word in ("birdlets, 42 px, packaged:vit-s14", "no result"))
    assert "ViT-B/16" not in note  # the paper's numbers are not of birdlets
    assert main(["ablate", "--preset", "birdlets", "--seeds", "1", "--fast", "--out", str(tmp_path / "runs"),
                 "--records", str(tmp_path / "records")]) == 0
    assert f"{len(ROWS)} of them finished before" in capsys.readouterr().out


def _tiny(folder) -> Config:
    return update(Config(), {"data": {"benchmark": str(folder), "size": 32}, "train": {"epochs": 1, "batch_size": 4},
                             "model": {"visual_prompts": 2, "semantic_prompts": 2, "first_strong_block": 3}})


@pytest.mark.parametrize(("axis", "words"), [
    ("model.alpha_q=0:1", "did you mean 'model.alpha_"), ("alpha_v=0:1", "is no axis"), ("model.alpha_v", "is no axis"),
    ("model.alpha_v=0:2", "out of range"), ("model.alpha_v=1:0", "LOW below HIGH"), ("model.weak=0,1", "not a value"),
    ("model.alpha_v=low,high", "not a value"), ("train.lr=0.1:0.2:ln", "is no range"),
    ("nodel.weak=true", "unknown group"), ("model.weak=false:true", "is no range")])
def test_axes_that_cannot_be_swept_are_errors_at_once(axis, words):
    with pytest.raises(ConfigError, match=words):
        parse_axis(axis)


def test_a_list_of_names_may_hold_colons():
    assert parse_axis("model.backbone=packaged:vit-s14,test_vit@w.pt")[2] == ["packaged:vit-s14", "test_vit@w.pt"]


def test_a_grid_is_run_once_and_a_study_continues_after_an_interrupt(tiny_folder, tiny_vit, tmp_path, monkeypatch):
    base = _tiny(tiny_folder)
    work = Workspace.open(base, tiny_vit)
    seen, real = [], sweep_module.select

    def select(work, folder):
        seen.append((work.config.model.alpha_v, work.config.loss.lambda_skd))
        if len(seen) == 3:
            raise Interrupted("stopped")
        return real(work, folder)

    monkeypatch.setattr(sweep_module, "select", select)
    axes = ["model.alpha_v=0.0,0.5", "loss.lambda_skd=0.1,0.9"]
    places = ("pairs", str(tmp_path / "s.db"), tmp_path / "runs", tmp_path / "records")
    with pytest.raises(Interrupted):
        sweep(base, axes, *places, trials=0, work=work)
    table = sweep(base, axes, *places, trials=0, work=work)
    points = set(zip(table["model.alpha_v"], table["loss.lambda_skd"], strict=True))
    assert points == {(a, b) for a in (0.0, 0.5) for b in (0.1, 0.9)} and len(table) == 4 and len(seen) == 5
    record = json.loads((tmp_path / "records" / "pairs.json").read_text())
    assert record["judged_on"] == "validation classes" and table["H"].is_monotonic_decreasing
    assert not list((tmp_path / "runs").rglob("scores.npz"))  # no test image was scored
    sweep(base, axes, *places, trials=0, work=work)
    assert len(seen) == 5
    with pytest.raises(ConfigError, match="begun with other settings"):
        sweep(update(base, {"model": {"scale": 5.0}}), axes, *places, trials=0, work=work)


def test_committed_figures_are_what_their_records_draw(tmp_path):
    root = Path(__file__).resolve().parents[2]
    drawn = draw_figures(root / "records", tmp_path)
    assert len({p.name for p in drawn}) == len(drawn)
    assert {p.name for p in drawn} >= {"seen_unseen_birdlets.png", "seen_unseen_cub100.png"}
    for path in drawn:
        kept = root / "figures" / path.name
        ours, theirs = (json.loads(p.with_suffix(".json").read_text()) for p in (path, kept))
        same_drawing = ours.pop("matplotlib") == theirs.pop("matplotlib")
        assert ours == theirs, f"{kept.name} is older than its records: make figures"
        assert kept.with_suffix(".pdf").exists()
        if same_drawing:  # pixels do not survive another version of matplotlib
            a, b = (np.asarray(Image.open(p).convert("RGB"), float) for p in (path, kept))
            assert a.shape == b.shape and np.sqrt(((a - b) ** 2).mean()) <= 2, kept.name
    again = draw_figures(root / "records", tmp_path / "again")
    for first, second in zip(drawn, again, strict=True):
        for suffix in (".png", ".pdf", ".json"):
            assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()
