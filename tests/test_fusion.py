"""Fusion against float64 NumPy written from the equations, plain form; the library computes the absorbed one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vspcn_lib.fusion import SemanticAdapter, StrongPromptFusion, WeakPromptFusion


def _np(t: torch.Tensor) -> np.ndarray:
    return t.detach().double().numpy()


def _norm(x: np.ndarray, layer: torch.nn.LayerNorm) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + layer.eps) * _np(layer.weight) + _np(layer.bias)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _plain(m, query: torch.Tensor, context: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """delta(QK^T/sqrt(D)) and V, every projection spelled out, with a key bias that must cancel."""
    q, c = _norm(_np(query), m.norm_query), _norm(_np(context), m.norm_context)
    Q = q @ _np(m.query.weight).T + _np(m.query.bias)
    K = c @ _np(m.key.weight).T + np.random.default_rng(0).normal(size=m.dim)
    V = c @ _np(m.value.weight).T + _np(m.value.bias)
    return _softmax(Q @ np.swapaxes(K, -1, -2) / np.sqrt(m.dim)), V


def _by_heads(m, query: torch.Tensor, context: torch.Tensor, alpha: float, bias: np.ndarray | None) -> np.ndarray:
    """The weighted values, head by head, each from its own rows of the three projections."""
    q, c, d = _norm(_np(query), m.norm_query), _norm(_np(context), m.norm_context), m.dim // m.heads
    out = []
    for own in (slice(h * d, (h + 1) * d) for h in range(m.heads)):
        Q = q @ _np(m.query.weight)[own].T + _np(m.query.bias)[own]
        K, V = c @ _np(m.key.weight)[own].T, c @ _np(m.value.weight)[own].T + _np(m.value.bias)[own]
        weights = _softmax(Q @ np.swapaxes(K, -1, -2) / np.sqrt(d))
        out.append((weights if bias is None else alpha * weights + (1 - alpha) * bias) @ V)
    return np.concatenate(out, -1)


def _wake(module: torch.nn.Module) -> torch.nn.Module:
    for p in module.parameters():  # biases and norms away from 0 and 1, where mistakes would hide
        torch.nn.init.normal_(p, 0.3, 0.5)
    return module


shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.sampled_from([4, 8, 16]))


def _close(found: torch.Tensor, expected: np.ndarray) -> None:
    """Within 1e-10 in float64 and 1e-5 in float32, of the largest value."""
    share = 1e-10 if found.dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(_np(found), expected, rtol=0, atol=share * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(shapes, st.floats(0, 1), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_every_fusion_equals_the_plain_equations(dtype, shape, alpha, seed):
    torch.manual_seed(seed)
    b, p, t, d = shape
    prompts, context = torch.randn(b, p, d, dtype=dtype), torch.randn(b, t, d, dtype=dtype) * 3
    weak = _wake(WeakPromptFusion(d).to(dtype))
    A, V = _plain(weak, prompts, context)
    _close(weak(prompts, context), A @ V)
    strong = _wake(StrongPromptFusion(d, p, t, alpha).to(dtype))
    A, V = _plain(strong, prompts, context)
    _close(strong(prompts, context),
           (alpha * A + (1 - alpha) * _softmax(_np(strong.bias))) @ V + _np(prompts))
    adapter = _wake(SemanticAdapter(d, alpha).to(dtype))
    A, V = _plain(adapter, prompts, context)
    _close(adapter(prompts, context), alpha * (A @ V) + (1 - alpha) * _np(prompts))


@pytest.mark.parametrize("heads", [1, 2, 4])
@given(shapes, st.floats(0, 1), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_heads_attend_in_channels_of_their_own(heads, shape, alpha, seed):
    torch.manual_seed(seed)
    b, p, t, d = shape
    prompts, context = torch.randn(b, p, d, dtype=torch.float64), torch.randn(b, t, d, dtype=torch.float64) * 3
    weak = _wake(WeakPromptFusion(d, heads).double())
    _close(weak(prompts, context), _by_heads(weak, prompts, context, 1.0, None))
    strong = _wake(StrongPromptFusion(d, p, t, alpha, heads).double())
    _close(strong(prompts, context),
           _by_heads(strong, prompts, context, alpha, _softmax(_np(strong.bias))) + _np(prompts))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="5 heads do not divide a width of 8"):
        WeakPromptFusion(8, 5)


def test_alpha_one_is_attention_plus_residual_and_alpha_zero_ignores_attention():
    torch.manual_seed(0)
    prompts, context = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    one = StrongPromptFusion(8, 3, 5, 1.0)
    A, V = _plain(one, prompts, context)
    np.testing.assert_allclose(_np(one(prompts, context)), A @ V + _np(prompts), atol=1e-5)
    zero = StrongPromptFusion(8, 3, 5, 0.0)
    before = zero(prompts, context)
    torch.nn.init.normal_(zero.query.weight)
    torch.nn.init.normal_(zero.key.weight)
    assert torch.equal(before, zero(prompts, context))


def test_adapter_of_one_image_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    adapter, attributes, patches = SemanticAdapter(16, 0.5), torch.randn(4, 7, 16), torch.randn(4, 9, 16)
    alone = adapter(attributes[:1], patches[:1])
    other = torch.cat([patches[:1], 100 * torch.randn(3, 9, 16)])
    torch.testing.assert_close(adapter(attributes, other)[:1], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan")])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        StrongPromptFusion(8, 2, 3, alpha)
    with pytest.raises(ValueError, match="alpha"):
        SemanticAdapter(8, alpha)


def test_strong_fusion_names_a_wrong_context():
    with pytest.raises(ValueError, match="built for 2 prompts over 3 context tokens, got 2 over 4"):
        StrongPromptFusion(8, 2, 3, 0.5)(torch.zeros(1, 2, 8), torch.zeros(1, 4, 8))
