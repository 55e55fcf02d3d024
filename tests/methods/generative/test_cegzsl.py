"""CE-GZSL against recorded numbers of one step, and against a plain float64 NumPy form of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from vspcn_lib.config import ConfigError
from vspcn_lib.methods.generative import cegzsl
from vspcn_lib.methods.generative.cegzsl import CEGZSL, CEGZSLConfig, supervised_contrast

FIXTURE = SHARED.parent / "peers" / "fixtures" / "cegzsl.npz"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_file(), reason="the recorded step ../shared/peers/fixtures is absent")
SMALL = CEGZSLConfig(hidden=9, embedding=8, contrast=5, comparator=6)


# ---- the step in plain float64 NumPy: every pair of the comparator, loops for the contrast ---
def _leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x)


def _layer(weights: dict[str, np.ndarray], net: str, number: int, x: np.ndarray) -> np.ndarray:
    """x W^T + b of one linear map."""
    return x @ weights[f"{net}.layer{number}.weight"].T + weights[f"{net}.layer{number}.bias"]


def _compare(weights: dict[str, np.ndarray], h: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The comparator on [h_i; a_c], one pair after the other."""
    out = np.empty((len(h), len(rows)))
    for i in range(len(h)):
        for c in range(len(rows)):
            hidden = _leaky(_layer(weights, "comparator", 1, np.concatenate([h[i], rows[c]])))
            out[i, c] = _layer(weights, "comparator", 2, hidden)[0]
    return out


def _contrast(zeta: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """The supervised contrast, anchor by anchor; those without a positive are not counted."""
    values = []
    for i in range(len(zeta)):
        others = [j for j in range(len(zeta)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            whole = np.log(sum(np.exp(zeta[i] @ zeta[j] / temperature) for j in others))
            values.append(-np.mean([zeta[i] @ zeta[p] / temperature - whole for p in positives]))
    return float(np.mean(values))


def _critic(weights: dict[str, np.ndarray], x: np.ndarray, a: np.ndarray) -> np.ndarray:
    """D(x,a) [B]."""
    return _layer(weights, "critic", 2, _leaky(_layer(weights, "critic", 1, np.concatenate([x, a], 1))))[:, 0]


def _gradient_norms(weights: dict[str, np.ndarray], x: np.ndarray, a: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """||grad_x D|| [B] by central differences."""
    gradient = np.empty_like(x)
    for d in range(x.shape[1]):
        moved = np.zeros(x.shape[1])
        moved[d] = step
        gradient[:, d] = (_critic(weights, x + moved, a) - _critic(weights, x - moved, a)) / (2 * step)
    return np.linalg.norm(gradient, axis=1)


@pytest.fixture(scope="module")
def recorded():
    with np.load(FIXTURE) as file:
        return {n: torch.from_numpy(np.array(file[n])) for n in file.files}


def _recorded_net(recorded) -> CEGZSL:
    """The nets of the recorded step, with its weights."""
    weights = {n.removeprefix("weight."): t for n, t in recorded.items() if n.startswith("weight.")}
    sizes = CEGZSLConfig(hidden=24, embedding=32, contrast=16, comparator=26, rectify=True, instance_weight=0.01,
                         class_weight=0.02)
    net = CEGZSL(20, 12, sizes).double()
    net.critic = cegzsl.TwoLayers(32, 28, 1).double()  # the recorded critic has a width of its own
    net.load_state_dict(weights)
    return net


def _compare_gradients(net: CEGZSL, recorded, step: str) -> None:
    found = dict(net.named_parameters())
    names = [n for n in recorded if n.startswith(f"{step}.grad.weight.")]
    assert names
    for name in names:
        torch.testing.assert_close(found[name.removeprefix(f"{step}.grad.weight.")].grad, recorded[name], rtol=1e-9,
                                   atol=1e-9)


@needs_fixture
def test_the_recorded_critic_step(recorded):
    net = _recorded_net(recorded)
    x, y = recorded["input.real_features"].clone().requires_grad_(), recorded["input.labels"]
    rows = recorded["input.class_attributes"][:int(recorded["input.num_seen"])]
    assert torch.equal(rows[y], recorded["input.batch_attributes"])
    parts = net.critic_losses(x, y, rows, recorded["input.noise_critic_step"], recorded["input.interpolation"])
    signs = {"critic_real": -1}  # recorded as means of the critic, in the loss with its sign
    for name, value in parts.items():
        torch.testing.assert_close(signs.get(name, 1) * value, recorded[f"critic_step.loss.{name}"], rtol=0, atol=1e-9)
    total = torch.stack(list(parts.values())).sum()
    torch.testing.assert_close(total, recorded["critic_step.loss.total"], rtol=0, atol=1e-9)
    total.backward()
    _compare_gradients(net, recorded, "critic_step")
    torch.testing.assert_close(x.grad, recorded["critic_step.grad.real_features"], rtol=0, atol=1e-9)
    h = net.space(x)
    maps = {"embedding_h": h, "projection_z": net.contrasted(h),
            "generated_features": net.generate(recorded["input.noise_critic_step"], rows[y])}
    for name, value in maps.items():
        torch.testing.assert_close(value, recorded[f"critic_step.map.{name}"], rtol=0, atol=1e-9)


@needs_fixture
def test_the_recorded_generator_step(recorded):
    net = _recorded_net(recorded)
    x, y = recorded["input.real_features"], recorded["input.labels"]
    rows = recorded["input.class_attributes"][:int(recorded["input.num_seen"])]
    noise = recorded["input.noise_generator_step"].clone().requires_grad_()
    a = rows[y].clone().requires_grad_()
    parts = net.generator_losses(x, y, rows, noise, a)
    total = torch.stack(list(parts.values())).sum()
    torch.testing.assert_close(total, recorded["generator_step.loss.total"], rtol=0, atol=1e-9)
    total.backward()
    _compare_gradients(net, recorded, "generator_step")
    torch.testing.assert_close(noise.grad, recorded["generator_step.grad.noise"], rtol=0, atol=1e-9)
    torch.testing.assert_close(a.grad, recorded["generator_step.grad.batch_attributes"], rtol=0, atol=1e-9)


def _world(seed: int, batch: int, classes: int):
    """A small net in float64 with weights large enough to matter, its weights as NumPy, and a batch."""
    torch.manual_seed(seed)
    net = CEGZSL(7, 4, SMALL).double()
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(std=0.4)
    rng = np.random.default_rng(seed)
    x, rows = rng.normal(size=(batch, 7)), rng.normal(size=(classes, 4))
    y = rng.integers(0, classes, batch)
    return net, {n: t.detach().numpy().copy() for n, t in net.state_dict().items()}, x, y, rows


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**20), st.integers(1, 6), st.integers(1, 9), st.sampled_from([1, 20, 2**24]))
def test_the_factorised_comparator_is_that_of_all_pairs_however_it_is_cut(seed, batch, classes, pairs):
    net, weights, x, _, rows = _world(seed, batch, classes)
    h = net.space(torch.from_numpy(x))
    kept, cegzsl.PAIRS = cegzsl.PAIRS, pairs
    try:
        found = net.compare(h, torch.from_numpy(rows))
        gradient = torch.autograd.grad(found.square().sum(), [net.comparator.layer1.weight, net.embedder.layer1.weight])
    finally:
        cegzsl.PAIRS = kept
    np.testing.assert_allclose(found.detach().numpy(), _compare(weights, h.detach().numpy(), rows), atol=1e-12)
    whole = torch.autograd.grad(net.compare(net.space(torch.from_numpy(x)), torch.from_numpy(rows)).square().sum(),
                                [net.comparator.layer1.weight, net.embedder.layer1.weight])
    for a, b in zip(gradient, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**20), st.integers(2, 9), st.integers(1, 4), st.sampled_from([0.1, 1.0]))
def test_the_contrast_is_that_of_the_loops(seed, batch, classes, temperature):
    rng = np.random.default_rng(seed)
    zeta = rng.normal(size=(batch, 5))
    zeta /= np.linalg.norm(zeta, axis=1, keepdims=True)
    labels = rng.integers(0, classes, batch)
    found = supervised_contrast(torch.from_numpy(zeta), torch.from_numpy(labels), temperature).item()
    alone = np.bincount(labels).max() == 1
    assert found == pytest.approx(0.0 if alone else _contrast(zeta, labels, temperature), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_penalty_is_that_of_differences_and_reads_the_features_alone(seed):
    net, weights, x, y, rows = _world(seed, 6, 3)
    x_, a = torch.from_numpy(x), torch.from_numpy(rows[y])
    norms = _gradient_norms(weights, x, rows[y])
    assert net.gradient_penalty(x_, a).item() == pytest.approx(10 * np.mean((norms - 1) ** 2), rel=1e-6)
    # and its gradient is autograd's, twice through the critic
    closed = torch.autograd.grad(net.gradient_penalty(x_, a), list(net.critic.parameters()), allow_unused=True)
    free = x_.clone().requires_grad_()
    slope = torch.autograd.grad(net.critic(free, a).sum(), free, create_graph=True)[0]
    plain = torch.autograd.grad(10 * (slope.norm(dim=1) - 1).square().mean(), list(net.critic.parameters()),
                                allow_unused=True)
    for c, p in zip(closed, plain, strict=True):
        torch.testing.assert_close(torch.zeros(()) if c is None else c.abs().sum().float(),
                                   torch.zeros(()) if p is None else p.abs().sum().float(), rtol=1e-6, atol=1e-9)


def _largest(classes: int) -> tuple[int, int]:
    """The numbers of the largest tensor that a generator step makes, and of all that it keeps for its backward pass."""
    from torch.utils._python_dispatch import TorchDispatchMode

    most, kept = [0], [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor):
                    most[0] = max(most[0], tensor.numel())
            return out

    def keep(tensor):
        kept[0] += tensor.numel()
        return tensor

    net = CEGZSL(7, 4, replace(SMALL, comparator=64))
    x, rows, y = torch.randn(16, 7), torch.randn(classes, 4), torch.arange(16) % classes
    with Watch(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.stack(list(net.generator_losses(x, y, rows, torch.randn(16, 4), rows[y]).values())).sum().backward()
    return most[0], kept[0]


def test_memory_does_not_grow_with_the_pairs_of_features_and_classes(monkeypatch):
    monkeypatch.setattr(cegzsl, "PAIRS", 16 * 64 * 8)
    few, many = _largest(64), _largest(640)
    assert few[0] == 16 * 64 * 8  # the cut was reached
    assert many[0] <= 640 * 64  # the rows through W_a, never 640 x 64 for each feature
    assert many[1] - few[1] < 576 * (16 * 8 + 4 * 64)  # kept a class: scores and rows, not the 16 x 64 of its pairs
    monkeypatch.setattr(cegzsl, "PAIRS", 2**24)
    assert _largest(640)[0] == 16 * 640 * 64  # uncut, all pairs at once: the test can fail


def test_settings_out_of_range_are_named():
    with pytest.raises(ConfigError, match=r"cegzsl\.lr = -1"):
        CEGZSLConfig(lr=-1)
