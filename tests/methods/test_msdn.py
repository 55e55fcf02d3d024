"""MSDN: the released modules' own numbers to 1e-9, and its parts against NumPy."""

import numpy as np
import pytest
import torch
from peers import apart, differences, load, needs_fixtures, set_weights
from torch.nn import functional as F
from world import make_model, make_vit

from vspcn_lib import losses
from vspcn_lib.config import Config, ConfigError, update
from vspcn_lib.methods import msdn
from vspcn_lib.methods.msdn import MSDN, MSDNConfig, TwoSubNets
from vspcn_lib.zeroshot import Classes

NAMES = {"attribute_vectors": "attribute_vectors", "attribute_to_visual.score": "w1",
         "attribute_to_visual.attention": "w2", "visual_to_attribute.score": "w3",
         "visual_to_attribute.attention": "w4"}
SHIFT = torch.tensor([-1.0] * 5 + [1.0] * 2, dtype=torch.float64)


def _parity(case: str) -> dict[str, float]:
    """The largest difference of every map, loss, output and gradient of a case."""
    z = {k.removeprefix(f"{case}."): v for k, v in load("msdn").items() if k.startswith(case)}
    settings = MSDNConfig(lambda_cal=float(z["input.lambda_calibration"]), mix=float(z["input.inference_weights"][0]),
                          lambda_dist=float(z["input.lambda_distillation"]),
                          renormalise=bool(z["input.normalise_attribute_vectors_at_run_time"]), clamp=case == "case_b")
    model = MSDN(make_vit(), z["input.word_vectors_raw"], Config().model, settings)
    set_weights(model.heads, z, "weight.", NAMES)
    regions = z["input.feature_maps"].clone().requires_grad_()
    seen, unseen = z["input.seen_classes"], z["input.unseen_classes"]
    order, features = torch.cat([seen, unseen]), {"regions": regions.flatten(2).transpose(1, 2)}
    raw = z["input.class_attributes_raw"]
    embedded = model.embed(features)
    targets = torch.searchsorted(seen, z["input.labels"])
    parts = model.loss(features, embedded, targets, Classes(raw[seen], raw[unseen]), Config())
    parts["total"].backward()
    rows = model.prototypes(raw)
    logits = {n: s[:, order] + SHIFT for n, s in model.heads.scores(embedded, rows).items()}
    a1, a2 = model.heads.attention(features["regions"])
    unit, v = F.normalize(features["regions"], dim=-1), model.heads._inputs(features["regions"])[0]
    shifted = model.heads.scores({"mix": model.read(embedded)}, rows)["mix"].detach()
    shifted[:, order] += SHIFT
    found = {"rows": apart(rows, z["map.class_attributes_normalised"]),
             **{f"logits {n}": apart(s, z[f"map.logits_{n}"][:, order]) for n, s in logits.items()},
             "A1": apart(a1, z["map.attention_attribute_to_visual"]),
             "psi1": apart(embedded["attribute_to_visual"], z["map.attribute_scores_attribute_to_visual"]),
             "attended": apart(a1 @ unit, z["map.attended_visual_features"]),
             "attended words": apart(a2.transpose(1, 2) @ v, z["map.attended_attribute_features"]),
             "dist": apart(parts["dist"], z["loss.distillation"]), "total": apart(parts["total"], z["loss.total"]),
             **{f"ce {n}": apart(parts[f"ce_{n}"], z[f"loss.ce_{n}"]) for n in logits},
             **{f"cal {n}": apart(parts[f"cal_{n}"], z[f"loss.calibration_{n}"]) for n in logits},
             "inference": apart(shifted, z["output.inference_logits"]),
             "predicted": apart(shifted.argmax(1), z["output.gzsl_prediction"]),  # the released shift is a tau of 2
             "unseen": apart(unseen[shifted[:, unseen].argmax(1)], z["output.zsl_prediction"]),
             "regions": apart(regions.grad, z["grad.input.feature_maps"]),
             **differences(model.heads, z, "grad.weight.", NAMES)}
    return found


@needs_fixtures
@pytest.mark.parametrize("case", ["case_a", "case_b", "case_c"])
def test_the_released_modules_numbers(case):
    found = _parity(case)
    assert len(found) >= 20 and max(found.values()) < 1e-9, {k: v for k, v in found.items() if v >= 1e-9}


JSD, ATTENTION, NORMALISE = losses.jsd, TwoSubNets.attention, F.normalize
WRONG = {
    "a mean of logs in the calibration": (
        msdn, "calibration", lambda logits, seen: -logits.log_softmax(-1)[:, seen:].logsumexp(-1).mean()),
    "a JSD without the shift": (losses, "jsd", lambda p, q: JSD(p - SHIFT, q - SHIFT)),
    "the other axis": (TwoSubNets, "attention", lambda self, regions: ATTENTION(self, regions)[::-1]),
    "regions of any length": (F, "normalize", lambda x, dim: x if x.dim() == 3 else NORMALISE(x, dim=dim)),
}


@needs_fixtures
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_variants_are_seen(monkeypatch, wrong):
    monkeypatch.setattr(*WRONG[wrong])
    assert max(_parity("case_a").values()) > 1e-3


def test_the_maps_are_the_sums_that_the_paper_writes():
    torch.manual_seed(1)
    heads = TwoSubNets(4, torch.randn(3, 5), MSDNConfig()).double()
    for w in (heads.w2, heads.w3, heads.w4):
        torch.nn.init.normal_(w)
    regions = torch.randn(2, 6, 4).double()
    found = {k: v.detach().numpy() for k, v in heads({"regions": regions}).items()}
    v, w1, w2, w3, w4 = (p.detach().numpy() for p in heads.parameters())
    for b, image in enumerate(regions.numpy()):
        f = image / np.linalg.norm(image, axis=1, keepdims=True)
        up, down = (np.exp([[v[k] @ w @ f[r] for r in range(6)] for k in range(3)]) for w in (w2, w4))
        one = [sum(up[k, r] / up[k].sum() * (v[k] @ w1 @ f[r]) for r in range(6)) for k in range(3)]
        two = [sum(down[k, r] / down[:, r].sum() * (f[r] @ w3 @ v[k]) for r in range(6)) for k in range(3)]
        np.testing.assert_allclose(found["attribute_to_visual"][b], one, atol=1e-12)
        np.testing.assert_allclose(found["visual_to_attribute"][b], two, atol=1e-12)


def test_only_the_heads_train_and_regions_are_read_once(tiny_vit):
    model, images = make_model(tiny_vit, "msdn"), torch.randn(3, 3, 32, 32)
    kept = model.frozen(images)
    assert kept.shape == (3, 16, 32) and model.cached(Config())
    torch.testing.assert_close(kept, tiny_vit.final_norm(tiny_vit.blocks(tiny_vit.embed(images)))[:, 1:])
    assert {n.split(".")[0] for n in model.trainable()} == {"heads"} and len(model.trainable()) == 5
    torch.testing.assert_close(model.heads.attribute_vectors.norm(dim=1), torch.ones(6))


def test_agreeing_nets_have_no_distance_and_a_gradient():
    logits = torch.randn(2, 5, requires_grad=True)
    value = msdn.distillation(logits, logits.clone())
    value.backward()
    assert abs(value.item()) < 1e-6 and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("batches", ["images", "classes"])
def test_batches_are_drawn_afresh(batches):
    config = update(Config(), {"model": {"method": "msdn"}, "method": {"batches": batches},
                               "train": {"batch_size": 4}})
    labels = np.repeat(np.arange(5), [9, 1, 4, 3, 3])
    found = MSDN.order(config, labels, np.random.default_rng(0))
    assert len(found) == 5 and all(len(set(rows)) == 4 for rows in found)
    assert (max(len(set(labels[rows])) for rows in found) == min(len(set(labels[rows])) for rows in found) == 4) == (
        batches == "classes")
    few = MSDN.order(config, labels[-6:], np.random.default_rng(0))  # two classes: as many as there are
    assert len(few[0]) == (2 if batches == "classes" else 4)


def test_no_regions_is_an_error(tiny_vit, monkeypatch):
    config = update(Config(), {"model": {"method": "msdn"}})
    MSDN.check(config, tiny_vit, 6)
    monkeypatch.setattr(type(tiny_vit), "patches", 1)
    with pytest.raises(ConfigError, match="reads patch tokens"):
        MSDN.check(config, tiny_vit, 6)
    with pytest.raises(ConfigError, match=r"method\.mix"):
        MSDNConfig(mix=1.5)
