"""What needs a look at every pixel of a label image, each in one pass, compiled.

Run-length codes are COCO's: lengths of runs down the columns, off and on in turns, each in 5-bit
digits of a byte, the fourth and later ones as the difference to the one two before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samplat.machine_code import as_machine_code

CODE_BYTES = 7
"""Most bytes that a length below 2**33 takes."""


@functools.cache
def paint_runs() -> Callable[..., None]:
    """See `_paint_runs`."""
    return as_machine_code(_paint_runs)


@functools.cache
def find_runs() -> Callable[..., int]:
    """See `_find_runs`."""
    return as_machine_code(_find_runs)


@functools.cache
def write_runs() -> Callable[..., None]:
    """See `_write_runs`."""
    return as_machine_code(_write_runs)


@functools.cache
def measure() -> Callable[..., None]:
    """See `_measure`."""
    return as_machine_code(_measure)


@functools.cache
def pair_runs() -> Callable[..., int]:
    """See `_pair_runs`."""
    return as_machine_code(_pair_runs)


def _paint_runs(
    data: Any,
    bounds: Any,
    order: Any,
    names: Any,
    height: int,
    pixels: int,
    y0: int,
    x0: int,
    least_visible: float,
    labels: Any,
) -> None:
    """Paint masks where nothing is painted yet.

    Args:
        data: bytes of all codes.
        bounds: (N + 1,) where in `data` each begins.
        order: which masks, the first one wins.
        names: (N,) label of each.
        height: of the image that the masks lie in.
        pixels: of that image; codes that claim more are cut off there.
        y0: first row of the image in `labels`.
        x0: first column.
        least_visible: a mask of which a smaller share is free is left out.
        labels: (h, w) part of the image to paint.
    """
    rows, columns = labels.shape
    for mask in order:
        name = names[mask]
        for painting in range(0 if least_visible > 0 else 1, 2):
            total, free, at, place, number, last, before = 0, 0, bounds[mask], 0, 0, 0, 0
            while at < bounds[mask + 1]:
                value, shift, digit = 0, 0, 32
                while digit & 32 and at < bounds[mask + 1]:
                    digit = int(data[at]) - 48
                    value |= (digit & 31) << shift
                    shift, at = shift + 5, at + 1
                if digit & 16:
                    value -= 1 << shift
                if number > 2:
                    value += before
                before, last = last, value
                value = max(0, min(value, pixels - place))
                x, y, left = place // height, place % height, value if number % 2 else 0
                total += left
                while left > 0:
                    length = min(left, height - y)
                    if x0 <= x < x0 + columns:
                        for row in range(max(y - y0, 0), min(y + length - y0, rows)):
                            if labels[row, x - x0] == 0:
                                free += 1
                                if painting:
                                    labels[row, x - x0] = name
                    x, y, left = x + 1, 0, left - length
                place, number = place + value, number + 1
            if not painting and free < least_visible * total:
                break


def _find_runs(labels: Any, names: Any, begins: Any, ends: Any) -> int:
    """Runs of equal labels down the columns, from one column into the next, without background.

    Args:
        labels: (H, W).
        names: (R,) room for the label of each.
        begins: (R,) for its first pixel.
        ends: (R,) for one past the last.

    Returns:
        how many there are; where that is more than there is room for, the others are not kept.
    """
    height, width = labels.shape
    found, room, on, begin = 0, len(names), labels[0, 0], 0
    for x in range(width):
        for y in range(height):
            label = labels[y, x]
            if label != on:
                if on:
                    if found < room:
                        names[found], begins[found], ends[found] = on, begin, x * height + y
                    found += 1
                on, begin = label, x * height + y
    if on:
        if found < room:
            names[found], begins[found], ends[found] = on, begin, height * width
        found += 1
    return found


def _write_runs(names: Any, begins: Any, ends: Any, pixels: int, data: Any, bounds: Any) -> None:
    """Code the runs of each mask.

    Args:
        names: (R,) label of each run, 1..N.
        begins: (R,) first pixel of each.
        ends: (R,) one past the last.
        pixels: of the image.
        data: room for the codes.
        bounds: (N + 1,) to be filled with where each code begins.
    """
    firsts = np.zeros(len(bounds) + 1, np.int64)
    for name in names:
        firsts[name + 1] += 1
    firsts = np.cumsum(firsts)[1:]
    order, room = np.empty(len(names), np.int64), firsts.copy()
    for run in range(len(names)):
        order[room[names[run] - 1]] = run
        room[names[run] - 1] += 1
    at = 0
    for mask in range(len(bounds) - 1):
        bounds[mask] = at
        place, number, last, before = 0, 0, 0, 0
        for k in range(2 * firsts[mask], 2 * firsts[mask + 1] + 1):
            run = k // 2
            if run == firsts[mask + 1]:
                edge = pixels
            else:
                edge = ends[order[run]] if k % 2 else begins[order[run]]
            value, place = edge - place, edge
            if run == firsts[mask + 1] and value == 0:
                break
            rest = value - before if number > 2 else value
            before, last, number = last, value, number + 1
            more = True
            while more:
                digit = rest & 31
                rest >>= 5
                more = rest != (-1 if digit & 16 else 0)
                data[at] = digit + 48 + (32 if more else 0)
                at += 1
    bounds[len(bounds) - 1] = at


def _measure(labels: Any, areas: Any, boxes: Any) -> None:
    """Pixels and box of every label.

    Args:
        labels: (D, H, W), 0 is background.
        areas: (N + 1,) zeros, to be filled with pixels, by label.
        boxes: (N + 1, 6) to be filled with z0, y0, x0, z1, y1, x1, half-open, by label; where there
            are no pixels it stays as it is.
    """
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            begin = 0
            while begin < width:
                label, end = labels[z, y, begin], begin + 1
                while end < width and labels[z, y, end] == label:
                    end += 1
                if label:
                    if areas[label] == 0:
                        boxes[label, 0], boxes[label, 1], boxes[label, 2] = z, y, begin
                        boxes[label, 4], boxes[label, 5] = y + 1, end
                    areas[label] += end - begin
                    boxes[label, 1] = min(boxes[label, 1], y)
                    boxes[label, 2] = min(boxes[label, 2], begin)
                    boxes[label, 3] = z + 1
                    boxes[label, 4] = max(boxes[label, 4], y + 1)
                    boxes[label, 5] = max(boxes[label, 5], end)
                begin = end


def _pair_runs(
    first: Any, second: Any, keys: Any, lengths: Any, sizes: Any, other_sizes: Any
) -> int:
    """Runs along the rows of pixels that bear one label in one image and one in another.

    Args:
        first: (H, W) labels.
        second: (H, W) labels.
        keys: (R,) room for first << 32 | second of each run.
        lengths: (R,) for its pixels.
        sizes: by label of the first image, to be filled with its pixels.
        other_sizes: of the second image.

    Returns:
        how many there are; where that is more than there is room for, the others are not kept.
    """
    found, room, (height, width) = 0, len(keys), first.shape
    sizes[:], other_sizes[:] = 0, 0
    for y in range(height):
        begin = 0
        while begin < width:
            a, b, end = first[y, begin], second[y, begin], begin + 1
            while end < width and first[y, end] == a and second[y, end] == b:
                end += 1
            sizes[a] += end - begin
            other_sizes[b] += end - begin
            if a and b:
                if found < room:
                    keys[found] = (np.int64(a) << 32) | np.int64(b)
                    lengths[found] = end - begin
                found += 1
            begin = end
    return found


def filled(find: Callable[..., int], kinds: int, room: int) -> NDArray[np.int64]:
    """(kinds, R) what a search for runs found, however many there are.

    Args:
        find: takes so many arrays to fill, and returns how many runs there are.
        kinds: number of arrays.
        room: runs that are expected.
    """
    while True:
        arrays = np.empty((kinds, room), np.int64)
        found = find(*arrays)
        if found <= room:
            return arrays[:, :found]
        room = found


class Codes(NamedTuple):
    """Run-length codes of N masks in one piece."""

    data: NDArray[np.uint8]
    """All bytes."""
    bounds: NDArray[np.int64]
    """(N + 1,) where each code begins, and where the last one ends."""


def joined(codes: Sequence[bytes]) -> Codes:
    """Codes in one piece."""
    bounds = np.zeros(len(codes) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, codes), np.int64, len(codes)), out=bounds[1:])
    return Codes(np.frombuffer(b"".join(codes), np.uint8), bounds)
