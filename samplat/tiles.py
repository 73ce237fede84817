"""Windows, tiles and tile grids: pure integer geometry in any number of dimensions.

A tile reads more than it writes. The `write` windows partition the image and coincide with the
shards of the label store; the `read` windows add a halo, clipped to the image::

    |rrrr|wwwwww|rrrr|            tile 1
           |rrrr|wwwwww|rrrr|     tile 2       r: read only (halo)   w: read and written
"""

from __future__ import annotations

import functools
import itertools
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
        return tuple([max(0, b - a) for a, b in zip(self.start, self.stop, strict=True)])

    @property
    def size(self) -> int:
        """Number of pixels."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of this window in the array that it is a window of."""
        return tuple([slice(a, b) for a, b in zip(self.start, self.stop, strict=True)])

    def intersection(self, other: Window) -> Window:
        """The common part; its `size` is 0 where the two do not meet."""
        start = tuple(map(max, self.start, other.start))
        return Window(start=start, stop=tuple(map(max, start, map(min, self.stop, other.stop))))

    def meets(self, other: Window) -> bool:
        """Whether the two share a pixel."""
        ends = zip(self.start, self.stop, other.start, other.stop, strict=True)
        return all(max(a, c) < min(b, d) for a, b, c, d in ends)

    def contains(self, other: Window) -> bool:
        """Whether every pixel of `other` lies in this window."""
        return self.intersection(other) == other

    def relative_to(self, outer: Window) -> Window:
        """The same window in the frame in which `outer` starts at 0."""
        return Window(
            start=tuple([a - o for a, o in zip(self.start, outer.start, strict=True)]),
            stop=tuple([b - o for b, o in zip(self.stop, outer.start, strict=True)]),
        )

    def shifted(self, offset: tuple[int, ...]) -> Window:
        """The same window in a frame that starts `offset` pixels before this one."""
        return Window(
            start=tuple(a + o for a, o in zip(self.start, offset, strict=True)),
            stop=tuple(b + o for b, o in zip(self.stop, offset, strict=True)),
        )

    def grown(self, margin: tuple[int, ...]) -> Window:
        """This window with `margin` pixels more on each side."""
        return Window(
            start=tuple(a - m for a, m in zip(self.start, margin, strict=True)),
            stop=tuple(b + m for b, m in zip(self.stop, margin, strict=True)),
        )

    def transposed(self, axes: tuple[int, ...]) -> Window:
        """The same window of the transposed array."""
        start, stop = (tuple(end[axis] for axis in axes) for end in (self.start, self.stop))
        return Window(start=start, stop=stop)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One unit of work: what is read, and the part of it that this tile alone may write."""

    index: int
    """Ordinal of the tile in row-major order of its grid."""
    read: Window
    """Pixels that the model sees; a superset of `write`."""
    write: Window
    """Pixels that belong to this tile: one shard of the label store."""

    def __hash__(self) -> int:
        # caches ask for it some hundred times a tile
        return self.index


@dataclass(frozen=True, kw_only=True)
class TileGrid:
    """The partition of an image of `shape` into tiles of `tile_shape`, each with a `halo`.

    The image may be a part of a larger scene. Then its tiles are those of the scene: they read
    what they would read if the whole scene were tiled, and write what lies in the image::

        |......|......|......|......|   tiles of the scene
            |ww|wwwwww|wwww|            the image; `lead` is 4
        |rrrrrrrr|                      read by its first tile, with a halo of 2

    Raises:
        InputError: an axis is empty, a tile is smaller than 1 pixel, or a halo is negative.
    """

    shape: tuple[int, ...]
    """Extent of the image along each axis, in pixels."""
    tile_shape: tuple[int, ...]
    """Extent of a write window; the last one along an axis may be smaller."""
    halo: tuple[int, ...]
    """Pixels added on each side of a tile to read, clipped at the scene's edge."""
    lead: tuple[int, ...] = ()
    """Pixels of the first tile along each axis that lie before the image; () for none."""
    scene: Window | None = None
    """What may be read, in the image's frame; None for the image itself."""

    def __post_init__(self) -> None:
        if not len(self.shape) == len(self.tile_shape) == len(self.halo):
            raise InputError(
                f"shape {self.shape}, tile shape {self.tile_shape} and halo {self.halo} "
                "must have one entry per axis"
            )
        object.__setattr__(self, "lead", self.lead or (0,) * len(self.shape))
        if min(self.shape) < 1:
            raise InputError(f"cannot tile an image of shape {self.shape}: every axis must be >= 1")
        if min(self.tile_shape) < 1 or min(self.halo) < 0:
            raise InputError(
                f"tile shape {self.tile_shape} must be >= 1 and halo {self.halo} must be >= 0"
            )
        if not all(0 <= a < t for a, t in zip(self.lead, self.tile_shape, strict=True)):
            raise InputError(f"lead {self.lead} must be >= 0 and less than a tile")
        if not self.bounds.contains(self.image):
            raise InputError(f"the scene {self.scene} must contain the image of {self.shape}")

    @classmethod
    def of_part(
        cls,
        scene_shape: tuple[int, ...],
        part: Window,
        tile_shape: tuple[int, ...],
        halo: tuple[int, ...],
    ) -> TileGrid:
        """The tiles of a scene that write into a part of it, in the frame of the part.

        Raises:
            InputError: the part is empty, or not inside of the scene.
        """
        scene = Window(start=(0,) * len(scene_shape), stop=scene_shape)
        if not part.size or not scene.contains(part):
            raise InputError(
                f"expected a part of the scene of {scene_shape}, got {part.start} to {part.stop}"
            )
        lead = tuple(a % t for a, t in zip(part.start, tile_shape, strict=True))
        return cls(
            shape=part.shape,
            tile_shape=tile_shape,
            halo=halo,
            lead=lead,
            scene=scene.relative_to(part),
        )

    def transposed(self, axes: tuple[int, ...]) -> TileGrid:
        """The same tiles, in another order, of the transposed image."""

        def turned(values: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(values[axis] for axis in axes)

        return TileGrid(
            shape=turned(self.shape),
            tile_shape=turned(self.tile_shape),
            halo=turned(self.halo),
            lead=turned(self.lead),
            scene=None if self.scene is None else self.scene.transposed(axes),
        )

    @functools.cached_property
    def image(self) -> Window:
        """All of the image."""
        return Window(start=(0,) * len(self.shape), stop=self.shape)

    @property
    def bounds(self) -> Window:
        """All that may be read, in the image's frame."""
        return self.scene or self.image

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        sides = zip(self.shape, self.lead, self.tile_shape, strict=True)
        return tuple(-(-(n + a) // t) for n, a, t in sides)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Tile]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(f"tile {index} of a grid of {len(self)} tiles")
        return _tile(self, index)

    def _tile(self, index: int) -> Tile:
        bounds, position = self.bounds, self.position(index)
        write: tuple[list[int], list[int]] = ([], [])
        read: tuple[list[int], list[int]] = ([], [])
        for axis, size in enumerate(self.tile_shape):
            start = position[axis] * size - self.lead[axis]
            stop, halo = start + size, self.halo[axis]
            write[0].append(max(start, 0))
            write[1].append(min(stop, self.shape[axis]))
            read[0].append(max(start - halo, bounds.start[axis]))
            read[1].append(min(stop + halo, bounds.stop[axis]))
        return Tile(
            index=index,
            read=Window(start=tuple(read[0]), stop=tuple(read[1])),
            write=Window(start=tuple(write[0]), stop=tuple(write[1])),
        )

    def cell(self, index: int) -> Window:
        """A tile without halo, whole: in the image's frame, but not clipped to it."""
        corner = zip(self.position(index), self.tile_shape, self.lead, strict=True)
        start = tuple(p * t - a for p, t, a in corner)
        return Window(
            start=start, stop=tuple(a + t for a, t in zip(start, self.tile_shape, strict=True))
        )

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
        place = window.shifted(self.lead).grown(self.halo)
        spans = [
            range(max(0, a // t), min(c, -(-b // t)))
            for a, b, t, c in zip(
                place.start, place.stop, self.tile_shape, self.counts, strict=True
            )
        ]
        for position in itertools.product(*spans):
            tile = _tile(self, self.index(position))
            if tile.read.meets(window):
                yield tile

    def neighbours(self, tile: Tile) -> Iterator[Tile]:
        """Tiles of higher index whose read window overlaps this tile's: each pair comes once."""
        return (t for t in self.overlapping(tile.read) if t.index > tile.index)


@functools.lru_cache(maxsize=1024)
def _tile(grid: TileGrid, index: int) -> Tile:
    # kept, because merging asks for each tile some fifty times
    return grid._tile(index)
