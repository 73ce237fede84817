"""How far long work is, in napari's activity dock, where it can be cancelled.

All of it is for the window's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Activity:
    """One line of the dock.

    Args:
        text: what is being done.
        total: of how many steps.
        cancel: called when the user does not want it any more.
    """

    def __init__(self, text: str, total: int, cancel: Callable[[], None]) -> None:
        self._bar: Any = _bar(text, total, cancel)

    def advance(self, steps: int = 1) -> None:
        """So many steps more are done."""
        if self._bar is not None:
            self._bar.update(steps)

    def close(self) -> None:
        """It is over."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def _bar(text: str, total: int, cancel: Callable[[], None]) -> Any:
    from napari.utils.progress import cancelable_progress

    class Bar(cancelable_progress):
        """Says at once that it was cancelled; napari's own says it when it is asked for more."""

        def cancel(self) -> None:
            super().cancel()
            cancel()

    # a terminal that the window was started from is told nothing
    return Bar(total=total, desc=text, file=_Nowhere())


class _Nowhere:
    def write(self, text: str) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""
