"""A run with a start and a stop button: training in a worker thread, curves and validation H as they come."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from vspcn_lib.config import Config
from vspcn_lib.panels.controls import WRONG, heard, project_outputs, show, spoken
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.presets import preset
from vspcn_lib.train import Interrupted, run, selection_split, thin
from vspcn_lib.views import plots
from vspcn_lib.views.curves import draw_curves, read_curves


class TrainingPanel:
    """Start or continue the run in `out`; Stop ends it after the current step and keeps everything.

    `wait()` blocks until the run has ended, for a cell that is to train before the next one reads `result`.
    """

    def __init__(self, config: Config, out: Path) -> None:
        self.config, self.out, self.result = config, out, None
        self._epoch_steps: tuple[int, int] | None = None
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
            work = None
            if not (self.out / "result.json").exists():
                work = Workspace.open(self.config, quiet=True)  # what it says would land in another cell's output
                self._epoch_steps = epoch_steps(work)
            self.result = run(self.config, self.out, (self.out / "config.json").exists(), work, self.stop)
            self._say("finished")
        except Interrupted:
            self._say("stopped; everything up to the last step is kept")
        except Exception as error:  # shown to the reader; the kernel lives on
            self._say(f"{type(error).__name__}: {error}", WRONG)

    def _watch(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            thread.join(1.0)  # one picture a second: more would only fill the kernel's queue
            self.refresh()

    def refresh(self) -> None:
        """Draw what the run folder holds now."""
        steps, epochs = read_curves(self.out)
        self.image.value = plots.png(draw_curves(steps, epochs))
        self.bar.value = 1.0 if (self.out / "result.json").exists() else self._share(steps)

    def _share(self, steps: pd.DataFrame) -> float:
        """Steps done, of all steps of both phases; the retrain takes at most as many epochs as the selection."""
        if self._epoch_steps is None or not len(steps):
            return 0.0
        select, final = self._epoch_steps
        selected = RunFolder(self.out).read_json("selection.json")
        epochs = self.config.train.epochs
        whole = select * epochs + final * (selected["best"]["epoch"] if selected else epochs)
        return min(0.99, len(steps) / whole)

    def _say(self, sentence: str, colour: str = "#555") -> None:
        self.message.value = spoken(sentence, colour)

    @property
    def status(self) -> str:
        """The sentence beside the buttons."""
        return heard(self.message)

    def _ipython_display_(self) -> None:
        """The live panel, and for a page without a kernel its picture."""
        show(self.box, self.image.value, "training panel")


def epoch_steps(work: Workspace) -> tuple[int, int]:
    """Optimiser steps of one epoch of the selection and of the retrain; a last batch of one image makes none."""
    t, bench, most = work.config.train, work.bench, work.config.data.images_per_class
    images = selection_split(bench, t.held_out, t.seed)[0], bench.trainval
    return tuple(math.ceil((len(thin(bench, i, most, t.seed)) + t.batch_size - 2) // t.batch_size / t.accumulate)
                 for i in images)


def demo_run(name: str = "birdlets") -> Path:
    """The run of preset `name` that `make demo` leaves in outputs/demo; where it is missing it is trained: minutes."""
    return finished(preset(name), project_outputs() / "demo" / name).path


def finished(config: Config, out: Path) -> RunFolder:
    """The finished run in `out`; trained first, in the cell that asks, where it is not there yet."""
    run(config, out, resume=(out / "config.json").exists())
    return RunFolder(out)
