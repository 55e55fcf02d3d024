"""ipywidgets shells over pure functions: a state, `compute(state, stop)`, `draw(state, result)`, `describe(...)`."""

from __future__ import annotations

import ast
import base64
import dataclasses
import html
import inspect
import itertools
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import display
from matplotlib.figure import Figure

from vspcn_lib import config
from vspcn_lib.plots import png
from vspcn_lib.probe import Cancelled
from vspcn_lib.runs import environment


def field_help(name: str) -> str:
    """What `config.py` says of a setting such as `model.alpha_v`: the text under its field."""
    group, _, key = name.partition(".")
    kind = type(getattr(config.Config(), group))
    body = ast.parse(inspect.getsource(kind)).body[0].body
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and field.target.id == key and isinstance(text, ast.Expr):
            return text.value.value
    return ""


@dataclass(frozen=True)
class Slider:
    """A number of the state: its range, step and meaning; whole numbers where `step` is an int."""

    name: str
    low: float
    high: float
    step: float
    help: str = ""

    def parse(self, text: str) -> float:
        """The number in `text`. Raises ValueError with a sentence that says what to enter."""
        advice = f"enter a number from {self.low:g} to {self.high:g}"
        try:
            value = (int if isinstance(self.step, int) else float)(text)
        except ValueError as error:
            raise ValueError(f"{self.name}: '{text}' is not a number, {advice}" if text.strip() else
                             f"{self.name} is empty: {advice}") from error
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} = {text} is out of range: {advice}")
        return value

    def widget(self, value: float) -> widgets.Widget:
        """The slider."""
        kind = widgets.IntSlider if isinstance(self.step, int) else widgets.FloatSlider
        return kind(value=value, min=self.low, max=self.high, step=self.step, readout=False, continuous_update=False)


@dataclass(frozen=True)
class Choice:
    """One of several words or numbers of the state."""

    name: str
    options: tuple[Any, ...]
    help: str = ""

    def widget(self, value: Any) -> widgets.Widget:
        """The drop-down list."""
        return widgets.Dropdown(options=self.options, value=value)


@dataclass(frozen=True)
class Steps(Choice):
    """A slider over listed values, for what was recorded at those alone."""

    def widget(self, value: Any) -> widgets.Widget:
        """The slider, its value written beside it."""
        return widgets.SelectionSlider(options=[(f"{v:g}", v) for v in self.options], value=value,
                                       continuous_update=False)


class Panel:
    """Sliders, choices, text boxes, picture and numbers of one pure function.

    `state` is a frozen dataclass; `compute(state, stop) -> result` may take long and should raise `Cancelled` when
    `stop` is set; `draw(state, result) -> Figure` and `describe(state, result) -> str` are fast. A newer move cancels
    an older computation; an exception is shown as a sentence and the panel lives on. `panel.set(tau=1.0)` moves a
    control as a reader would and waits; `panel.text` are the numbers under the picture.
    """

    def __init__(self, title: str, state: Any, controls: list[Slider | Choice], compute: Callable[..., Any],
                 draw: Callable[..., Figure], describe: Callable[..., str],
                 saved: Path = Path("outputs/saved")) -> None:
        self.title, self.first, self.state, self.saved = title, state, state, saved
        self._compute, self._draw, self._describe = compute, draw, describe
        self._lock, self._idle, self._stop = threading.RLock(), threading.Event(), threading.Event()
        self._wanted: Any = None
        self._idle.set()
        self._setting = False
        self.image = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", align_self="flex-start"))
        self.numbers = widgets.HTML()
        self.message = widgets.HTML()
        self.controls: dict[str, widgets.Widget] = {}
        self.boxes: dict[str, widgets.Text] = {}
        rows = [self._row(control) for control in controls]
        reset, save = (widgets.Button(description=text) for text in ("Reset", "Save"))
        reset.on_click(lambda _: self.set(**dataclasses.asdict(self.first)))
        save.on_click(lambda _: self.save())
        head = widgets.HTML(f"<b>{html.escape(title)}</b>")
        self.box = widgets.VBox([head, *rows, widgets.HBox([reset, save, self.message]), self.image, self.numbers])
        self.text, self.result, self.figure = "", None, None
        self._request()
        self.wait()

    def _row(self, control: Slider | Choice) -> widgets.Widget:
        name, value = control.name, getattr(self.state, control.name)
        main = self.controls[name] = control.widget(value)
        label = widgets.Label(name, layout=widgets.Layout(width="110px"))
        span = f"{control.low:g} to {control.high:g}: " if isinstance(control, Slider) else ""
        hint = widgets.HTML(f"<span style='color:#666'>{html.escape(span + control.help)}</span>")
        main.observe(lambda change: self._moved(name, change["new"]), "value")
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
            self.controls[control.name].value = control.parse(text)
            self._say("")
        except ValueError as error:
            self._say(str(error))

    def _moved(self, name: str, value: Any) -> None:
        if name in self.boxes:
            self._setting = True
            self.boxes[name].value = f"{value:g}"
            self._setting = False
        with self._lock:
            self.state = dataclasses.replace(self.state, **{name: value})
        self._request()

    def _say(self, sentence: str) -> None:
        self.message.value = spoken(sentence, "#a00")

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
        spinner = threading.Timer(0.3, lambda: self._say("working ..."))
        spinner.start()
        while True:
            with self._lock:
                state, self._wanted = self._wanted, None
                if state is None:
                    spinner.cancel()
                    self._idle.set()
                    return
                self._stop = stop = threading.Event()
            try:
                result = self._compute(state, stop)
                figure = self._draw(state, result)
                text, picture = self._describe(state, result), png(figure)
            except Cancelled:
                continue
            except Exception as error:  # shown to the reader; the panel and the kernel live on
                spinner.cancel()
                self.text = f"{type(error).__name__}: {error}"
                self._say(self.text)
                continue
            if not stop.is_set():
                spinner.cancel()
                self.result, self.figure, self.text = result, figure, text
                self.image.value = picture
                self.numbers.value = f"<pre>{html.escape(text)}</pre>"
                self._say("")

    def wait(self, seconds: float = 120.0) -> None:
        """Until nothing is being computed. Raises TimeoutError after `seconds`."""
        if not self._idle.wait(seconds):
            raise TimeoutError(f"{self.title}: still computing after {seconds:g} s")

    def set(self, **values: Any) -> Panel:
        """Move controls as a reader would, and wait for the picture."""
        for name, value in values.items():
            if name in self.controls:
                self.controls[name].value = value
        self.wait()
        return self

    def save(self) -> Path:
        """Write the picture and, beside it, the state and numbers that made it; returns the picture's path."""
        self.wait()
        name = "".join(c if c.isalnum() else "-" for c in self.title.lower())
        self.saved.mkdir(parents=True, exist_ok=True)
        number = 1 + len(list(self.saved.glob(f"{name}-*.png")))
        path = self.saved / f"{name}-{number}.png"
        path.write_bytes(self.image.value)
        record = {"title": self.title, "state": dataclasses.asdict(self.state), "numbers": self.text,
                  "environment": environment()}
        path.with_suffix(".json").write_text(json.dumps(record, indent=1, default=str) + "\n")
        self._say(f"saved {path}")
        return path

    def _ipython_display_(self) -> None:
        """One bundle: the live widget, and for a page without a kernel the picture and the numbers."""
        show(self.box, self.image.value, f"{self.title}\n{self.text}")


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
    picture = base64.b64encode(png).decode()
    display({"image/png": picture, "text/plain": text, kind: view[kind]}, raw=True)
