"""One control each: its range or options, how what a reader enters is read, and the ipywidget it becomes."""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

from vspcn_lib import config
from vspcn_lib.panels.live.range import Range


def field_help(name: str) -> str:
    """What `config.py` says of a setting such as `model.alpha_v`: the text under its field."""
    group, _, key = name.partition(".")
    kind = type(getattr(config.Config(), group))
    body = ast.parse(inspect.getsource(kind)).body[0].body
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and field.target.id == key and isinstance(text, ast.Expr):
            return text.value.value
    return ""


def plain(text: str) -> str:
    """A help text without markup that a tooltip would show raw: stars, backquotes, subscripts in brackets."""
    text = re.sub(r"\[([\w +]+)\]", r"(\1)", text.replace("*", "").replace("`", ""))
    return re.sub(r"\s+", " ", text).strip()


@dataclass(frozen=True)
class Slider:
    """A number of the state: its range, step and meaning; whole numbers where `step` is an int."""

    name: str
    low: float
    high: float
    step: float
    help: str = ""

    @classmethod
    def beyond(cls, name: str, reach: float, help: str = "") -> Slider:
        """From a step below -`reach` to a step above it, the step 1, 2 or 5 of a decimal place: 400 to 1000 in all."""
        reach = float(reach) or 1.0
        most = reach / 200
        place = math.floor(math.log10(most))
        step = max((s for s in (float(f"{n}e{place}") for n in (1, 2, 5)) if s <= most), default=10.0**place)
        end = round((math.floor(reach / step * (1 + 1e-12)) + 1) * step, 12 - place)  # 1e-12: 250 steps, not 249.99...
        return cls(name, -end, end, step, help)

    def parse(self, entered: Any) -> float:
        """The number that was `entered`. Raises ValueError with a sentence that says what to enter."""
        whole, text = isinstance(self.step, int), str(entered)
        advice = f"enter a {'whole ' if whole else ''}number from {self.low:g} to {self.high:g}"
        try:
            value = float(text)
        except ValueError as error:
            raise ValueError(f"{self.name}: '{text}' is not a number, {advice}" if text.strip() else
                             f"{self.name} is empty: {advice}") from error
        if not self.low <= value <= self.high:  # false for NaN
            raise ValueError(f"{self.name} = {text} is out of range: {advice}")
        if whole and not value.is_integer():
            raise ValueError(f"{self.name} = {text} is not a whole number: {advice}")
        return int(value) if whole else value

    def taken(self, moved: float) -> float:
        """What the slider was dragged to, as the state holds it."""
        return round(moved) if isinstance(self.step, int) else moved

    def widget(self, value: float) -> widgets.Widget:
        """The slider with its number; range and meaning appear on hover."""
        return Range(value=value, min=self.low, max=self.high, step=self.step, whole=isinstance(self.step, int),
                     label=self.name, hint=f"{self.low:g} to {self.high:g}: {plain(self.help)}")


@dataclass(frozen=True)
class Choice:
    """One of several words or numbers of the state."""

    name: str
    options: tuple[Any, ...]
    help: str = ""

    def parse(self, entered: Any) -> Any:
        """The option that was `entered`. Raises ValueError with a sentence that names all of them."""
        if entered not in self.options:
            raise ValueError(f"{self.name} = {entered} is none of its values: choose one of "
                             f"{', '.join(map(spelled, self.options))}")
        return self.options[self.options.index(entered)]

    def taken(self, moved: Any) -> Any:
        """What was chosen, as the state holds it."""
        return moved

    def widget(self, value: Any) -> widgets.Widget:
        """The drop-down list."""
        return widgets.Dropdown(options=self.options, value=value, layout=widgets.Layout(width="350px"))


@dataclass(frozen=True)
class Steps(Choice):
    """A slider over listed values, for what was recorded at those alone."""

    def widget(self, value: Any) -> widgets.Widget:
        """The slider, its value written beside it."""
        return widgets.SelectionSlider(options=[(spelled(v), v) for v in self.options], value=value,
                                       layout=widgets.Layout(width="430px"))


def spelled(value: Any) -> str:
    """An option as it is written beside its control: numbers short, anything else by its name."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
