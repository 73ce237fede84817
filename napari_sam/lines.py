"""A line between the window and the process of the model: one conversation at a time. No Qt.

    window                        model
    Asked(verb, given)     ->
                           <-     Wanted(name, given)    pixels of the image; "this slice is done"
    Given(value)           ->
    Enough()               ->                            at any time: it is not wanted any more
                           <-     Ended(value, error)

The window alone opens a conversation, and the model alone ends it. So nothing is left on the line
that the next conversation could take for its own.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from napari_sam.worker import Stale, Superseded
from samplat import JobError, SamplatError

LOOK = 0.005
"""Seconds between looks at whether the answer is still wanted."""


@dataclass(frozen=True)
class Asked:
    """Opens a conversation."""

    verb: str
    """What is to be done."""
    given: tuple[Any, ...]
    """And with what."""


@dataclass(frozen=True)
class Wanted:
    """What the model needs, or tells, before it goes on."""

    name: str
    """What."""
    given: tuple[Any, ...]
    """Of what."""


@dataclass(frozen=True)
class Given:
    """The answer to that."""

    value: Any
    """What it asked for."""


@dataclass(frozen=True)
class Enough:
    """The model is to end soon."""


@dataclass(frozen=True)
class Ended:
    """Ends a conversation."""

    value: Any = None
    """What it led to."""
    error: Exception | None = None
    """Or what went wrong."""


class Far(Protocol):
    """Where a line leads."""

    def connection(self) -> Connection:
        """The open connection; opened if need be."""

    def lost(self, connection: Connection) -> JobError:
        """It broke off: what the user is told."""


class Line:
    """The window's end. For any thread; one waits for the other.

    Args:
        far: the other end.
    """

    def __init__(self, far: Far) -> None:
        self._far = far
        self._mine = threading.Lock()

    def ask(self, verb: str, *given: Any, stale: Stale, **wants: Callable[..., Any]) -> Any:
        """Let the model do something.

        Args:
            verb: what.
            given: and with what.
            stale: looked at all the time; the model ends early then.
            wants: by name, what it may want meanwhile; called in this thread.

        Raises:
            Superseded: it is not wanted any more.
            JobError: the process ended.
            Exception: whatever the model, or one of `wants`, raised.
        """
        with self._turn(stale):
            connection = self._far.connection()
            try:
                found = _talk(connection, Asked(verb, given), stale, wants)
            except (EOFError, OSError):
                raise self._far.lost(connection) from None
        if found.error is not None:
            raise found.error
        return found.value

    @contextmanager
    def _turn(self, stale: Stale) -> Iterator[None]:
        while not self._mine.acquire(timeout=LOOK):
            if stale():
                raise Superseded
        try:
            yield
        finally:
            self._mine.release()


def _talk(
    connection: Connection, asked: Asked, stale: Stale, wants: Mapping[str, Callable[..., Any]]
) -> Ended:
    """A whole conversation; an error of the window's own comes first."""
    connection.send(asked)
    mine: Exception | None = None
    while True:
        heard = connection.recv() if connection.poll(LOOK) else None
        if isinstance(heard, Ended):
            return heard if mine is None else Ended(error=mine)
        if mine is not None:
            continue
        answer, mine = _reply(heard, stale, wants)
        if answer is not None:
            connection.send(answer)


def _reply(
    heard: Wanted | None, stale: Stale, wants: Mapping[str, Callable[..., Any]]
) -> tuple[Given | Enough | None, Exception | None]:
    if stale():
        return Enough(), Superseded()
    if heard is None:
        return None, None
    try:
        return Given(wants[heard.name](*heard.given)), None
    except Exception as error:  # noqa: BLE001 it is raised when the model has ended
        return Enough(), error


class Caller:
    """The model's end; for one thread, but for `want`.

    Args:
        connection: to the window.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._talking = threading.Lock()
        self._enough, self._looked = False, 0.0

    def serve(self, verbs: Mapping[str, Callable[..., Any]]) -> None:
        """Do what is asked until the window hangs up.

        Args:
            verbs: by name; each gets this caller first.
        """
        try:
            while True:
                if isinstance(asked := self._connection.recv(), Asked):
                    self._enough = False
                    self._end(self._done(verbs, asked))
        except (EOFError, OSError):
            return

    def _done(self, verbs: Mapping[str, Callable[..., Any]], asked: Asked) -> Ended:
        try:
            return Ended(value=verbs[asked.verb](self, *asked.given))
        except Exception as error:  # noqa: BLE001 the window shows whatever it is
            return Ended(error=_portable(error))

    def _end(self, ended: Ended) -> None:
        try:
            self._connection.send(ended)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 a value that cannot be sent
            self._connection.send(Ended(error=_portable(error)))

    def want(self, name: str, *given: Any) -> Any:
        """Ask the window for something, or tell it. For any thread.

        Raises:
            Superseded: what this is for is not wanted any more.
        """
        with self._talking:
            if not self._enough:
                self._connection.send(Wanted(name, given))
                if isinstance(heard := self._connection.recv(), Given):
                    return heard.value
                self._enough = True
            raise Superseded

    def stale(self) -> bool:
        """Whether what is being done is not wanted any more; quick enough to be called often."""
        now = time.monotonic()
        if now - self._looked > LOOK and self._talking.acquire(blocking=False):
            self._looked = now
            try:
                self._enough = self._enough or self._connection.poll()
            finally:
                self._talking.release()
        return self._enough


def _portable(error: Exception) -> Exception:
    """An error as a process without torch can have it."""
    if isinstance(error, SamplatError | Superseded):
        # anew: with Dask imported, exceptions take tracebacks and causes along, sendable or not
        return type(error)(*error.args)
    said = f"{type(error).__name__}: {error}"
    found = RuntimeError(said)
    found.add_note("".join(traceback.format_exception(error)))
    return found
