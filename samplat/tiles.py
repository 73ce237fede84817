"""Windows, tiles and tile grids: pure integer geometry in any number of dimensions.

A tile reads more than it writes. The `write` windows partition the image and coincide with the
shards of the label store; the `read` windows add a halo, clipped to the image::

    |rrrr|wwwwww|rrrr|            tile 1
           |rrrr|wwwwww|rrrr|     tile 2       r: read only (halo)   w: read and written
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from samplat.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Window:
    """A half-open box of array indices, in array order: (z, y, x), (y, x) or any other."""

    start: tuple[int, ...]
    """First index along each axis."""
    stop: tuple[int, ...]
    """One past the last index along each axis."""

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop):
            raise InputError(f"window start {self.start} and stop {self.stop} differ in length")

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along each axis, in pixels; 0 where the window is empty."""
        return tuple(max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of pixels."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of this window in the array that it is a window of."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def intersection(self, other: Window) -> Window:
        """The common part; its `size` is 0 where the two do not meet."""
        start = tuple(map(max, self.start, other.start))
        return Window(start=start, stop=tuple(map(max, start, map(min, self.stop, other.stop))))

    def contains(self, other: Window) -> bool:
        """Whether every pixel of `other` lies in this window."""
        return self.intersection(other) == other

    def relative_to(self, outer: Window) -> Window:
        """The same window in the frame in which `outer` starts at 0."""
        return Window(
            start=tuple(a - o for a, o in zip(self.start, outer.start, strict=True)),
            stop=tuple(b - o for b, o in zip(self.stop, outer.start, strict=True)),
        )

    def grown(self, margin: tuple[int, ...], bounds: tuple[int, ...]) -> Window:
        """This window with `margin` pixels more on each side, clipped to the shape `bounds`."""
        return Window(
            start=tuple(max(0, a - m) for a, m in zip(self.start, margin, strict=True)),
            stop=tuple(min(n, b + m) for b, m, n in zip(self.stop, margin, bounds, strict=True)),
        )


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One unit of work: what is read, and the part of it that this tile alone may write."""

    index: int
    """Ordinal of the tile in row-major order of its grid."""
    read: Window
    """Pixels that the model sees; a superset of `write`."""
    write: Window
    """Pixels that belong to this tile: one shard of the label store."""


@dataclass(frozen=True, kw_only=True)
class TileGrid:
    """The partition of an image of `shape` into tiles of `tile_shape`, each with a `halo`.

    Raises:
        InputError: an axis is empty, a tile is smaller than 1 pixel, or a halo is negative.
    """

    shape: tuple[int, ...]
    """Extent of the image along each axis, in pixels."""
    tile_shape: tuple[int, ...]
    """Extent of a write window; the last one along an axis may be smaller."""
    halo: tuple[int, ...]
    """Pixels added on each side of a write window to read, clipped at the image's edge."""

    def __post_init__(self) -> None:
        if not len(self.shape) == len(self.tile_shape) == len(self.halo):
            raise InputError(
                f"shape {self.shape}, tile shape {self.tile_shape} and halo {self.halo} "
                "must have one entry per axis"
            )
        if min(self.shape) < 1:
            raise InputError(f"cannot tile an image of shape {self.shape}: every axis must be >= 1")
        if min(self.tile_shape) < 1 or min(self.halo) < 0:
            raise InputError(
                f"tile shape {self.tile_shape} must be >= 1 and halo {self.halo} must be >= 0"
            )

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(-(-n // t) for n, t in zip(self.shape, self.tile_shape, strict=True))

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Tile]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(f"tile {index} of a grid of {len(self)} tiles")
        position = self.position(index)
        start = tuple(p * t for p, t in zip(position, self.tile_shape, strict=True))
        ends = zip(start, self.tile_shape, self.shape, strict=True)
        write = Window(start=start, stop=tuple(min(a + t, n) for a, t, n in ends))
        return Tile(index=index, read=write.grown(self.halo, self.shape), write=write)

    def position(self, index: int) -> tuple[int, ...]:
        """Grid coordinates of a tile's ordinal."""
        place: list[int] = []
        for count in reversed(self.counts):
            index, p = divmod(index, count)
            place.append(p)
        return tuple(reversed(place))

    def index(self, position: tuple[int, ...]) -> int:
        """Ordinal of the tile at these grid coordinates."""
        ordinal = 0
        for p, count in zip(position, self.counts, strict=True):
            ordinal = ordinal * count + p
        return ordinal

    def overlapping(self, window: Window) -> Iterator[Tile]:
        """Tiles whose read window shares at least one pixel with `window`, in order of index."""
        spans = [
            range(max(0, (a - h) // t), min(c, -(-(b + h) // t)))
            for a, b, h, t, c in zip(
                window.start, window.stop, self.halo, self.tile_shape, self.counts, strict=True
            )
        ]
        for position in _product(spans):
            tile = self[self.index(position)]
            if tile.read.intersection(window).size:
                yield tile

    def neighbours(self, tile: Tile) -> Iterator[Tile]:
        """Tiles of higher index whose read window overlaps this tile's: each pair comes once."""
        return (t for t in self.overlapping(tile.read) if t.index > tile.index)


def _product(spans: list[range]) -> Iterator[tuple[int, ...]]:
    if not spans:
        yield ()
        return
    for first in spans[0]:
        for rest in _product(spans[1:]):
            yield (first, *rest)
