"""Interventions on VSPCN's paths, against what each must equal."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from world import make_config

from vspcn_lib import metrics
from vspcn_lib.config import update
from vspcn_lib.runs import paths
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.trained import load_trained
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import run
from vspcn_lib.views import paths as shown


@pytest.fixture
def work(tiny_folder, tiny_vit) -> Workspace:
    return Workspace.open(make_config(tiny_folder), tiny_vit)


@pytest.fixture
def model(work):
    found = work.model().eval()
    with torch.no_grad():
        for name, p in found.trainable().items():  # away from the small start, so that every path matters
            if "norm" not in name:
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    return found


def _scores(work, model):
    return paths.Images.of(work, model, 20)


def _replaced(work, model, names, how):
    """Untouched scores and those under an intervention, both from the first block on."""
    parts, means, images = model.paths(), paths.Means(), _scores(work, model)
    every = [m for ms in parts.values() for m in ms]
    handles = [t.register_forward_hook(means.add) for m in every for t in (m.output, m.attention)]
    with torch.inference_mode():
        before = images.scores(whole=True)
        for handle in handles:
            handle.remove()
        with paths.replaced([m for n in names for m in parts[n]], how, means):
            after = images.scores(whole=True)
        again = images.scores(whole=True)
    np.testing.assert_array_equal(before, again)  # nothing stays behind
    return before, after, means, images


@torch.inference_mode()
def test_removed_paths_equal_a_model_that_was_built_without_them(work, model, tiny_vit):
    for names, changes in ((["adapter"], {"adapter": False}), (["SVPF", "SSPF", "adapter"],
                                                                {"strong": False, "adapter": False})):
        _, after, _, images = _replaced(work, model, names, "removed")
        config = update(work.config, {"model": changes})
        without = replace(work, config=config).model().eval()
        without.load_state_dict(model.state(), strict=False)
        expected = replace(images, model=without, kept=[]).scores(whole=True)
        np.testing.assert_allclose(after, expected, atol=2e-5)


@pytest.mark.parametrize("how", ["mean", "other", "attention"])
@torch.inference_mode()
def test_where_all_images_are_one_image_nothing_changes(work, model, how):
    work = replace(work, pixels=np.repeat(work.pixels[:1], len(work.pixels), 0))
    before, after, _, _ = _replaced(work, model, list(model.paths()), how)
    np.testing.assert_allclose(after, before, atol=1e-4)


@torch.inference_mode()
def test_means_are_those_of_one_pass_over_all_images(work, model, monkeypatch):
    monkeypatch.setattr(paths, "CHUNK", 3)
    _, _, means, images = _replaced(work, model, ["SVPF"], "mean")
    part, kept = model.strong_visual[1], []
    handle = part.output.register_forward_hook(lambda m, i, o: kept.append(o))
    model(torch.cat([x for x, _, _ in work.batches(images.indices, augment=False).epoch(0)]))
    handle.remove()
    whole = torch.cat(kept).double()
    torch.testing.assert_close(means.of(part.output).double(), whole.mean(0), atol=1e-5, rtol=1e-4)
    assert shown.share_between(whole) == pytest.approx(
        float(1 - whole.mean(0).square().sum() / whole.square().sum((1, 2)).mean()), abs=1e-5)


@torch.inference_mode()
def test_with_every_path_at_its_mean_the_prompts_of_the_first_deep_block_are_constants(work, model):
    seen = []
    parts, means, images = model.paths(), paths.Means(), _scores(work, model)
    handles = [m.output.register_forward_hook(means.add) for ms in parts.values() for m in ms]
    images.scores(whole=True)
    for handle in handles:
        handle.remove()
    with paths.replaced(parts["SSPF"], "mean", means):
        handle = model.strong_semantic[0].output.register_forward_hook(lambda m, i, o: seen.append(o))
        images.scores(whole=False)
        handle.remove()
    out = torch.cat(seen)
    assert torch.equal(out, out[:1].expand_as(out))


def test_a_record_agrees_with_its_own_score_matrices(work, model):
    found = paths.measure(work, model, 20, tuple(paths.HOW), tau=0.7)
    assert found["images"] == 20 and set(found) == {"images", "H", "AUSUC", "vanished", *paths.HOW}
    for how in paths.HOW:
        assert list(found[how]) == ["WVPF", "SVPF", "SSPF", "adapter", "all"]
    before, after, _, images = _replaced(work, model, ["SSPF"], "mean")
    labels, unseen = work.bench.labels[images.indices], work.bench.unseen_mask
    best = [metrics.tau_sweep(s, labels, unseen)["H"].max() for s in (before, after)]
    assert found["H"] == pytest.approx(best[0], abs=0.051)
    assert found["mean"]["SSPF"]["H"] == pytest.approx(best[1] - best[0], abs=0.051)
    changed = ((after + 0.7 * unseen).argmax(1) != (before + 0.7 * unseen).argmax(1)).mean()
    assert found["mean"]["SSPF"]["changed"] == pytest.approx(changed, abs=1e-3)


def test_several_prompts_of_a_kind_start_apart_and_stay_apart(tiny_folder, tiny_vit, tmp_path):
    config = make_config(tiny_folder, model={"visual_prompts": 4, "semantic_prompts": 4},
                         train={"epochs": 6, "lr": 0.001})
    work = Workspace.open(config, tiny_vit)
    run(config, tmp_path / "run", work=work)
    _, trained = load_trained(RunFolder(tmp_path / "run"), work)
    for model, least in ((work.model(), 1e-4), (trained, 1e-2)):  # the start is the cls token and a little noise
        found = shown.statistics(work, model)
        for kind in ("visual", "semantic"):
            assert found[f"{kind} from each other"].min() > least, (kind, found)


def test_a_report_says_of_which_run_it_is_and_names_no_folder_of_this_machine(tiny_folder, tiny_vit, tmp_path,
                                                                              monkeypatch):
    config = update(make_config(tiny_folder), {"data": {"root": str(tmp_path)}})
    work = Workspace.open(config, tiny_vit)
    result = run(config, tmp_path / "run", work=work)
    monkeypatch.setattr(shown, "load_trained", lambda folder: load_trained(folder, work))
    shown.examine(tmp_path / "run", 8)
    kept = json.loads((tmp_path / "run" / "paths.json").read_text())["provenance"]
    assert kept["record"] == "run" and kept["H"] == pytest.approx(result["H"], abs=1e-4)
    assert kept["config"]["data"]["root"] == "" and kept["commit"] == result["environment"]["commit"]


def test_parameters_that_shrank_to_nothing_are_named(work, model):
    assert paths.vanished(work, model) == []
    with torch.no_grad():
        model.strong_semantic[1].bias *= 1e-4
    assert paths.vanished(work, model) == ["strong_semantic.1.bias"]


def test_the_images_are_spread_evenly_over_the_classes(work, model):
    chosen = work.bench.labels[paths.Images.of(work, model, 16).indices]
    assert np.bincount(chosen, minlength=8).tolist() == [2] * 8
    assert len(paths.Images.of(work, model, 10**6).indices) == len(work.bench.test_seen) + len(work.bench.test_unseen)


@pytest.mark.parametrize("method", ["vpt-deep", "eszsl"])
def test_methods_without_such_paths_have_nothing_to_measure(tiny_folder, tiny_vit, method):
    work = Workspace.open(make_config(tiny_folder, model={"method": method}), tiny_vit)
    assert paths.measure(work, work.model()) == {}
    assert shown.paths_report(work, work.model(), 0.0, 16) == {}


def test_spread_and_shares_have_their_known_ends():
    uniform, single = torch.full((2, 7), 1 / 7), torch.eye(7)[:2]
    torch.testing.assert_close(shown.effective(uniform), torch.tensor([7.0, 7.0]))
    torch.testing.assert_close(shown.effective(single), torch.tensor([1.0, 1.0]))
    assert shown.share_between(torch.ones(5, 3)) == pytest.approx(0, abs=1e-6)
    assert shown.share_between(torch.tensor([[1.0, 0], [-1.0, 0]])) == pytest.approx(1)
    labels = np.array([0, 0, 1])
    assert shown.differing(torch.tensor([[4], [5], [4]]), labels) == pytest.approx(0.5)  # pairs 0-2 and 1-2


def test_the_report_shows_every_deep_block_and_every_intervention(work, model):
    found = shown.paths_report(work, model, 0.0, 16)
    assert found["blocks"]["block"] == [3, 4]
    assert {"visual from each other", "SSPF bias spread", "SVPF strongest differs",
            "adapter spread"} <= set(found["blocks"])
    assert all(0 <= v <= 1.0001 for name, column in found["blocks"].items() for v in column
               if name.split()[-1] in ("spread", "differs") or "between" in name)
    text = shown.text(found)
    assert all(path in text for path in model.paths()) and "output removed" in text
    axes = shown.paths_figure(found).axes
    assert len(axes) == 3 and "image pairs across classes" in axes[2].get_ylabel()
