"""The campaigns in their short form, and each promise of trust by itself: nothing lost, nothing let in."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import corpus
import faults
import fuzz
import load
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from world import make_config, make_folder, make_vit

from vspcn_lib import losses, train
from vspcn_lib.config import ConfigError, update
from vspcn_lib.data import archives
from vspcn_lib.data.folders import read_folder
from vspcn_lib.data.splits import BenchmarkError
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.pieces import DeviceFull, Pieces
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.records import markdown
from vspcn_lib.studies.sweep import sweep
from vspcn_lib.system.files import Busy, Damaged, checked, exclusive, unchecked, whole_rows
from vspcn_lib.train import fit, run
from vspcn_lib.views import gallery

ROOT = Path(__file__).resolve().parents[2]


# ---- campaigns ---
def test_faults_in_short(tmp_path):
    found = faults.campaign(tmp_path, kills=4, steps=3)
    assert found["total"]["kills"] >= 8 and found["total"]["not the same"] == 0, found
    assert found["determinism"]["two runs differ in"] == []
    for part in found["faults"].values():
        if "one clear error" in part:
            assert part["one clear error"] == part["tried"], found
        assert not part.get("not the same") and not part.get("not the same after it") and not part.get("the other hung")
    named = found["faults"]["NaN in pixels, loss, gradients, attributes, word vectors"]
    assert named["named in one clear error"] == named["tried"], found
    small = found["faults"]["out of device memory"]
    assert small["finished"] and small["said"][0]["images_at_once"] == 1 and small["largest score difference"] < 1e-3


def test_every_input_of_the_campaign_gets_the_right_answer(tmp_path):
    found = corpus.campaign(tmp_path)
    assert found["total"]["tried"] >= 800 and found["total"]["read"] >= 80
    assert not found["failures"], "\n".join(found["failures"])


def test_load_in_short(tmp_path):
    found = load.campaign(tmp_path, images=1000, classes=50, records=1000)
    assert found["VSPCN"]["images"] == found["linear head"]["images"] == 1000
    assert found["list"]["rows"] == 1
    for name in ("VSPCN", "linear head"):
        assert found[name]["GiB at most"] - found[name]["GiB before"] < 0.5


@pytest.mark.parametrize("parser", fuzz.PARSERS)
def test_parsers_accept_or_refuse_whatever_comes(parser):
    seeds = st.sampled_from(fuzz.SEEDS.get(parser, [b""]))
    cut = st.tuples(seeds, st.integers(0, 200), st.binary(max_size=20)).map(lambda t: t[0][:t[1]] + t[2] + t[0][t[1]:])

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.one_of(cut, st.binary(max_size=300), st.text(max_size=100).map(lambda t: t.encode())))
    @example(b"")
    def whatever(data: bytes) -> None:
        fuzz.check(parser, data)

    whatever()


# ---- runs ---
@pytest.fixture
def work(tiny_folder) -> Workspace:
    return Workspace.open(make_config(tiny_folder), make_vit())


def _finished(work: Workspace, out: Path) -> Path:
    run(work.config, out, work=work)
    return out


def test_training_draws_nothing_outside_of_seed_epoch_and_batch(work, tmp_path):
    """No generator needs to be saved, because none is used after the model's start."""
    folder = RunFolder.create(tmp_path / "r", work.config, False)
    fit(work, folder, "final", work.bench.trainval, 1)
    torch.manual_seed(work.config.train.seed)
    model = work.model()  # reseeds, and draws the start
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    real, work.__class__.model = work.__class__.model, lambda self: model
    try:
        before = torch.get_rng_state()
        fit(work, RunFolder.create(tmp_path / "s", work.config, False), "final", work.bench.trainval, 2)
        assert torch.equal(torch.get_rng_state(), before)
    finally:
        work.__class__.model = real
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])


@pytest.mark.parametrize("accumulate", [2, 3])
def test_resume_at_any_step_is_bit_for_bit_with_accumulated_gradients(tiny_folder, tmp_path, monkeypatch, accumulate):
    work = Workspace.open(make_config(tiny_folder, train={"accumulate": accumulate, "batch_size": 3}), make_vit())
    whole = _finished(work, tmp_path / "whole")
    steps = len(whole_rows(whole / "steps.jsonl"))
    log = RunFolder.log
    for at in range(1, steps, 3):
        out, count = tmp_path / f"cut-{at}", []

        def stop_at(self, name, row, at=at, count=count):
            log(self, name, row)
            count.append(name)
            if count.count("steps.jsonl") == at:
                os.kill(os.getpid(), 2)

        monkeypatch.setattr(RunFolder, "log", stop_at)
        with contextlib.suppress(train.Interrupted):
            run(work.config, out, work=work)
        monkeypatch.setattr(RunFolder, "log", log)
        run(work.config, out, resume=True, work=work)
        assert faults.same_run(whole, out) == []


def test_a_damaged_state_is_refused_and_the_one_before_it_used(work, tmp_path, capsys):
    whole = _finished(work, tmp_path / "whole")
    out = _finished(work, tmp_path / "run")
    for name in ("result.json", "scores.npz", "checkpoint.safetensors", "selection.json"):
        (out / name).unlink()
    data = bytearray((out / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (out / "state.pt").write_bytes(data)
    run(work.config, out, resume=True, work=work)
    assert "state.pt is damaged (its checksum is" in capsys.readouterr().out and faults.same_run(whole, out) == []
    for name in ("state.pt", "state-previous.pt"):
        (out / name).write_bytes(b"rubbish")
    with pytest.raises(RunError, match=r"damaged .* delete state\*\.pt"):
        RunFolder(out).load_state()


def test_a_flipped_bit_in_a_checkpoint_is_refused(work, tmp_path):
    out = _finished(work, tmp_path / "run")
    data = bytearray((out / "checkpoint.safetensors").read_bytes())
    data[-5] ^= 1
    (out / "checkpoint.safetensors").write_bytes(data)
    with pytest.raises(RunError, match=r"damaged .*checksum"):
        RunFolder(out).load_checkpoint(work.backbone.source)


def test_two_processes_cannot_write_one_run(work, tmp_path):
    code = f"""
import sys, time; sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from vspcn_lib.system.files import exclusive
with exclusive(Path({str(tmp_path / "run" / "lock")!r})):
    print("held", flush=True); time.sleep(60)
"""
    (tmp_path / "run").mkdir()
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="written by another process"):
        run(work.config, tmp_path / "run", work=work)
    other.kill()
    other.wait()
    run(work.config, tmp_path / "run", work=work)  # a killed process holds nothing
    with exclusive(tmp_path / "lock"), pytest.raises(Busy), exclusive(tmp_path / "lock"):
        pass


def test_a_study_goes_past_a_dead_worker_and_loses_no_point(tiny_folder, tmp_path):
    """A trial of a killed process is taken up again; `--study` cannot lead outside its folder."""
    killer = faults.Killer(tmp_path, 0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = killer._value(killer.finish(faults._sweep, tiny_folder, tmp_path / "a"))
    assert killer.finish(faults._sweep, tiny_folder, tmp_path / "b", spoil=[(faults._kill_at, (20,))]) == {}
    start = time.monotonic()
    assert killer._value(killer.finish(faults._sweep, tiny_folder, tmp_path / "b")) == expected
    assert len(expected) == 4 and time.monotonic() - start < 100  # not by waiting for a heartbeat to run out
    for name in ("../evil", "/tmp/evil", "", ".hidden", "a/b", "a\nb"):
        with pytest.raises(ConfigError, match="cannot be a file name"):
            sweep(make_config(tiny_folder), faults.AXES, name, str(tmp_path / "s.db"), tmp_path, tmp_path, 1)


def test_pieces_give_the_gradients_and_statistics_of_the_whole_batch(work):
    def gradients(micro: int, fails: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Pieces]:
        model = work.model().train()
        pieces, real, left = Pieces(model, work.accelerator, work.autocast, 2.0, micro), model.features, [fails]

        def features(x: torch.Tensor) -> dict[str, torch.Tensor]:
            if left[0] and torch.is_grad_enabled():
                left[0] -= 1
                raise torch.OutOfMemoryError("simulated")
            return real(x)

        model.features = features
        rows = torch.as_tensor(work.bench.prototypes[:5])

        def objective(features, embedded, targets):
            p = model.heads.prototypes(rows)
            return losses.total(model.heads.scores(embedded, p), embedded, targets, p[targets], 20.0, work.config.loss)

        torch.manual_seed(1)
        for _ in range(2):  # two batches add up
            targets = torch.arange(7) % 5
            pieces.backward(torch.randn(7, 3, 32, 32), rows[targets], targets, objective)
        return ({n: p.grad.clone() for n, p in model.trainable().items()},
                {n: b.clone() for n, b in model.heads.named_buffers()}, pieces)

    whole, statistics, _ = gradients(8)
    for micro, fails, left_at in ((3, 0, 3), (1, 0, 1), (8, 1, 3), (8, 2, 1)):
        found, buffers, pieces = gradients(micro, fails)
        assert pieces.micro == left_at
        for name in whole:
            torch.testing.assert_close(found[name], whole[name], rtol=1e-3, atol=1e-5)
        for name in statistics:
            torch.testing.assert_close(buffers[name], statistics[name], rtol=1e-4, atol=1e-6)
    with pytest.raises(DeviceFull, match="not even one image"):
        gradients(8, 99)


def test_rows_and_checked_blocks_survive_what_tears_them(tmp_path):
    rows = [{"a": i, "b": "x" * i} for i in range(5)]
    text = "".join(json.dumps(r) + "\n" for r in rows).encode()
    for cut in range(len(text)):
        (tmp_path / "r.jsonl").write_bytes(text[:cut])
        found = whole_rows(tmp_path / "r.jsonl")
        assert found == rows[:len(found)] and len(found) >= text[:cut].count(b"\n")
    block = checked(b"some data")
    assert unchecked(block) == b"some data"
    for i in range(len(block)):
        spoilt = bytearray(block)
        spoilt[i] ^= 4
        with pytest.raises(Damaged):
            unchecked(bytes(spoilt))


@given(st.lists(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(), st.floats(allow_nan=False)),
                                max_size=3), max_size=5), st.integers(0, 60))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_rows_come_back_as_they_went(tmp_path_factory, rows, cut):
    file = tmp_path_factory.mktemp("rows") / "r.jsonl"
    text = "".join(json.dumps(r) + "\n" for r in rows).encode()
    file.write_bytes(text[:len(text) - cut] if cut else text)
    found = whole_rows(file)
    assert found == rows[:len(found)] and (cut or len(found) == len(rows))


# ---- determinism ---
def test_the_same_seed_gives_the_same_record_and_another_thread_count_nearly_so(tiny_folder, tmp_path):
    def scores(name: str, threads: int) -> np.ndarray:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            work = Workspace.open(make_config(tiny_folder), make_vit())
            return RunFolder(_finished(work, tmp_path / name)).scores()["scores"]
        finally:
            torch.set_num_threads(before)

    one = scores("one", 1)
    np.testing.assert_array_equal(one, scores("again", 1))
    np.testing.assert_allclose(one, scores("two", 2), atol=1e-2)  # scores span +-20


# ---- nothing let in ---
def test_downloads_come_over_tls_or_not_at_all(tmp_path):
    for parts in archives.ARCHIVES.values():
        for archive in parts:
            assert archive.url.startswith("https://")
    assert len(archives.SPLITS.holds) == 3
    with pytest.raises(archives.ArchiveError, match="no https address"):
        archives.fetch("x", tmp_path, (archives.Archive("http://example.org/set.zip", "set"),))


def test_another_archive_than_the_published_one_is_refused(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("set/a.mat", b"spoilt")
    archive = archives.Archive("https://example.org/set.zip", "set", holds=(("set/a.mat", "0" * 64),))
    with pytest.raises(archives.ArchiveError, match=r"checksum mismatch for set/a\.mat"):
        archives.fetch("x", tmp_path, (archive,))
    assert not (tmp_path / "set").exists()


def test_nothing_loads_a_pickle():
    """Every loader that could is told not to; gensim's own format and its downloaded programs are never used."""
    for path in (ROOT / "vspcn_lib").glob("*.py"):
        text = path.read_text()
        for word in ("import pickle", "joblib", "KeyedVectors.load(", "allow_pickle=True", "weights_only=False"):
            assert word not in text, f"{path.name}: {word}"
        for call in re.findall(r"torch\.load\([^\n]*", text):
            assert "weights_only=True" in call, path.name
        for call in re.findall(r"np\.load\([^\n]*", text):
            assert "allow_pickle=False" in call or "mmap_mode" in call, path.name
        assert not re.search(r"(?<![.\w])(eval|exec)\(", text), path.name


def test_names_cannot_inject_into_tables_panels_or_terminals(tiny_folder, tmp_path):
    import pandas as pd

    evil = "<img src=x onerror=alert(1)>|x"
    assert "<img" not in markdown(pd.DataFrame({"method": [evil]})) and "\\|x" in markdown(pd.DataFrame({"a": [evil]}))
    text = (tiny_folder / "attributes.csv").read_text()
    (tiny_folder / "attributes.csv").write_text(text.replace("bird_0", "bird\x1b]0;evil\x07", 1))
    with pytest.raises(BenchmarkError):
        read_folder(tiny_folder).check()
    (tiny_folder / "images" / "bird_0").rename(tiny_folder / "images" / "a$b^{$_<b>")
    for file in ("attributes.csv", "splits.json"):
        body = text if file.endswith("csv") else (tiny_folder / file).read_text()
        (tiny_folder / file).write_text(body.replace("bird_0", "a$b^{$_<b>"))
    bench = read_folder(tiny_folder).check()
    for draw in (gallery.species_gallery, gallery.attribute_heatmap):  # dollars are no formulas
        draw(bench).savefig(io.BytesIO())
    from vspcn_lib.panels.controls import Choice, Panel

    panel = Panel("<script>alert(1)</script>", _state(), [Choice("kind", ("<b>x</b>",), "<i>help</i>")],
                  lambda state, stop: 0, lambda state, result: _figure(), lambda state, result: "<script>1</script>",
                  tmp_path)
    shown = [w.value for w in _html(panel.box)]
    assert shown and not any("<script" in value or "<i>" in value for value in shown)
    assert panel.save().parent == tmp_path




def _state():
    from dataclasses import make_dataclass

    return make_dataclass("State", [("kind", str)], frozen=True)("<b>x</b>")


def _figure():
    from matplotlib.figure import Figure

    return Figure(figsize=(1, 1))


def _html(box):
    import ipywidgets

    for child in getattr(box, "children", ()):
        yield from _html(child)
    if isinstance(box, ipywidgets.HTML):
        yield box


def test_jupyterlab_listens_on_this_machine_alone_and_keeps_its_token():
    recipe = (ROOT / "Makefile").read_text()
    assert "--ip=127.0.0.1" in recipe and "token=''" not in recipe and "disable_check_xsrf" not in recipe


def test_ruffs_security_rules_are_on_and_every_exception_is_reasoned():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'select = \[.*"S"', text)
    for path in (ROOT / "vspcn_lib").glob("*.py"):
        for line in path.read_text().splitlines():
            if "noqa: S" in line:
                assert re.search(r"noqa: S\d+ - \w+", line), f"{path.name}: {line}"


def test_features_are_kept_in_one_table_however_often_they_are_asked_for(tiny_folder):
    work = Workspace.open(make_config(tiny_folder, model={"visual_prompts": 0, "semantic_prompts": 0}), make_vit())
    everything = np.arange(len(work.bench.labels))
    first = work.features(everything[:5])
    again = work.features(np.concatenate([everything[3:], everything[:3], everything[:3]]))
    assert torch.equal(again[:2], first[3:5]) and torch.equal(again[-3:], first[:3])
    assert [known.shape for known, _ in work.known.values()] == [(len(everything), 32)]
    other = replace(work, config=update(work.config, {"train": {"seed": 3}}))
    assert other.known is work.known


def test_word_vectors_of_the_hub_are_checked_and_their_program_is_not_run(tmp_path, monkeypatch):
    import gensim.downloader

    from vspcn_lib.encoders.phrases import SemanticsError
    from vspcn_lib.encoders.words import load_vectors

    make_folder(tmp_path / "tiny")
    asked = []
    monkeypatch.setattr(gensim.downloader, "load", lambda name, return_path=False: asked.append(return_path) or str(
        tmp_path / "tiny" / "vectors.txt"))
    with pytest.raises(SemanticsError, match="checksum mismatch"):
        load_vectors("glove-300")
    assert asked == [True]
