"""The two classifiers against scikit-learn, and the count of synthetic features as a calibration."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from vspcn_lib.methods.generative.classifier import ClassifierConfig, nearest, softmax

RNG = np.random.default_rng(0)
MEANS = 1.5 * RNG.normal(size=(5, 6))
TARGETS = np.repeat(np.arange(5), 40)
FEATURES = MEANS[TARGETS] + RNG.normal(size=(200, 6))
X, Y = torch.tensor(FEATURES, dtype=torch.float32), torch.from_numpy(TARGETS)


def test_nearest_prototype_is_scikit_learns():
    expected = NearestCentroid().fit(FEATURES, TARGETS).predict(FEATURES)
    np.testing.assert_array_equal(nearest(X, Y, 5)(X).argmax(1), expected)


def test_the_softmax_reaches_the_least_cross_entropy():
    layer = softmax(X, Y, 5, ClassifierConfig(epochs=120, lr=0.05), 0)
    expected = LogisticRegression(C=np.inf, max_iter=5000).fit(FEATURES, TARGETS).predict_log_proba(FEATURES)
    best = -expected[np.arange(200), TARGETS].mean()
    found = torch.nn.functional.cross_entropy(layer(X), Y).item()
    assert best <= found + 1e-6 and found < best + 0.03


def test_the_same_seed_gives_the_same_layer():
    a, b, c = (softmax(X, Y, 5, ClassifierConfig(epochs=2), seed) for seed in (1, 1, 2))
    assert torch.equal(a.weight, b.weight) and not torch.equal(a.weight, c.weight)


def test_more_features_of_a_class_raise_its_score():
    """Ten copies of a class raise its log-odds by log 10 where nothing else tells it: tau by another name."""
    blind = torch.ones(200, 1)
    more = torch.cat([Y, Y[Y == 4].repeat(9)])
    layer = softmax(torch.ones(len(more), 1), more, 5, ClassifierConfig(epochs=60, lr=0.05), 0)
    scores = layer(blind)[0]
    assert abs((scores[4] - scores[0]).item() - np.log(10)) < 0.05
