"""Voxels behind one way of reading, whatever holds them: a mapped file, chunks, slices, pages."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Slices = tuple[slice, slice, slice]

DEEP = 16
"""Planes that are read one by one; a deeper window makes all of them readable in any direction."""
IN_MEMORY = 64 * 2**20
"""Bytes up to which that happens in memory; larger volumes are ingested."""
RECENT = 16
"""Planes that are remembered."""


class Voxels(Protocol):
    """What a volume is read from. For any threads."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Channels and voxels (c, z, y, x)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, in this machine's byte order."""
        ...

    def take(self, channels: Sequence[int], where: Slices) -> NDArray[Any]:
        """Values (z, y, x, channel) at slices with steps >= 1, along (z, y, x)."""
        ...


@dataclass(frozen=True, kw_only=True)
class ArrayVoxels:
    """Voxels of an array that is indexed lazily: a memory map, or one in memory, or a zarr."""

    array: Any
    """Anything with numpy's basic indexing."""
    axes: str
    """Its axes, of "tczyx", in any order; z may be missing."""
    dtype: np.dtype[Any]
    """Type of the values, after scaling."""
    scale: tuple[float, float] = (1.0, 0.0)
    """Slope and intercept."""
    time: int = 0
    """Index along "t"."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Channels and voxels (c, z, y, x)."""
        c, z, y, x = (self.array.shape[self.axes.index(a)] if a in self.axes else 1 for a in "czyx")
        return c, z, y, x

    def take(self, channels: Sequence[int], where: Slices) -> NDArray[Any]:
        """Values (z, y, x, channel)."""
        parts = [self._channel(c, where) for c in channels]
        stored = np.stack(parts, axis=-1)
        if self.scale == (1.0, 0.0):
            return stored.astype(self.dtype, copy=False)
        slope, intercept = self.scale
        return (stored.astype(np.float64) * slope + intercept).astype(self.dtype)

    def _channel(self, channel: int, where: Slices) -> NDArray[Any]:
        index = dict(zip("zyx", where, strict=True)) | {"t": self.time, "c": channel}
        part = np.asarray(self.array[tuple(index[a] for a in self.axes)])
        kept = [a for a in self.axes if a in "zyx"]
        order = [kept.index(a) for a in "zyx" if a in kept]
        turned = part.transpose(order)
        return turned if "z" in kept else turned[None]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A volume that comes plane by plane."""

    name: str
    """The file or folder, for messages."""
    key: Callable[[], str]
    """SHA-256 that changes with any voxel; names it among the ingested."""
    shape: tuple[int, int, int, int]
    """Channels and voxels (c, z, y, x)."""
    dtype: np.dtype[Any]
    """Type of the planes' numbers."""
    planes: Callable[[], Iterator[NDArray[Any]]]
    """All planes in order: (y, x, c) for each z; or (y, x), all z of a channel after another."""
    plane: Callable[[int], NDArray[Any]] | None = None
    """One plane (y, x, c) by z, where that is possible without the others."""
    axes: str = "zyxc"
    """Order of `planes`: "zyxc" or "czyx"."""

    @property
    def bytes(self) -> int:
        """Bytes of all voxels."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class StackVoxels:
    """A stack, read plane by plane as long as that suffices, and as a block from then on.

    Args:
        stack: the planes.
        at_once: make the block now, which also finds out whether all planes are there.
        scale: slope and intercept of the values.
        dtype: type of the values; without it, that of the planes.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        at_once: bool = False,
        scale: tuple[float, float] = (1.0, 0.0),
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        self._stack, self._scale = stack, scale
        self.dtype = (dtype or stack.dtype).newbyteorder("=")
        self.shape = stack.shape
        self._lock = threading.Lock()
        self._recent: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._block: ArrayVoxels | None = None
        if at_once:
            self.block()

    @property
    def by_plane(self) -> bool:
        """Whether a plane can be had without the others."""
        return self._stack.plane is not None

    @property
    def is_ingested(self) -> bool:
        """Whether the block is one of chunks on disk."""
        return self._stack.bytes > IN_MEMORY

    def take(self, channels: Sequence[int], where: Slices) -> NDArray[Any]:
        """Values (z, y, x, channel)."""
        places = range(*where[0].indices(self.shape[1]))
        if self._stack.plane is None or self._block is not None or len(places) > DEEP:
            return self.block().take(channels, where)
        planes = [self._plane(z)[where[1], where[2]][..., list(channels)] for z in places]
        return np.stack(planes) if planes else np.zeros((0, 0, 0, len(channels)), self.dtype)

    def block(self) -> ArrayVoxels:
        """The whole volume, readable in any direction: in memory, or ingested."""
        with self._lock:
            if self._block is None:
                array = (
                    _in_memory(self._stack)
                    if self._stack.bytes <= IN_MEMORY
                    else _ingested(self._stack)
                )
                self._block = ArrayVoxels(
                    array=array, axes="czyx", dtype=self.dtype, scale=self._scale
                )
                self._recent.clear()
            return self._block

    def remembered(self, name: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """An array that depends on the voxels alone; kept with them where they are ingested."""
        array = self.block().array if self.is_ingested else None
        found: NDArray[Any] = compute() if array is None else array.remembered(name, compute)
        return found

    def _plane(self, z: int) -> NDArray[Any]:
        with self._lock:
            if z in self._recent:
                self._recent.move_to_end(z)
                return self._recent[z]
        assert self._stack.plane is not None  # noqa: S101 `take` asked
        plane = self._stack.plane(z)
        with self._lock:
            self._recent[z] = plane
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        return plane


def _in_memory(stack: Stack) -> NDArray[Any]:
    block = np.empty(stack.shape, stack.dtype.newbyteorder("="))
    for channels, z, slab in slabs(stack, 1):
        block[channels, z : z + len(slab)] = slab.transpose(3, 0, 1, 2)
    return block


def _ingested(stack: Stack) -> Any:
    from samplat_volume.ingest import Ingested

    return Ingested(stack)


def slabs(stack: Stack, depth: int) -> Iterator[tuple[slice, int, NDArray[Any]]]:
    """A stack's planes, `depth` at a time: channels, first z, values (z, y, x, c)."""
    count, waiting = stack.shape[1], list[NDArray[Any]]()
    for number, plane in enumerate(stack.planes(), 1):
        waiting.append(plane if stack.axes == "zyxc" else plane[..., None])
        if len(waiting) == depth or number % count == 0:
            channel, z = divmod(number - len(waiting), count)
            which = slice(None) if stack.axes == "zyxc" else slice(channel, channel + 1)
            yield which, z, np.stack(waiting)
            waiting.clear()


def content_key(files: Sequence[Path], how: str) -> str:
    """SHA-256 of the bytes of files, and of how they are read: copies and renamed files hit."""
    digest = hashlib.sha256(how.encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
