"""GZSL by generation: the whole protocol on a tiny world, its leaks, its resumption, its mistakes, its rows."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from world import make_config, make_folder, make_vit

from vspcn_lib.commands.cli import _parse, main
from vspcn_lib.config import Config, ConfigError, as_dict, update
from vspcn_lib.methods.generative.features import GenerativeError, join
from vspcn_lib.methods.generative.registry import GENERATORS, GenerateConfig, read_settings
from vspcn_lib.metrics import gzsl_metrics
from vspcn_lib.runs.evaluation import LeakError
from vspcn_lib.runs.folder import RunError, RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies import ablation, runner
from vspcn_lib.studies import features as features_module
from vspcn_lib.studies import generate as generate_module
from vspcn_lib.studies.features import RealFeatures, deal, extract
from vspcn_lib.studies.generate import Generation, again, generate
from vspcn_lib.studies.records import method, summary, write_record
from vspcn_lib.studies.rows import GENERATED
from vspcn_lib.studies.runner import Job, finished
from vspcn_lib.train import Interrupted, run

LINEAR = {"model": {"visual_prompts": 0, "semantic_prompts": 0}, "train": {"epochs": 2}}
SMALL = read_settings({"ratios": [1, 3], "linear": {"epochs": 3}}).steps(6)
SMALL = replace(SMALL, vae=replace(SMALL.vae, steps=6, hidden=8, latent=2), flow=replace(SMALL.flow, hidden=8),
                cegzsl=replace(SMALL.cegzsl, steps=4, critic_steps=2, batch_size=8, hidden=8, embedding=8, contrast=4,
                               comparator=8))


def _finished(folder: Path, out: Path, changes: dict, work: Workspace | None = None) -> Workspace:
    """The workspace of a run that is finished in `out`."""
    work = work or Workspace.open(make_config(folder, **changes), make_vit(), quiet=True)
    run(work.config, out, work=work)
    return work


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Workspace, Path, Path]:
    """A finished linear head: its workspace, its run folder, its benchmark."""
    base = tmp_path_factory.mktemp("world")
    folder = make_folder(base / "tiny")
    return _finished(folder, base / "run", LINEAR), base / "run", folder


@pytest.fixture(scope="module")
def prompted(tmp_path_factory) -> tuple[Workspace, Path, Path]:
    """A finished VSPCN."""
    base = tmp_path_factory.mktemp("prompted")
    folder = make_folder(base / "tiny")
    return _finished(folder, base / "run", {"train": {"epochs": 1}}), base / "run", folder


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_runs_the_whole_protocol(world, tmp_path, name):
    work, trained, _ = world
    result = generate(trained, tmp_path / "out", replace(SMALL, generator=name), work=work)
    saved, kept = RunFolder(tmp_path / "out").scores(), json.loads((tmp_path / "out/selection.json").read_text())
    plain = gzsl_metrics(saved["scores"], saved["labels"], saved["unseen"])
    assert (result["U"], result["S"], result["H"], result["CZSL"]) == (plain.U, plain.S, plain.H, plain.CZSL)
    assert result["tau"] == 0 and result["warnings"] == []  # the ViT is frozen: nothing was trained on these images
    assert [row["samples"] for row in kept["epochs"]] == [3, 9] and result["samples"] in (4, 12)  # 3 and 4 real ones
    assert kept["best"]["H"] == max(row["H"] for row in kept["epochs"])
    assert {"tau", "U", "S", "H"} == set(result["with_tau"])
    record = json.loads(write_record(tmp_path / "out", tmp_path / "record.json").read_text())
    assert record["generate"] == replace(SMALL, generator=name).kept() and str(tmp_path) not in json.dumps(
        record["generate"])
    assert read_settings(record["generate"]).kept() == record["generate"]
    assert method(record) == f"linear head + {name}, 32 px"
    assert len(summary({"a": record})) == 1
    assert generate(trained, tmp_path / "out", replace(SMALL, generator=name), resume=True) == result  # finished


def test_nearest_prototype_is_read_by_a_tau_and_streams_of_a_linear_head_are_its_cls(world, tmp_path):
    work, trained, _ = world
    nearest = replace(SMALL, classifier="nearest", streams="cls", scaling="minmax")
    result = generate(trained, tmp_path / "out", nearest, work=work)
    kept = RunFolder(tmp_path / "out").read_json("selection.json")["best"]
    assert result["tau"] == kept["tau"] == kept["with_tau"]["tau"]
    with pytest.raises(GenerativeError, match="this run's model has only cls"):
        generate(trained, tmp_path / "other", replace(SMALL, streams="visual"), work=work)


def _noise(work: Workspace, indices: np.ndarray) -> Workspace:
    pixels = np.array(work.pixels)
    pixels[indices] = np.random.default_rng(7).integers(0, 256, pixels[indices].shape, dtype=np.uint8)
    return replace(work, pixels=pixels, known={})


def _rows(work: Workspace, classes: np.ndarray) -> Workspace:
    rows = work.bench.prototypes.copy()
    rows[classes] = np.random.default_rng(9).uniform(0.1, 1, rows[classes].shape)
    return replace(work, bench=replace(work.bench, prototypes=rows), known={})


def _labels(work: Workspace, indices: np.ndarray) -> Workspace:
    labels = work.bench.labels.copy()
    labels[indices] = np.random.default_rng(8).permutation(labels[indices])
    return replace(work, bench=replace(work.bench, labels=labels), known={})


CHANGES = {
    "test images": lambda w: _noise(w, np.concatenate([w.bench.test_seen, w.bench.test_unseen])),
    "labels of test images": lambda w: _labels(_labels(w, w.bench.test_seen), w.bench.test_unseen),
    "unseen rows": lambda w: _rows(w, w.bench.unseen_classes),
}


def _decided(work: Workspace, out: Path, settings: GenerateConfig) -> tuple[dict, dict[str, torch.Tensor]]:
    """All that selection and training decide: the selection record, scaler and generator of the final fit."""
    run(work.config, out / "run", work=work)
    generate(out / "run", out / "out", settings, work=work)
    state = load_file(out / "out" / "checkpoint.safetensors")
    return RunFolder(out / "out").read_json("selection.json"), state


@pytest.mark.parametrize(("kind", "folds"), [("linear", 0), ("prompted", 2)])
def test_nothing_of_the_test_set_moves_a_bit_of_selection_or_of_the_generator(world, prompted, tmp_path, kind, folds):
    work = {"linear": world, "prompted": prompted}[kind][0]
    settings = replace(SMALL, folds=folds)
    selected, state = _decided(work, tmp_path / "plain", settings)
    for name, change in CHANGES.items() if kind == "linear" else [*CHANGES.items()][:1]:
        other, weights = _decided(change(work), tmp_path / name.replace(" ", "-"), settings)
        assert other == selected, f"{name} reached selection"
        same = [torch.equal(state[n], weights[n]) for n in state if not n.startswith("layer.") or "rows" not in name]
        assert all(same), f"{name} reached training"
    if kind == "linear":  # the same with what must matter: it can fail
        assert not torch.equal(weights["layer.weight"], state["layer.weight"])  # the unseen classes' own rows
        assert _decided(_rows(work, work.bench.val_classes), tmp_path / "val", settings)[0] != selected
        assert not torch.equal(_decided(_noise(work, work.bench.trainval), tmp_path / "train", settings)[1][
            "scaler.shift"], state["scaler.shift"])


@pytest.mark.parametrize("folds", [0, 2])
def test_real_features_come_from_models_that_never_saw_the_image_nor_a_validation_class(prompted, tmp_path, monkeypatch,
                                                                                        folds):
    work, trained, _ = prompted
    bench, trainings = work.bench, []

    def spy(work, folder, phase, indices, epochs, validation, stop):
        trainings.append((phase, indices))
        assert (validation is None) == (phase == "final")  # a method's losses may see rows of `val_classes` at most
        return work.model(), []

    monkeypatch.setattr(features_module, "fit", spy)
    model = load_trained(RunFolder(trained), work)[1]
    real = RealFeatures(trained, work, model, 1, folds, tmp_path / "store", Event())
    parts, (trainval, streams) = real.selection(), real.training()
    assert set(parts) == {"train", "held_out", "val"} and set(streams) == {"cls", "visual", "semantic"}
    assert len(trainings) == (1 if not folds else 1 + 2 * folds)
    never = np.concatenate([bench.test_seen, bench.test_unseen])
    for phase, indices in trainings:
        assert not np.isin(indices, never).any()
        assert phase == "final" or not np.isin(bench.labels[indices], bench.val_classes).any()
    inner = np.sort(parts["train"][0])
    assert not np.isin(parts["held_out"][0], np.concatenate([i for p, i in trainings if p == "select"])).any()
    np.testing.assert_array_equal(np.sort(trainval), bench.trainval)
    if folds:  # each image is left out by one training of its phase, and its features are that model's
        for phase, all_of in (("select", inner), ("final", np.sort(trainval))):
            left = [np.setdiff1d(all_of, i) for p, i in trainings if p == phase and len(i) < len(all_of)]
            np.testing.assert_array_equal(np.sort(np.concatenate(left)), all_of)
    before = len(trainings)
    assert torch.equal(real.selection()["val"][1]["cls"], parts["val"][1]["cls"]) and len(trainings) == before  # kept
    with pytest.raises(LeakError):
        leaky = replace(work, bench=replace(bench, test_seen=np.append(bench.test_seen, bench.val[:1])))
        replace(real, work=leaky).selection()


def test_folds_of_a_frozen_vit_cost_nothing_and_a_models_own_images_are_a_warning(world, prompted, tmp_path):
    work, trained, _ = world
    one, two = (generate(trained, tmp_path / f"f{k}", replace(SMALL, folds=k), work=work) for k in (0, 2))
    assert {**one, "seconds": 0, "peak_gib": 0} == {**two, "seconds": 0, "peak_gib": 0}
    work, trained, _ = prompted
    result = generate(trained, tmp_path / "vspcn", SMALL, work=work)
    assert "folds = 0" in result["warnings"][0] and "optimistic" in result["warnings"][0]
    every, fitted = len(work.bench.trainval), RunFolder(trained).read_json("result.json")["trained_on"]
    assert fitted < every == result["trained_on"]  # the held-out images are read with the others, and it is said
    assert f"but for {every - fitted} of {every} that it held out for calibration" in result["warnings"][0]
    assert "held out" not in generate_module.own_images(every, 0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(2, 6), st.integers(0, 99))
def test_folds_are_a_partition_even_in_every_class(labels, folds, seed):
    class Bench:
        pass

    bench = Bench()
    bench.labels = np.array(labels)
    found = deal(bench, np.arange(len(labels)), folds, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(len(labels)))
    for c in set(labels):
        counts = [int((bench.labels[fold] == c).sum()) for fold in found]
        assert max(counts) - min(counts) <= 1


class _After(Event):
    """Is set after being asked `left` times."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("after", [2, 8])  # in selection, and in the final fit
def test_an_interrupted_run_goes_on_to_the_same_bits(world, tmp_path, monkeypatch, after):
    work, trained, _ = world
    whole = generate(trained, tmp_path / "whole", SMALL, work=work)
    with pytest.raises(Interrupted, match=r"resume .*/out"):
        generate(trained, tmp_path / "out", SMALL, work=work, stop=_After(after))
    with pytest.raises(RunError, match="already holds a run"):
        generate(trained, tmp_path / "out", SMALL, work=work)
    with pytest.raises(RunError, match="another flow: resume with the same settings"):
        generate(trained, tmp_path / "out", SMALL.steps(7), resume=True, work=work)
    monkeypatch.setattr(generate_module, "load_trained", lambda start, _: load_trained(start, work))
    result = again(tmp_path / "out")
    changing = {"seconds": 0, "peak_gib": 0}
    assert {**result, **changing} == {**whole, **changing}
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert np.array_equal(*(RunFolder(tmp_path / name).scores()["scores"] for name in ("whole", "out")))


def test_features_of_another_run_and_other_mistakes_are_one_sentence(world, prompted, tmp_path):
    work, trained, _ = prompted
    generate(trained, tmp_path / "out", SMALL, work=work)
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    config = update(work.config, {"train": {"lr": 0.01}})
    shutil.rmtree(other)
    changed = replace(work, config=config)
    run(config, other, work=changed)
    with pytest.raises(RunError, match="holds features of another run"):
        generate(other, tmp_path / "new", SMALL, work=changed, features=tmp_path / "features-of-run-folds0")
    (tmp_path / "out" / "result.json").unlink()
    with pytest.raises(RunError, match=r"train\.lr"):
        generate(other, tmp_path / "out", SMALL, resume=True, work=changed)
    (tmp_path / "features-of-run-folds0" / "select.safetensors").write_bytes(b"torn")
    (tmp_path / "out" / "selection.json").unlink()
    with pytest.raises(RunError, match=r"select\.safetensors is damaged.*delete it"):
        generate(trained, tmp_path / "out", SMALL, resume=True, work=work)
    with pytest.raises(RunError, match="holds a generator, no model of images"):
        load_trained(RunFolder(tmp_path / "out"), work)
    unfinished = tmp_path / "unfinished"
    RunFolder.create(unfinished, work.config, False)
    with pytest.raises(RunError, match=r"no result\.json: finish it with"):
        generate(unfinished, tmp_path / "none", SMALL)
    assert not (tmp_path / "none").exists()


def test_a_folder_of_another_kind_and_a_source_run_that_changed_are_refused(prompted, tmp_path, capsys):
    work, trained, _ = prompted
    run(work.config, tmp_path / "plain", work=work)
    before = sorted(p.name for p in (tmp_path / "plain").iterdir())
    (tmp_path / "plain" / "result.json").unlink()
    for out in (tmp_path / "plain", trained):  # an unfinished run, and the source itself
        with pytest.raises(RunError, match="holds a run of images, not of generated features"):
            generate(trained, out, SMALL, resume=True, work=work)
    assert {*before} - {"result.json"} == {p.name for p in (tmp_path / "plain").iterdir()}
    run(work.config, tmp_path / "plain", resume=True, work=work)  # nothing of it is lost

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    result = generate(copy, tmp_path / "out", SMALL, work=work)
    assert generate(copy, tmp_path / "out", SMALL, resume=True, work=work) == result
    kept = (tmp_path / "out" / "generate.json").read_bytes()
    for file in ("checkpoint.safetensors", "result.json", "selection.json", "scores.npz"):
        shutil.copy(tmp_path / "plain" / file, copy / file)
    state = load_file(copy / "checkpoint.safetensors")
    RunFolder(copy).save_checkpoint({n: t + 1 for n, t in state.items()}, work.backbone.source)  # trained anew
    with pytest.raises(RunError, match="is finished, of another run than there is now: another trained run"):
        generate(copy, tmp_path / "out", SMALL, resume=True, work=work)
    (copy / "checkpoint.safetensors").rename(copy / "gone")  # its weights are deleted to save space
    assert generate(copy, tmp_path / "out", SMALL, resume=True, work=work) == result
    assert "is unchecked: its weights have gone" in capsys.readouterr().out
    (copy / "gone").rename(copy / "checkpoint.safetensors")
    (tmp_path / "out" / "result.json").unlink()
    with pytest.raises(RunError, match="another trained run"):
        generate(copy, tmp_path / "out", SMALL, resume=True, work=work)
    assert (tmp_path / "out" / "generate.json").read_bytes() == kept
    with pytest.raises(RunError, match="holds a generator of features"):
        run(work.config, tmp_path / "out", resume=True, work=work)


def test_what_a_kill_left_before_any_work_is_resumed_as_a_generator(world, tmp_path, monkeypatch):
    work, trained, _ = world
    monkeypatch.setattr("vspcn_lib.studies.generate.load_trained", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        generate(trained, tmp_path / "out", SMALL, work=work)
    assert json.loads((tmp_path / "out" / "generate.json").read_text())["settings"] == SMALL.kept()
    monkeypatch.undo()
    assert generate(trained, tmp_path / "out", SMALL, work=work)["generator"] == SMALL.generator  # without --resume too


def test_a_stream_that_the_model_lacks_is_named_before_folds_are_retrained(world, tmp_path, monkeypatch):
    work, trained, _ = world
    monkeypatch.setattr(features_module, "fit", lambda *a, **k: pytest.fail("trained"))
    with pytest.raises(GenerativeError, match="has only cls"):
        generate(trained, tmp_path / "a", replace(SMALL, streams="visual", folds=2), work=work)
    with pytest.raises(GenerativeError, match="none of the streams cls, visual, semantic"):
        join({"regions": torch.zeros(2, 3, 4)}, "all")


def test_a_half_trained_fold_goes_on_for_its_own_run_and_images_alone(prompted, tmp_path, monkeypatch):
    work, trained, _ = prompted
    source, begun = tmp_path / "source", []
    shutil.copytree(trained, source)

    def half(work, folder, phase, *rest):
        begun.append(folder.load_state())
        folder.save_state({"phase": phase, "epoch": 0})
        raise Interrupted

    monkeypatch.setattr(features_module, "fit", half)
    real = RealFeatures(source, work, load_trained(RunFolder(source), work)[1], 1, 2, tmp_path / "store", Event())
    for _ in range(2):
        with pytest.raises(Interrupted):
            real.training()
    assert begun == [None, {"phase": "final", "epoch": 0}]  # the same run goes on
    with pytest.raises(RunError, match=r"fold0 holds a half-trained model of another set of images \(.*--features"):
        replace(real, folds=3).training()
    file = source / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes() + b" ")  # the run was trained again under its name
    with pytest.raises(RunError, match=r"fold0 holds a half-trained model of another source run \(.*--features"):
        real.training()
    (tmp_path / "store/final-fold0/inputs.json").unlink()  # as an older version left it
    with pytest.raises(RunError, match="nothing says of which source run: delete that folder"):
        real.training()
    assert len(begun) == 2
    shutil.rmtree(tmp_path / "store/final-fold0")
    with pytest.raises(Interrupted):
        real.training()


def test_features_that_are_not_finite_name_an_image_and_lose_nothing(prompted, tmp_path, monkeypatch):
    work, trained, _ = prompted
    real = extract

    def broken(work, model, indices):
        found = real(work, model, indices)
        found["cls"][1] = torch.nan
        return found

    monkeypatch.setattr(features_module, "extract", broken)
    with pytest.raises(GenerativeError, match=r"features of 1 of \d+ images are NaN.*first \d\.png.*train it again"):
        generate(trained, tmp_path / "out", SMALL, work=work)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "features-of-run-folds0")
    assert generate(trained, tmp_path / "out", SMALL, resume=True, work=work)["H"] >= 0


def test_a_class_that_does_not_fit_is_named_as_in_the_benchmark(world, tmp_path):
    work = world[0]
    rows, classes = work.bench.prototypes.copy(), np.array([1, 2, 4])  # numbered 0 to 2 in the fit
    rows[4] = np.nan
    harmed = replace(work, bench=replace(work.bench, prototypes=rows))
    indices = np.flatnonzero(np.isin(work.bench.labels, classes))
    generation = Generation(SMALL, harmed, RunFolder(tmp_path / "out"), SimpleNamespace(stop=Event()), 0.0)
    with pytest.raises(GenerativeError, match=f"attributes of class '{work.bench.class_names[4]}' hold NaN"):
        generation._fit("final", torch.zeros(len(indices), 3), indices, classes)


@pytest.mark.parametrize(("change", "words"), [
    ({"folds": 1}, "folds = 1 leaves no image"), ({"folds": -1}, "folds = -1"), ({"ratios": ()}, "ratios is empty"),
    ({"ratios": (0.0,)}, "ratios = 0"), ({"vae": {"lr": 0.0}}, r"vae\.lr = 0"), ({"flow": {"stepz": 1}}, "stepz"),
])
def test_settings_out_of_range_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        read_settings(change)


def test_the_command_reads_its_settings_and_names_mistakes(world, tmp_path, capsys):
    found = _parse("generate", [str(world[1]), "--generator", "vae", "--vae.latent", "5", "--ratios", "2", "8"])
    assert (found.config.own.latent, found.config.ratios, found.out) == (5, (2.0, 8.0), None)
    assert main(["generate", str(tmp_path / "nowhere")]) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_generated_rows_start_from_the_finished_run_of_a_row_and_seed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(ablation, "execute", lambda jobs, *rest, **more: asked.extend(jobs) or {})
    ablation.ablate(Config(), ["full", *GENERATED], 2, tmp_path / "runs", tmp_path / "records")
    assert len({job.key for job in asked}) == len({job.name for job in asked}) == 2 * (1 + len(GENERATED))
    job = next(j for j in asked if j.row == "VSPCN + VAE" and j.config.train.seed == 1)
    assert (job.start, job.config, job.generate.generator) == ("full", asked[7].config, "vae")
    called = []
    monkeypatch.setattr(runner, "take_place", lambda *place: None)
    monkeypatch.setattr(runner, "run", lambda config, out, resume: called.append(("run", out.name, resume)))
    monkeypatch.setattr(runner, "generate", lambda run, out, *rest, **more: called.append(("generate", run.name)))
    runner.finish_generated(tmp_path / "x", 0, {}, tmp_path / job.source.folder, job.config, job.generate)
    assert called == [("run", f"full-seed1-{asked[7].key}", False), ("generate", f"full-seed1-{asked[7].key}")]
    (tmp_path / "records").mkdir(exist_ok=True)
    record = {"key": "old", "config": as_dict(Config()), "result": {}, "generate": job.generate.kept()}
    monkeypatch.setattr(runner.Data, "check", lambda *_: None)
    job = replace(job, config=Config())
    (tmp_path / "records" / f"{job.name}.json").write_text(json.dumps(record))
    assert not finished(job, tmp_path / "records") and finished(job, tmp_path / "records", any_code=True)
    assert not finished(replace(job, generate=job.generate.steps(9)), tmp_path / "records", any_code=True)


def test_a_generated_row_reads_the_folder_that_its_start_row_was_sent_to(tmp_path, monkeypatch):
    """After data have changed both begin anew, the start row in a folder numbered beside the old one."""
    class Inline:
        exitcode = 0

        def __init__(self, target, args):
            self.start, self.join = lambda: target(*args), lambda: None

    called, now = [], {"split": "b" * 16}
    monkeypatch.setattr(runner.Data, "now", lambda self, config: now)
    monkeypatch.setattr(runner.CONTEXT, "Process", Inline)
    monkeypatch.setattr(runner, "take_place", lambda *place: None)
    monkeypatch.setattr(runner, "run", lambda config, out, resume: called.append(("run", out.name)))
    monkeypatch.setattr(runner, "generate", lambda run, out, *rest, **more: called.append(("from", run.name)))
    monkeypatch.setattr(runner, "write_record", lambda *record, **more: None)
    full = Job("full", Config())
    generated = Job("VSPCN + flow", Config(), "full", SMALL)
    old = RunFolder.create(tmp_path / "runs" / full.folder, full.config, False)
    for split, number in (("b" * 16, ""), ("a" * 16, "-2")):  # the data of now, and others
        old.write_json("inputs.json", {"split": split})
        for jobs in ([generated], [full, generated]):
            called.clear()
            assert runner.execute(jobs, tmp_path / "runs", tmp_path / "records", processes=1) == {}
            assert set(called) == {("run", full.folder + number), ("from", full.folder + number)}
