"""The panel of notebook 05's story: a tau of selection, and where each calibrator puts it in the final model."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event

import pandas as pd
from matplotlib.figure import Figure

from vspcn_lib.metrics import tau_text
from vspcn_lib.panels.controls import Panel
from vspcn_lib.panels.fields import Choice, Slider
from vspcn_lib.runs.calibration import NAMES
from vspcn_lib.views.calibration import Story, draw_story


@dataclass(frozen=True)
class Carried:
    """Which calibrator, and the tau of selection that it carries over."""

    calibrator: str
    tau: float


class Landing:
    """A `Story` behind a slider."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def compute(self, state: Carried, stop: Event | None = None) -> pd.DataFrame:
        """`Story.table` at the tau of the state."""
        return self.story.table(state.tau)

    def draw(self, state: Carried, result: pd.DataFrame) -> Figure:
        """Both histograms and the bars."""
        return draw_story(self.story, state.tau, state.calibrator)

    def describe(self, state: Carried, result: pd.DataFrame) -> str:
        """Validation numbers at this tau, and the test numbers where the calibrator puts it."""
        v, rows = self.story.selection.at(state.tau), result.set_index("calibrator")
        own, best = rows.loc[state.calibrator], rows.loc["oracle"]
        return (f"selection, tau {tau_text(state.tau)}: U {v.U:.1f}  S {v.S:.1f}  H {v.H:.1f}\n"
                f"final model, {state.calibrator} tau {tau_text(own['tau'])}: U {own['U']:.1f}  S {own['S']:.1f}  "
                f"H {own['H']:.1f}, {own['gap']:.1f} points below the oracle's ({tau_text(best['tau'])}, chosen on "
                "test labels: not a result)")


def landing_panel(story: Story) -> Panel:
    """Starts at the tau of the best validation H and the default calibrator."""
    parts, start = Landing(story), story.selection.best
    return Panel("What a calibrator carries over", Carried("consensus", start),
                 [Choice("calibrator", tuple(NAMES)),
                  Slider.beyond("tau", max(abs(story.selection.margins).max(), abs(start)),
                                "of selection, added to the validation classes' scores")],
                 parts.compute, parts.draw, parts.describe, source={"images": {"test": len(story.test.labels)}})
