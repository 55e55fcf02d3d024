"""Fine-tuning: its own copy of the ViT trains, the shared one never does."""

import pytest
import torch
from world import make_model

from vspcn_lib.config import ConfigError


def test_fine_tuning_trains_its_own_copy(tiny_vit):
    part, whole = make_model(tiny_vit, "finetune", tuned_blocks=1), make_model(tiny_vit, "finetune", tuned_blocks=99)
    assert {n.split(".")[3] for n in part.trainable() if ".blocks." in n} == {"3"}
    assert len(whole.trainable()) == len(list(tiny_vit.vit.parameters())) + 2
    for model in (part, whole):
        model.train()(torch.randn(4, 3, 32, 32)).embedded["cls"].square().sum().backward()
        assert all(p.grad is not None for p in model.trainable().values() if p.numel() > 32)
        assert set(model.trainable()) <= set(model.state())
    assert not any(p.requires_grad or p.grad is not None for p in tiny_vit.parameters())


def test_nothing_to_tune_is_an_error(tiny_vit):
    with pytest.raises(ConfigError, match="tuned_blocks"):
        make_model(tiny_vit, "finetune", tuned_blocks=0)
