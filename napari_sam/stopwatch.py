"""How long a person is at work: time with a hand on the mouse or the keys, pauses apart. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE = 30.0
"""Seconds without a move after which nobody is at work."""


class Stopwatch:
    """Adds up the time between signs of a person, unless they are far apart.

    Args:
        clock: seconds that never run backwards.
        pause: seconds; a longer time without a sign is none of work.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, pause: float = PAUSE
    ) -> None:
        self._clock, self._pause = clock, pause
        self._sum, self._last = 0.0, clock()
        self.held = False
        """True: nothing counts until `go`."""

    def sign(self) -> None:
        """The person moved the mouse, or pressed a key."""
        now = self._clock()
        gap, self._last = now - self._last, now
        if not self.held and gap <= self._pause:
            self._sum += gap

    @property
    def seconds(self) -> float:
        """Of work since the last `clear`, up to the last sign."""
        return self._sum

    @property
    def away(self) -> bool:
        """True: it is held, or nobody gave a sign for longer than a pause."""
        return self.held or self._clock() - self._last > self._pause

    def look(self) -> float:
        """The seconds of work up to now, since the last `clear`."""
        self.sign()
        return self._sum

    def clear(self) -> None:
        """Count from zero."""
        self._sum = 0.0

    def hold(self) -> None:
        """Count up to here, and then nothing."""
        self.sign()
        self.held = True

    def go(self) -> None:
        """Count again."""
        self.held, self._last = False, self._clock()
