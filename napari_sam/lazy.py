"""Arrays that are somewhere else, indexed like numpy's: read when they are looked at. No Qt."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from napari_sam.blocks import Window

AT_ONCE = 256 * 2**20
"""Bytes that are read at once where only every n-th pixel is wanted."""
CHUNK = 512
"""Pixels of a chunk along the last two axes; 1 along the others."""
Chunk = tuple[int, ...]
"""Number of a chunk along each axis."""


class Indexed(NDArrayOperatorsMixin):
    """What can be indexed by integers, forward slices, an ellipsis, or an array for each axis.

    Args:
        shape: extent along each axis.
        dtype: of the pixels.
    """

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of pixels."""
        return prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Operators read the whole, as numpy's would."""
        plain = [np.asarray(each) if isinstance(each, Indexed) else each for each in inputs]
        return getattr(ufunc, method)(*plain, **options)

    __hash__ = object.__hash__

    def __getitem__(self, index: Any) -> Any:
        if _one_array_each(index):
            window, inside = self._around(index)
            return self[window][inside]
        ranges, kept = basic_index(index, self.shape)
        return self._take(ranges)[tuple(slice(None) if keep else 0 for keep in kept)]

    def __setitem__(self, index: Any, value: Any) -> None:
        if _one_array_each(index):
            window, inside = self._around(index)
            pixels = self[window]
            pixels[inside] = value
            self._put(window, pixels)
            return
        ranges, kept = basic_index(index, self.shape)
        if any(r.step != 1 for r in ranges):
            raise IndexError(f"expected neighbouring pixels to write to, got {index}")
        if all(ranges):
            given = np.asarray(value, self.dtype)
            lengths = [len(r) for r, keep in zip(ranges, kept, strict=True) if keep]
            pixels = np.broadcast_to(given, lengths).reshape([len(r) for r in ranges])
            self._put(tuple(slice(r[0], r[-1] + 1) for r in ranges), pixels)

    def _around(self, index: Sequence[Any]) -> tuple[Window, tuple[NDArray[np.intp], ...]]:
        """The window of the pixels that arrays name, and their places in it."""
        places = [np.asarray(each) for each in index]
        if len(places) != self.ndim:
            raise IndexError(f"expected {self.ndim} arrays of indices, got {len(places)}")
        if not places[0].size:
            return tuple(slice(0, 0) for _ in places), tuple(p.astype(np.intp) for p in places)
        low = [int(each.min()) for each in places]
        ends = zip(low, places, self.shape, strict=True)
        if any(start < 0 or each.max() >= n for start, each, n in ends):
            raise IndexError(f"indices lie outside of {self.shape}")
        window = tuple(slice(a, int(p.max()) + 1) for a, p in zip(low, places, strict=True))
        return window, tuple(p - a for p, a in zip(places, low, strict=True))

    def _take(self, ranges: Sequence[range]) -> NDArray[Any]:
        """A copy of the pixels at these indices of each axis."""
        raise NotImplementedError

    def _put(self, window: Window, values: NDArray[Any]) -> None:
        """Set the pixels of a window."""
        raise TypeError(f"{type(self).__name__} is not written to")


class Lazy(Indexed):
    """Pixels that are read.

    Args:
        shape: extent along each axis.
        dtype: of the pixels.
        read: the pixels of a window, a slice with both ends for each axis.
    """

    def __init__(
        self, shape: Sequence[int], dtype: Any, read: Callable[[Window], NDArray[Any]]
    ) -> None:
        super().__init__(shape, dtype)
        self._read = read

    def _take(self, ranges: Sequence[range]) -> NDArray[Any]:
        if not all(ranges):
            return np.zeros([len(r) for r in ranges], self.dtype)
        window = tuple(slice(r[0], r[-1] + 1) for r in ranges)
        needed = prod(w.stop - w.start for w in window) * self.dtype.itemsize
        axis = next((n for n, r in enumerate(ranges) if len(r) > 1), None)
        if axis is None or needed <= AT_ONCE or all(r.step == 1 for r in ranges):
            return self._read(window)[tuple(slice(None, None, r.step) for r in ranges)]
        half = len(ranges[axis]) // 2
        parts = (ranges[axis][:half], ranges[axis][half:])
        return np.concatenate(
            [self._take([*ranges[:axis], part, *ranges[axis + 1 :]]) for part in parts], axis
        )


class Chunked(Indexed):
    """Pixels in chunks, most of which are not there: those are 0."""

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        super().__init__(shape, dtype)
        self.chunks = chunks_of(self.shape)

    def held(self) -> Collection[Chunk]:
        """The chunks that are there."""
        raise NotImplementedError

    def chunk(self, number: Chunk) -> NDArray[Any]:
        """The pixels of one of them; not to be written to."""
        raise NotImplementedError

    def _take(self, ranges: Sequence[range]) -> NDArray[Any]:
        out: NDArray[Any] = np.zeros([len(r) for r in ranges], self.dtype)
        if not all(ranges):
            return out
        held = self.held()
        touched = [_numbers(r, n) for r, n in zip(ranges, self.chunks, strict=True)]
        for number in _among(touched, held):
            parts = [_in_chunk(*each) for each in zip(ranges, number, self.chunks, strict=True)]
            if all(place.stop > place.start for place, _ in parts):
                to, source = (tuple(part) for part in zip(*parts, strict=True))
                out[to] = self.chunk(number)[source]
        return out

    def part_of(self, number: Chunk) -> Window:
        """Where a chunk lies."""
        return tuple(
            slice(i * n, min((i + 1) * n, most))
            for i, n, most in zip(number, self.chunks, self.shape, strict=True)
        )

    def touched(self, window: Window) -> Iterator[Chunk]:
        """The chunks that a window reaches into."""
        return product(
            *(
                range(w.start // n, -(-w.stop // n))
                for w, n in zip(window, self.chunks, strict=True)
            )
        )


class Scratch(Chunked):
    """Pixels in memory, over others that are shown where none were written.

    Args:
        shape: extent along each axis.
        dtype: of the pixels.
        below: the others, with the same chunks.
    """

    def __init__(self, shape: Sequence[int], dtype: Any, below: Chunked | None = None) -> None:
        super().__init__(shape, dtype)
        self._below = below
        self._written: dict[Chunk, NDArray[Any]] = {}

    def held(self) -> Collection[Chunk]:
        """The chunks that are there."""
        if self._below is None:
            return self._written
        return {*self._written, *self._below.held()} if self._written else self._below.held()

    def chunk(self, number: Chunk) -> NDArray[Any]:
        """The pixels of one of them; not to be written to."""
        if number in self._written or self._below is None:
            return self._written[number]
        return self._below.chunk(number)

    def _put(self, window: Window, values: NDArray[Any]) -> None:
        for number in self.touched(window):
            part = self.part_of(number)
            if number not in self._written:
                if number in self.held():
                    self._written[number] = np.array(self.chunk(number), self.dtype)
                else:
                    self._written[number] = np.zeros([s.stop - s.start for s in part], self.dtype)
            to, source = shared(part, window)
            self._written[number][to] = values[source]

    @property
    def written(self) -> bool:
        """Whether there is anything but what is below."""
        return bool(self._written)

    def drop(self) -> None:
        """Forget what was written."""
        self._written.clear()


def shared(first: Window, second: Window) -> tuple[Window, Window]:
    """What two windows share, in the frame of each."""
    low = [max(a.start, b.start) for a, b in zip(first, second, strict=True)]
    high = [min(a.stop, b.stop) for a, b in zip(first, second, strict=True)]
    ends = list(zip(low, high, strict=True))
    return (
        tuple(slice(a - f.start, b - f.start) for (a, b), f in zip(ends, first, strict=True)),
        tuple(slice(a - f.start, b - f.start) for (a, b), f in zip(ends, second, strict=True)),
    )


def chunks_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Extent of a chunk along each axis."""
    return (*[1] * (len(shape) - 2), *(max(1, min(CHUNK, n)) for n in shape[-2:]))


def _one_array_each(index: Any) -> bool:
    """Whether an index names single pixels.

    Raises:
        IndexError: it mixes that with slices.
    """
    given = index if isinstance(index, tuple) else (index,)
    arrays = [isinstance(each, list | np.ndarray) and np.ndim(each) > 0 for each in given]
    if any(arrays) and not all(arrays):
        raise IndexError(f"expected slices and integers, or arrays for all axes, got {index}")
    return bool(arrays) and all(arrays)


def _numbers(indices: range, extent: int) -> range:
    return range(indices[0] // extent, indices[-1] // extent + 1)


def _among(touched: Sequence[range], held: Collection[Chunk]) -> Iterator[Chunk]:
    """The chunks of a box that are there; whichever of both are fewer are looked through."""
    if prod(map(len, touched)) <= len(held):
        yield from (number for number in product(*touched) if number in held)
    else:
        yield from (
            number
            for number in held
            if all(i in numbers for i, numbers in zip(number, touched, strict=True))
        )


def _in_chunk(indices: range, number: int, extent: int) -> tuple[slice, slice]:
    """Which of the indices lie in a chunk, and where they lie in it."""
    begin, step = number * extent, indices.step
    first = max(0, -(-(begin - indices.start) // step))
    last = min(len(indices), -(-(begin + extent - indices.start) // step))
    if last <= first:
        return slice(0, 0), slice(0, 0)
    at = indices[first] - begin
    return slice(first, last), slice(at, indices[last - 1] - begin + 1, step)


def basic_index(index: Any, shape: Sequence[int]) -> tuple[list[range], list[bool]]:
    """What an index of integers, forward slices and an ellipsis means.

    Returns:
        the indices that it takes of each axis, and whether the axis is kept.

    Raises:
        IndexError: it is no such index, or lies outside.
    """
    given = index if isinstance(index, tuple) else (index,)
    places = [n for n, each in enumerate(given) if each is Ellipsis]
    at = places[0] if places else len(given)
    missing = len(shape) - len(given) + len(places)
    if missing < 0 or len(places) > 1:
        raise IndexError(f"expected at most {len(shape)} indices, got {index}")
    full = (*given[:at], *[slice(None)] * missing, *given[at + 1 :])
    ranges = [_range(each, n) for each, n in zip(full, shape, strict=True)]
    return ranges, [isinstance(each, slice) for each in full]


def _range(each: Any, length: int) -> range:
    if isinstance(each, slice):
        found = range(*each.indices(length))
        if found.step < 1:
            raise IndexError(f"expected a slice that goes forward, got {each}")
        return found
    place = operator.index(each)
    if not -length <= place < length:
        raise IndexError(f"index {place} lies outside of an axis of {length}")
    return range(place % length, place % length + 1)
