"""ipywidgets shells over pure functions: a state, `compute(state, stop)`, `draw(state, result)`, `describe(...)`."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure

from vspcn_lib.panels.fields import Choice, Slider
from vspcn_lib.system.environment import environment
from vspcn_lib.views.plots import png
from vspcn_lib.views.probe import Cancelled

WRONG = "#a00"  # the colour of a sentence that says what went wrong; all others are neutral


@dataclass(frozen=True)
class Shown:
    """What a panel shows, and what `save` writes: a state, and the result, figure, picture and text it gave."""

    state: Any
    result: Any
    figure: Figure
    picture: bytes
    text: str


class Panel:
    """Sliders, choices, text boxes, picture and numbers of one pure function.

    `state` is a frozen dataclass; `compute(state, stop) -> result` may take long and should raise `Cancelled` when
    `stop` is set; `draw(state, result) -> Figure` and `describe(state, result) -> str` are fast. A newer move cancels
    an older computation; an exception is shown as a sentence and the panel lives on. `panel.set(tau=1.0)` moves a
    control as a reader would and waits; `panel.text` are the numbers under the picture. `source` says in a saved
    picture's record where the numbers come from: a run and the checksum of its weights (`named`), a study.
    """

    def __init__(self, title: str, state: Any, controls: list[Slider | Choice], compute: Callable[..., Any],
                 draw: Callable[..., Figure], describe: Callable[..., str], saved: Path | None = None,
                 source: dict[str, Any] | None = None) -> None:
        self.title, self.first, self.state = title, state, state
        self.saved, self.source = saved or project_outputs() / "saved", source or {}
        self._compute, self._draw, self._describe = compute, draw, describe
        self._lock, self._idle, self._stop = threading.RLock(), threading.Event(), threading.Event()
        self._wanted: Any = None
        self._idle.set()
        self._setting, self._complaint = False, ""
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start"))
        self.numbers = widgets.HTML()
        self.message = widgets.HTML()
        self._parsers = {control.name: control for control in controls}
        self.controls: dict[str, widgets.Widget] = {}
        self.boxes: dict[str, widgets.Text] = {}
        rows = [self._row(control) for control in controls]
        reset, save = (widgets.Button(description=text) for text in ("Reset", "Save"))
        reset.on_click(lambda _: self.reset())
        save.on_click(lambda _: self._save_clicked())
        head = widgets.HTML(f"<b>{html.escape(title)}</b>")
        self.box = widgets.VBox([head, *rows, widgets.HBox([reset, save, self.message]), self.image, self.numbers])
        self.shown: Shown | None = None
        self.text, self.result, self.figure = "", None, None
        self._request()
        self.wait()

    def _row(self, control: Slider | Choice) -> widgets.Widget:
        name, value = control.name, getattr(self.state, control.name)
        main = self.controls[name] = control.widget(value)
        label = widgets.Label(name, layout=widgets.Layout(width="110px"))
        span = f"{control.low:g} to {control.high:g}: " if isinstance(control, Slider) else ""
        hint = widgets.HTML(f"<span style='color:#666'>{html.escape(span + control.help)}</span>")
        main.observe(lambda change: self._moved({name: change["new"]}), "value")
        if isinstance(control, Choice):
            return widgets.HBox([label, main, hint])
        box = self.boxes[name] = widgets.Text(value=f"{value:g}", continuous_update=False,
                                              layout=widgets.Layout(width="90px"))
        box.observe(lambda change: self._typed(control, change["new"]), "value")
        return widgets.HBox([label, main, box, hint])

    def _typed(self, control: Slider, text: str) -> None:
        if self._setting:
            return
        try:
            self._moved({control.name: control.parse(text)})
        except ValueError as error:
            with self._lock:
                self._complaint = str(error)
                self._say(self._complaint, WRONG)

    def _moved(self, values: dict[str, Any]) -> None:
        """Take over `values`, have every control and box show the state, and ask for its picture."""
        if self._setting:
            return
        with self._lock:
            self.state = dataclasses.replace(self.state, **values)
            if self._complaint:
                self._complaint = ""
                self._say("")
        self._setting = True
        try:
            for name, control in self.controls.items():
                control.value = getattr(self.state, name)
            for name, box in self.boxes.items():
                box.value = f"{getattr(self.state, name):g}"
        finally:
            self._setting = False
        self._request()

    def _say(self, sentence: str, colour: str = "#555") -> None:
        self.message.value = spoken(sentence, colour)

    @property
    def sentence(self) -> str:
        """What the panel says beside its buttons: empty, or what went wrong and what to do."""
        return heard(self.message)

    def _request(self) -> None:
        """Ask for the picture of the present state; what is being computed for an older one is cancelled."""
        with self._lock:
            self._wanted = self.state
            self._stop.set()
            if self._idle.is_set():
                self._idle.clear()
                threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        try:
            while (turn := self._next()) is not None:
                self._turn(*turn)
        except BaseException:  # not even a broken display leaves the panel waiting for ever
            with self._lock:
                self._idle.set()
            raise

    def _next(self) -> tuple[Any, threading.Event] | None:
        with self._lock:
            state, self._wanted = self._wanted, None
            if state is None:
                self._idle.set()
                return None
            self._stop = threading.Event()
            return state, self._stop

    def _turn(self, state: Any, stop: threading.Event) -> None:
        """One computation, its spinner, and what comes of it."""
        ended = threading.Event()
        spinner = threading.Timer(0.3, self._spin, (ended,))
        spinner.daemon = True
        spinner.start()
        shown, wrong = None, ""
        try:
            result = self._compute(state, stop)
            figure = self._draw(state, result)
            shown = Shown(state, result, figure, png(figure), self._describe(state, result))
        except Cancelled:
            pass
        except BaseException as error:  # shown to the reader, whatever it is: this thread has nobody else to tell
            wrong = f"{type(error).__name__}: {error}"
        with self._lock:
            ended.set()
            spinner.cancel()
            if stop.is_set():  # a newer move is waiting; what it gives is shown instead
                return
            if shown is not None:
                self._show(shown)
            elif wrong:
                self.text, self.result, self.figure = wrong, None, None
                self.image.value, self.numbers.value = b"", ""
                self.image.layout.visibility = "hidden"  # an older picture would belong to another state
            self._say(*((wrong, WRONG) if wrong else (self._complaint, WRONG)))

    def _spin(self, ended: threading.Event) -> None:
        with self._lock:
            if not ended.is_set():
                self._say("working ...")

    def _show(self, shown: Shown) -> None:
        self.shown, self.result, self.figure, self.text = shown, shown.result, shown.figure, shown.text
        self.image.value = shown.picture
        self.image.layout.visibility = "visible"
        self.numbers.value = f"<pre>{html.escape(shown.text)}</pre>"

    def wait(self, seconds: float = 120.0) -> None:
        """Until nothing is being computed. Raises TimeoutError after `seconds`."""
        if not self._idle.wait(seconds):
            raise TimeoutError(f"{self.title}: still computing after {seconds:g} s")

    def _parsed(self, values: dict[str, Any]) -> dict[str, Any]:
        unknown = [name for name in values if name not in self._parsers]
        if unknown:
            raise ValueError(f"the panel '{self.title}' has no control '{unknown[0]}': choose one of "
                             f"{', '.join(self._parsers)}")
        return {name: self._parsers[name].parse(value) for name, value in values.items()}

    def set(self, **values: Any) -> Panel:
        """Move controls as a reader would, and wait for the picture.

        Raises ValueError for an unknown control or a value out of its range; then nothing moves.
        """
        self._moved(self._parsed(values))
        self.wait()
        return self

    def at(self, **values: Any) -> Any:
        """The result of the pure function for the present state with other `values`; nothing moves, nothing is drawn.

        Raises ValueError as `set` does.
        """
        return self._compute(dataclasses.replace(self.state, **self._parsed(values)), threading.Event())

    def reset(self) -> None:
        """Every control and box as the panel opened, and no message; does not wait for the picture."""
        self._complaint = ""
        self._say("")
        self._moved(dataclasses.asdict(self.first))

    def save(self) -> Path:
        """Write the picture shown last and, beside it, the state and numbers that made it; returns the picture's path.

        Raises ValueError where nothing was shown yet, OSError where the folder cannot be written to.
        """
        self.wait()
        return self._save()

    def _save(self) -> Path:
        shown = self.shown
        if shown is None:
            raise ValueError("there is no picture to save yet: move a control until one is shown")
        name = "".join(c if c.isalnum() else "-" for c in self.title.lower())
        self.saved.mkdir(parents=True, exist_ok=True)
        numbers = [p.stem.removeprefix(f"{name}-") for p in self.saved.glob(f"{name}-*.*")]
        number = 1 + max((int(n) for n in numbers if n.isdecimal()), default=0)
        path = self.saved / f"{name}-{number}.png"
        record = {"title": self.title, "source": self.source, "state": dataclasses.asdict(shown.state),
                  "numbers": shown.text, "environment": environment()}
        path.write_bytes(shown.picture)
        path.with_suffix(".json").write_text(json.dumps(record, indent=1, default=str) + "\n")
        return path

    def _save_clicked(self) -> None:
        """Save what is on the screen; the kernel waits for no computation."""
        try:
            path = self._save()
        except OSError as error:
            self._say(f"could not save in {self.saved} ({error.strerror or error}): make the folder writable, or set "
                      "panel.saved to another one", WRONG)
        except ValueError as error:
            self._say(str(error), WRONG)
        else:
            self._say(f"saved {os.path.relpath(path)}")

    def _ipython_display_(self) -> None:
        """One bundle: the live widget, and for a page without a kernel the picture and the numbers."""
        show(self.box, bytes(self.image.value), f"{self.title}\n{self.text}")


def project_outputs() -> Path:
    """The folder `outputs` of the project, wherever the notebook lies; of the current folder where it is installed."""
    root = Path(__file__).resolve().parents[2]
    return (root if (root / "pyproject.toml").exists() else Path()) / "outputs"


def named(run: Path) -> dict[str, str]:
    """What a record says of a run: its folder's name, and the sha256 of its checkpoint file."""
    with (run / "checkpoint.safetensors").open("rb") as file:
        return {"run": run.resolve().name, "checkpoint": hashlib.file_digest(file, "sha256").hexdigest()}


def spoken(sentence: str, colour: str = "#000") -> str:
    """A sentence as HTML that a screen reader announces; anything that looks like markup is shown as it was typed."""
    return f"<span role='status' style='color:{colour}'>{html.escape(sentence)}</span>"


def heard(message: widgets.HTML) -> str:
    """The sentence that `spoken` put there."""
    return html.unescape(re.sub("<[^>]*>", "", message.value))


def show(box: widgets.Widget, png: bytes, text: str) -> None:
    """Display a widget together with what a page without a kernel shows instead: a picture and a text."""
    view = box._repr_mimebundle_()
    view = view[0] if isinstance(view, tuple) else view
    kind = "application/vnd.jupyter.widget-view+json"
    picture = {"image/png": base64.b64encode(png).decode()} if png else {}
    display({**picture, "text/plain": text, kind: view[kind]}, raw=True)
