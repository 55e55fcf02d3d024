"""Metrics against a brute-force loop and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from vspcn_lib import metrics
from vspcn_lib.metrics import ausuc, best_row, best_tau, class_accuracies, flips, gzsl_metrics, predicted, tau_sweep
from vspcn_lib.runs.evaluation import describe


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    C = draw(st.integers(2, 7))
    n = draw(st.integers(2, 40))
    unseen = np.zeros(C, bool)
    unseen[rng.choice(C, draw(st.integers(1, C - 1)), replace=False)] = True
    labels = rng.integers(0, C, n)
    scores = rng.normal(size=(n, C)) + 1.5 * (np.arange(C) == labels[:, None])
    if draw(st.booleans()):  # coarse scores: many equal margins
        scores = np.round(scores * 2) / 2 + np.linspace(0, 0.01, C)
    return scores, labels, unseen


def _loop(scores, labels, unseen, tau):
    """Per-class means, one image at a time."""
    hits: dict[int, list[bool]] = {}
    czsl: dict[int, list[bool]] = {}
    for row, y in zip(scores, labels, strict=True):
        best = max(range(len(row)), key=lambda c: (row[c] + (tau if unseen[c] else 0), -c))
        hits.setdefault(int(y), []).append(best == y)
        if unseen[y]:
            inside = max((c for c in range(len(row)) if unseen[c]), key=lambda c: (row[c], -c))
            czsl.setdefault(int(y), []).append(inside == y)

    def mean(parts):
        return 100 * float(np.mean([np.mean(p) for p in parts])) if parts else 0.0

    U, S = mean([h for c, h in hits.items() if unseen[c]]), mean([h for c, h in hits.items() if not unseen[c]])
    return U, S, 2 * U * S / (U + S) if U + S else 0.0, mean(list(czsl.values()))


@given(cases(), st.floats(-3, 3))
@settings(max_examples=80, deadline=None)
def test_metrics_equal_the_loop(case, tau):
    m = gzsl_metrics(*case, tau=tau)
    np.testing.assert_allclose((m.U, m.S, m.H, m.CZSL), _loop(*case, tau), atol=1e-9)
    single = case[0].astype(np.float32)  # tensors and arrays of the same numbers agree
    tensors = gzsl_metrics(torch.tensor(single), torch.tensor(case[1]), torch.tensor(case[2]), tau)
    assert tensors == gzsl_metrics(single, *case[1:], tau=tau)


@given(cases())
@settings(max_examples=80, deadline=None)
def test_sweep_is_exact_and_complete(case):
    sweep = tau_sweep(*case)
    assert (np.diff(sweep["tau"]) > 0).all()
    for row in sweep.itertuples():
        m = gzsl_metrics(*case, tau=row.tau)
        np.testing.assert_allclose((row.U, row.S, row.H), (m.U, m.S, m.H), atol=1e-9)
    # No grid finds an operating point that the sweep lacks.
    points = {(round(r.U, 6), round(r.S, 6)) for r in sweep.itertuples()}
    for tau in np.random.default_rng(0).uniform(-6, 6, 60):
        m = gzsl_metrics(*case, tau=tau)
        assert (round(m.U, 6), round(m.S, 6)) in points
    best, m = best_row(sweep), gzsl_metrics(*case, tau=best_tau(sweep))
    assert best["H"] == max(row.H for row in sweep.itertuples()) == pytest.approx(m.H)
    np.testing.assert_allclose((best["U"], best["S"]), (m.U, m.S), atol=1e-9)
    assert best["tau"] == best_tau(sweep) == min(row.tau for row in sweep.itertuples() if row.H == best["H"])
    assert 0 <= ausuc(*case) <= 1


def test_accuracy_is_balanced_accuracy():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 200)
    unseen = np.array([False, False, True, True])
    scores = rng.normal(size=(200, 4)) + (np.arange(4) == labels[:, None])
    m, predicted, is_unseen = gzsl_metrics(scores, labels, unseen), scores.argmax(1), unseen[labels]
    with pytest.warns(UserWarning, match="not in y_true"):
        assert m.U == pytest.approx(100 * balanced_accuracy_score(labels[is_unseen], predicted[is_unseen]))
        assert m.S == pytest.approx(100 * balanced_accuracy_score(labels[~is_unseen], predicted[~is_unseen]))


def test_perfect_scores_fill_the_square():
    labels, unseen = np.array([0, 1, 2, 3]), np.array([False, False, True, True])
    assert ausuc(np.eye(4) * 9, labels, unseen) == pytest.approx(1.0)


@pytest.mark.parametrize(("change", "words"), [
    ({"scores": np.full((2, 2), np.nan)}, "not finite"), ({"labels": np.array([0, 5])}, "labels must lie"),
    ({"unseen": np.array([True, True])}, "all true"), ({"scores": np.zeros((3, 2))}, "do not fit"),
    ({"tau": float("inf")}, "tau"),
])
def test_bad_input_is_named(change, words):
    good = {"scores": np.zeros((2, 2)), "labels": np.array([0, 1]), "unseen": np.array([False, True]), "tau": 0.0}
    with pytest.raises(ValueError, match=words):
        gzsl_metrics(**{**good, **change})


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(-4, 4))
def test_flips_lead_from_no_unseen_answer_to_any_tau(case, tau):
    scores, labels, unseen = case
    found = flips(scores, labels, unseen)
    if np.abs(found["margin"].to_numpy() - tau).min(initial=1) < 1e-9:
        return  # an image on the edge belongs to either side
    values, counts = class_accuracies(scores, labels, unseen, -1e6), np.bincount(labels, minlength=len(unseen))
    for row in found[found["margin"] < tau].itertuples():
        values[row.label] += 100 * row.change / counts[row.label]
    np.testing.assert_allclose(values, class_accuracies(scores, labels, unseen, tau), atol=1e-9)


@given(st.integers(0, 10**6), st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_predictions_are_those_that_the_accuracies_count(seed, tau):
    rng = np.random.default_rng(seed)
    scores, labels, unseen = rng.normal(size=(40, 6)), rng.integers(0, 6, 40), np.arange(6) > 3
    right = predicted(scores, unseen, tau) == labels
    shares = [100 * right[labels == c].mean() if (labels == c).any() else np.nan for c in range(6)]
    np.testing.assert_allclose(class_accuracies(scores, labels, unseen, tau), shares)


def test_a_tau_is_written_with_three_digits_in_any_units():
    taus = {4.0984: "+4.10", -0.001234: "-0.00123", 0.4: "+0.400", 123.4: "+123", -1e-7: "-1.00e-07", 0.0: "+0.00"}
    assert {tau: metrics.tau_text(tau) for tau in taus} == taus
    row = {"epoch": 3, "U": 1.0, "S": 2.0, "H": 1.25, "tau": -0.001234}
    assert describe(row).endswith("H 1.2 at tau -0.00123")
