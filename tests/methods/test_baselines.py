"""Baselines: what trains, what stays frozen, the closed form against NumPy, and each under the whole protocol."""

import numpy as np
import pytest
import torch

from vspcn_lib.config import Config, ConfigError, ModelConfig, update
from vspcn_lib.methods import baselines
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import run

METHODS = {
    "vpt-shallow": {"visual_prompts": 3, "semantic_prompts": 0}, "vpt-deep": {"visual_prompts": 3},
    "sp": {"visual_prompts": 0}, "finetune": {"tuned_blocks": 1}, "eszsl": {},
}


def _model(vit, method, **settings):
    torch.manual_seed(0)
    return baselines.build(vit, torch.randn(6, 5), ModelConfig(method=method, **settings))


@pytest.mark.parametrize(("method", "names"), [
    ("vpt-shallow", {"prompts"}), ("vpt-deep", {"prompts"}), ("sp", {"pooled.weight", "pooled.bias"})])
def test_only_prompts_and_head_train(tiny_vit, method, names):
    model = _model(tiny_vit, method).train()
    before = {n: p.clone() for n, p in tiny_vit.state_dict().items()}
    model(torch.randn(4, 3, 32, 32)).embedded["cls"].square().sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        *names, "heads.embed.cls.weight", "heads.embed.cls.bias"}
    assert all(torch.equal(before[n], p) for n, p in tiny_vit.state_dict().items())


def test_vpt_deep_overwrites_prompts_before_each_block(tiny_vit):
    model = _model(tiny_vit, "vpt-deep", visual_prompts=3)
    images = torch.randn(2, 3, 32, 32)
    tokens = tiny_vit.embed(images)
    for i, block in enumerate(tiny_vit.blocks):  # another way to the same tokens: drop, then insert
        bare = tokens if i == 0 else torch.cat([tokens[:, :1], tokens[:, 4:]], 1)
        tokens = block(torch.cat([bare[:, :1], model.prompts[i].expand(2, 3, -1), bare[:, 1:]], 1))
    torch.testing.assert_close(model.features(images)["cls"], tiny_vit.final_norm(tokens)[:, 0])
    shallow = _model(tiny_vit, "vpt-shallow", visual_prompts=3)
    assert shallow.prompts.shape == (1, 3, 32) and model.prompts.shape == (4, 3, 32)


def test_fine_tuning_trains_its_own_copy(tiny_vit):
    part, whole = _model(tiny_vit, "finetune", tuned_blocks=1), _model(tiny_vit, "finetune", tuned_blocks=99)
    assert {n.split(".")[3] for n in part.trainable() if ".blocks." in n} == {"3"}
    assert len(whole.trainable()) == len(list(tiny_vit.vit.parameters())) + 2
    for model in (part, whole):
        model.train()(torch.randn(4, 3, 32, 32)).embedded["cls"].square().sum().backward()
        assert all(p.grad is not None for p in model.trainable().values() if p.numel() > 32)
        assert set(model.trainable()) <= set(model.state())
    assert not any(p.requires_grad or p.grad is not None for p in tiny_vit.parameters())


def test_eszsl_equals_its_formula(tiny_vit):
    rng = np.random.default_rng(0)
    x, s = rng.normal(2, 3, (40, 32)), rng.uniform(0, 1, (5, 6))
    y = rng.integers(0, 5, 40)
    model = _model(tiny_vit, "eszsl")
    model.solve(torch.tensor(x), torch.tensor(y), torch.tensor(s), 10.0, 0.1)
    z, unit = (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + 1e-5), s / np.linalg.norm(s, axis=1, keepdims=True)
    signs = np.where(np.arange(5) == y[:, None], 1.0, -1.0)
    v = np.linalg.inv(z.T @ z + 10 * np.eye(32)) @ z.T @ signs @ unit @ np.linalg.inv(unit.T @ unit + 0.1 * np.eye(6))
    model.eval()
    found = model.heads.scores(model.heads({"cls": torch.tensor(x).float()}),
                               model.heads.prototypes(torch.tensor(s).float()))["cls"]
    np.testing.assert_allclose(found.numpy(), z @ v @ unit.T, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_every_baseline_runs_the_whole_protocol(tiny_folder, tiny_vit, tmp_path, method):
    model = {"method": method, "visual_prompts": 0, "semantic_prompts": 0, "first_strong_block": 3, **METHODS[method]}
    config = update(Config(), {"data": {"benchmark": str(tiny_folder), "size": 32}, "train": {"epochs": 1},
                               "model": model})
    work = Workspace.open(config, tiny_vit)
    result = run(config, tmp_path / "run", work=work)
    assert 0 <= result["H"] <= 100 and (result["parameters"]["trainable"] > 0) == (method != "eszsl")
    model = work.model()
    model.load_state_dict(RunFolder(tmp_path / "run").load_checkpoint(tiny_vit.source), strict=False)
    images = torch.cat([x for x, _, _ in Workspace.open(config, tiny_vit).batches(np.arange(2), False).epoch(0)])
    embedded = model.eval().heads({"cls": images}) if config.model.cached else model.eval()(images).embedded
    scores = model.heads.scores(embedded, model.heads.prototypes(torch.as_tensor(work.bench.prototypes)))["cls"]
    assert torch.isfinite(scores).all()


def test_settings_that_leave_nothing_to_train_are_errors(tiny_vit):
    with pytest.raises(ConfigError, match="tuned_blocks"):
        _model(tiny_vit, "finetune")
    with pytest.raises(ConfigError, match="visual_prompts"):
        _model(tiny_vit, "vpt-deep", visual_prompts=0)
