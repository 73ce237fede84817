"""The objects of one tile: disjoint, over the whole read window, in global pixels."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat.label_loops import Codes, joined, measure
from samplat.masks import MaskSet, Overlaps, decode_labels, encode_labels
from samplat.tiles import Tile, Window


@dataclass(frozen=True, kw_only=True)
class TileObjects:
    """N disjoint objects of a tile one slice thick. All arrays share the first axis N."""

    tile: Tile
    """The tile in which they were found."""
    rles: tuple[bytes, ...]
    """COCO compressed run-length counts over the read window's (y, x)."""
    boxes: NDArray[np.int64]
    """(N, 6) tight box z0, y0, x0, z1, y1, x1 over the read window, half-open, global pixels."""
    areas: NDArray[np.int64]
    """(N,) pixels in the read window."""
    owned_boxes: NDArray[np.int64]
    """(N, 6) the same over the write window; zeros where the object has no pixel there."""
    owned_areas: NDArray[np.int64]
    """(N,) pixels in the write window: the ones that this tile paints."""
    predicted_iou: NDArray[np.float32]
    """(N,) the model's own estimate of the mask's IoU with the true object."""
    stability: NDArray[np.float32]
    """(N,) stability score."""
    points: NDArray[np.float32]
    """(N, 2) the prompt point x, y in global pixels; NaN where there was none."""
    cut: NDArray[np.uint8]
    """(N,) sides of the read window that the object touches and that are not the scene's edge:
    bit 2 * axis for the low side, bit 2 * axis + 1 for the high one."""
    prompts: NDArray[np.int64]
    """(N,) number of the prompt that asked for it; -1 where none did."""

    def __len__(self) -> int:
        return len(self.rles)

    @property
    def ids(self) -> NDArray[np.uint64]:
        """(N,) provisional ids: (tile ordinal << 32) | local rank."""
        return np.uint64(self.tile.index << 32) + np.arange(len(self), dtype=np.uint64)

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """(N,) True: the object touches a read edge that is not the scene's edge."""
        cut: NDArray[np.bool_] = self.cut != 0
        return cut

    def labels(self, window: Window | None = None) -> NDArray[np.uint32]:
        """(z, y, x) over the read window, or a part of it: local rank + 1, or 0."""
        _, height, width = self.tile.read.shape
        if window is None:
            return decode_labels(self._codes, (height, width))[None]
        _, rows, columns = window.relative_to(self.tile.read).slices
        met = self.meeting(window)
        return decode_labels(self._codes, (height, width), part=(rows, columns), chosen=met)[None]

    @functools.cached_property
    def _codes(self) -> Codes:
        return joined(self.rles)

    def meeting(self, window: Window) -> NDArray[np.int64]:
        """Local ranks of the objects whose boxes meet a window."""
        (_, y0, x0), (_, y1, x1) = window.start, window.stop
        _, top, left, _, bottom, right = self.boxes.T
        return np.flatnonzero((top < y1) & (left < x1) & (bottom > y0) & (right > x0))


def tile_objects(
    masks: MaskSet,
    *,
    tile: Tile,
    valid: NDArray[np.bool_],
    bounds: Window,
    overlaps: Overlaps,
    prompts: NDArray[np.int64] | None = None,
) -> TileObjects:
    """The masks of a tile as disjoint objects in the frame of the image.

    Overlaps are settled here, once, so that every later step sees one partition. Masks that lose
    all of their pixels vanish; the others keep their order.

    Args:
        masks: in the frame of the read window.
        tile: the tile.
        valid: (z, y, x) of the read window. True: data; masks are cut to it.
        bounds: all that could be read, (z, y, x).
        overlaps: which mask gets a pixel that several claim.
        prompts: number of the prompt that asked for each mask; None where none did.
    """
    claimed = masks.to_labels(overlaps)
    claimed[~valid[0]] = 0
    areas, boxes = measured(claimed, len(masks), tile.read)
    kept = np.flatnonzero(areas > 0)
    labels = claimed
    if len(kept) < len(masks):
        rank = np.zeros(len(masks) + 1, np.uint32)
        rank[kept + 1] = np.arange(1, len(kept) + 1)
        labels = rank[claimed]
    _, rows, columns = tile.write.relative_to(tile.read).slices
    owned_areas, owned_boxes = measured(labels[rows, columns], len(kept), tile.write)
    x0, y0 = tile.read.start[2], tile.read.start[1]
    return TileObjects(
        tile=tile,
        rles=encode_labels(labels, len(kept)),
        boxes=boxes[kept],
        areas=areas[kept],
        owned_boxes=owned_boxes,
        owned_areas=owned_areas,
        predicted_iou=masks.predicted_iou[kept],
        stability=masks.stability[kept],
        points=(masks.points[kept] + np.array([x0, y0], np.float32)).astype(np.float32),
        cut=_cut_sides(labels, len(kept), tile.read, bounds),
        prompts=np.full(len(kept), -1, np.int64) if prompts is None else prompts[kept],
    )


def measured(
    labels: NDArray[np.uint32], count: int, window: Window
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Areas (count,) and boxes (count, 6), global and zeros without pixels, of labels 1..count.

    Args:
        labels: (y, x) of a window one slice thick.
        count: number of labels.
        window: where they lie.
    """
    areas, flat = np.zeros(count + 1, np.int64), np.zeros((count + 1, 4), np.int64)
    measure()(labels, areas, flat)
    boxes = np.zeros((count, 6), np.int64)
    found, (z, y, x) = areas[1:] > 0, window.start
    flat = flat[1:][found] + np.array([y, x, y, x])
    boxes[found] = np.insert(flat, [0, 2], [z, z + 1], axis=1)
    return areas[1:], boxes


def _cut_sides(
    labels: NDArray[np.uint32], count: int, read: Window, bounds: Window
) -> NDArray[np.uint8]:
    cut = np.zeros(count + 1, np.uint8)
    for axis in (1, 2):
        low, high = labels.take(0, axis - 1), labels.take(-1, axis - 1)
        if read.start[axis] > bounds.start[axis]:
            cut[low] |= np.uint8(1 << (2 * axis))
        if read.stop[axis] < bounds.stop[axis]:
            cut[high] |= np.uint8(2 << (2 * axis))
    return cut[1:]
