"""The model: parity with timm first, then what trains, what never changes, what can be captured."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vspcn_lib import losses
from vspcn_lib.config import Config, LossConfig, ModelConfig, update
from vspcn_lib.data.images import Batches, Normalise
from vspcn_lib.encoders.backbone import FrozenViT
from vspcn_lib.fusion import StrongPromptFusion, WeakPromptFusion
from vspcn_lib.methods.registry import build
from vspcn_lib.model import STRONG_SHARE, VSPCN, WEAK_SHARE
from vspcn_lib.views.capture import CaptureError, attention_maps, prompt_attention

CONFIG = ModelConfig(visual_prompts=3, semantic_prompts=2, first_strong_block=3)


def _model(vit: FrozenViT, **changes) -> VSPCN:
    torch.manual_seed(1)
    return VSPCN(vit, torch.randn(6, 10), replace(CONFIG, **changes))


def _step(model: VSPCN, images: torch.Tensor) -> dict[str, torch.Tensor]:
    embedded = model(images).embedded
    prototypes = model.heads.prototypes(torch.rand(5, 6, device=images.device))
    targets = torch.arange(len(images), device=images.device) % 5
    return losses.total(model.heads.scores(embedded, prototypes), embedded, targets, prototypes[targets], 20.0,
                        LossConfig())


def test_without_prompts_tokens_and_features_are_timms_to_the_bit(tiny_vit):
    images = torch.randn(3, 3, 32, 32)
    model = _model(tiny_vit, visual_prompts=0, semantic_prompts=0)
    theirs = tiny_vit.vit.forward_features(images)
    assert torch.equal(model.tokens(images), theirs)
    # What heads read, and what timm's own head would.
    assert torch.equal(model.features(images)["cls"], tiny_vit.vit.forward_head(theirs, pre_logits=True))
    assert torch.equal(model(images).features["cls"], theirs[:, 0])


def test_parity_holds_for_registers_and_other_sizes():
    vit = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=56, num_classes=0, depth=2)
    frozen = FrozenViT(vit, {"tag": "reg", "sha256": ""})
    model = VSPCN(frozen, torch.randn(4, 5), ModelConfig(visual_prompts=0, semantic_prompts=0, first_strong_block=1))
    images = torch.randn(1, 3, 56, 56)
    assert torch.equal(model.tokens(images), vit.forward_features(images))
    assert torch.equal(model.features(images)["cls"], vit.forward_features(images)[:, 0])
    assert VSPCN(frozen, torch.randn(4, 5), replace(CONFIG, first_strong_block=1)).tokens(images).shape[1] == 5 + 5 + 16


def test_backbone_never_changes_and_everything_else_trains(tiny_vit):
    model, before = _model(tiny_vit), {n: p.clone() for n, p in tiny_vit.state_dict().items()}
    optimiser = torch.optim.Adam(model.trainable().values(), lr=0.1, weight_decay=0.1)
    model.train()
    _step(model, torch.randn(8, 3, 32, 32))["total"].backward()
    assert not tiny_vit.training and not any(m.training for m in tiny_vit.modules())
    assert {n for n, p in model.named_parameters() if p.grad is None} == {
        n for n, _ in model.named_parameters() if n.startswith("backbone.")}
    optimiser.step()
    assert all(torch.equal(before[n], p) for n, p in tiny_vit.state_dict().items())
    assert not any(n.startswith("backbone") for n in model.state())


def test_each_parameter_trains_at_the_rate_of_its_role_and_only_heads_decay(tiny_vit):
    model = _model(tiny_vit)
    rates = {id(p): (round(group["peak"] / 2.0, 9), group["weight_decay"])
             for group in model.optimiser(replace(Config().train, lr=2.0, weight_decay=0.3)).param_groups
             for p in group["params"]}
    expected = {id(p): (1.0, 0.3) for p in model.heads.parameters()}
    expected |= {id(p): (1.0, 0.0) for p in model.attribute_tokens.parameters()}
    expected |= {id(p): (0.1, 0.0) for p in (model.visual_prompts, model.semantic_prompts)}
    for module in (model.weak_visual, model.weak_semantic, model.adapters, model.strong_visual, model.strong_semantic):
        expected |= {id(p): (round(40.0 / tiny_vit.dim, 9), 0.0) for p in module.parameters()}
    # The learned bias B of strong fusion; biases of its linear maps and of weak fusion's go with their maps.
    expected |= {id(fusion.bias): (30.0, 0.0) for fusion in (*model.strong_visual, *model.strong_semantic)}
    wrong = [name for name, p in model.trainable().items() if rates[id(p)] != expected[id(p)]]
    assert not wrong and len(rates) == len(expected) == len(model.trainable())


@pytest.mark.parametrize("changes", [
    {"visual_prompts": 0}, {"semantic_prompts": 0}, {"weak": False}, {"strong": False}, {"adapter": False},
    {"weak": False, "strong": False}, {"embedding": "semantic-to-visual"}, {"first_strong_block": 1}])
def test_every_variant_trains_and_reports_its_streams(tiny_vit, changes):
    model = _model(tiny_vit, **changes).train()
    parts = _step(model, torch.randn(6, 3, 32, 32))
    parts["total"].backward()
    assert ("ced" in parts) == (changes.get("visual_prompts") != 0)
    assert ("skd" in parts) == (changes.get("semantic_prompts") != 0)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.trainable().values())


def _heard(model: VSPCN, images: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By fusion, what its query's norm reads, [B,P,D], and what it adds, [B,P,D]."""
    read, added, hooks = {}, {}, []
    for name, module in model.named_modules():
        if isinstance(module, WeakPromptFusion | StrongPromptFusion):
            hooks.append(module.norm_query.register_forward_pre_hook(lambda m, x, n=name: read.update({n: x[0]})))
            hooks.append(module.output.register_forward_hook(lambda m, x, out, n=name: added.update({n: out})))
    with torch.no_grad():
        model.features(images)
    for hook in hooks:
        hook.remove()
    return {name: (read[name], added[name]) for name in added}


def test_fusion_begins_with_its_share_of_each_prompts_length_and_queries_that_tell_images_apart(tiny_vit):
    model, images = _model(tiny_vit), torch.randn(40, 3, 32, 32)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    model.begin(images)
    moved = {n for n, p in model.state_dict().items() if not torch.equal(p, before[n])}
    assert all(".value." in n or ".norm_query." in n for n in moved) and moved
    for name, (prompts, added) in _heard(model, images).items():
        share = added.norm(dim=-1).mean() / prompts.norm(dim=-1).mean()
        assert share.item() == pytest.approx(STRONG_SHARE if name.startswith("strong_") else WEAK_SHARE, rel=1e-4)
        prompts, added = prompts.detach(), added.detach()
        asked = model.get_submodule(name).norm_query(prompts).detach()
        assert float(asked.mean((0, 1)).abs().max()) < 1e-3
        spread = asked.std((0, 1), correction=0)  # short of 1 where a channel hardly moves
        assert 0.5 < float(spread.max()) <= 1.001, (name, spread)
    again = _model(tiny_vit)
    again.begin(images)
    assert all(torch.equal(p, model.state_dict()[n]) for n, p in again.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_one_images_output_does_not_depend_on_its_batch(tiny_vit):
    model, images = _model(tiny_vit).eval(), torch.randn(4, 3, 32, 32)
    together, alone = model(images).embedded, model(images[:1]).embedded
    for stream in ("cls", "visual", "semantic"):
        torch.testing.assert_close(together[stream][:1], alone[stream], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("changes", "streams"), [
    ({}, ["cls"]), ({"readout": "cls+semantic"}, ["cls", "semantic"]),
    ({"readout": "cls+semantic", "semantic_prompts": 0}, ["cls"]),
    ({"readout": "cls+semantic", "embedding": "semantic-to-visual"}, ["cls", "semantic"])])
def test_the_readout_is_the_mean_of_its_streams_scores(tiny_vit, changes, streams):
    model = _model(tiny_vit, **changes).eval()
    embedded, prototypes = model(torch.randn(3, 3, 32, 32)).embedded, model.heads.prototypes(torch.rand(5, 6))
    by_hand = np.mean([model.config.scale * embedded[s].detach().numpy().astype(float)
                       @ prototypes.detach().numpy().astype(float).T for s in streams], axis=0)
    np.testing.assert_allclose(model.scores(embedded, prototypes).detach().numpy(), by_hand, atol=1e-4)


def test_embeddings_and_prototypes_are_unit(tiny_vit):
    model = _model(tiny_vit).eval()
    for e in [*model(torch.randn(2, 3, 32, 32)).embedded.values(), model.heads.prototypes(torch.rand(5, 6) * 9)]:
        torch.testing.assert_close(e.norm(dim=-1), torch.ones(len(e)))


def test_capture_is_named_normal_and_leaves_nothing_behind(tiny_vit):
    model, images = _model(tiny_vit).eval(), torch.randn(2, 3, 32, 32)
    plain = model(images).embedded["cls"]
    with attention_maps(model) as maps:
        captured = model(images).embedded["cls"]
    torch.testing.assert_close(plain, captured, atol=1e-5, rtol=1e-4)
    assert maps["weak_visual.attention"].shape == (2, 3, 17)
    assert maps["strong_semantic.1.attention"].shape == (2, 2, 6)
    assert maps["adapters.0.attention"].shape == (2, 6, 16)
    for attention in maps.values():
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
    with pytest.raises(ZeroDivisionError), attention_maps(model):
        raise ZeroDivisionError
    assert not any(m._forward_hooks for m in model.modules())
    with pytest.raises(CaptureError), attention_maps(model):
        pass
    looks = prompt_attention(model, images)
    assert {s: m.shape for s, m in looks.items()} == dict.fromkeys(("cls", "visual", "semantic"), (2, 4, 4))


def test_losses_equal_numpy():
    rng = np.random.default_rng(0)
    vp, cls, y = rng.normal(size=(4, 5)), rng.normal(size=(4, 5)), np.array([0, 1, 2, 3])

    def soft(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    def ce(x):
        return -np.log(soft(x)[np.arange(4), y]).mean()

    kl = (soft(vp) * np.log(soft(vp) / soft(cls))).sum(-1).mean()
    t = [torch.tensor(a) for a in (vp, cls, y)]
    assert losses.kl(t[0], t[1]).item() == pytest.approx(kl)
    assert losses.contrast(*t, 0.5).item() == pytest.approx(np.log((ce(vp) + ce(cls)) / (kl + 0.5) + 1))
    m = (soft(vp) + soft(cls)) / 2
    jsd = 0.5 * ((soft(vp) * np.log(soft(vp) / m)).sum(-1) + (soft(cls) * np.log(soft(cls) / m)).sum(-1)).mean()
    assert losses.jsd(t[0], t[1]).item() == pytest.approx(jsd)
    distance = np.linalg.norm(vp - cls, axis=-1).mean()
    scaled = losses.jsd(3 * t[0], 3 * t[1]).item()
    assert losses.distillation(t[0], t[1], 3.0, 2.0, 0.5).item() == pytest.approx(2 * scaled + 0.5 * distance)
    assert losses.regression(t[0], t[1]).item() == pytest.approx(((vp - cls) ** 2).sum(-1).mean())


def test_equal_distributions_stay_finite_with_gradients():
    x = torch.randn(3, 4, requires_grad=True)
    value = losses.contrast(x, x.detach().clone(), torch.tensor([0, 1, 2]), 1e-8)
    value = value + losses.distillation(x, x.detach().clone(), 20.0, 1.0, 1.0)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(x.grad).all()


def test_a_part_that_is_not_finite_names_itself():
    bad = {"cls": torch.full((2, 3), float("nan"))}
    with pytest.raises(FloatingPointError, match="'cls'"):
        losses.total(bad, {"cls": torch.ones(2, 3)}, torch.tensor([0, 1]), torch.ones(2, 3), 1.0, LossConfig())


@pytest.mark.parametrize("changes", [
    {}, {"weak": False}, {"adapter": False}, {"embedding": "semantic-to-visual"}, {"readout": "cls+semantic"},
    {"method": "vpt-deep"}, {"method": "vpt-shallow"}, {"method": "sp"}, {"method": "finetune"}])
def test_no_tensor_stays_on_the_cpu_when_the_model_is_on_cuda(tiny_vit, changes, monkeypatch):
    """PyTorch's fake tensors have a device but no data: operations between devices fail, as they would on a GPU."""
    config = update(Config(), {"model": {"visual_prompts": 3, "semantic_prompts": 2, "first_strong_block": 3,
                                         **changes}})
    torch.manual_seed(1)
    model = build(tiny_vit, torch.randn(6, 10), config)
    scale, indices = Normalise((0.5,) * 3, (0.25,) * 3), np.arange(4)
    batches = Batches(np.zeros((4, 3, 32, 32), np.uint8), indices, indices, 4, normalise=scale, device="cuda")
    finite = torch.isfinite  # `total` asks it of each part, which has no data here
    monkeypatch.setattr(torch, "isfinite", lambda value: value.dim() == 0 or finite(value))
    earlier = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to("cuda").train()
            images = scale(batches._augment(torch.empty(4, 3, 32, 32, device="cuda"), np.random.default_rng(0), 4))
            parts = _step(model, images)
            scores = model.scores(model(images).embedded, model.heads.prototypes(torch.empty(5, 6, device="cuda")))
            assert {p.device.type for p in [*parts.values(), scores, *model.trainable().values()]} == {"cuda"}
            with pytest.raises(RuntimeError, match="device"):  # it would be seen
                model(torch.empty(4, 3, 32, 32))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(earlier)
