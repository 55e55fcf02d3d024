"""Calibrators against brute force, and the hold-out and class folds that they read."""

import typing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from vspcn_lib.config import ConfigError, TrainConfig
from vspcn_lib.data.benchmarks import load_benchmark
from vspcn_lib.metrics import gzsl_metrics
from vspcn_lib.runs.calibration import (
    CALIBRATORS,
    NAMES,
    CalibrationError,
    Held,
    averaged,
    calibration_share,
    carry,
    class_folds,
    hold_out,
    land,
    silent,
)


def _held(seed: int, n: int = 200, seen: int = 6, unseen: int = 3, scale: float = 1.0, shift: float = 0.0) -> Held:
    """Held-out images whose own class scores higher; unseen columns lie last, moved by -`shift`."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(seen), rng.integers(0, seen, n - seen)])
    scores = rng.normal(size=(n, seen + unseen))
    scores[np.arange(n), labels] += 1.5
    scores[:, seen:] -= shift
    return Held((scale * scores).astype(np.float32), labels, np.arange(seen + unseen) >= seen)


@pytest.mark.parametrize("name", CALIBRATORS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), quantile=st.floats(0.1, 0.9))
def test_what_a_calibrator_carries_comes_back_as_the_same_tau_on_the_same_model(name, seed, quantile):
    held = _held(seed)
    tau = float(np.quantile(held.margins, quantile))
    scale = CALIBRATORS[name](held)
    nearest = np.sort(held.margins)
    step = np.diff(nearest)[max(0, int(quantile * 200) - 12):int(quantile * 200) + 12].max()  # between two images
    assert abs(scale.back(scale.to(tau)) - tau) <= (12 * step if name in ("retention", "accuracy-kept") else 1e-6)
    taus = np.linspace(held.margins.min() - 1, held.margins.max() + 1, 30)
    assert len({np.sign(b - a) for a, b in zip(map(scale.to, taus), map(scale.to, taus[1:]), strict=False)} - {0}) == 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), factor=st.floats(0.2, 5), shift=st.floats(-2, 2))
def test_which_change_of_the_scores_each_calibrator_follows(seed, factor, shift):
    """A model whose scores are `factor` times as large, or whose unseen scores lie lower by `shift`, is the same
    classifier at factor x tau, at tau + shift; each calibrator says which of the two it follows exactly."""
    tau, held = 0.3, _held(seed)
    carried = carry(tau, held)
    base = {name: land(name, carried, held) for name in CALIBRATORS}
    for name in ("retention", "accuracy-kept", "standardised", "quartiles", "score-spread", "temperature"):
        found = land(name, carried, _held(seed, scale=factor))
        assert found == pytest.approx(factor * base[name], rel=0.01, abs=0.01), name
    for name in ("retention", "accuracy-kept", "median-shift", "standardised", "quartiles"):
        found = land(name, carried, _held(seed, shift=shift))
        assert found == pytest.approx(base[name] + shift, abs=1e-4), name
    assert land("raw", carried, _held(seed, scale=factor, shift=shift)) == tau


def test_retention_and_accuracy_kept_are_the_shares_they_say():
    held, tau = _held(1), 0.4
    stays = [max(row[:6]) > max(row[6:]) + tau for row in held.scores.astype(float)]
    assert CALIBRATORS["retention"](held).to(tau) == pytest.approx(np.mean(stays))
    with_unseen = np.vstack([held.scores, held.scores[:3]])  # U needs an image; S is of the others alone
    labels = np.append(held.labels, [6, 7, 8])
    S = [gzsl_metrics(with_unseen, labels, held.unseen, t).S for t in (tau, -1e3)]
    assert CALIBRATORS["accuracy-kept"](held).to(tau) == pytest.approx(S[0] / S[1])
    assert Held.of(with_unseen, labels, held.unseen).scores.shape == held.scores.shape


def test_the_temperature_is_that_of_scikit_learns_logistic_regression():
    """One weight on the score differences of two classes, no intercept, no penalty: 1 / T."""
    held = _held(3, seen=2, unseen=2)
    x = (held.scores[:, 1] - held.scores[:, 0]).astype(np.float64)[:, None]
    fitted = LogisticRegression(C=1e10, fit_intercept=False, tol=1e-10).fit(x, held.labels)
    assert 1 / CALIBRATORS["temperature"](held).to(1.0) == pytest.approx(1 / fitted.coef_[0, 0], rel=2e-3)


def test_a_calibrator_reads_images_of_seen_classes_and_some():
    held = _held(0)
    with pytest.raises(CalibrationError, match="1 of them of unseen"):
        Held(held.scores[:2], np.array([0, 7]), held.unseen)
    with pytest.raises(CalibrationError, match="0 held-out"):
        Held(held.scores[:0], held.labels[:0], held.unseen)


def test_scores_that_do_not_differ_are_no_division_by_zero():
    flat = Held(np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1]), np.array([False, False, True]))
    for name in CALIBRATORS:
        assert np.isfinite(land(name, carry(0.1, flat), flat)), name


@pytest.mark.parametrize("selection", [
    Held(_held(0).scores[:1], _held(0).labels[:1], _held(0).unseen),
    Held(np.ones((9, 8), np.float32), np.zeros(9, int), np.arange(8) > 5)], ids=["one image", "equal scores"])
def test_a_calibrator_without_a_unit_in_selection_gives_way_to_the_median_shift(selection):
    """tau / 0 standard deviations, back in another model's, once was -1.5e9."""
    final = _held(1)
    carried = carry(0.3, selection)
    assert {"standardised", "quartiles"} <= set(CALIBRATORS) - set(carried)
    for name in NAMES:
        tau = land(name, carried, final)
        assert abs(tau) < 10 * np.abs(final.scores).max(), name
        if name not in carried and name != "consensus":
            assert tau == land("median-shift", carried, final) and silent(name, carried) == [name]
    assert silent("consensus", carried) == ["standardised"] and silent("raw", carried) == []


def test_settings_name_the_calibrators_that_there_are():
    assert set(typing.get_args(typing.get_type_hints(TrainConfig)["calibration"])) == set(NAMES)
    assert calibration_share(TrainConfig(calibration="raw")) == 0
    assert calibration_share(TrainConfig(calibration="retention", calibration_share=0.07)) == 0.07


def test_the_hold_out_is_drawn_by_class_and_leaves_each_one_image(tiny_folder):
    bench = load_benchmark(str(tiny_folder))  # 4 training images in each of 5 seen classes
    fit, held = hold_out(bench, bench.trainval, 0.1, 0)
    assert sorted(np.concatenate([fit, held])) == sorted(bench.trainval)
    assert (np.bincount(bench.labels[held])[bench.seen_classes] == 1).all()
    assert (held == hold_out(bench, bench.trainval, 0.1, 0)[1]).all()
    assert any((held != hold_out(bench, bench.trainval, 0.1, seed)[1]).any() for seed in (1, 2, 3))
    assert (np.bincount(bench.labels[hold_out(bench, bench.trainval, 0.5, 0)[0]])[bench.seen_classes] == 2).all()
    first, second = (bench.trainval[bench.labels[bench.trainval] == c] for c in (0, 1))
    few = np.append(first[:1], second)
    fit, held = hold_out(bench, few, 0.5, 0)
    assert set(bench.labels[fit]) == {0, 1} and set(bench.labels[held]) == {1}
    with pytest.raises(CalibrationError, match=r"train\.calibration to raw"):
        hold_out(bench, few[:1], 0.1, 0)
    whole, none = hold_out(bench, bench.trainval, 0.0, 0)
    assert whole is bench.trainval and not len(none)


def test_folds_are_the_own_validation_classes_and_then_others_of_the_seen(tiny_folder):
    bench = load_benchmark(str(tiny_folder))
    folds = class_folds(bench, 4, 0)
    assert folds[0] is bench and len(folds) == 4
    for fold in folds:
        assert len(fold.val_classes) == 2 and set(fold.val_classes) <= set(bench.seen_classes)
    assert len({tuple(f.val_classes) for f in folds}) == 4
    for seed in range(5):  # five seen classes, two of them to validate by: ten sets, each once
        assert len({tuple(f.val_classes) for f in class_folds(bench, 10, seed)}) == 10
    with pytest.raises(ConfigError, match=r"train\.folds to 10 or less"):
        class_folds(bench, 11, 0)
    only = bench.trainval[(bench.labels[bench.trainval] == 2) | (np.arange(len(bench.trainval)) % 4 == 0)]
    assert np.bincount(bench.labels[only]).tolist()[:5] == [1, 1, 4, 1, 1]  # class 2 must stay to be trained on
    few = replace(bench, trainval=only, val_classes=np.array([0, 1]))
    assert all(2 not in fold.val_classes for fold in class_folds(few, 6, 0))
    assert [list(f.val_classes) for f in class_folds(bench, 4, 0)] == [list(f.val_classes) for f in folds]


def test_rows_of_folds_are_means_with_their_spread():
    def row(epoch: int, h: float) -> dict:
        return {"epoch": epoch, "H": h, "tau": h / 10, "carried": {"raw": h / 10, "retention": h / 100}}

    one = [row(1, 10.0), row(2, 30.0)]
    assert averaged([one]) is one
    rows = averaged([one, [row(1, 20.0), row(2, 34.0)]])
    assert rows[1] == {"epoch": 2, "H": 32.0, "tau": pytest.approx(3.2),
                       "carried": {"raw": pytest.approx(3.2), "retention": pytest.approx(0.32)},
                       "spread": {"H": pytest.approx(8**0.5), "retention": pytest.approx(8**0.5 / 100)}}
    without = [row(1, 20.0), row(2, 34.0)]
    del without[1]["carried"]["raw"]
    assert averaged([one, without])[1]["carried"] == {"raw": 3.0, "retention": pytest.approx(0.32)}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), tau=st.floats(-1, 2))
def test_the_consensus_is_the_middle_one_of_three(seed, tau):
    selection, final = _held(seed), _held(seed + 1, n=60, scale=1.3, shift=0.5)
    carried = carry(tau, selection)
    three = sorted(land(n, carried, final) for n in ("retention", "median-shift", "standardised"))
    assert land("consensus", carried, final) == three[1]
