"""The story of tau: what its numbers are, against the metrics themselves, and its panel."""

import numpy as np
import pytest
from world import make_config, make_folder, make_vit

from vspcn_lib.metrics import gzsl_metrics, tau_sweep, tau_text
from vspcn_lib.panels.calibration import landing_panel
from vspcn_lib.runs.calibration import NAMES
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.train import run
from vspcn_lib.views.calibration import draw_gaps, draw_story, read_story, write_story

LINEAR = {"model": {"visual_prompts": 0, "semantic_prompts": 0}}


@pytest.fixture
def work(tmp_path) -> Workspace:
    return Workspace.open(make_config(make_folder(tmp_path / "data"), **LINEAR), make_vit(), quiet=True)


def test_the_story_tells_the_taus_of_the_run_itself(work, tmp_path):
    story = read_story(write_story(work, tmp_path / "story.npz"))
    result = run(work.config, tmp_path / "run", work=work)
    best = result["validation"]
    assert story.selection.at(best["tau"]).H == pytest.approx(best["H"])
    table = story.table(best["tau"]).set_index("calibrator")
    for name, tau in result["calibration"]["taus"].items():
        assert table.loc[name, "tau"] == pytest.approx(tau, abs=1e-4), name
    assert table.loc["consensus", "H"] == pytest.approx(result["H"], abs=1e-4)
    assert table.loc["oracle", "H"] == pytest.approx(result["oracle"]["H"]) and table["gap"].min() >= 0
    images = [len(part.labels) for part in (story.selection, story.held, story.test)]
    assert images[1] == result["calibration"]["held_out"] and images[2] == len(work.bench.test_seen) + 18


def test_the_panel_says_where_a_tau_lands(work, tmp_path):
    story = read_story(write_story(work, tmp_path / "story.npz"))
    panel = landing_panel(story)
    best = story.selection.at(panel.state.tau)
    sweep = tau_sweep(story.selection.scores, story.selection.labels, story.selection.unseen)
    assert best.H == pytest.approx(sweep["H"].max()) and f"H {best.H:.1f}" in panel.text.splitlines()[0]
    panel.set(tau=0.5, calibrator="median-shift")
    tau = story.landing("median-shift", 0.5)
    s, h = story.selection, story.held
    seen = ~s.unseen[s.labels]
    assert tau == pytest.approx(0.5 - np.median(s.margins[seen]) + np.median(h.margins), abs=1e-6)
    H = gzsl_metrics(story.test.scores, story.test.labels, story.test.unseen, tau).H
    assert f"median-shift tau {tau_text(tau)}" in panel.text and f"H {H:.1f}, " in panel.text
    assert "not a result" in panel.text
    figure = draw_story(story, 0.5, "median-shift")
    bars = figure.axes[2]
    assert [t.get_text() for t in bars.get_yticklabels()] == [*NAMES, "oracle"]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(story.table(0.5)["H"].tolist())


def test_the_figure_of_the_study_shows_every_trial():
    rng = np.random.default_rng(0)
    trials = [{"draw": d, "folds": f, "oracle": 50.0, "H": {n: 50 - rng.uniform(0, 5) for n in NAMES}}
              for d in range(3) for f in (1, 3)]
    figure = draw_gaps({"a": {"trials": trials}, "b": {"trials": trials}})
    drawn = sorted(x for line in figure.axes[0].lines if line.get_marker() == "o" for x in line.get_xdata())
    assert drawn == pytest.approx(sorted(50 - h for t in trials for h in t["H"].values()))
