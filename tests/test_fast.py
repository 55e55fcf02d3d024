"""What was made fast gives the numbers of what is written plainly: outputs, gradients, captured maps."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vspcn_lib import attend, losses
from vspcn_lib.bench.plain import PlainVSPCN
from vspcn_lib.config import LossConfig, ModelConfig
from vspcn_lib.fusion import EPS
from vspcn_lib.model import VSPCN
from vspcn_lib.views.capture import attention_maps

CONFIG = ModelConfig(visual_prompts=3, semantic_prompts=2, first_strong_block=2, alpha_v=0.4, alpha_s=0.7, alpha_a=0.3)


def _pair(vit, dtype=torch.float64, **changes):
    torch.manual_seed(3)
    fast = VSPCN(vit, torch.randn(7, 10), replace(CONFIG, **changes)).to(dtype)
    for name, parameter in fast.trainable().items():  # gains and biases away from 1 and 0, where mistakes would hide
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    plain = PlainVSPCN(vit, torch.randn(7, 10), fast.config).to(dtype)
    plain.load_state_dict(fast.state_dict(), strict=False)
    plain.word_vectors = getattr(fast, "word_vectors", None)
    return fast, plain


def _gradients(model, images):
    embedded = model.train()(images).embedded
    prototypes = model.heads.prototypes(torch.linspace(0.1, 1, 35, dtype=images.dtype).view(5, 7) ** 2)
    targets = torch.arange(len(images)) % 5
    losses.total(model.heads.scores(embedded, prototypes), embedded, targets, prototypes[targets], 20.0,
                 LossConfig())["total"].backward()
    return embedded, {n: p.grad for n, p in model.trainable().items()}


@pytest.mark.parametrize("changes", [
    {}, {"adapter": False}, {"weak": False}, {"strong": False, "adapter": False}, {"visual_prompts": 0},
    {"semantic_prompts": 0}, {"alpha_a": 1.0}, {"alpha_a": 0.0, "alpha_s": 1.0, "alpha_v": 0.0},
    {"first_strong_block": 4}, {"recompute": True}])
def test_outputs_and_every_gradient_equal_the_plain_form(tiny_vit, changes):
    fast, plain = _pair(tiny_vit, **changes)
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, ours_grad = _gradients(fast, images)
    theirs, theirs_grad = _gradients(plain, images)
    for stream in theirs:
        torch.testing.assert_close(ours[stream], theirs[stream], atol=1e-10, rtol=1e-8)
    for name, expected in theirs_grad.items():
        if expected is None:  # nothing read it, in either form
            assert ours_grad[name] is None, name
        else:
            torch.testing.assert_close(ours_grad[name], expected, atol=1e-9, rtol=1e-6)


def test_float32_stays_within_rounding_of_the_plain_form(tiny_vit):
    fast, plain = _pair(tiny_vit, torch.float32)
    images = torch.randn(5, 3, 32, 32)
    ours, theirs = fast.eval()(images).embedded, plain.eval()(images).embedded
    for stream in theirs:
        torch.testing.assert_close(ours[stream], theirs[stream], atol=1e-5, rtol=1e-4)


def test_bf16_autocast_trains_close_to_float32(tiny_vit):
    fast, _ = _pair(tiny_vit, torch.float32)
    images = torch.randn(6, 3, 32, 32)
    exact, gradients = _gradients(fast, images)
    fast.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        half = fast(images).embedded
    half["semantic"].float().sum().backward()
    assert all(p.grad is None or (p.grad.dtype == torch.float32 and p.grad.isfinite().all())
               for p in fast.trainable().values())
    for stream in exact:
        assert torch.cosine_similarity(half[stream].float(), exact[stream], dim=-1).min() > 0.99
    assert gradients


@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 6), st.integers(1, 5), st.booleans(), st.booleans(),
       st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_hand_written_gradients_are_the_numerical_ones(b, p, t, n, shared, biased, seed):
    generator = torch.Generator().manual_seed(seed)

    def tensor(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    rows, softmax = tensor(1 if shared else b, t, 4), torch.nn.Softmax(-1)
    bias = tensor(p, t) if biased else None

    def read(rows, queries, bias):
        mixed, same = attend.read(rows, attend.row_scale(rows, EPS), queries, bias, 0.3, softmax)
        return mixed, same.sin()

    assert torch.autograd.gradcheck(read, (rows, tensor(b, p, 4), bias))

    def rewrite(rows, keys, offset, values):
        return attend.rewrite(rows, attend.row_scale(rows, EPS), keys, offset, values, 0.3, EPS, softmax)

    assert torch.autograd.gradcheck(rewrite, (rows, tensor(b, n, 4), tensor(b, n), tensor(b, n, 4)))


def test_the_last_block_computes_what_is_read_and_a_hook_still_sees_its_whole_map(tiny_vit):
    tokens = torch.randn(2, 20, 32)
    torch.testing.assert_close(tiny_vit.last_block(tokens, 4), tiny_vit.blocks[-1](tokens)[:, :4])
    fast, _ = _pair(tiny_vit, torch.float32)
    images = torch.randn(2, 3, 32, 32)
    with attention_maps(fast) as maps:
        seen = fast.eval()(images).embedded
    assert maps["backbone.vit.blocks.3.attn"].shape == (2, 4, 22, 22)
    torch.testing.assert_close(seen["cls"], fast(images).embedded["cls"], atol=1e-5, rtol=1e-4)
