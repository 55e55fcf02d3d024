"""What is said while a panel opens: a bar over its steps, in the notebook's cell or in the place of a chooser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from IPython.display import display
from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

from vspcn_lib.panels.stored import WIDGET

_place: ContextVar[Callable[[str], None] | None] = ContextVar("place", default=None)


@contextmanager
def opening(title: str, *steps: str) -> Iterator[Callable[[], None]]:
    """A bar that is there at once and counts seconds until the `with` ends; what it yields begins the next of `steps`.

    Inside `told` its sentences go there, and no bar is drawn.
    """
    place, start, ended, done = _place.get(), time.monotonic(), threading.Event(), [0]
    live = place is None and issubclass(tqdm, tqdm_notebook)
    bar = tqdm(total=len(steps), desc=f"opening {title}", leave=False, disable=place is not None,
               bar_format="{desc} {bar} {n_fmt} of {total_fmt} [{elapsed}]", **({"display": False} if live else {}))
    if live:  # by itself it would leave its first line in the stored notebook
        display({WIDGET: bar.container._repr_mimebundle_()[WIDGET]}, raw=True)

    def say() -> None:
        step = f"{steps[done[0] - 1]} (step {done[0]} of {len(steps)})" if done[0] else "begins"
        if place is not None:
            place(f"opening {title}: {step}, {time.monotonic() - start:.0f} s")
        else:
            bar.set_description_str(f"opening {title}: {step}")

    def begin() -> None:
        done[0] += 1
        bar.n = done[0] - 1
        say()

    def count() -> None:
        while (place is not None or live) and not ended.wait(0.5):  # no lines into a log
            say()

    counting = threading.Thread(target=count, daemon=True)
    say()
    counting.start()
    try:
        yield begin
    finally:
        ended.set()
        counting.join()  # nothing is said after the end
        bar.n = bar.total  # short of it a notebook would leave the bar on the page, in red
        bar.close()


@contextmanager
def told(place: Callable[[str], None]) -> Iterator[None]:
    """Every `opening` inside the `with`, of this thread, says its sentences to `place`."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def is_told() -> bool:
    """Whether a place for sentences is set, so that no other bar should be drawn."""
    return _place.get() is not None
