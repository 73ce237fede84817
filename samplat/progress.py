"""How a long run tells the world where it stands: a bar, plain lines, JSON lines, or nothing."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichBar
    from rich.progress import TaskID


class Progress(Protocol):
    """Told about stages, such as "tiles" or "seams"; its methods may be called from any thread."""

    def start(self, stage: str, total: int) -> None:
        """A stage of `total` steps begins."""
        ...

    def advance(self, stage: str, steps: int = 1) -> None:
        """`steps` more steps of a stage are done."""
        ...

    # Our own also have `grow(stage, steps)`: a stage that runs has more steps than was thought.

    def finish(self, stage: str) -> None:
        """A stage is over, whether or not all its steps were counted."""
        ...

    def message(self, text: str) -> None:
        """Something a person should read now: a warning, a quarantined tile."""
        ...


class Silent:
    """Says nothing."""

    def start(self, stage: str, total: int) -> None:
        """Ignored."""

    def grow(self, stage: str, steps: int) -> None:
        """Ignored."""

    def advance(self, stage: str, steps: int = 1) -> None:
        """Ignored."""

    def finish(self, stage: str) -> None:
        """Ignored."""

    def message(self, text: str) -> None:
        """Ignored."""


@dataclass(kw_only=True)
class _Count:
    total: int
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)


class _Counting:
    """Counts the steps of each stage; a subclass says how an event is written."""

    interval: float = 5.0
    """Seconds between two lines about the same stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._counts: dict[str, _Count] = {}
        self._lock = threading.Lock()

    def start(self, stage: str, total: int) -> None:
        """Write that the stage begins."""
        with self._lock:
            self._counts[stage] = _Count(total=total)
            self._tell("start", stage)

    def grow(self, stage: str, steps: int) -> None:
        """Count more steps to do."""
        with self._lock:
            self._counts[stage].total += steps

    def advance(self, stage: str, steps: int = 1) -> None:
        """Count, and write a line when the last one is old."""
        with self._lock:
            count = self._counts[stage]
            count.done += steps
            if time.monotonic() - count.told >= self.interval:
                count.told = time.monotonic()
                self._tell("progress", stage)

    def finish(self, stage: str) -> None:
        """Write that the stage is over."""
        with self._lock:
            self._tell("finish", stage)

    def message(self, text: str) -> None:
        """Write the text on a line of its own."""
        with self._lock:
            self._write("message", text=text)

    def _tell(self, event: str, stage: str) -> None:
        count = self._counts[stage]
        seconds = round(time.monotonic() - count.began, 3)
        self._write(event, stage=stage, done=count.done, total=count.total, seconds=seconds)

    def _write(self, event: str, **facts: Any) -> None:
        raise NotImplementedError


class PlainLines(_Counting):
    """Lines for people, for a pipe or a log file: at the start, every five seconds, at the end."""

    def _write(self, event: str, **facts: Any) -> None:
        if event == "message":
            line = str(facts["text"])
        elif event == "start":
            line = f"{facts['stage']}: {facts['total']} to do"
        else:
            line = "{stage}: {done}/{total} in {seconds:.1f} s".format(**facts)
        self._stream.write(line + "\n")
        self._stream.flush()


class JsonLines(_Counting):
    """One JSON object per line: event, time, stage, done, total, seconds, or text."""

    interval = 1.0

    def _write(self, event: str, **facts: Any) -> None:
        record = {"event": event, "time": round(time.time(), 3), **facts}
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()


class RichProgress:
    """A live bar per stage on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar: RichBar = Bar(
            TextColumn("{task.description:>8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}
        self._growing = threading.Lock()

    def start(self, stage: str, total: int) -> None:
        """Add a bar; the first one starts the display."""
        self._bar.start()
        self._tasks[stage] = self._bar.add_task(stage, total=total)

    def grow(self, stage: str, steps: int) -> None:
        """Make the bar stand for more steps."""
        with self._growing:
            task = self._bar.tasks[self._bar.task_ids.index(self._tasks[stage])]
            self._bar.update(task.id, total=(task.total or 0) + steps)

    def advance(self, stage: str, steps: int = 1) -> None:
        """Move the stage's bar."""
        self._bar.advance(self._tasks[stage], steps)

    def finish(self, stage: str) -> None:
        """Leave the bar on the screen, still; the terminal is free for other output."""
        self._bar.stop_task(self._tasks[stage])
        self._bar.stop()

    def message(self, text: str) -> None:
        """Print above the bars."""
        self._bar.console.print(text, markup=False, highlight=False)


def choose_progress(stream: TextIO, *, log_json: bool = False, quiet: bool = False) -> Progress:
    """The kind of progress that suits a stream, normally stderr.

    Args:
        stream: where lines go.
        log_json: JSON lines for machines, even on a terminal.
        quiet: nothing at all.
    """
    if log_json:
        return JsonLines(stream)
    if quiet:
        return Silent()
    return RichProgress() if stream.isatty() else PlainLines(stream)
