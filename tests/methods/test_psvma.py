"""PSVMA: the released modules' own numbers to 1e-9, and its batches, schedule and settings."""

import numpy as np
import pytest
import torch
from peers import apart, differences, load, needs_fixtures, set_weights, vit_of
from torch import nn
from torch.nn import functional as F
from world import make_model

from vspcn_lib.config import Config, ConfigError, update
from vspcn_lib.methods import psvma
from vspcn_lib.methods.psvma import PSVMA, AttributeHead, MutualAdaption, PSVMAConfig
from vspcn_lib.zeroshot import Classes

M = ("attribute_to_patch", "patch_to_attribute", "attribute_gate", "attribute_ffn", "token_mixer", "patch_ffn")
NAMES = {"vit.": "backbone.vit.", "output_projection": "heads.output_projection", **{m: f"adaption.{m}" for m in M}}


def _fixture_model(z: dict[str, torch.Tensor]) -> PSVMA:
    settings = PSVMAConfig(gate_reduction=3, mixer=24, lambda_debias=float(z["input.loss_weights"][2]))
    model = PSVMA(vit_of(z), z["input.word_vectors"], Config().model, settings)
    return set_weights(model, z, "weight.", NAMES)


def _parity() -> dict[str, float]:
    """The largest difference of every map, score, loss and gradient of the whole model."""
    z = load("psvma")
    model, maps = _fixture_model(z), {}
    for name in ("attribute_to_patch", "patch_to_attribute", "attribute_gate", "token_mixer"):
        module = getattr(model.adaption, name)
        module.register_forward_hook(lambda _, __, out, name=name: maps.setdefault(name, []).append(out))
    model.adaption.register_forward_hook(lambda _, __, out: maps.setdefault("out", []).append(out[0]))
    for i in (-2, -1):
        model.backbone.blocks[i].register_forward_hook(lambda _, __, out: maps.setdefault("blocks", []).append(out))
    images, attributes = z["input.images"].requires_grad_(), z["input.class_attributes"]
    count = int(z["input.num_seen"])
    features = model.features(images)
    embedded = model.embed(features)
    scores = model.heads.scores(embedded, model.prototypes(attributes))["patches"]
    parts = model.loss(features, embedded, z["input.labels"], Classes(attributes[:count], attributes[count:]), Config())
    parts["total"].backward()
    found = {"before stage 1": apart(maps["blocks"][0], z["map.vit_before_stage1"]),
             "last block": apart(maps["blocks"][1], z["map.vit_last_block"]),
             "scores": apart(scores, z["output.scores_all"]),
             "images": apart(images.grad, z["grad.input.images"]),
             **{n: apart(parts[ours], z[f"loss.{n}"]) for ours, n in (
                 ("cls", "classification"), ("reg", "regression"), ("debias", "debias"), ("total", "total"))},
             **differences(model, z, "grad.weight.", NAMES)}
    for t in (1, 2):
        for j in (1, 2):
            at, i = f"map.stage{t}.pass{j}.", 2 * (t - 1) + j - 1
            found |= {f"{at}logits": apart(maps["attribute_to_patch"][i][0], z[f"{at}attribute_to_patch_logits"]),
                      f"{at}max": apart(features[f"m{i + 1}"], z[f"{at}attribute_max"]),
                      f"{at}gated": apart(maps["attribute_gate"][i], z[f"{at}gated_attributes"])}
        for ours, n in (("token_mixer", "after_token_mixer"), ("out", "patches_out")):
            found[f"{n} {t}"] = apart(maps[ours][t - 1], z[f"map.stage{t}.{n}"])
        logits = maps["patch_to_attribute"][t - 1][0]
        found[f"patches {t}"] = apart(logits, z[f"map.stage{t}.patch_to_attribute_logits"])
    return found


@needs_fixtures
def test_the_released_models_numbers():
    found = _parity()
    assert len(found) >= 80 and max(found.values()) < 1e-9, {k: v for k, v in found.items() if v >= 1e-9}


@needs_fixtures
def test_the_released_modules_numbers():
    z = load("psvma")
    model = _fixture_model(z).adaption
    patches, tokens = (z[f"module.input.{n}"].requires_grad_() for n in ("patches", "attribute_tokens"))
    out, first, second = model(tokens[None], patches)
    value = sum((x * z[f"module.probe.{n}"]).sum() for x, n in ((out, "patches"), (first, "pass1"), (second, "pass2")))
    value.backward()
    found = [apart(out, z["module.output.patches"]), apart(first, z["module.output.attribute_max_pass1"]),
             apart(second, z["module.output.attribute_max_pass2"]), apart(value, z["module.scalar"]),
             apart(patches.grad, z["module.grad.patches"]), apart(tokens.grad, z["module.grad.attribute_tokens"])]
    assert max(found) < 1e-9, found


def _no_first_residual(self, tokens, patches):
    first, out = self._read(tokens, patches)
    second, tokens = self._read(out, patches)
    mixed = self.token_mixer(patches + self.patch_to_attribute(patches, tokens)[1])
    return mixed + self.patch_ffn(mixed), first, second


STD = torch.Tensor.std
WRONG = {
    "no residual around the first pass": (MutualAdaption, "forward", _no_first_residual),
    "no 1e-5 beside the norm": (AttributeHead, "prototypes", lambda self, rows: F.normalize(rows, dim=-1)),
    "the population's deviation": (torch.Tensor, "std", lambda self, dim: STD(self, dim, correction=0)),
    "a norm of eps 1e-6": (psvma.nn, "LayerNorm", lambda dim: nn.modules.normalization.LayerNorm(dim, eps=1e-6)),
}


@needs_fixtures
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_variants_are_seen(monkeypatch, wrong):
    monkeypatch.setattr(*WRONG[wrong])
    assert max(_parity().values()) > 1e-6


OWN = {"gate_reduction": 2, "mixer": 8}


@pytest.mark.parametrize("trains", [True, False])
def test_what_trains(tiny_vit, trains):
    model = make_model(tiny_vit, "psvma", train_backbone=trains, **OWN)
    features = model.train().features(torch.randn(3, 3, 32, 32))
    rows = torch.rand(5, 6)
    parts = model.loss(features, model.embed(features), torch.arange(3), Classes(rows[:3], rows[3:]), Config())
    parts["total"].backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(model.trainable())
    assert any(n.startswith("backbone") for n in model.trainable()) == trains
    assert not any(p.requires_grad or p.grad is not None for p in tiny_vit.parameters())
    assert [set(g) >= {"peak"} for g in model.optimiser(Config().train).param_groups] == [True]


def test_the_gate_pools_over_channels():
    gate = psvma.AttributeGate(3, 2).double()
    u = torch.randn(2, 3, 4).double()
    w1, b1, w2, b2 = (p.detach().numpy() for p in gate.parameters())
    for image, out in zip(u.numpy(), gate(u).detach().numpy(), strict=True):
        hidden = F.gelu(torch.tensor(w1 @ image.max(1) + b1)).numpy()
        s = 1 / (1 + np.exp(-(w2 @ hidden + b2)))
        np.testing.assert_allclose(out, image + s[:, None] * image, atol=1e-12)


def test_debiasing_is_the_excess_of_seen_scores(tiny_vit):
    model, rng = make_model(tiny_vit, "psvma", **OWN), np.random.default_rng(0)
    rows, e = rng.uniform(0.1, 1, (5, 6)), rng.normal(size=(4, 6))
    features = {f"m{i}": torch.zeros(4, 6).double() for i in (1, 2, 3, 4)}
    parts = model.loss(features, {"patches": model.prototypes(torch.tensor(e))}, torch.tensor([0, 1, 2, 0]),
                       Classes(torch.tensor(rows[:3]), torch.tensor(rows[3:])), Config())
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = 25 * (e / (np.linalg.norm(e, axis=1, keepdims=True) + 1e-5)) @ (unit / (1 + 1e-5)).T
    seen, unseen = scores[:, :3], scores[:, 3:]
    expected = sum(np.maximum(f(seen) - f(unseen), 0).mean() for f in (
        lambda x: x.mean(1), lambda x: x.std(1, ddof=1)))
    np.testing.assert_allclose(parts["debias"].item(), expected, rtol=1e-9)
    np.testing.assert_allclose(parts["reg"].item(), 4 * np.square(unit[[0, 1, 2, 0]]).mean(), rtol=1e-9)


def test_the_rate_falls_as_released():
    model = PSVMA.rate
    found = [round(-np.log10(model(None, 1.0, step, 50, 0))) for step in range(0, 50, 2)]  # 25 epochs of 2 steps
    assert found == [0] * 4 + [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5 + [5]


def test_batches_are_classes_times_images():
    config = update(Config(), {"model": {"method": "psvma"}, "train": {"batch_size": 6}})
    labels = np.repeat(np.arange(5), [9, 2, 4, 3, 3])
    found = PSVMA.order(config, labels, np.random.default_rng(0))
    assert len(found) == 3
    for rows in found:
        assert len(set(rows)) == 6 and sorted(np.unique(labels[rows], return_counts=True)[1]) == [2, 2, 2]
    for few in (labels[-6:], labels[8:]):  # two classes; a class with one image
        with pytest.raises(ConfigError, match="cannot be filled"):
            PSVMA.order(config, few, np.random.default_rng(0))


@pytest.mark.parametrize(("own", "words"), [
    ({"gate_reduction": 7}, "leaves the gate of 6 attributes no hidden unit"), ({"images": 3}, "choose 33"),
    ({"gate_reduction": 0}, r"method\.gate_reduction"), ({"momentum": 1.0}, r"method\.momentum")])
def test_settings_that_do_not_fit_are_refused(tiny_vit, own, words):
    with pytest.raises(ConfigError, match=words):
        PSVMA.check(update(Config(), {"model": {"method": "psvma"}, "method": {**OWN, **own}}), tiny_vit, 6)


def test_no_patch_tokens_is_an_error(tiny_vit, monkeypatch):
    monkeypatch.setattr(type(tiny_vit), "patches", 0)
    with pytest.raises(ConfigError, match="reads patch tokens, of which the backbone has 0"):
        PSVMA.check(update(Config(), {"model": {"method": "psvma"}, "method": OWN}), tiny_vit, 6)
