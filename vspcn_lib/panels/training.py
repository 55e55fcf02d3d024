"""A run with a start and a stop button: training in a worker thread, curves and validation H as they come."""

from __future__ import annotations

import html
import math
import threading
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from vspcn_lib.config import Config, as_dict, update
from vspcn_lib.panels.controls import heard, show, spoken
from vspcn_lib.panels.curves import TrainingView, earlier_runs
from vspcn_lib.panels.fields import Slider
from vspcn_lib.panels.keeping import project_outputs
from vspcn_lib.runs.calibration import calibration_share, class_folds, hold_out
from vspcn_lib.runs.folder import RunFolder
from vspcn_lib.runs.workspace import Workspace
from vspcn_lib.studies.presets import preset
from vspcn_lib.train import Interrupted, run, selection_split, thin
from vspcn_lib.views import plots
from vspcn_lib.views.curves import draw_curves, phase_name, read_curves


class TrainingPanel:
    """Start or continue the run in `out`; Stop ends it after the current step and keeps everything.

    `wait()` blocks until the run has ended, for a cell that is to train before the next one reads `result`.
    """

    def __init__(self, config: Config, out: Path | str) -> None:
        self.config, self.out, self.result = config, Path(out), None
        self._epoch_steps: tuple[int, int] | None = None
        self.stop, self._thread = threading.Event(), threading.Thread()
        self.start_button = widgets.Button(description="Start / continue")
        self.stop_button = widgets.Button(description="Stop", layout=widgets.Layout(width="70px"))
        self.bar = widgets.FloatProgress(min=0.0, max=1.0, layout=widgets.Layout(width="260px"))
        self.message, self.numbers, self.view = widgets.HTML(), widgets.HTML(), TrainingView()
        self.start_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop.set())
        row = widgets.HBox([self.start_button, self.stop_button, self.bar, self.message],
                           layout=widgets.Layout(flex_flow="row wrap"))
        self.box = widgets.VBox([*self.settings(), row, self.numbers, self.view.box])
        self.refresh()

    def settings(self) -> list[widgets.Widget]:
        """Controls above the buttons; none here."""
        return []

    def planned(self) -> tuple[Config, Path]:
        """The config and the folder of the run that Start begins."""
        return self.config, self.out

    def earlier(self) -> dict[str, pd.DataFrame]:
        """Steps of other runs, to be drawn behind this one's; none here."""
        return {}

    def start(self) -> TrainingPanel:
        """Start, or continue where the run was stopped; does nothing while it runs."""
        if not self.running:
            self.config, self.out = self.planned()
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
            self._say(f"{type(error).__name__}: {error}", wrong=True)

    def _watch(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            thread.join(1.0)  # one picture a second: more would only fill the kernel's queue
            self.refresh()

    def refresh(self) -> None:
        """Draw what the run folder holds now."""
        steps, epochs = read_curves(self.out)
        self.view.show(steps, epochs, self.earlier())
        self.bar.value = 1.0 if (self.out / "result.json").exists() else self._share(steps)
        self.numbers.value = f"<pre class='vspcn-numbers'>{html.escape(self.progress(steps))}</pre>"

    @property
    def picture(self) -> bytes:
        """What the run folder holds now, as PNG."""
        return plots.png(draw_curves(*read_curves(self.out)))

    def progress(self, steps: pd.DataFrame) -> str:
        """Step, phase, loss, images a second and the time left; before the first step what is going to be trained."""
        t, d = self.config.train, self.config.data
        if not len(steps):
            thinned = f", at most {d.images_per_class} images a class" if d.images_per_class else ""
            drawn = f"each of {t.folds} draws of validation classes" if t.folds > 1 else "validation classes"
            return (f"{d.benchmark} at {d.size} px{thinned}: up to {t.epochs} epochs of batches of {t.batch_size} to "
                    f"choose the epoch on {drawn}, as many again on all training classes, then the test "
                    f"images once; kept in {self.out.name}")
        last = steps.iloc[-1]
        said = [f"step {len(steps)}" + (f" of {whole}" if (whole := self._whole()) else ""),
                phase_name(last["phase"]), f"loss {last['total']:.3f}"]
        took = steps["time"].diff().tail(12).median() if "time" in steps and len(steps) > 2 else float("nan")
        if took > 0:
            said.append(f"{t.batch_size * t.accumulate / took:.0f} images/s")
            if whole and self.running:
                said.append(f"about {max(0, whole - len(steps)) * took:.0f} s left")
        return "  ·  ".join(said)

    def _whole(self) -> int:
        """Optimiser steps of selection and retrain, which takes at most as many epochs as a fold. 0: not known."""
        if self._epoch_steps is None:
            return 0
        select, final = self._epoch_steps
        selected = RunFolder(self.out).read_json("selection.json")
        epochs = self.config.train.epochs
        return select * epochs + final * (selected["best"]["epoch"] if selected else epochs)

    def _share(self, steps: pd.DataFrame) -> float:
        """Steps done, of all steps of selection and retrain."""
        whole = self._whole()
        return min(0.99, len(steps) / whole) if whole and len(steps) else 0.0

    def _say(self, sentence: str, wrong: bool = False) -> None:
        self.message.value = spoken(sentence, wrong)

    @property
    def status(self) -> str:
        """The sentence beside the buttons."""
        return heard(self.message)

    def _ipython_display_(self) -> None:
        """The live panel, and for a page without a kernel its picture."""
        show(self.box, self.picture, "training panel")


class RetrainPanel(TrainingPanel):
    """Sliders over settings of a short training; every setting gets a folder of its own in `folder`, all are overlaid.

    `sliders` are named by setting (`loss.lambda_ced`) and open at the config's values.
    """

    def __init__(self, config: Config, folder: Path | str, sliders: list[Slider]) -> None:
        self.base, self.folder, self.sliders = config, Path(folder), sliders
        super().__init__(config, folder)
        self.config, self.out = self.planned()
        self.refresh()

    def settings(self) -> list[widgets.Widget]:
        """One slider a setting."""
        values = as_dict(self.base)
        self.controls = {s.name: s.widget(values[s.name.split(".")[0]][s.name.split(".")[1]]) for s in self.sliders}
        return list(self.controls.values())

    def planned(self) -> tuple[Config, Path]:
        """The config with the sliders' values, and the folder named after them."""
        changes: dict[str, dict[str, float]] = {}
        for name, control in self.controls.items():
            group, _, key = name.partition(".")
            changes.setdefault(group, {})[key] = round(control.value, 6)
        name = "_".join(f"{key}-{value:g}" for group in changes.values() for key, value in group.items())
        return update(self.base, changes), self.folder / name

    def earlier(self) -> dict[str, pd.DataFrame]:
        """The steps of every other run in the folder, by name and validation H."""
        found = {}
        for path in earlier_runs(self.folder):
            if path != self.out:
                selected = RunFolder(path).read_json("selection.json")
                h = f" (validation H {selected['best']['H']:.1f})" if selected else ""
                found[path.name.replace("_", ", ").replace("lambda, ", "lambda_") + h] = read_curves(path)[0]
        return found


def epoch_steps(work: Workspace) -> tuple[int, int]:
    """Optimiser steps of one epoch of the selection, of all its folds together, and of one epoch of the retrain.

    A last batch of one image makes none.
    """
    t, bench, most = work.config.train, work.bench, work.config.data.images_per_class
    final, _ = hold_out(bench, thin(bench, bench.trainval, most, t.seed), calibration_share(t), t.seed)  # held: for tau
    inner = [thin(fold, selection_split(fold, t.held_out, t.seed)[0], most, t.seed)
             for fold in class_folds(bench, t.folds, t.seed)]
    *each, last = (math.ceil((len(i) + t.batch_size - 2) // t.batch_size / t.accumulate) for i in (*inner, final))
    return sum(each), last


def demo_run(name: str = "birdlets") -> Path:
    """The run of preset `name` that `make demo` leaves in outputs/demo; where it is missing it is trained: minutes."""
    return finished(preset(name), project_outputs() / "demo" / name).path


def finished(config: Config, out: Path) -> RunFolder:
    """The finished run in `out`; trained first, in the cell that asks, where it is not there yet."""
    run(config, out, resume=(out / "config.json").exists())
    return RunFolder(out)
