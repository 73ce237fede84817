"""A process without a model, for what is said to it and how it ends."""

from __future__ import annotations

import threading
from typing import Any

from napari_sam import serving
from napari_sam.lines import Caller
from napari_sam.worker import Superseded


class Verbs:
    """What a process may do, in threads."""

    def __init__(self) -> None:
        self.began, self.free = threading.Event(), threading.Event()
        self.ended: list[str] = []
        self.verbs = {"add": self.add, "wait": self.wait, "fail": self.fail, "odd": self.odd}

    def add(self, caller: Caller, number: int) -> int:
        return number + int(caller.want("other", number))

    def wait(self, caller: Caller) -> str:
        self.began.set()
        while not caller.stale():
            if self.free.wait(0.001):
                return "free"
        self.ended.append("early")
        raise Superseded

    def fail(self, caller: Caller, error: Exception) -> None:
        raise error

    def odd(self, caller: Caller) -> Any:
        return lambda: None


def main() -> None:
    """What `serving.main` does, with these verbs."""
    serving.Served = Verbs  # type: ignore[assignment, misc]
    serving.main()
