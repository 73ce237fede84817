"""The process of the model: what the window asks of it is done here. No Qt.

Models, embeddings and what following remembers stay here; pixels are asked of the window, which has
the image open, and masks go back as runs.
"""

from __future__ import annotations

import functools
import os
import secrets
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.answering import Answerer, Picture, interrupted
from napari_sam.everything import Choice, Chosen, Found, find
from napari_sam.lines import Caller
from napari_sam.sights import Level, Named, Sight
from napari_sam.stacks import Followed, follow
from napari_sam.state import Candidate, Plane, Preview, Question, StackQuestion
from napari_sam.views import View


class _Distant:
    """An array of the window's, of which what is indexed comes over the line."""

    def __init__(self, caller: Caller, number: int, level: Level) -> None:
        self._caller, self._number = caller, number
        self.shape, self.dtype = level.shape, np.dtype(level.dtype)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        pixels: NDArray[Any] = self._caller.want("read", self._number, index)
        return pixels


def _picture(sight: Sight, caller: Caller) -> Picture:
    """As an answerer takes it: pixels come over the line."""
    first, *others = (_Distant(caller, n, each) for n, each in enumerate(sight.levels))
    return Picture(
        number=sight.number,
        data=first,
        shape=sight.shape,
        bands=sight.bands,
        limits=sight.limits,
        levels=tuple(others),
    )


class Served:
    """What the process does, by verb. Each is told who asks, then what."""

    def __init__(self) -> None:
        self._memory: tuple[str, Any] = ("", None)
        self.verbs = {
            "prepare": self.prepare,
            "answer": self.answer,
            "follow": self.follow,
            "find": self.find,
            "choose": self.choose,
        }

    @functools.lru_cache(maxsize=4)  # noqa: B019 there is one of these, as long as the process
    def _answerer(self, named: Named) -> Answerer:
        return Answerer(named.model, named.cache)

    def prepare(
        self, caller: Caller, named: Named, sight: Sight | None, plane: Plane, views: list[View]
    ) -> None:
        """Load the model, and encode views if a picture is given."""
        if sight is None:
            self._answerer(named).model()
        else:
            picture = _picture(sight, caller)
            self._answerer(named).prepare(picture, plane, views, caller.stale)

    def answer(
        self, caller: Caller, named: Named, sight: Sight, question: Question, held: Any
    ) -> Preview:
        """Candidate masks; `drafted` is told of a quick one first, if they will be others."""
        answerer, picture = self._answerer(named), _picture(sight, caller)
        with interrupted(caller.stale):
            return answerer.answer(
                picture, question, held, caller.stale, lambda draft: caller.want("drafted", draft)
            )

    def follow(
        self,
        caller: Caller,
        named: Named,
        sight: Sight,
        asked: StackQuestion,
        spacing: Sequence[float],
        taken: NDArray[np.uint8],
        earlier: str | None,
    ) -> Followed:
        """An object through a stack; `heard` is told of slices. The bits of `taken` are packed."""

        def heard(axis: int, k: int, found: Candidate | None) -> bool:
            return bool(caller.want("heard", axis, k, found))

        shape = [sight.shape[a] for a in asked.stacked]
        answerer, (name, memory) = self._answerer(named), self._memory
        found = follow(
            _picture(sight, caller),
            asked,
            spacing=spacing,
            taken=np.unpackbits(taken, count=int(np.prod(shape))).reshape(shape).astype(bool),
            model=answerer.model(),
            embed=answerer.embed,
            heard=heard,
            earlier=memory if earlier == name else None,
        )
        self._memory = secrets.token_hex(8), found.memory  # a name that no other process gave
        return replace(found, memory=self._memory[0])

    def find(
        self, caller: Caller, named: Named, sight: Sight, plane: Plane, view: View, side: int
    ) -> Found | None:
        """Masks of a grid of points; `wanted` is told of each batch. None: no more was wanted."""
        answerer = self._answerer(named)
        with interrupted(caller.stale):
            embedding = answerer.embed(_picture(sight, caller).read(plane, view))
            masks = find(answerer.model(), embedding, side, lambda: bool(caller.want("wanted")))
        return None if masks is None else Found(masks=masks, plane=plane, view=view)

    def choose(self, caller: Caller, found: Found, choice: Choice) -> Chosen:
        """Those of them that pass."""
        return found.choose(choice)


def main() -> None:
    """Serve the window that started this, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the window, too
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _processors() - 1)))
    from samplat import keep_freed_memory

    keep_freed_memory()
    key = bytes.fromhex(sys.stdin.readline())
    threading.Thread(target=_end_with_the_window, daemon=True).start()
    served = Served()
    with _connected(key) as connections:
        threads = [
            threading.Thread(target=Caller(each).serve, args=(served.verbs,), daemon=True)
            for each in connections
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    os._exit(0)


def _processors() -> int:
    """Those that this may use.

    One of them is left to the window: its frames and torch's threads, which spin while they wait
    for each other, would slow each other down several times.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _end_with_the_window() -> None:
    """However the window ended, and whatever is being computed."""
    sys.stdin.read()
    os._exit(0)


@contextmanager
def _connected(key: bytes) -> Iterator[list[Connection]]:
    """The lines, once the window has taken them up; it reads where from standard output."""
    from napari_sam.hosting import LINES

    with tempfile.TemporaryDirectory(prefix="samplat-", ignore_cleanup_errors=True) as folder:
        address = None if os.name == "nt" else str(Path(folder) / "line")
        with Listener(address, authkey=key) as listener:
            print(listener.address, flush=True)  # noqa: T201 nobody else reads it
            connections = [listener.accept() for _ in range(LINES)]
    os.dup2(2, 1)  # whatever a library prints
    yield connections
