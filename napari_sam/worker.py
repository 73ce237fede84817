"""A thread that answers the latest request only, so that the window never waits. No Qt."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PATIENCE = 30.0
"""Seconds that the end of the program waits for what the thread is at."""
Stale = Callable[[], bool]
"""True: the answer is not wanted any more."""


class Superseded(Exception):  # noqa: N818 it is no error
    """Work ended early because its answer is not wanted any more."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    number: int
    work: Callable[[Stale], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]


class Latest:
    """One thread, one request waiting at most: a new one takes its place.

    Args:
        deliver: runs a function in the window's thread, at once or later. Answers go through it.
    """

    def __init__(self, deliver: Callable[[Callable[[], None]], None]) -> None:
        self._deliver = deliver
        self._changed = threading.Condition()
        self._waiting: _Request | None = None
        self._newest, self._closed = 0, False
        self._thread = threading.Thread(target=self._run, name="samplat", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def ask(
        self,
        work: Callable[[Stale], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Do some work, unless something else is asked for first.

        Args:
            work: in the thread; it may look whether it is stale, and raise `Superseded`.
            done: in the window's thread, with what it returned, if nothing newer was asked for.
            failed: likewise, with what it raised.
        """
        with self._changed:
            self._newest += 1
            self._waiting = _Request(number=self._newest, work=work, done=done, failed=failed)
            self._changed.notify()

    def tell(self, stale: Stale, function: Callable[[], None]) -> None:
        """From work that goes on: run a function in the window's thread, unless it is stale then.

        Args:
            stale: of that work.
            function: what to run.
        """
        if not stale():
            self._deliver(lambda: None if stale() else function())

    def cancel(self) -> None:
        """Nothing that was asked for is wanted any more."""
        with self._changed:
            self._newest += 1
            self._waiting = None

    def close(self) -> None:
        """End the thread after what it is at; nothing is delivered any more. Waits for nothing."""
        with self._changed:
            self._newest += 1
            self._waiting, self._closed = None, True
            self._changed.notify()

    def _end(self) -> None:
        """The program ends: a thread that is cut off within torch would abort it."""
        self.close()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while (request := self._next()) is not None:
            self._answer(request)

    def _next(self) -> _Request | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting is not None)
            request, self._waiting = self._waiting, None
            return request

    def _answer(self, request: _Request) -> None:
        def stale() -> bool:
            return request.number != self._newest

        def tell(function: Callable[[Any], None], value: Any) -> None:
            self.tell(stale, lambda: function(value))

        try:
            found = request.work(stale)
        except Superseded:
            return
        except Exception as error:  # noqa: BLE001 the window shows whatever it is
            tell(request.failed, error)
        else:
            tell(request.done, found)
