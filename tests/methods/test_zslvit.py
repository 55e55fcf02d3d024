"""ZSLViT: the released modules' own numbers to 1e-9, and its pruning, drop path, batches and settings."""

import math

import numpy as np
import pytest
import torch
from peers import apart, differences, load, needs_fixtures, set_weights, vit_of
from torch import nn
from torch.nn import functional as F
from world import make_model

from vspcn_lib.config import Config, ConfigError, update
from vspcn_lib.methods import zslvit
from vspcn_lib.methods.zslvit import Prune, ZSLViT, ZSLViTConfig
from vspcn_lib.zeroshot import Classes

SITES = {1: "2", 2: "3", 3: "5"}
NAMES = {"vit.": "backbone.vit.", "attribute_head": "heads.attribute_head",
         **{f"semantic_embedder{j}.layer{i}": f"guides.{s}.embedder.{2 * i - 2}" for j, s in SITES.items()
            for i in (1, 2, 3)},
         **{f"query_regressor{j}.layer{i}": f"guides.{s}.regressor.{2 * i - 2}" for j, s in SITES.items()
            for i in (1, 2)}}


def _fixture_model(z: dict[str, torch.Tensor], keep: float) -> ZSLViT:
    settings = ZSLViTConfig(sites="2,3,5", keep=keep, bias=True, drop_path=0.0,
                            lambda_cls=float(z["input.loss_weights"][0]))
    model = ZSLViT(vit_of(z), torch.zeros(12, 1), Config().model, settings)
    return set_weights(model, z, "weight.", NAMES)


def _maps(model: ZSLViT, z: dict[str, torch.Tensor], mode: str, rows: torch.Tensor | None) -> dict[str, float]:
    """Differences of the tokens after each block, the importance and the kept patches of a mode."""
    seen, found = [], {}
    hook = model.prune.register_forward_hook(lambda _, given, out: seen.append((given, out)))
    for i, (tokens, guided) in enumerate(model.walk(z["input.images"], rows), 1):
        found[f"block {i}"] = apart(tokens, z[f"map.{mode}.block{i}.tokens_out"])
        for j, site in SITES.items():
            if f"e{site}" in guided:
                found[f"e {j}"] = apart(guided[f"e{site}"], z[f"map.{mode}.site{j}.semantic_embedding"])
                found[f"r {j}"] = apart(guided[f"r{site}"], z[f"map.{mode}.site{j}.regressed_attributes"])
    hook.remove()
    for j, ((_, importance), _) in enumerate(seen, 1):
        kept = z[f"map.{mode}.site{j}.kept_patch_index_descending"]
        found[f"importance {j}"] = apart(importance, z[f"map.{mode}.site{j}.cls_attention_mean_heads"])
        found[f"kept {j}"] = apart(importance.topk(kept.shape[1]).indices, kept)
    return found


def _parity() -> dict[str, float]:
    """The largest difference of every map, output, loss and gradient."""
    z = load("zslvit")
    attributes, count, labels = z["input.class_attributes"], int(z["input.num_seen"]), z["input.labels"]
    model, seen = _fixture_model(z, float(z["input.keep_rate_train"])), attributes[:count].clone().requires_grad_()
    queries = []
    for guide in model.guides.values():
        guide.regressor.register_forward_hook(lambda _, given, __: queries.append(given[0]))
    images = z["input.images"].requires_grad_()
    features = model.training_features(images, seen[labels])
    embedded = model.embed(features)
    parts = model.loss(features, embedded, labels, Classes(seen), Config())
    parts["total"].backward()
    radial = z["grad.seen_class_attributes"]  # ours reads rows through their unit length, so has no radial gradient
    radial = radial - (radial * attributes[:count]).sum(1, keepdim=True) * attributes[:count]
    found = {"cls": apart(features["cls"], z["map.train.cls_feature"]),
             "logits": apart(model.heads.scores(embedded, seen)["cls"], z["output.train.seen_logits"]),
             **{n: apart(parts[ours], z[f"loss.{n}"]) for ours, n in (
                 ("cls", "classification"), ("semantic", "semantic_alignment_l1"), ("reg", "query_regression_l1"),
                 ("total", "total"))},
             **{f"query {j}": apart(q, z[f"map.train.site{j}.cls_query"]) for j, q in enumerate(queries, 1)},
             "images": apart(images.grad, z["grad.input.images"]), "attributes": apart(seen.grad, radial),
             **differences(model, z, "grad.weight.", NAMES)}
    with torch.no_grad():
        found |= {f"train {k}": v for k, v in _maps(model, z, "train", seen[labels]).items()}
        for keep in (70, 90):
            model, mode = _fixture_model(z, keep / 100), f"eval_keep{keep}"
            found |= {f"{mode} {k}": v for k, v in _maps(model, z, mode, None).items()}
            embedded = model.embed(model.features(images))
            p = model.heads.scores(embedded, attributes)["cls"].softmax(-1)
            found[f"{mode} f"] = apart(embedded["cls"], z[f"output.{mode}.attribute_prediction"])
            found[f"{mode} p"] = apart(p, z[f"output.{mode}.probabilities"])
            p[:, :count] -= z["input.gamma"]
            found[f"{mode} predicted"] = apart(p.argmax(1), z[f"output.{mode}.calibrated_prediction"])
    return found


@needs_fixtures
def test_the_released_models_numbers():
    found = _parity()
    assert len(found) >= 80 and max(found.values()) < 1e-9, {k: v for k, v in found.items() if v >= 1e-9}


PRUNE = Prune.forward


def _normalised_fusion(self, tokens, importance):
    dropped = importance.scatter(1, importance.topk(math.ceil(self.keep * importance.shape[1])).indices, 0)
    out = PRUNE(self, tokens, importance)
    return torch.cat([out[:, :-1], out[:, -1:] / dropped.sum(1)[:, None, None]], 1)


WRONG = {
    "weights of the fused token that sum to one": (Prune, "forward", _normalised_fusion),
    "a distance that is a norm": (F, "l1_loss", lambda a, b: (a - b).abs().sum(1).mean()),
    "no final norm": (zslvit.FrozenViT, "final_norm", lambda self, tokens: tokens + 0 * self.vit.norm(tokens)),
}


@needs_fixtures
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_variants_are_seen(monkeypatch, wrong):
    monkeypatch.setattr(*WRONG[wrong])
    assert max(_parity().values()) > 1e-3


@pytest.mark.parametrize(("n", "keep"), [(16, 0.7), (9, 0.9), (9, 1.0), (11, 0.9), (3, 0.01)])
def test_pruning_keeps_the_largest_and_fuses_the_rest(n, keep):
    rng = np.random.default_rng(0)
    tokens, importance = rng.normal(size=(2, 2 + n, 4)), rng.uniform(size=(2, n))
    found = Prune(keep, 2)(torch.tensor(tokens), torch.tensor(importance)).numpy()
    count = math.ceil(keep * n)
    if count == n:  # nothing to prune
        np.testing.assert_array_equal(found, tokens)
        return
    for image, weights, out in zip(tokens, importance, found, strict=True):
        order = np.argsort(-weights)
        np.testing.assert_array_equal(out[:2 + count], [*image[:2], *image[2:][order[:count]]])
        np.testing.assert_allclose(out[-1], sum(weights[i] * image[2 + i] for i in order[count:]), atol=1e-12)


def test_with_nothing_pruned_and_no_guide_it_is_the_vit(tiny_vit):
    model, images = make_model(tiny_vit, "zslvit", sites="2,3", keep=1.0), torch.randn(2, 3, 32, 32)
    plain = tiny_vit.final_norm(tiny_vit.blocks(tiny_vit.embed(images)))[:, 0]
    torch.testing.assert_close(model.features(images)["cls"], plain)
    model = make_model(tiny_vit, "zslvit", sites="2,3", keep=1.0, mixing=0.0, drop_path=0.0)
    torch.testing.assert_close(model.training_features(images, torch.rand(2, 6))["cls"], plain)


def test_drop_path_follows_the_image_alone_and_its_rate(tiny_vit):
    model, images = make_model(tiny_vit, "zslvit", sites="2", drop_path=0.4), torch.randn(500, 3, 8, 8)
    kept = model._paths(images)
    torch.testing.assert_close(kept[7:9], model._paths(images[7:9]))  # in pieces as in the whole batch
    rates = 0.4 * torch.arange(4) / 3
    for block, rate in zip(kept.unbind(1), rates, strict=True):
        assert abs((block == 0).float().mean() - rate) < 0.05
        torch.testing.assert_close(block[block > 0].mean(), 1 / (1 - rate))
    assert (make_model(tiny_vit, "zslvit", sites="2", train_backbone=False)._paths(images[:2]) == 1).all()


@pytest.mark.parametrize("trains", [True, False])
def test_what_trains_and_how_fast(tiny_vit, trains):
    model = make_model(tiny_vit, "zslvit", sites="2,3", train_backbone=trains)
    images, attributes = torch.randn(3, 3, 32, 32), torch.rand(3, 6)
    features = model.train().training_features(images, attributes)
    assert set(features) == {"cls", "e2", "r2", "e3", "r3"}
    parts = model.loss(features, model.embed(features), torch.arange(3), Classes(attributes), Config())
    parts["total"].backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(model.trainable())
    assert any(n.startswith("backbone") for n in model.trainable()) == trains
    assert not any(p.requires_grad or p.grad is not None for p in tiny_vit.parameters())
    rest, head = model.optimiser(Config().train).param_groups
    assert (rest["peak"], head["peak"]) == (1e-5, 5e-3) and len(head["params"]) == 1
    np.testing.assert_allclose([model.rate(1, s, 8, 0) for s in range(8)], np.repeat([1, 0.5, 0.25, 0.125], 2))


def test_tau_is_added_to_probabilities_or_logits(tiny_vit):
    embedded, rows = {"cls": torch.randn(2, 6)}, torch.eye(6)
    p = make_model(tiny_vit, "zslvit", sites="2").scores(embedded, rows)
    logits = make_model(tiny_vit, "zslvit", sites="2", scores="logits").scores(embedded, rows)
    torch.testing.assert_close(p, logits.softmax(-1))
    torch.testing.assert_close(logits, embedded["cls"])


def test_classes_are_balanced():
    config = update(Config(), {"model": {"method": "zslvit"}, "train": {"batch_size": 32}})
    labels = np.repeat([0, 1, 2], [1000, 10, 190])
    found = ZSLViT.order(config, labels, np.random.default_rng(0))
    assert [len(b) for b in found] == [32] * 37 + [16]
    assert np.abs(np.bincount(labels[np.concatenate(found)]) / 1200 - 1 / 3).max() < 0.05


@pytest.mark.parametrize(("own", "words"), [
    ({"keep": 0.0}, r"method\.keep"), ({"keep": 1.01}, r"\(0, 1\]"), ({"sites": "3,2"}, "growing"),
    ({"sites": "0,2"}, "growing"), ({"sites": "a"}, "growing"), ({"sites": "2,5"}, "the ViT has 4 blocks")])
def test_settings_that_do_not_fit_are_refused(tiny_vit, own, words):
    with pytest.raises(ConfigError, match=words):
        ZSLViT.check(update(Config(), {"model": {"method": "zslvit"}, "method": own}), tiny_vit, 6)


def test_a_backbone_without_cls_or_plain_blocks_is_refused(tiny_vit, monkeypatch):
    config = update(Config(), {"model": {"method": "zslvit"}, "method": {"sites": "2"}})
    ZSLViT.check(config, tiny_vit, 6)
    with monkeypatch.context() as changed:
        changed.setattr(type(tiny_vit), "prefix", 0)
        with pytest.raises(ConfigError, match="which this backbone lacks"):
            ZSLViT.check(config, tiny_vit, 6)
    tiny_vit.blocks[2].attn = nn.Identity()
    with pytest.raises(ConfigError, match="plain ViT blocks"):
        ZSLViT.check(config, tiny_vit, 6)
