"""The numbers of the peers' released modules, ../shared/peers/fixtures: a ViT of their sizes and a mapping of names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SHARED
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vspcn_lib.encoders.backbone import FrozenViT

FIXTURES = SHARED.parent / "peers" / "fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the peers' fixtures ../shared/peers are absent")


def load(name: str) -> dict[str, Tensor]:
    """Every array of a fixture by its name, float64."""
    with np.load(FIXTURES / f"{name}.npz") as found:
        return {k: torch.from_numpy(found[k]) for k in found.files}


def vit_of(fixture: dict[str, Tensor]) -> FrozenViT:
    """A ViT of a fixture's size: 32 px, patch 8, width 32, 4 heads, as many blocks as it has weights for."""
    depth = max(int(k.split("block")[1].split(".")[0]) for k in fixture if k.startswith("weight.vit.block"))
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=depth, num_heads=4, num_classes=0)
    return FrozenViT(vit, {"tag": "fixture", "source": "test", "sha256": "0" * 64})


def our_name(name: str, renamed: dict[str, str]) -> str:
    """A fixture's name of a weight in this project; `renamed` maps beginnings of names, `vit.` is timm's."""
    if name.startswith("vit.block"):
        number, rest = name.removeprefix("vit.block").split(".", 1)
        return f"backbone.vit.blocks.{int(number) - 1}.{rest}"
    name = name.replace("vit.patch_embed.", "vit.patch_embed.proj.")
    start = next((s for s in renamed if name.startswith(s)), "")
    return f"{renamed.get(start, '')}{name[len(start):]}"


def set_weights(model: nn.Module, fixture: dict[str, Tensor], prefix: str, renamed: dict[str, str]) -> nn.Module:
    """`model` in float64 with every weight of the fixture; a name that either side lacks fails."""
    weights = {our_name(k.removeprefix(prefix), renamed): v for k, v in fixture.items() if k.startswith(prefix)}
    done = model.double().load_state_dict(weights, strict=False)
    assert not done.unexpected_keys and not [k for k in done.missing_keys if k not in UNUSED], done
    return model


UNUSED = {"backbone.vit.norm.weight", "backbone.vit.norm.bias", "word_vectors"}  # where a method reads no final norm


def differences(model: nn.Module, fixture: dict[str, Tensor], prefix: str, renamed: dict[str, str]) -> dict[str, float]:
    """The largest absolute difference of each gradient that the fixture holds under `prefix`."""
    parameters = dict(model.named_parameters())
    return {k: apart(parameters[our_name(k.removeprefix(prefix), renamed)].grad, v)
            for k, v in fixture.items() if k.startswith(prefix)}


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference; shapes must agree."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours.detach() - theirs).abs().max())
