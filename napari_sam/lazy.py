"""Arrays that are read when they are looked at. No Qt, no napari."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import Window

AT_ONCE = 256 * 2**20
"""Bytes that are read at once where only every n-th pixel is wanted."""


class Lazy:
    """What numpy's basic indexing gets of pixels that are somewhere else.

    Args:
        shape: extent along each axis.
        dtype: of the pixels.
        read: the pixels of a window, a slice with both ends for each axis.
    """

    def __init__(
        self, shape: Sequence[int], dtype: Any, read: Callable[[Window], NDArray[Any]]
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._read = read

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

    def __getitem__(self, index: Any) -> NDArray[Any]:
        ranges, kept = basic_index(index, self.shape)
        pixels = self._strided(ranges)
        return pixels[tuple(slice(None) if keep else 0 for keep in kept)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    def _strided(self, ranges: Sequence[range]) -> NDArray[Any]:
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
            [self._strided([*ranges[:axis], part, *ranges[axis + 1 :]]) for part in parts], axis
        )


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
