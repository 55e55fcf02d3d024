"""Seen-unseen curves of records and runs side by side."""

import itertools

import numpy as np
import pytest

from vspcn_lib import metrics
from vspcn_lib.panels.checks import PanelError
from vspcn_lib.panels.peers import Chosen, Curves, CurvesView, curves_panel


def _record(seed, split="s", few=0, tau=0.4):
    rng = np.random.default_rng(seed)
    labels, unseen = np.repeat(np.arange(6), 5), np.arange(6) > 3
    scores = rng.normal(size=(30, 6)) + 1.5 * (np.arange(6) == labels[:, None])
    sweep = metrics.tau_sweep(scores, labels, unseen)
    at, best = metrics.gzsl_metrics(scores, labels, unseen, tau), metrics.best_tau(sweep)
    oracle = metrics.gzsl_metrics(scores, labels, unseen, best)
    result = {"benchmark": "b", "split": split, "tau": tau, "U": at.U, "S": at.S, "H": at.H,
              "AUSUC": metrics.area(sweep), "oracle": {"tau": best, "U": oracle.U, "S": oracle.S, "H": oracle.H}}
    return {"config": {"data": {"size": 84, "images_per_class": few}}, "result": result,
            "sweep": {k: sweep[k].round(4).tolist() for k in ("tau", "U", "S")}}, (scores, labels, unseen)


def test_curves_and_numbers_are_those_of_the_records():
    (one, triple), (two, _) = _record(0), _record(1)
    parts = Curves({"one": one, "two": two})
    view, result = CurvesView(parts), parts.compute(Chosen("one"))
    assert result["gap"] == pytest.approx(one["result"]["oracle"]["H"] - one["result"]["H"])
    line = view.lines[0]
    for i, tau in enumerate(line["rows"]):  # what is said of a row is a tau that has this U and S
        at = metrics.gzsl_metrics(*triple, tau)
        assert (line["x"][i], line["y"][i]) == pytest.approx((at.U, at.S), abs=0.01)
    assert line["rows"][view.own["one"]] == 0.4
    assert "AUSUC" in parts.describe(Chosen("one"), result) and len(parts.table(Chosen("one"), result)) == 2
    thick = [line.get_label() for line in parts.draw(Chosen("two"), result).axes[0].get_lines()
             if line.get_linewidth() > 2]
    assert thick == ["two"]


@pytest.mark.parametrize("share", [1e-3, 0.25, 0.75, 1 - 1e-3])
def test_the_point_and_the_dot_of_a_run_are_its_own_result_wherever_in_a_step_its_tau_lies(share):
    margins = np.sort(metrics.flips(*_record(0)[1])["margin"].unique())
    for low, high in itertools.pairwise(margins):
        tau = low + share * (high - low)
        record, _ = _record(0, tau=tau)
        parts, r = Curves({"one": record}), record["result"]
        view = CurvesView(parts)
        line, row = view.lines[0], view.own["one"]
        assert (line["x"][row], line["y"][row], line["rows"][row]) == pytest.approx((r["U"], r["S"], tau), abs=0.01)
    dot = next(line for line in parts.draw(Chosen("one"), {}).axes[0].get_lines() if line.get_marker() == "o")
    assert (*dot.get_xdata(), *dot.get_ydata()) == (r["U"], r["S"])


def test_a_click_on_a_curve_chooses_its_run_and_keeps_the_point_there():
    (one, _), (two, _) = _record(0), _record(1)
    panel = curves_panel({"one": one, "two": two})
    curve = panel.view.curve
    own = panel.view.own["one"]
    assert curve.on == "one" and curve.at == own and panel.text.startswith("one: tau +0.40")
    with curve.hold_sync():
        curve.on, curve.at = "two", 5
    panel.wait()
    assert panel.state == Chosen("two") and curve.at == 5 and panel.text.startswith("two")
    panel.set(run="one")
    assert curve.on == "one" and curve.at == own


def test_curves_of_other_images_are_not_drawn_over_each_other():
    one = _record(0)[0]
    for other, words in ((_record(1, "t")[0], r"b \(84 px, split s\) and of b \(84 px, split t\)"),
                         (_record(1, few=25)[0], r"b \(84 px, 25 images a class, split s\) and of b")):
        with pytest.raises(PanelError, match=words):
            curves_panel({"one": one, "two": other})
    with pytest.raises(PanelError, match="these runs are of none: mark at least one"):
        curves_panel({})
