"""The thread behind a panel: the newest state is computed, what is finished is shown, what is overtaken stops."""

from __future__ import annotations

import threading
from typing import Any

from vspcn_lib.views.probe import Cancelled


class Turns:
    """One computation at a time of `self.state`, in a thread of its own; `wait` blocks until none is left.

    A panel gives `_compute(state, stop)`, `_quick(state)` or None, `_draft`, `_show`, `_nothing` and `_say`.
    """

    def __init__(self) -> None:
        self._lock, self._idle, self._stop = threading.RLock(), threading.Event(), threading.Event()
        self._wanted: Any = None
        self._idle.set()

    def _request(self) -> None:
        """Ask for the picture of the present state; what is being computed for an older one is told to stop."""
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
        """One computation, its spinner, and what comes of it; whatever is finished is shown."""
        ended = threading.Event()
        spinner = threading.Timer(0.3, self._spin, (ended,))
        spinner.daemon = True
        spinner.start()
        shown, wrong = None, ""
        try:
            if self._quick is not None and self.shown is not None:  # the first answer is the full one
                self._show(self._draft(state, self._quick(state), " …"))
                if stop.wait(0.25):
                    raise Cancelled
            shown = self._draft(state, self._compute(state, stop))
        except Cancelled:
            pass
        except BaseException as error:  # shown to the reader, whatever it is: this thread has nobody else to tell
            wrong = f"{type(error).__name__}: {error}"
        with self._lock:
            ended.set()
            spinner.cancel()
            if shown is not None:
                try:
                    self._show(shown)
                except Exception as error:
                    wrong = f"{type(error).__name__}: {error}"
            if stop.is_set():  # a newer move is waiting: its sentence comes
                return
            if wrong:
                self._nothing(wrong)
            self._say(*((wrong, True) if wrong else (self._complaint, True)))

    def _spin(self, ended: threading.Event) -> None:
        with self._lock:
            if not ended.is_set():
                self._say("working ...")

    def wait(self, seconds: float = 120.0) -> None:
        """Until nothing is being computed. Raises TimeoutError after `seconds`."""
        if not self._idle.wait(seconds):
            raise TimeoutError(f"{self.title}: still computing after {seconds:g} s")
