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
def meeting_boxes() -> Callable[..., Any]:
    """See `_meeting_boxes`."""
    return as_machine_code(_meeting_boxes)


@functools.cache
def pair_table() -> Callable[..., Any]:
    """See `_pair_table`."""
    return as_machine_code(_pair_table)


@functools.cache
def meet_runs() -> Callable[..., Any]:
    """See `_meet_runs`."""
    return as_machine_code(_meet_runs)


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


def _pair_table(first: Any, second: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Pixels that bear one label in one image and one in another, of each pair that meets.

    Args:
        first: (H, W) labels, at least one pixel.
        second: (H, W) labels.

    Returns:
        by pair in order, of labels above 0: both labels, their shared pixels, and all pixels of
        each.
    """
    height, width = first.shape
    sizes, other_sizes = np.zeros(first.max() + 1, np.int64), np.zeros(second.max() + 1, np.int64)
    keys, lengths, found = np.empty(1024, np.int64), np.empty(1024, np.int64), 0
    for y in range(height):
        begin = 0
        if found + width > len(keys):
            more = np.empty(max(len(keys), width), np.int64)
            keys, lengths = np.concatenate((keys, more)), np.concatenate((lengths, more))
        while begin < width:
            a, b, end = first[y, begin], second[y, begin], begin + 1
            while end < width and first[y, end] == a and second[y, end] == b:
                end += 1
            sizes[a] += end - begin
            other_sizes[b] += end - begin
            if a and b:
                keys[found] = (np.int64(a) << 32) | np.int64(b)
                lengths[found] = end - begin
                found += 1
            begin = end
    order = np.argsort(keys[:found])
    shared, pairs, count = np.empty(found, np.int64), np.empty(found, np.int64), 0
    for k in range(found):
        if k == 0 or keys[order[k]] != pairs[count - 1]:
            shared[count], pairs[count] = 0, keys[order[k]]
            count += 1
        shared[count - 1] += lengths[order[k]]
    names, others = pairs[:count] >> 32, pairs[:count] & 0xFFFFFFFF
    return names, others, shared[:count], sizes[names], other_sizes[others]


def _meet_runs(
    own: Any, read: Any, write: Any, reads: Any, starts: Any, boxes: Any, data: Any, bounds: Any
) -> tuple[Any, ...]:
    """Where the masks of neighbours lie on a tile's own labels, and on what it paints.

    Windows are z0, y0, x0, z1, y1, x1, half-open; masks of one tile do not share pixels.

    Args:
        own: (D, H, W) labels of the tile, 0 is background.
        read: (6,) the window that they cover.
        write: (6,) the part of it that the tile paints.
        reads: (K, 6) windows that the neighbours cover.
        starts: (K + 1,) where the masks of each neighbour begin.
        boxes: (M, 6) of the masks.
        data: bytes of all codes.
        bounds: (M + 1,) where in `data` each begins.

    Returns:
        (5, P) of pairs that meet, of labels above 0: the label, the mask, their shared pixels, and
        the pixels of each where both tiles see; (M,) pixels of every mask where the tile paints;
        (M,) those of them that bear no label.
    """
    names, room = own.max() + 1, 1024
    table, found = np.empty((5, room), np.int64), 0
    reach, free = np.zeros(len(boxes), np.int64), np.zeros(len(boxes), np.int64)
    counts, touched = np.zeros(names, np.int64), np.empty(names, np.int64)
    low, high, stop = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(2, np.int64)
    for beside in range(len(reads)):
        for axis in range(3):
            low[axis] = max(read[axis], reads[beside, axis])
            high[axis] = min(read[axis + 3], reads[beside, axis + 3])
        sizes = np.zeros(names, np.int64)
        for z in range(low[0] - read[0], high[0] - read[0]):
            for y in range(low[1] - read[1], high[1] - read[1]):
                for x in range(low[2] - read[2], high[2] - read[2]):
                    sizes[own[z, y, x]] += 1
        top, height = reads[beside, 1], reads[beside, 4] - reads[beside, 1]
        tall = height * (reads[beside, 3] - reads[beside, 0])
        for mask in range(starts[beside], starts[beside + 1]):
            inside = True
            for axis in range(3):
                inside &= boxes[mask, axis] < high[axis] and boxes[mask, axis + 3] > low[axis]
            if not inside:
                continue
            met, total, at = 0, 0, bounds[mask]
            place, number, last, before = 0, 0, 0, 0
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
                x, line, left = place // tall, place % tall, value if number % 2 else 0
                place, number = place + value, number + 1
                while left > 0:
                    y = line % height
                    length = min(left, height - y)
                    here_z, here_x = reads[beside, 0] + line // height, reads[beside, 2] + x
                    if low[0] <= here_z < high[0] and low[2] <= here_x < high[2]:
                        paints = write[0] <= here_z < write[3] and write[2] <= here_x < write[5]
                        stop[0], stop[1] = max(top + y, low[1]), min(top + y + length, high[1])
                        for here_y in range(stop[0], stop[1]):
                            label = own[here_z - read[0], here_y - read[1], here_x - read[2]]
                            if counts[label] == 0:
                                touched[met] = label
                                met += 1
                            counts[label] += 1
                            total += 1
                            if paints and write[1] <= here_y < write[4]:
                                reach[mask] += 1
                                free[mask] += label == 0
                    left, line = left - length, line + length
                    if line == tall:
                        x, line = x + 1, 0
            if found + met > room:
                room = max(2 * room, found + met)
                table = np.concatenate((table, np.empty((5, room), np.int64)), axis=1)
                room = table.shape[1]
            for k in range(met):
                label = touched[k]
                if label:
                    table[0, found], table[1, found] = label, mask
                    table[2, found], table[3, found] = counts[label], sizes[label]
                    table[4, found] = total
                    found += 1
                counts[label] = 0
    return table[:, :found], reach, free


def _meeting_boxes(boxes: Any, start: Any, stop: Any) -> Any:
    """Indices of boxes (N, 6) that share a pixel with a window."""
    found, count = np.empty(len(boxes), np.int64), 0
    for k in range(len(boxes)):
        inside = True
        for axis in range(3):
            inside &= boxes[k, axis] < stop[axis] and boxes[k, axis + 3] > start[axis]
        if inside:
            found[count] = k
            count += 1
    return found[:count]


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
