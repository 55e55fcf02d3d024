"""A run with a start and a stop button: training in a worker thread, curves and validation H as they come."""

from __future__ import annotations

import contextlib
import html
import io
import threading
from pathlib import Path

import ipywidgets as widgets
import pandas as pd
from matplotlib.figure import Figure

from vspcn_lib import plots
from vspcn_lib.config import Config
from vspcn_lib.controls import show
from vspcn_lib.files import whole_rows
from vspcn_lib.runs import RunFolder
from vspcn_lib.train import Interrupted, run


def read_curves(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """steps.jsonl and epochs.jsonl of a run folder as tables, as far as they are written."""
    return tuple(pd.DataFrame(whole_rows(folder / name)) for name in ("steps.jsonl", "epochs.jsonl"))


def draw_curves(steps: pd.DataFrame, epochs: pd.DataFrame) -> Figure:
    """Loss parts by step and validation U, S, H by epoch."""
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    losses, validation = figure.subplots(1, 2)
    if len(steps):
        parts = [c for c in steps.columns if c not in ("phase", "step", "lr", "norm", "time")]
        for colour, part in zip(plots.COLOURS, parts, strict=False):
            losses.plot(range(1, len(steps) + 1), steps[part], color=colour, label=part, lw=2 if part == "total" else 1)
        border = int((steps["phase"] == "select").sum())
        if 0 < border < len(steps):
            losses.axvline(border + 0.5, color="0.7", lw=1)
            losses.text(border + 0.5, losses.get_ylim()[1], " retrain on trainval", va="top", fontsize=8, color="0.4")
        losses.legend(fontsize=8)
    losses.set(xlabel="step", ylabel="loss part")
    if len(epochs):
        for colour, name in zip(plots.COLOURS, "USH", strict=False):
            validation.plot(epochs["epoch"], epochs[name], "o-", color=colour, label=name)
        validation.legend(fontsize=8)
    validation.set(xlabel="epoch", ylabel="validation (%)", ylim=(0, 100))
    return figure


class TrainingPanel:
    """Start or continue the run in `out`; Stop ends it after the current step and keeps everything.

    `wait()` blocks until the run has ended, for a cell that is to train before the next one reads `result`.
    """

    def __init__(self, config: Config, out: Path) -> None:
        self.config, self.out, self.result = config, out, None
        self.stop, self._thread = threading.Event(), threading.Thread()
        self.start_button = widgets.Button(description="Start / continue")
        self.stop_button = widgets.Button(description="Stop")
        self.bar = widgets.FloatProgress(min=0.0, max=1.0, layout=widgets.Layout(width="260px"))
        self.message = widgets.HTML()
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start"))
        self.start_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop.set())
        row = widgets.HBox([self.start_button, self.stop_button, self.bar, self.message])
        self.box = widgets.VBox([row, self.image])
        self.refresh()

    def start(self) -> TrainingPanel:
        """Start, or continue where the run was stopped; does nothing while it runs."""
        if not self.running:
            self.stop.clear()
            self._thread = threading.Thread(target=self._train, daemon=True)
            self._thread.start()
            threading.Thread(target=self._watch, args=(self._thread,), daemon=True).start()
        return self

    def wait(self) -> TrainingPanel:
        """Until the run has ended or was stopped; the picture is up to date then."""
        if self._thread.ident is not None:
            self._thread.join()
        self.refresh()
        return self

    @property
    def running(self) -> bool:
        """Whether the worker thread is training."""
        return self._thread.is_alive()

    def _train(self) -> None:
        self._say("running")
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                self.result = run(self.config, self.out, resume=(self.out / "config.json").exists(), stop=self.stop)
            self._say("finished")
        except Interrupted:
            self._say("stopped; everything up to the last step is kept")
        except Exception as error:  # shown to the reader; the kernel lives on
            self._say(f"{type(error).__name__}: {error}")

    def _watch(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            thread.join(1.0)  # one picture a second: more would only fill the kernel's queue
            self.refresh()

    def refresh(self) -> None:
        """Draw what the run folder holds now."""
        steps, epochs = read_curves(self.out)
        self.image.value = plots.png(draw_curves(steps, epochs))
        done = len(epochs) / (2 * self.config.train.epochs) if len(epochs) else 0.0
        self.bar.value = 1.0 if (self.out / "result.json").exists() else min(0.95, done)

    def _say(self, sentence: str) -> None:
        self.message.value = f"<span role='status'>{html.escape(sentence)}</span>"

    @property
    def status(self) -> str:
        """The sentence beside the buttons."""
        return html.unescape(self.message.value.split(">", 1)[-1].removesuffix("</span>"))

    def _ipython_display_(self) -> None:
        """The live panel, and for a page without a kernel its picture."""
        show(self.box, self.image.value, "training panel")


def finished(config: Config, out: Path) -> RunFolder:
    """The finished run in `out`; trained first, under a progress bar alone, where it is not there yet."""
    with contextlib.redirect_stdout(io.StringIO()):
        run(config, out, resume=(out / "config.json").exists())
    return RunFolder(out)
