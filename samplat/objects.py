"""The objects of one tile: disjoint, over the whole read window, in global pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """(N,) sides of the read window that the object touches and that are not the image's edge:
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
        """(N,) True: the object touches a read edge that is not the image's edge."""
        cut: NDArray[np.bool_] = self.cut != 0
        return cut

    def labels(self) -> NDArray[np.uint32]:
        """(z, y, x) over the read window: local rank + 1, or 0."""
        _, height, width = self.tile.read.shape
        return decode_labels(self.rles, (height, width))[None]


def tile_objects(
    masks: MaskSet,
    *,
    tile: Tile,
    valid: NDArray[np.bool_],
    image_shape: tuple[int, ...],
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
        image_shape: (z, y, x).
        overlaps: which mask gets a pixel that several claim.
        prompts: number of the prompt that asked for each mask; None where none did.
    """
    claimed = np.where(valid, masks.to_labels(overlaps)[None], 0)
    areas = np.bincount(claimed.ravel(), minlength=len(masks) + 1)
    kept = np.flatnonzero(areas[1:] > 0)
    rank = np.zeros(len(areas), np.uint32)
    rank[kept + 1] = np.arange(1, len(kept) + 1)
    labels = rank[claimed]
    owned = labels[tile.write.relative_to(tile.read).slices]
    x0, y0 = tile.read.start[2], tile.read.start[1]
    return TileObjects(
        tile=tile,
        rles=encode_labels(labels[0], len(kept)),
        boxes=_boxes(labels, len(kept), tile.read),
        areas=areas[1:][kept].astype(np.int64),
        owned_boxes=_boxes(owned, len(kept), tile.write),
        owned_areas=np.bincount(owned.ravel(), minlength=len(kept) + 1)[1:].astype(np.int64),
        predicted_iou=masks.predicted_iou[kept],
        stability=masks.stability[kept],
        points=(masks.points[kept] + np.array([x0, y0], np.float32)).astype(np.float32),
        cut=_cut_sides(labels, len(kept), tile.read, image_shape),
        prompts=np.full(len(kept), -1, np.int64) if prompts is None else prompts[kept],
    )


def _boxes(labels: NDArray[np.uint32], count: int, window: Window) -> NDArray[np.int64]:
    from scipy import ndimage

    boxes = np.zeros((count, 6), np.int64)
    found = ndimage.find_objects(labels.astype(np.int64), max_label=count)
    for i, slices in enumerate(found):
        if slices is not None:
            boxes[i, :3] = [s.start + o for s, o in zip(slices, window.start, strict=True)]
            boxes[i, 3:] = [s.stop + o for s, o in zip(slices, window.start, strict=True)]
    return boxes


def _cut_sides(
    labels: NDArray[np.uint32], count: int, read: Window, image_shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    cut = np.zeros(count + 1, np.uint8)
    for axis, extent in enumerate(image_shape):
        if read.start[axis] > 0:
            cut[np.unique(labels.take(0, axis))] |= np.uint8(1 << (2 * axis))
        if read.stop[axis] < extent:
            cut[np.unique(labels.take(-1, axis))] |= np.uint8(2 << (2 * axis))
    return cut[1:]
