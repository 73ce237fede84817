"""Several sources as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from samplat_train.data.pictures import Picture, PictureSource


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The pictures of one source after those of another."""

    sources: tuple[PictureSource, ...]
    """At least one."""

    @property
    def name(self) -> str:
        """The names of all."""
        return ", ".join(source.name for source in self.sources)

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def key(self, i: int) -> str:
        """Key of picture i, after the name of its source: two may have equal keys."""
        source, inner = self._find(i)
        return f"{source.name}/{source.key(inner)}"

    def read(self, i: int) -> Picture:
        """Picture i."""
        source, inner = self._find(i)
        return source.read(inner)

    def _find(self, i: int) -> tuple[PictureSource, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        ends = list(accumulate(len(source) for source in self.sources))
        which = bisect_right(ends, i)
        return self.sources[which], i - (ends[which - 1] if which else 0)


def join(sources: Sequence[PictureSource]) -> PictureSource:
    """One source out of several; a single one stays as it is."""
    return sources[0] if len(sources) == 1 else Joined(sources=tuple(sources))
