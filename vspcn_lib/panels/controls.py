"""ipywidgets shells over pure functions: a state, `compute(state, stop)`, `draw(state, result)`, `describe(...)`."""

from __future__ import annotations

import base64
import dataclasses
import html
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ipywidgets as widgets
import pandas as pd
from IPython.display import DisplayHandle, display
from matplotlib.figure import Figure

from vspcn_lib.panels.fields import Choice, Slider
from vspcn_lib.panels.keeping import FORMATS, TABLES, Shown, code, keep, project_outputs, state_in
from vspcn_lib.panels.live.picture import Picture
from vspcn_lib.panels.stored import WIDGET
from vspcn_lib.panels.turns import Turns
from vspcn_lib.views.plots import png

NOT_YET = "there is no picture to save yet: move a control until one is shown"


class View(Protocol):
    """Live pictures of one panel: `box` is shown, `link` ties them to the controls in the browser, `show` updates.

    `buttons`, where it has them, come after the panel's own.
    """

    box: widgets.Widget

    def link(self, panel: Panel) -> None: ...

    def show(self, state: Any, result: Any) -> None: ...


class OnPage:
    """What a notebook displays: `box` while there is a kernel, and picture and text of the panel that it `shows`."""

    box: widgets.Widget
    shows: Panel
    _place: DisplayHandle | None = None

    def _ipython_display_(self) -> None:
        """One bundle: the live widget, and for a page without a kernel the picture and the numbers."""
        self._place = show(self.box, self.shows.picture, f"{self.shows.title}\n{self.shows.text}")

    def redraw_page(self) -> None:
        """Draw anew what a page without a kernel shows in this place: the panel may know more by now."""
        if self._place is not None and self.shows.shown is not None:
            self.shows.shown = dataclasses.replace(self.shows.shown)
            show(self.box, self.shows.picture, f"{self.shows.title}\n{self.shows.text}", self._place)


class Panel(Turns, OnPage):
    """Sliders, choices, number boxes, picture and numbers of one pure function.

    `state` is a frozen dataclass; `compute(state, stop) -> result` may take long and should raise `Cancelled` when
    `stop` is set; `draw(state, result) -> Figure` and `describe(state, result) -> str` are fast. A newer move stops an
    older computation, a result that is finished is shown; an exception is shown as a sentence and the panel lives on.
    With a `view` the pictures are live and matplotlib draws only what is stored or saved. `quick(state)` gives a first
    answer to every move, marked "…"; the full one follows when the controls rest. `panel.set(tau=1.0)` moves a control
    as a reader would and waits; `panel.text` are the numbers under the picture. `source` says in a saved picture's
    record where the numbers come from: a run and the checksum of its weights (`named`), a study. `table(state, result)`
    is what the panel exports as CSV and LaTeX.
    """

    def __init__(self, title: str, state: Any, controls: list[Slider | Choice], compute: Callable[..., Any],
                 draw: Callable[..., Figure], describe: Callable[..., str], saved: Path | None = None,
                 source: dict[str, Any] | None = None, view: View | None = None,
                 quick: Callable[..., Any] | None = None, table: Callable[..., pd.DataFrame] | None = None) -> None:
        self.title, self.first, self.state, self.view = title, state, state, view
        self.saved, self.source = saved or project_outputs() / "saved", source or {}
        self._compute, self._draw, self._describe, self._quick, self._table = compute, draw, describe, quick, table
        super().__init__()
        self._setting, self._complaint = False, ""
        self.image, self.numbers, self.message = Picture(alt=title), widgets.HTML(), widgets.HTML()
        self._parsers = {control.name: control for control in controls}
        self.controls: dict[str, widgets.Widget] = {}
        rows = [self._row(control) for control in controls]
        head = widgets.HTML(f"<b>{html.escape(title)}</b>")
        self.box = widgets.VBox([head, *rows, self._buttons(), self.image if view is None else view.box, self.numbers,
                                 self.source_code])
        self.shown: Shown | None = None
        self.text, self.result = "", None
        if view is not None:
            view.link(self)
        self._request()
        self.wait()

    def _row(self, control: Slider | Choice) -> widgets.Widget:
        name = control.name
        main = self.controls[name] = control.widget(getattr(self.state, name))
        main.observe(lambda change: self._moved({name: control.taken(change["new"])}), "value")
        if isinstance(control, Slider):
            main.observe(lambda change: self._typed(self._parsers[name], change["new"][0]), "typed")
            return main
        return widgets.HBox([widgets.Label(name, tooltip=control.help, layout=widgets.Layout(width="130px")), main])

    def _buttons(self) -> widgets.Widget:
        reset, save = (widgets.Button(description=text, layout=widgets.Layout(width="70px"))
                       for text in ("Reset", "Save"))
        self.kind = widgets.Dropdown(options={**FORMATS, **(TABLES if self._table else {})}, tooltip="what Save writes",
                                     layout=widgets.Layout(width="130px"))
        load = widgets.FileUpload(accept=".json", description="Load", tooltip="a state that Save wrote: its .json file",
                                  layout=widgets.Layout(width="90px"))
        shown = widgets.ToggleButton(description="Code", tooltip="the code that computes and draws this",
                                     layout=widgets.Layout(width="70px"))
        self.source_code = widgets.HTML(layout=widgets.Layout(display="none", max_height="300px", overflow="auto"))
        reset.on_click(lambda _: self.reset())
        save.on_click(lambda _: self._save_clicked())
        load.observe(lambda change: self._loaded(change["new"]), "value")
        shown.observe(lambda change: self._show_code(change["new"]), "value")
        more = getattr(self.view, "buttons", [])
        return widgets.HBox([reset, save, self.kind, load, shown, *more, self.message],
                            layout=widgets.Layout(flex_flow="row wrap"))

    def _show_code(self, wanted: bool) -> None:
        if wanted and not self.source_code.value:
            self.source_code.value = f"<pre>{html.escape(code(self._compute, self._draw))}</pre>"
        self.source_code.layout.display = "" if wanted else "none"

    def _typed(self, control: Slider, text: str) -> None:
        try:
            self._moved({control.name: control.parse(text)})
        except ValueError as error:
            with self._lock:
                self._complaint = self.controls[control.name].wrong = str(error)
                self._say(self._complaint, wrong=True)

    def _moved(self, values: dict[str, Any]) -> None:
        """Take over `values`, have every control show the state, and ask for its picture."""
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
                if isinstance(self._parsers[name], Slider):
                    control.wrong = ""
        finally:
            self._setting = False
        self._request()

    def _say(self, sentence: str, wrong: bool = False) -> None:
        self.message.value = spoken(sentence, wrong)

    @property
    def sentence(self) -> str:
        """What the panel says beside its buttons: empty, or what went wrong and what to do."""
        return heard(self.message)

    @property
    def figure(self) -> Figure | None:
        """The matplotlib figure of what is shown."""
        return None if self.result is None else self.shown.figure

    @property
    def picture(self) -> bytes:
        """What is shown as PNG, empty where nothing is."""
        return b"" if self.result is None else self.shown.picture

    def table(self) -> pd.DataFrame:
        """What is shown, as a table. Raises ValueError where the panel has none or shows nothing yet."""
        if self._table is None or self.shown is None:
            raise ValueError(f"the panel '{self.title}' has no table: save a picture instead")
        return self._table(self.shown.state, self.shown.result)

    def _draft(self, state: Any, result: Any, mark: str = "") -> Shown:
        return Shown(state, result, self._describe(state, result) + mark, self._draw)

    def _nothing(self, wrong: str) -> None:
        self.text, self.result = wrong, None
        self.image.value, self.numbers.value = b"", ""  # an older picture would belong to another state
        self._visible(False)

    def _visible(self, there: bool) -> None:
        (self.image if self.view is None else self.view.box).layout.visibility = "visible" if there else "hidden"

    def _show(self, shown: Shown) -> None:
        if self.view is None:
            self.image.width, value = round(100 * shown.figure.get_figwidth()), png(shown.figure, 160)
            self.image.value, self.image.alt = value, f"{self.title}: {shown.text}"
        else:
            self.view.show(shown.state, shown.result)
        self.shown, self.result, self.text = shown, shown.result, shown.text
        self._visible(True)
        self.numbers.value = f"<pre class='vspcn-numbers'>{html.escape(shown.text)}</pre>"

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

    def widen(self, name: str, high: float) -> None:
        """Let the slider `name` go up to `high`."""
        self._parsers[name] = dataclasses.replace(self._parsers[name], high=high)
        self.controls[name].max = high

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

    def save(self, suffix: str = ".png") -> Path:
        """Write what is shown (.png, .svg, .pdf; its table: .csv, .tex) and, as .json beside it, what made it.

        Raises ValueError where nothing was shown yet or there is no table, OSError where the folder cannot be written.
        """
        self.wait()
        return self._save(suffix)

    def _save(self, suffix: str) -> Path:
        if self.shown is None:
            raise ValueError(NOT_YET)
        table = self.table() if suffix in TABLES.values() else None
        return keep(self.shown, self.saved, self.title, self.source, suffix, table)

    def load(self, path: Path | str) -> Panel:
        """Move every control to where it was when `save` wrote this .json file. Raises `StateError`, ValueError."""
        return self.set(**state_in(Path(path).read_text(), self.title))

    def _loaded(self, files: tuple[dict[str, Any], ...]) -> None:
        try:
            for file in files[-1:]:
                self._moved(self._parsed(state_in(bytes(file["content"]).decode(errors="replace"), self.title)))
        except ValueError as error:
            self._say(str(error), wrong=True)

    def _save_clicked(self) -> None:
        """Save what is on the screen; the kernel waits for no computation."""
        try:
            path = self._save(self.kind.value)
        except OSError as error:
            self._say(f"could not save in {self.saved} ({error.strerror or error}): make the folder writable, or set "
                      "panel.saved to another one", wrong=True)
        except ValueError as error:
            self._say(str(error), wrong=True)
        else:
            self._say(f"saved {os.path.relpath(path)}")

    @property
    def shows(self) -> Panel:
        """Itself."""
        return self


def spoken(sentence: str, wrong: bool = False) -> str:
    """A sentence as HTML that a screen reader announces; anything that looks like markup is shown as it was typed."""
    return f"<span role='status' class='vspcn-{'wrong' if wrong else 'said'}'>{html.escape(sentence)}</span>"


def heard(message: widgets.HTML) -> str:
    """The sentence that `spoken` put there."""
    return html.unescape(re.sub("<[^>]*>", "", message.value))


def show(box: widgets.Widget, picture: bytes, text: str, place: DisplayHandle | None = None) -> DisplayHandle | None:
    """Display a widget together with what a page without a kernel shows instead: a picture and a text.

    Returns its `place` on the page, which can be given to be filled anew; None outside of a notebook.
    """
    view = box._repr_mimebundle_()
    view = view[0] if isinstance(view, tuple) else view
    stored = {"image/png": base64.b64encode(picture).decode()} if picture else {}
    bundle = {**stored, "text/plain": text, WIDGET: view[WIDGET]}
    if place is None:
        return display(bundle, raw=True, display_id=True)
    place.update(bundle, raw=True)
    return place
