"""A box of pixels as runs: what a step does to labels, and the masks of candidates."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError

Window = tuple[slice, ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Integers in a box of an image of any number of axes."""

    start: tuple[int, ...]
    """The box's first pixel, an index per axis of the image."""
    shape: tuple[int, ...]
    """Its extent in pixels."""
    runs: tuple[int, ...]
    """value, length, value, length, ... in C order."""

    def __post_init__(self) -> None:
        if len(self.runs) % 2 or sum(self.runs[1::2]) != prod(self.shape):
            raise InputError(f"expected runs of {prod(self.shape)} pixels for a box {self.shape}")

    @property
    def window(self) -> Window:
        """Where it lies in the image."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))

    def array(self) -> NDArray[np.uint32]:
        """Its values, in its shape."""
        values, lengths = self.runs[::2], self.runs[1::2]
        return np.repeat(np.array(values, np.uint32), lengths).reshape(self.shape)

    @functools.cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.runs[1::2])

    def part(self, inside: Window) -> NDArray[np.uint32]:
        """The values of a window of the box, in the box's frame; the others stay runs."""
        shape = tuple(each.stop - each.start for each in inside)
        out = np.empty(shape, np.uint32)
        for lead in np.ndindex(shape[:-2]):
            slab = [each.start + at for each, at in zip(inside[:-2], lead, strict=True)]
            first = np.ravel_multi_index((*slab, inside[-2].start, 0), self.shape)
            rows = self._flat(int(first), int(first) + shape[-2] * self.shape[-1])
            out[lead] = rows.reshape(shape[-2], self.shape[-1])[:, inside[-1]]
        return out

    def _flat(self, start: int, stop: int) -> NDArray[np.uint32]:
        """The values from one place to another, in C order."""
        first, last = np.searchsorted(self._ends, (start, stop - 1), side="right")
        ends = np.minimum(self._ends[first : last + 1], stop)
        values = np.array(self.runs[2 * first : 2 * last + 2 : 2], np.uint32)
        return np.repeat(values, np.diff(ends, prepend=start))


def block_of(values: NDArray[Any], start: Sequence[int]) -> Block:
    """The block of an array of integers or booleans whose first pixel lies at `start`."""
    flat = np.ascontiguousarray(values, np.uint32).ravel()
    if not flat.size:
        raise InputError(f"expected at least one pixel, got a box of shape {values.shape}")
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    runs = np.stack([flat[ends - 1].astype(np.int64), np.diff(ends, prepend=0)], axis=1)
    return Block(
        start=tuple(int(a) for a in start),
        shape=tuple(int(n) for n in values.shape),
        runs=tuple(runs.ravel().tolist()),
    )


def mask_block(mask: NDArray[np.bool_], start: Sequence[int]) -> Block | None:
    """The tight block of a mask whose first pixel lies at `start`; None if it is empty."""
    if not mask.any():
        return None
    lines = [mask.any(axis=tuple(a for a in range(mask.ndim) if a != n)) for n in range(mask.ndim)]
    ends = [np.flatnonzero(line)[[0, -1]] for line in lines]
    inside = tuple(slice(int(a), int(b) + 1) for a, b in ends)
    return block_of(mask[inside], [s + int(a) for s, (a, _) in zip(start, ends, strict=True)])


def union(first: Window, second: Window) -> Window:
    """The smallest window that holds both."""
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )


def starts(window: Window) -> tuple[int, ...]:
    """The first index of a window along each axis."""
    return tuple(each.start for each in window)


def stops(window: Window) -> tuple[int, ...]:
    """One past the last index of a window along each axis."""
    return tuple(each.stop for each in window)
