"""The objects of one tile: disjoint, over the whole read window, in global pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samplat.label_loops import Codes, joined, measure, meeting_boxes
from samplat.masks import MaskSet, Overlaps, decode_labels, encode_labels, encode_runs
from samplat.tiles import Tile, Window


@dataclass(frozen=True, kw_only=True)
class TileObjects:
    """N disjoint objects of a tile. All arrays share the first axis N."""

    tile: Tile
    """The tile in which they were found."""
    rles: tuple[bytes, ...]
    """COCO compressed run-length counts over the read window's (y, x), its slices one below the
    other: see `folded`."""
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
    """(N,) sides of the read window that the object touches, or behind which it may go on after a
    gap, and that are not the scene's edge:
    bit 2 * axis for the low side, bit 2 * axis + 1 for the high one."""
    prompts: NDArray[np.int64]
    """(N,) number of the prompt that asked for it; -1 where none did."""
    whole: WholeMasks | None = None
    """The masks that they were made of, whole, while they are on the way to the ledger; only on
    request."""

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

    def labels(
        self, window: Window | None = None, ranks: NDArray[np.int64] | None = None
    ) -> NDArray[np.uint32]:
        """(z, y, x) over the read window, or a part of it: local rank + 1, or 0.

        Args:
            window: the part.
            ranks: of the objects that are wanted there; all if not given.
        """
        if window is None:
            return decode_folded(self.codes, self.tile.read.shape)
        part = window.relative_to(self.tile.read)
        chosen = self.meeting(window) if ranks is None else ranks
        return decode_folded(self.codes, self.tile.read.shape, part, chosen)

    @functools.cached_property
    def codes(self) -> Codes:
        """`rles` in one piece."""
        return joined(self.rles)

    def meeting(self, window: Window) -> NDArray[np.int64]:
        """Local ranks of the objects whose boxes meet a window."""
        met: NDArray[np.int64] = meeting_boxes()(self.boxes, window.start, window.stop)
        return met


@dataclass(frozen=True, kw_only=True)
class WholeMasks:
    """N masks of a tile, not cut by each other: all that have a valid pixel, in their order."""

    masks: TileObjects
    """Them, cut to valid pixels. They may overlap, so that `labels` does not tell them apart."""
    flat: NDArray[np.int64]
    """(N,) local rank of the object that is left of each in the flat partition; -1: nothing is."""

    def __len__(self) -> int:
        return len(self.masks)

    def pixels(self, rank: int, window: Window) -> NDArray[np.int64]:
        """Where a mask lies in a part of the read window.

        Returns:
            numbers of pixels down the columns of the window, ascending.
        """
        inside = _box_window(self.masks.boxes[rank]).intersection(window)
        if not inside.size:
            return np.zeros(0, np.int64)
        _, rows, columns = inside.relative_to(self.masks.tile.read).slices
        _, height, width = self.masks.tile.read.shape
        chosen = np.array([rank])
        codes = self.masks.codes
        crop = decode_labels(codes, (height, width), part=(rows, columns), chosen=chosen)
        x, y = np.nonzero(crop.T)
        _, top, left = inside.relative_to(window).start
        numbers: NDArray[np.int64] = (x + left) * window.shape[1] + (y + top)
        return numbers


def _box_window(box: NDArray[np.int64]) -> Window:
    z0, y0, x0, z1, y1, x1 = (int(v) for v in box)
    return Window(start=(z0, y0, x0), stop=(z1, y1, x1))


def folded(labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(z * y, x): the slices of labels (z, y, x) one below the other, as one image."""
    return labels.reshape(-1, labels.shape[-1])


def decode_folded(
    rles: Sequence[bytes] | Codes,
    shape: tuple[int, ...],
    part: Window | None = None,
    chosen: NDArray[np.int64] | None = None,
) -> NDArray[np.uint32]:
    """Labels (z, y, x) of disjoint masks: i + 1 where mask i is.

    Args:
        rles: run-length counts over the folded image.
        shape: (z, y, x) of what they lie in.
        part: what to decode of it; all if not given.
        chosen: indices of the masks to decode; all if not given.
    """
    depth, height, width = shape
    size, (z, y, x) = (depth * height, width), (part or Window(start=(0,) * 3, stop=shape)).slices
    thin = z.stop - z.start == 1
    rows = slice(y.start, y.stop) if thin else slice(0, height)
    lines = slice(z.start * height + rows.start, (z.stop - 1) * height + rows.stop)
    labels = decode_labels(rles, size, part=(lines, x), chosen=chosen)
    labels = labels.reshape(z.stop - z.start, rows.stop - rows.start, x.stop - x.start)
    return labels if thin else np.ascontiguousarray(labels[:, y])


def encode_pixels(pixels: NDArray[np.int64], size: tuple[int, int]) -> bytes:
    """Run-length counts of a mask (H, W) given by its pixels, down the columns, ascending."""
    first = np.flatnonzero(np.diff(pixels, prepend=-2) != 1)
    last = np.append(first[1:], len(pixels)) - 1
    edges = np.stack([pixels[first], pixels[last] + 1], axis=1).ravel()
    return encode_runs([np.diff(edges, prepend=0, append=size[0] * size[1])], size)[0]


def tile_objects(
    masks: MaskSet,
    *,
    tile: Tile,
    valid: NDArray[np.bool_],
    bounds: Window,
    overlaps: Overlaps,
    prompts: NDArray[np.int64] | None = None,
    nested: bool = False,
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
        nested: keep the masks whole, too.
    """
    labels, kept, _ = partition(masks, valid[0], overlaps)
    x0, y0 = tile.read.start[2], tile.read.start[1]
    return labelled_objects(
        labels[None],
        len(kept),
        tile=tile,
        bounds=bounds,
        reach=(0, 1, 1),
        predicted_iou=masks.predicted_iou[kept],
        stability=masks.stability[kept],
        points=(masks.points[kept] + np.array([x0, y0], np.float32)).astype(np.float32),
        prompts=None if prompts is None else prompts[kept],
        whole=_whole_masks(masks, kept, tile, valid[0], bounds) if nested else None,
    )


def partition(
    masks: MaskSet, valid: NDArray[np.bool_], overlaps: Overlaps
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64]]:
    """Masks of a slice without overlaps.

    Args:
        masks: of the slice.
        valid: (y, x). True: data; masks are cut to it.
        overlaps: which mask gets a pixel that several claim.

    Returns:
        labels (y, x), 1..N or 0; (N,) indices of the masks that have a pixel; (N,) their pixels.
    """
    claimed = masks.to_labels(overlaps)
    if not valid.all():
        claimed *= valid
    areas, _ = measured(claimed[None], len(masks), Window(start=(0, 0, 0), stop=(1, *masks.size)))
    kept = np.flatnonzero(areas > 0)
    if len(kept) == len(masks):
        return claimed, kept, areas
    rank = np.zeros(len(masks) + 1, np.uint32)
    rank[kept + 1] = np.arange(1, len(kept) + 1)
    return rank[claimed], kept, areas[kept]


def labelled_objects(
    labels: NDArray[np.uint32],
    count: int,
    *,
    tile: Tile,
    bounds: Window,
    reach: tuple[int, ...],
    predicted_iou: NDArray[np.float32],
    stability: NDArray[np.float32],
    points: NDArray[np.float32] | None = None,
    prompts: NDArray[np.int64] | None = None,
    whole: WholeMasks | None = None,
) -> TileObjects:
    """The objects of a label image over a tile's read window.

    Args:
        labels: (z, y, x), 1..`count`, each of which occurs, or 0.
        count: number of objects.
        tile: the tile.
        bounds: all that could be read, (z, y, x).
        reach: pixels at an edge of the window, along each axis, from which an object may go on
            behind it; 0: it never does.
        predicted_iou: (count,).
        stability: (count,).
        points: (count, 2) in global pixels; None where there were none.
        prompts: (count,) number of the prompt that asked for each; None where none did.
        whole: masks before they were cut by each other.
    """
    areas, boxes = measured(labels, count, tile.read)
    own = tile.write.relative_to(tile.read).slices
    owned_areas, owned_boxes = measured(labels[own], count, tile.write)
    return TileObjects(
        tile=tile,
        rles=encode_labels(folded(labels), count),
        boxes=boxes,
        areas=areas,
        owned_boxes=owned_boxes,
        owned_areas=owned_areas,
        predicted_iou=predicted_iou,
        stability=stability,
        points=np.full((count, 2), np.nan, np.float32) if points is None else points,
        cut=_cut_sides(labels, count, tile.read, bounds, reach),
        prompts=np.full(count, -1, np.int64) if prompts is None else prompts,
        whole=whole,
    )


def _whole_masks(
    masks: MaskSet,
    kept: NDArray[np.int64],
    tile: Tile,
    valid: NDArray[np.bool_],
    bounds: Window,
) -> WholeMasks:
    """The masks themselves; `kept` are those of which the partition has something left."""
    flat = np.full(len(masks), -1, np.int64)
    flat[kept] = np.arange(len(kept))
    outlines = list(_measured_masks(masks, tile, valid))
    there = np.array([k for k, *_ in outlines], np.int64)
    boxes, owned_boxes = (
        np.array([each[n] for each in outlines], np.int64).reshape(-1, 6) for n in (2, 4)
    )
    areas, owned_areas = (np.array([each[n] for each in outlines], np.int64) for n in (3, 5))
    corner = np.array([tile.read.start[2], tile.read.start[1]], np.float32)
    whole = TileObjects(
        tile=tile,
        rles=tuple(each[1] for each in outlines),
        boxes=boxes,
        areas=areas,
        owned_boxes=owned_boxes,
        owned_areas=owned_areas,
        predicted_iou=masks.predicted_iou[there],
        stability=masks.stability[there],
        points=(masks.points[there] + corner).astype(np.float32),
        cut=_cut_boxes(boxes, tile.read, bounds),
        prompts=np.full(len(there), -1, np.int64),
    )
    return WholeMasks(masks=whole, flat=flat[there])


def _measured_masks(
    masks: MaskSet, tile: Tile, valid: NDArray[np.bool_]
) -> Iterator[tuple[int, bytes, list[int], int, list[int], int]]:
    """Of each mask with a valid pixel: index, code, box, area, and owned box and area."""
    codes, (z, top, left) = joined(masks.rles), tile.read.start
    (y0, x0), (y1, x1) = tile.write.start[1:], tile.write.stop[1:]
    for k, box in enumerate(masks.boxes.tolist()):
        first = [max(0, math.floor(v)) for v in box[:2]]
        part = slice(first[1], math.ceil(box[3])), slice(first[0], math.ceil(box[2]))
        crop = decode_labels(codes, masks.size, part=part, chosen=np.array([k]))
        x, y = np.nonzero((crop > 0).T & valid[part].T)
        if not len(x):
            continue
        x, y = x + first[0], y + first[1]
        rle = encode_pixels(x * masks.size[0] + y, masks.size)
        x, y = x + left, y + top
        owned = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        yield k, rle, _box(z, y, x), len(x), _box(z, y[owned], x[owned]), int(owned.sum())


def _box(z: int, y: NDArray[np.int64], x: NDArray[np.int64]) -> list[int]:
    if not len(x):
        return [0] * 6
    return [z, int(y.min()), int(x.min()), z + 1, int(y.max()) + 1, int(x.max()) + 1]


def _cut_boxes(boxes: NDArray[np.int64], read: Window, bounds: Window) -> NDArray[np.uint8]:
    """As `TileObjects.cut`, of masks with these boxes."""
    cut = np.zeros(len(boxes), np.uint8)
    for axis in (1, 2):
        if read.start[axis] > bounds.start[axis]:
            cut[boxes[:, axis] == read.start[axis]] |= np.uint8(1 << (2 * axis))
        if read.stop[axis] < bounds.stop[axis]:
            cut[boxes[:, axis + 3] == read.stop[axis]] |= np.uint8(2 << (2 * axis))
    return cut


def measured(
    labels: NDArray[np.uint32], count: int, window: Window
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Areas (count,) and boxes (count, 6), global and zeros without pixels, of labels 1..count.

    Args:
        labels: (z, y, x) of a window.
        count: number of labels.
        window: where they lie.
    """
    areas, boxes = np.zeros(count + 1, np.int64), np.zeros((count + 1, 6), np.int64)
    measure()(labels, areas, boxes)
    found = areas > 0
    boxes[found] += np.tile(window.start, 2)
    return areas[1:], boxes[1:]


def _cut_sides(
    labels: NDArray[np.uint32], count: int, read: Window, bounds: Window, reach: tuple[int, ...]
) -> NDArray[np.uint8]:
    cut = np.zeros(count + 1, np.uint8)
    for axis, pixels in enumerate(reach):
        along = np.moveaxis(labels, axis, 0)
        low, high = along[:pixels], along[max(0, len(along) - pixels) :]
        if read.start[axis] > bounds.start[axis]:
            cut[low] |= np.uint8(1 << (2 * axis))
        if read.stop[axis] < bounds.stop[axis]:
            cut[high] |= np.uint8(2 << (2 * axis))
    return cut[1:]
