"""The model in threads of this process, behind the same lines: quick, and within reach of tests."""

from __future__ import annotations

import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from napari_sam.hosting import LINES
from napari_sam.lines import Caller
from napari_sam.serving import Served


class Near:
    """Instead of a process."""

    def __init__(self) -> None:
        pairs = [Pipe() for _ in range(LINES)]
        self._ours = [ours for ours, _ in pairs]
        served = Served()
        for _, theirs in pairs:
            threading.Thread(target=_serve, args=(theirs, served), daemon=True).start()

    def connections(self) -> list[Connection]:
        return self._ours

    def runs(self) -> bool:
        return True

    def end(self) -> str:
        self.kill()
        return "ended"

    def kill(self) -> None:
        for each in self._ours:
            each.close()


def _serve(connection: Connection, served: Served) -> None:
    Caller(connection).serve(served.verbs)
    connection.close()
