"""The three generators under one interface: what they learn, what they refuse, and that they come again to the bit."""

import io

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vspcn_lib.methods.generative.cegzsl import CEGZSL, CEGZSLConfig
from vspcn_lib.methods.generative.cvae import CVAE, CVAEConfig
from vspcn_lib.methods.generative.features import GenerativeError, Scaler, check, join
from vspcn_lib.methods.generative.flow import Flow, FlowConfig
from vspcn_lib.methods.generative.generator import Generator, fit, noisy_rows, random

KINDS = {
    "cegzsl": (CEGZSL, CEGZSLConfig(steps=6, critic_steps=2, batch_size=16, hidden=16, embedding=8, contrast=4,
                                    comparator=8)),
    "vae": (CVAE, CVAEConfig(steps=12, batch_size=16, hidden=16, latent=3)),
    "flow": (Flow, FlowConfig(steps=12, batch_size=16, hidden=16, integration=2)),
}
CLASSES, EACH, DIM = 4, 12, 5
generators = pytest.mark.parametrize("name", KINDS)


def _mixture(seed: int = 0, each: int = EACH, scale: float = 0.3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features of one Gaussian a class, whose mean is a linear map of the class's unit row: features, targets, rows."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0.1, 1, (CLASSES, 3))
    means = 2 * rows / np.linalg.norm(rows, axis=1, keepdims=True) @ rng.normal(size=(3, DIM))
    targets = np.repeat(np.arange(CLASSES), each)
    features = means[targets] + scale * rng.normal(size=(len(targets), DIM))
    return (torch.tensor(features, dtype=torch.float32), torch.from_numpy(targets),
            torch.tensor(rows, dtype=torch.float32))


@generators
def test_the_same_seed_gives_the_same_bits_and_another_does_not(name):
    kind, settings = KINDS[name]
    a, b, other = (fit(kind, *_mixture(), settings, seed) for seed in (3, 3, 4))
    rows = _mixture()[2]
    assert torch.equal(a.sample(rows, 7, 0), b.sample(rows, 7, 0))
    assert not torch.equal(a.sample(rows, 7, 0), other.sample(rows, 7, 0))
    assert not torch.equal(a.sample(rows, 7, 0), a.sample(rows, 7, 1))
    assert torch.isfinite(a.sample(rows, 7, 0)).all() and a.sample(rows, 7, 0).shape == (CLASSES, 7, DIM)


@generators
def test_a_class_is_sampled_the_same_in_any_company_and_a_longer_draw_begins_as_a_shorter(name):
    kind, settings = KINDS[name]
    generator, rows = fit(kind, *_mixture(), settings, 0), _mixture()[2]
    together = generator.sample(rows, 230, 5)
    torch.testing.assert_close(generator.sample(rows[[2, 0]], 105, 5), together[[2, 0], :105], rtol=0, atol=0)
    assert not torch.equal(together[0, :50], together[0, 100:150])  # every block has noise of its own


@generators
def test_a_training_that_stops_and_goes_on_gives_the_same_bits(name):
    kind, settings = KINDS[name]
    whole = fit(kind, *_mixture(), settings, 1)
    for stops in (1, 4):
        states, calls = [], iter(range(100))

        def save(state, states=states):
            buffer = io.BytesIO()
            torch.save(state, buffer)
            states.append(buffer)

        stopped = fit(kind, *_mixture(), settings, 1, save=save, stop=lambda c=calls, s=stops: next(c) == s)
        assert stopped is None
        states[-1].seek(0)
        state = torch.load(states[-1], weights_only=True)
        assert state["step"] == stops + 1
        again = fit(kind, *_mixture(), settings, 1, state=state)
        assert all(torch.equal(t, again.state_dict()[n]) for n, t in whole.state_dict().items())


@generators
def test_fitting_leaves_the_random_numbers_of_others_alone(name):
    kind, settings = KINDS[name]
    torch.manual_seed(9)
    before = torch.get_rng_state()
    fit(kind, *_mixture(), settings, 1).sample(_mixture()[2], 3, 0)
    assert torch.equal(before, torch.get_rng_state())


LEARNING = {  # little noise on the rows: it would blur classes whose rows are close
    "vae": CVAEConfig(steps=300, batch_size=64, lr=5e-3, hidden=32, latent=2, row_noise=0.1),
    "flow": FlowConfig(steps=400, batch_size=128, lr=5e-3, hidden=48, row_noise=0.1),
    "cegzsl": CEGZSLConfig(steps=100, critic_steps=3, batch_size=64, lr=5e-3, hidden=48, embedding=16, contrast=8,
                           comparator=16),
}


@pytest.mark.parametrize("name", LEARNING)
def test_class_means_and_spread_of_a_mixture_are_recovered(name):
    features, targets, rows = _mixture(each=100)
    found = fit(KINDS[name][0], features, targets, rows, LEARNING[name], 0).sample(rows, 300, 0)
    means = torch.stack([features[targets == c].mean(0) for c in range(CLASSES)])
    off = (found.mean(1) - means).norm(dim=1)
    if name == "cegzsl":  # an adversarial game of seconds: half the way from the start, where every feature is near 0
        assert off.mean() < 0.5 * means.norm(dim=1).mean()
        return
    assert off.max() < 0.3
    assert (torch.cdist(found.mean(1), means).argmin(1) == torch.arange(CLASSES)).all()
    # neither one point a class nor one cloud for all; a VAE's prior covers more than its posteriors do
    assert found.std(1).mean().item() == pytest.approx(0.3, abs=0.2 if name == "vae" else 0.1)


def test_the_elbo_is_that_of_torch_distributions_and_below_the_likelihood():
    torch.manual_seed(0)
    net = CVAE(DIM, 3, CVAEConfig(hidden=8, latent=2)).double()
    with torch.no_grad():
        net.log_variance.normal_()
    x, a, noise = torch.randn(6, DIM).double(), torch.rand(6, 3).double(), torch.randn(6, 2).double()
    parts = net.negative_elbo(x, a, noise)
    scaled = a * 3**0.5
    mean, log_variance = net.encoder(torch.cat([x, scaled], 1)).chunk(2, 1)
    q = Normal(mean, (0.5 * log_variance).exp())
    decoded = net.decoder(torch.cat([mean + q.stddev * noise, scaled], 1))
    p = Normal(decoded, (0.5 * net.log_variance).exp())
    torch.testing.assert_close(parts["kl"], kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean())
    torch.testing.assert_close(parts["reconstruction"], -p.log_prob(x).sum(1).mean())
    with torch.no_grad():  # log p(x|a) by many draws of z from the prior, one image alone
        z = torch.randn(200_000, 2).double()
        decoded = net.decoder(torch.cat([z, scaled[:1].expand(len(z), -1)], 1))
        log_p = Normal(decoded, (0.5 * net.log_variance).exp()).log_prob(x[:1]).sum(1).logsumexp(0) - np.log(len(z))
        bound = torch.stack([sum(net.negative_elbo(x[:1], a[:1], torch.randn(1, 2).double()).values())
                             for _ in range(400)]).mean()
    assert -bound < log_p + 0.05


def test_the_flows_target_is_the_straight_line_and_its_field_carries_noise_there():
    """With one feature vector only, the best field is (x_1 - x_t) / (1 - t): every noise ends at x_1."""
    x, rows = torch.tensor([[1.0, -2.0]]).repeat(32, 1), torch.tensor([[1.0, 0.0, 0.0]])
    net = fit(Flow, x, torch.zeros(32, dtype=torch.long), rows, FlowConfig(steps=400, batch_size=32, lr=5e-3, hidden=32,
                                                                           integration=32), 0)
    ends = net.sample(rows, 50, 0)[0]
    assert (ends - x[0]).norm(dim=1).mean() < 0.15
    noise, t = torch.randn(4, 2), torch.tensor([[0.0], [0.2], [0.5], [0.7]])
    mixed = (1 - t) * noise + t * x[:4]
    field = net.velocity(mixed, t, net.condition(rows.expand(4, -1)))
    torch.testing.assert_close(field, (x[:4] - mixed) / (1 - t), rtol=0.2, atol=0.3)
    torch.testing.assert_close(net.loss(x[:4], rows.expand(4, -1), noise, t), (field - (x[:4] - noise)).square().mean())


@generators
@pytest.mark.parametrize(("harm", "words"), [
    (lambda f, t, a: (f.index_fill(0, torch.tensor([3]), torch.nan), t, a), r"1 of 48 feature vectors hold NaN"),
    (lambda f, t, a: (f[t != 2], t[t != 2], a), r"class '2' has no feature vector \(1 such"),
    (lambda f, t, a: (f, t, a[:3]), r"targets lie in 0\.\.3, but there are 3 rows"),
    (lambda f, t, a: (f, t, a.index_fill(0, torch.tensor([1]), torch.inf)), r"class '1' hold NaN"),
    (lambda f, t, a: (f[:-1], t, a), r"features \[n,D\] and targets \[n\] do not fit"),
    (lambda f, t, a: (f, t, a[:0]), "one row a class"),
])
def test_what_does_not_fit_is_one_sentence(name, harm, words):
    kind, settings = KINDS[name]
    with pytest.raises(GenerativeError, match=words):
        fit(kind, *harm(*_mixture()), settings, 0)


@generators
def test_rows_of_another_benchmark_are_refused(name):
    kind, settings = KINDS[name]
    generator = fit(kind, *_mixture(), settings, 0)
    for rows, words in ((torch.rand(2, 4), "trained with 3 attributes"), (torch.full((2, 3), torch.nan), "NaN"),
                        (torch.zeros(1, 3), "only zeros")):
        with pytest.raises(GenerativeError, match=words):
            generator.sample(rows, 2, 0)


def test_a_loss_that_is_not_finite_names_the_setting():
    with pytest.raises(GenerativeError, match=r"vae: the loss 'reconstruction' is (nan|inf).*lower vae\.lr"):
        fit(CVAE, 1e30 * _mixture()[0], *_mixture()[1:], CVAEConfig(steps=3, lr=1.0), 0)


class _Diverging(Generator):
    """Its loss or its weight is no number any more after its third step."""

    name = "vae"

    def __init__(self, dim, attributes, settings):
        super().__init__(dim, attributes, settings)
        self.weight, self.steps = torch.nn.Parameter(torch.ones(2)), 0

    def optimisers(self):
        return []

    def step(self, batch, rows, rng, optimisers):
        self.steps += 1
        with torch.no_grad():
            self.weight[1] = torch.nan if self.steps >= 3 and self.harm == "weight" else 1.0
        return {"kl": torch.tensor(torch.inf if self.steps >= 3 and self.harm == "loss" else 1.0)}


@pytest.mark.parametrize(("harm", "words"), [("loss", "the loss 'kl' is inf at step 2: lower vae.lr"),
                                             ("weight", "the weight 'weight' is nan at step 2: lower vae.lr")])
def test_a_state_that_is_not_finite_is_never_saved(harm, words):
    kind, steps = type("D", (_Diverging,), {"harm": harm}), CVAEConfig(steps=40)
    saved, calls = [], iter(range(100))
    with pytest.raises(GenerativeError, match=words):  # by Stop
        fit(kind, *_mixture(), steps, 0, save=saved.append, stop=lambda: next(calls) == 2)
    assert saved == []
    with pytest.raises(GenerativeError, match=words):  # by the clock
        fit(kind, *_mixture(), steps, 0, save=lambda s: saved.append((s["step"], s["model"]["weight"].clone())),
            every=-1.0)
    assert [step for step, _ in saved] == [1, 2] and all(torch.isfinite(w).all() for _, w in saved)
    with pytest.raises(GenerativeError, match=words):  # at the end
        fit(kind, *_mixture(), CVAEConfig(steps=3), 0, save=saved.append)
    assert len(saved) == 2


def test_the_classes_of_a_check_are_named():
    features, targets, rows = _mixture()
    names = ["jay", "wren", "tit", "auk"]
    with pytest.raises(GenerativeError, match="class 'wren' has no feature"):
        check(features[targets != 1], targets[targets != 1], rows, names)
    rows[2] = 0
    with pytest.raises(GenerativeError, match="attributes of class 'tit' hold NaN, infinite values or only zeros"):
        fit(Flow, features, targets, rows, KINDS["flow"][1], 0, names=names)


@pytest.mark.parametrize("how", ["standardise", "minmax"])
def test_scaling_is_of_the_training_features_and_comes_back(how):
    features = _mixture()[0]
    features[:, 3] = 5.0  # a dimension that says nothing
    scaler = Scaler(features, how)
    scaled = scaler(features)
    if how == "minmax":
        assert scaled.amin() == 0 and scaled.amax() == pytest.approx(1)
    else:
        np.testing.assert_allclose(scaled.double().std(0, correction=0), [1, 1, 1, 0, 1], atol=1e-4)
        np.testing.assert_allclose(scaled.double().mean(0), 0, atol=1e-5)
    torch.testing.assert_close(scaler.back(scaled), features)
    assert torch.isfinite(scaler(features + 100)).all()


def test_noise_on_rows_is_a_share_of_their_length_and_follows_from_the_words():
    rows = torch.nn.functional.normalize(torch.rand(400, 30), dim=1)
    noise = noisy_rows(rows, 0.3, random(1)) - rows
    assert noise.square().sum(1).mean().sqrt().item() == pytest.approx(0.3, rel=0.03)
    assert torch.equal(noisy_rows(rows, 0.3, random(1)) - rows, noise)
    assert torch.equal(noisy_rows(rows, 0.0, random(1)), rows)


def test_streams_stand_side_by_side_and_an_absent_one_is_named():
    parts = {"semantic": torch.ones(2, 1), "cls": torch.zeros(2, 3)}
    assert join(parts, "all").tolist() == [[0, 0, 0, 1]] * 2 and join(parts, "cls").shape == (2, 3)
    with pytest.raises(GenerativeError, match="has only semantic, cls"):
        join(parts, "visual")
