"""No leak in the science: what must not influence a number is changed, and not a bit of the number moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from world import make_config, make_folder, make_vit

from vspcn_lib import train
from vspcn_lib.config import update
from vspcn_lib.runs import evaluation
from vspcn_lib.runs.calibration import CalibrationError, calibration_share, hold_out
from vspcn_lib.runs.evaluation import LeakError, calibrate, evaluate, guard, validate
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import Interrupted, fit, run, select, selection_split

LINEAR = {"model": {"visual_prompts": 0, "semantic_prompts": 0}}
ESZSL = {"model": {"method": "eszsl", "visual_prompts": 0, "semantic_prompts": 0}}


@pytest.fixture
def world(tiny_folder) -> Workspace:
    return Workspace.open(make_config(tiny_folder), make_vit())


def _noise(work: Workspace, indices: np.ndarray) -> Workspace:
    """The images at `indices` replaced by noise."""
    pixels = np.array(work.pixels)
    pixels[indices] = np.random.default_rng(7).integers(0, 256, pixels[indices].shape, dtype=np.uint8)
    return replace(work, pixels=pixels, known={})


def _labels(work: Workspace, indices: np.ndarray) -> Workspace:
    """The labels at `indices` shuffled among themselves."""
    labels = work.bench.labels.copy()
    labels[indices] = np.random.default_rng(8).permutation(labels[indices])
    return replace(work, bench=replace(work.bench, labels=labels), known={})


def _prototypes(work: Workspace, classes: np.ndarray) -> Workspace:
    """The attribute rows of `classes` replaced."""
    rows = work.bench.prototypes.copy()
    rows[classes] = np.random.default_rng(9).uniform(0.1, 1, rows[classes].shape)
    return replace(work, bench=replace(work.bench, prototypes=rows), known={})


CHANGES = {
    "unseen test images": lambda w: _noise(w, w.bench.test_unseen),
    "seen test images": lambda w: _noise(w, w.bench.test_seen),
    "labels of unseen test images": lambda w: _labels(w, w.bench.test_unseen),
    "labels of seen test images": lambda w: _labels(w, w.bench.test_seen),
    "unseen prototypes": lambda w: _prototypes(w, w.bench.unseen_classes),
}


def _trained(work: Workspace, out) -> tuple[dict, dict[str, torch.Tensor], dict]:
    """Everything that training and selection decide: epoch, validation scores, weights, statistics; and the tau."""
    folder = RunFolder.create(out, work.config, False)
    selected = select(work, folder)
    t = work.config.train
    indices, held = hold_out(work.bench, work.bench.trainval, calibration_share(t), t.seed)
    model, _ = fit(work, folder, "final", indices, selected["best"]["epoch"])
    return selected, model.state(), calibrate(work, model, held, selected["best"])


@pytest.mark.parametrize("settings", [{}, LINEAR, ESZSL], ids=["VSPCN", "linear head", "ESZSL"])
def test_nothing_of_the_test_set_moves_a_bit_of_training_standardisation_selection_or_tau(world, settings, tmp_path):
    work = replace(world, config=update(world.config, {**settings, "train": {"epochs": 2}}))
    selected, state, tau = _trained(work, tmp_path / "plain")
    for name, change in CHANGES.items():
        other, weights, other_tau = _trained(change(work), tmp_path / name.replace(" ", "-"))
        assert other == selected, f"{name} reached selection"
        assert all(torch.equal(state[n], weights[n]) for n in state), f"{name} reached training"
        # Calibration may read the unseen prototypes, as the final scores do, and nothing else of the list.
        assert (other_tau == tau) == (name != "unseen prototypes"), f"{name} and calibration"
    # The same test with something that must matter: it can fail.
    other, weights, other_tau = _trained(_noise(work, work.bench.trainval), tmp_path / "training-images")
    assert other != selected and not all(torch.equal(state[n], weights[n]) for n in state) and other_tau != tau
    other, _, _ = _trained(_prototypes(work, work.bench.val_classes), tmp_path / "validation-prototypes")
    assert other != selected


def test_a_blinded_guard_lets_a_test_image_move_tau_which_the_test_above_would_see(world, tmp_path, monkeypatch):
    """Test and unseen images planted among the held-out ones are refused; with the guard gone, they move tau."""
    bench = world.bench
    best = select(world, RunFolder.create(tmp_path / "r", world.config, False))["best"]
    indices, held = hold_out(bench, bench.trainval, 0.25, 0)
    model, _ = fit(world, RunFolder.create(tmp_path / "f", world.config, False), "final", indices, 2)
    for planted in (bench.test_seen, bench.test_unseen[:1]):
        with pytest.raises(LeakError, match="calibration"):
            calibrate(world, model, np.append(held, planted), best)
    monkeypatch.setattr(evaluation, "guard", lambda *_: None)
    leaky = np.append(held, bench.test_seen)
    taus = [calibrate(w, model, leaky, best) for w in (world, _noise(world, bench.test_seen))]
    assert taus[0] != taus[1]
    with pytest.raises(CalibrationError, match="of unseen classes"):  # a second boundary, which needs no guard
        calibrate(world, model, np.append(held, bench.test_unseen[:1]), best)


@pytest.mark.parametrize("folds", [1, 3])
def test_a_run_keeps_its_tau_how_it_came_and_what_it_read(world, folds, tmp_path):
    config = update(world.config, {"train": {"folds": folds}})
    result = run(config, tmp_path / "r", work=replace(world, config=config))
    found, best = result["calibration"], result["validation"]
    assert result["tau"] == found["tau"] == found["taus"]["consensus"] and found["by"] == "consensus"
    assert found["taus"]["raw"] == best["tau"] and found["held_out"] == 5  # one image of each seen class
    assert result["trained_on"] + found["held_out"] == len(world.bench.trainval)
    assert 0 <= found["retention"]["final"] <= 1 and found["retention"]["selection"] == best["carried"]["retention"]
    assert result["gap"] == result["oracle"]["H"] - result["H"] >= 0
    assert ("spread" in best) == (folds > 1)
    assert float(RunFolder(tmp_path / "r").scores()["tau"]) == result["tau"]
    plain = run(raw := update(world.config, {"train": {"calibration": "raw"}}), tmp_path / "raw",
                work=replace(world, config=raw))
    assert plain["tau"] == plain["validation"]["tau"] and plain["trained_on"] == len(world.bench.trainval)


def test_selection_over_folds_continues_where_it_stopped(world, tmp_path, monkeypatch):
    config = update(world.config, {"train": {"folds": 3}})
    work = replace(world, config=config)
    whole = select(work, RunFolder.create(tmp_path / "whole", config, False))
    folder, real, calls = RunFolder.create(tmp_path / "cut", config, False), train.fit, []

    def cut(*args, **more):
        calls.append(args[2])
        if len(calls) == 2:
            raise Interrupted("cut")
        return real(*args, **more)

    monkeypatch.setattr(train, "fit", cut)
    with pytest.raises(Interrupted):
        select(work, folder)
    assert select(work, folder) == whole and calls == ["select", "select 2", "select 2", "select 3"]


def test_the_final_fit_is_all_that_validation_classes_reach(world, tmp_path):
    """In the selection phase pseudo-unseen classes are as unseen as the real ones: images, labels, prototypes."""
    inner, held = selection_split(world.bench, 0.2, 0)
    states = []
    for i, work in enumerate((world, _noise(world, world.bench.val), _prototypes(world, world.bench.val_classes))):
        model, _ = fit(work, RunFolder.create(tmp_path / str(i), work.config, False), "select", inner, 2,
                       (held, work.bench.val))
        states.append(model.state())
    for other in states[1:]:
        assert all(torch.equal(states[0][n], other[n]) for n in other)


def test_scoring_test_images_changes_nothing_of_the_model(world, tmp_path):
    folder = RunFolder.create(tmp_path / "r", world.config, False)
    model, _ = fit(world, folder, "final", world.bench.trainval, 1)
    before = {n: t.clone() for n, t in model.state().items()}
    evaluate(world, folder, model, {"tau": 0.0, "epoch": 1})
    assert all(torch.equal(before[n], t) for n, t in model.state().items())


def test_every_boundary_refuses_a_forbidden_image(world, tmp_path):
    bench, folder = world.bench, RunFolder.create(tmp_path / "r", world.config, False)
    inner, held = selection_split(bench, 0.2, 0)
    for planted in (bench.test_unseen[:1], bench.test_seen[:1]):
        for work in (world, replace(world, config=update(world.config, LINEAR)),
                     replace(world, config=update(world.config, ESZSL))):
            with pytest.raises(LeakError):
                fit(work, folder, "final", np.append(bench.trainval, planted), 1)
            with pytest.raises(LeakError):
                fit(work, folder, "select", np.append(inner, planted), 1, (held, bench.val))
            with pytest.raises(LeakError):
                validate(work, work.model(), np.append(held, planted), bench.val, 1)
            with pytest.raises(LeakError):
                validate(work, work.model(), held, np.append(bench.val, planted), 1)
    with pytest.raises(LeakError):
        fit(world, folder, "select", np.append(inner, bench.val[:1]), 1, (held, bench.val))
    guard(bench, bench.trainval, bench.unseen_classes, "training")


# ---- what a leak would do, and that it does not happen here ---
SHAPES = 12  # classes, each with a colour of its own


def _marked(pixels: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """A square whose colour spells the label, on the images at `indices`."""
    out = np.array(pixels)
    for i in indices:
        c = labels[i]
        out[i, :, :16, :16] = np.array([c % 3 * 127, c // 3 * 85, 255 * (c % 2)], np.uint8)[:, None, None]
    return out


@pytest.fixture(scope="module")
def canary(tmp_path_factory) -> Workspace:
    """8 seen and 4 unseen classes, 24 images each, of nothing but noise: only a mark could tell a class."""
    folder = tmp_path_factory.mktemp("canary") / "noise"
    make_folder(folder.parent / "tiny")
    work = Workspace.open(update(make_config(folder.parent / "tiny"), {**LINEAR, "train": {
        "epochs": 16, "batch_size": 16, "lr": 0.03}}), make_vit())
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(SHAPES), 24)
    place = np.tile(np.arange(24), SHAPES)
    bench = replace(work.bench, labels=labels, class_names=tuple(f"c{i}" for i in range(SHAPES)),
                    image_paths=tuple(folder / f"c{c}" / f"{i}.png" for c, i in zip(labels, place, strict=True)),
                    prototypes=rng.normal(size=(SHAPES, 6)).astype(np.float32),
                    trainval=np.flatnonzero((labels < 8) & (place < 18)), val_classes=np.array([6, 7]),
                    test_seen=np.flatnonzero((labels < 8) & (place >= 18)), test_unseen=np.flatnonzero(labels >= 8))
    pixels = rng.integers(110, 146, (len(labels), 3, 32, 32), dtype=np.uint8)
    return replace(work, bench=bench.check(), pixels=pixels, known={})


def _scores(work: Workspace, out) -> dict[str, float]:
    return {k: v for k, v in run(work.config, out, work=work).items() if k in ("U", "S", "H", "CZSL")}


def test_a_canary_on_unseen_images_scores_no_better(canary, tmp_path):
    """Unseen images that carry their label as a mark: chance, as without; a run that trains on them reads it."""
    bench = canary.bench
    marked = replace(canary, pixels=_marked(canary.pixels, bench.labels, bench.test_unseen), known={})
    seeds, plain, carried = range(3), [], []
    for seed in seeds:
        for found, work in ((plain, canary), (carried, marked)):
            work = replace(work, config=update(work.config, {"train": {"seed": seed}}))
            found.append(_scores(work, tmp_path / f"{len(carried)}-{len(plain)}")["CZSL"])
    chance = 25.0
    # A class's images differ by noise alone, so all of them may fall to one class: the mean over seeds is the test.
    assert abs(np.mean(carried) - chance) < 20 and np.mean(carried) - np.mean(plain) < 20
    # The control: were unseen images trained on, the mark would be read off. This is what the guard prevents.
    leaky = replace(marked, bench=replace(bench, trainval=np.append(bench.trainval, bench.test_unseen[::2]),
                                          test_unseen=bench.test_unseen[1::2], val_classes=bench.val_classes))
    with pytest.raises(LeakError):
        fit(marked, RunFolder.create(tmp_path / "guarded", canary.config, False), "final", leaky.bench.trainval, 16)
    leaky.bench.__dict__["unseen_classes"] = np.array([], dtype=int)  # the guard is blinded
    model, _ = fit(leaky, RunFolder.create(tmp_path / "leaky", canary.config, False), "final", leaky.bench.trainval, 16)
    leaky.bench.__dict__["unseen_classes"] = bench.unseen_classes
    leaky.bench.__dict__.pop("unseen_mask", None)
    found = evaluate(leaky, RunFolder(tmp_path / "leaky"), model, {"tau": 0.0, "epoch": 16})
    assert found["CZSL"] > 70, "the control does not read the mark: this test could not fail"


def test_shuffled_labels_learn_nothing(canary, tmp_path):
    """Marks on every image: with true labels the seen are learned, with shuffled training labels chance is left."""
    bench = canary.bench
    all_marked = replace(canary, pixels=_marked(canary.pixels, bench.labels, np.arange(len(bench.labels))), known={})
    def seen_alone(work: Workspace, name: str) -> float:
        folder = RunFolder.create(tmp_path / name, canary.config, False)
        model, _ = fit(work, folder, "final", bench.trainval, 16)
        return evaluate(work, folder, model, {"tau": -100.0, "epoch": 16})["S"]  # over seen classes: chance is 12.5

    shuffled = []
    for seed in range(4):
        labels = bench.labels.copy()
        labels[bench.trainval] = np.random.default_rng(seed).permutation(labels[bench.trainval])
        shuffled.append(seen_alone(replace(all_marked, bench=replace(bench, labels=labels), known={}), str(seed)))
    assert seen_alone(all_marked, "control") > 80 and np.mean(shuffled) < 30
