"""VPT and the pooled semantic prompt: what trains, what stays frozen, where prompts enter."""

import pytest
import torch
from world import make_model

from vspcn_lib.config import ConfigError


@pytest.mark.parametrize(("method", "names"), [
    ("vpt-shallow", {"prompts"}), ("vpt-deep", {"prompts"}), ("sp", {"pooled.weight", "pooled.bias"})])
def test_only_prompts_and_head_train(tiny_vit, method, names):
    model = make_model(tiny_vit, method).train()
    before = {n: p.clone() for n, p in tiny_vit.state_dict().items()}
    model(torch.randn(4, 3, 32, 32)).embedded["cls"].square().sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        *names, "heads.embed.cls.weight", "heads.embed.cls.bias"}
    assert all(torch.equal(before[n], p) for n, p in tiny_vit.state_dict().items())


def test_vpt_deep_overwrites_prompts_before_each_block(tiny_vit):
    model = make_model(tiny_vit, "vpt-deep", prompts=3)
    images = torch.randn(2, 3, 32, 32)
    tokens = tiny_vit.embed(images)
    for i, block in enumerate(tiny_vit.blocks):  # another way to the same tokens: drop, then insert
        bare = tokens if i == 0 else torch.cat([tokens[:, :1], tokens[:, 4:]], 1)
        tokens = block(torch.cat([bare[:, :1], model.prompts[i].expand(2, 3, -1), bare[:, 1:]], 1))
    torch.testing.assert_close(model.features(images)["cls"], tiny_vit.final_norm(tokens)[:, 0])
    shallow = make_model(tiny_vit, "vpt-shallow", prompts=3)
    assert shallow.prompts.shape == (1, 3, 32) and model.prompts.shape == (4, 3, 32)


def test_no_prompt_at_all_is_an_error(tiny_vit):
    with pytest.raises(ConfigError, match=r"method\.prompts"):
        make_model(tiny_vit, "vpt-deep", prompts=0)
