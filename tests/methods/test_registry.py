"""Every method by name, under the whole protocol; its settings in records, new and old."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from world import make_config, make_model

from vspcn_lib.config import Config, ConfigError, as_dict, read_config, unread, update
from vspcn_lib.methods.registry import METHODS, method
from vspcn_lib.runs.evaluation import forward
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.pieces import Pieces
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import run
from vspcn_lib.zeroshot import Classes

OWN = {"vpt-shallow": {"prompts": 3}, "vpt-deep": {"prompts": 3}, "finetune": {"tuned_blocks": 1},
       "psvma": {"gate_reduction": 2, "mixer": 8}, "zslvit": {"sites": "2,3"}}
PEERS = [name for name in METHODS if name != "vspcn"]


@pytest.mark.parametrize("name", PEERS)
def test_every_method_runs_the_whole_protocol(tiny_folder, tiny_vit, tmp_path, name):
    config = make_config(tiny_folder, model={"method": name}, method=OWN.get(name, {}), train={"epochs": 1})
    work = Workspace.open(config, tiny_vit)
    result = run(config, tmp_path / "run", work=work)
    closed = bool(method(config).candidates)
    assert 0 <= result["H"] <= 100 and (result["parameters"]["trainable"] > 0) == (not closed)
    assert RunFolder(tmp_path / "run").config() == config or as_dict(RunFolder(tmp_path / "run").config()) == as_dict(
        config)
    model = work.model()
    model.load_state_dict(RunFolder(tmp_path / "run").load_checkpoint(tiny_vit.source), strict=False)
    images = torch.cat([x for x, _, _ in Workspace.open(config, tiny_vit).batches(np.arange(2), False).epoch(0)])
    scores = model.eval().scores(forward(model, images), model.prototypes(torch.as_tensor(work.bench.prototypes)))
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", ["psvma", "zslvit"])
def test_a_batch_in_pieces_is_the_whole_batch(tiny_vit, name):
    model = make_model(tiny_vit, name, **OWN[name]).double().train()
    images, rows = torch.randn(5, 3, 32, 32, dtype=torch.float64), torch.rand(7, 6, dtype=torch.float64)
    known, targets = Classes(rows[:5], rows[5:]), torch.tensor([0, 1, 2, 3, 3])
    config = update(Config(), {"model": {"method": name}})

    def objective(features, embedded, targets):
        return model.loss(features, embedded, targets, known, config)

    found = []
    for micro in (5, 2):
        model.zero_grad()
        Pieces(model, Accelerator(mixed_precision="no"), contextlib.nullcontext, 1.0, micro).backward(
            images, known.seen[targets], targets, objective)
        found.append({n: p.grad for n, p in model.trainable().items()})
    for n, whole in found[0].items():
        torch.testing.assert_close(found[1][n], whole, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_a_record_holds_the_settings_of_its_own_method_alone(name):
    config = update(Config(), {"model": {"method": name}})
    kept = as_dict(config)
    assert set(kept["model"]) >= {"backbone", "method"} and ("alpha_v" in kept["model"]) == (name == "vspcn")
    assert kept.get("method", {}) == {
        f.name: getattr(config.method, f.name) for f in dataclasses.fields(config.method)}
    assert as_dict(read_config(kept)) == kept


def test_records_from_before_methods_had_settings_still_read():
    old = {"backbone": "packaged:vit-s14", "method": "vpt-deep", "tuned_blocks": 0, "visual_prompts": 12,
           "semantic_prompts": 0, "weak": True, "readout": "cls", "scale": 20.0}
    assert read_config({"model": old}).method.prompts == 12
    assert read_config({"model": {**old, "method": "finetune", "tuned_blocks": 5}}).method.tuned_blocks == 5
    assert read_config({"model": {**old, "method": "vspcn"}}).model.visual_prompts == 12
    assert read_config({}) == Config()
    with pytest.raises(ConfigError, match="choose one of vspcn"):
        read_config({"model": {"method": "psvmaa"}})


def test_what_a_method_does_not_read_is_named():
    base = update(Config(), {"model": {"method": "eszsl"}})
    assert unread(update(base, {"model": {"alpha_v": 0.4}, "train": {"lr": 0.1, "seed": 3}}), base) == [
        "model.alpha_v", "train.lr"]
    assert unread(update(Config(), {"model": {"alpha_v": 0.4}}), Config()) == []


def test_fields_of_another_method_are_refused():
    with pytest.raises(ConfigError, match=r"did you mean 'method\.prompts'"):
        update(Config(), {"model": {"method": "vpt-deep"}, "method": {"promts": 3}})
    with pytest.raises(ConfigError, match="vspcn has none of its own"):
        update(Config(), {"method": {"prompts": 3}})
