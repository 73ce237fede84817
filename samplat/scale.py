"""Show a tile to the segmenter enlarged, and bring its masks back.

Small objects need it: a model sees a tile at a fixed number of pixels, and an object of a few of
them has no shape. At several scales, the smallest shows the tile at once, and one `k` times as
large shows it in `k` x `k` views, each with a `k`-th of the halo, so that all views have as many
pixels::

    |rr|wwwwwwwwwwww|rr|            the tile at scale 1
      |r|wwwwww|r|                  at scale 2: one view
            |r|wwwwww|r|            and the next
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.masks import MaskSet, concatenate, decode_rle, encode_rle, mask_box, mask_nms
from samplat.tiles import Tile, TileGrid, Window

Scalar = TypeVar("Scalar", np.uint8, np.bool_)

SAME_IOU = 0.7
"""Masks of several scales or views with a larger IoU are one object."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A part of what a tile reads that the segmenter sees at once."""

    window: Window
    """(y, x), in the frame of the tile's read window."""
    scale: int
    """Factor by which it is enlarged."""
    cut: tuple[bool, bool, bool, bool]
    """True: what touches this side (left, top, right, bottom) may go on behind it, and another view
    sees more of it."""


def views(grid: TileGrid, tile: Tile, scales: Sequence[int]) -> Iterator[View]:
    """The views of each slice of a tile at every scale, the largest scale first.

    Args:
        grid: the grid of the tile.
        tile: one of its tiles.
        scales: distinct factors.
    """
    cell = grid.cell(tile.index)
    for scale in sorted(scales, reverse=True):
        parts = -(-scale // min(scales))
        finer = TileGrid(
            shape=cell.shape,
            tile_shape=(cell.shape[0], *(-(-n // parts) for n in cell.shape[1:])),
            halo=(0, *(-(-n // parts) for n in grid.halo[1:])),
        )
        for part in finer:
            own = part.write.shifted(cell.start)
            if own.intersection(grid.bounds).size:
                seen = own.grown(finer.halo).intersection(tile.read)
                yield _view(seen, grid.bounds, tile, scale, alone=parts == 1)


def _view(seen: Window, bounds: Window, tile: Tile, scale: int, *, alone: bool) -> View:
    (_, top, left), (_, bottom, right) = seen.start, seen.stop
    _, first_y, first_x = bounds.start
    _, last_y, last_x = bounds.stop
    cut = (left > first_x, top > first_y, right < last_x, bottom < last_y)
    place = seen.relative_to(tile.read)
    return View(
        window=Window(start=place.start[1:], stop=place.stop[1:]),
        scale=scale,
        # a tile that is seen at once keeps what its edges cut: seams join it with the neighbour's
        cut=(False, False, False, False) if alone else cut,
    )


def masks_at_scales(
    segmenter: Callable[[NDArray[np.uint8], NDArray[np.bool_]], MaskSet],
    pixels: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    looked_at: Sequence[View],
) -> MaskSet:
    """What a segmenter finds in all views of a tile; what several found is there once, the best.

    Args:
        segmenter: masks of an image (H, W, 3) and its valid pixels (H, W).
        pixels: (H, W, 3) of the tile's read window.
        valid: (H, W). True: data.
        looked_at: the views; of equally good masks, an earlier view's stays.
    """
    found = []
    for view in looked_at:
        part = view.window.slices
        seen = segmenter(enlarge(pixels[part], view.scale), enlarge(valid[part], view.scale))
        found.append(_placed(shrink(seen, view.scale), view, valid.shape))
    if len(found) == 1:
        return found[0]
    every = concatenate(found)
    return every.select(mask_nms(every, every.predicted_iou * every.stability, SAME_IOU))


def _placed(masks: MaskSet, view: View, size: tuple[int, ...]) -> MaskSet:
    """Masks of a view in the frame of the tile's read window, but for those that it cuts."""
    height, width = view.window.shape
    if (height, width) == size:
        return masks
    ends = np.array([0, 0, width, height], np.float32)
    kept = masks.select(~((masks.boxes == ends) & np.array(view.cut)).any(axis=1))
    before = np.array(view.window.start[::-1])
    return replace(
        kept,
        size=(size[0], size[1]),
        rles=tuple(_placed_rle(rle, view.window, size) for rle in kept.rles),
        boxes=(kept.boxes + np.tile(before, 2)).astype(np.float32),
        points=(kept.points + before).astype(np.float32),
        crop_boxes=(kept.crop_boxes + np.tile(before, 2)).astype(np.int32),
    )


def _placed_rle(rle: bytes, window: Window, size: tuple[int, ...]) -> bytes:
    whole = np.zeros(size, bool)
    whole[window.slices] = decode_rle(rle, (window.shape[0], window.shape[1]))
    return encode_rle(whole)


def enlarge(image: NDArray[Scalar], scale: int) -> NDArray[Scalar]:
    """An image (H, W, 3), bilinear, or valid pixels (H, W), nearest, `scale` times as large."""
    if scale == 1:
        return image
    if image.dtype == np.bool_:
        return image.repeat(scale, axis=0).repeat(scale, axis=1)
    from PIL import Image

    height, width = image.shape[:2]
    resized = Image.fromarray(image).resize(
        (width * scale, height * scale), Image.Resampling.BILINEAR
    )
    return np.asarray(resized, dtype=image.dtype)


def shrink(masks: MaskSet, scale: int, *, keep_empty: bool = False) -> MaskSet:
    """Masks of an enlarged image in the frame of the image: a pixel needs half of its own.

    Masks that lose all of their pixels vanish, unless `keep_empty`.

    Raises:
        InputError: the masks' size is not a multiple of `scale`.
    """
    if scale == 1:
        return masks
    height, width = masks.size[0] // scale, masks.size[1] // scale
    if masks.size != (height * scale, width * scale):
        raise InputError(f"masks of size {masks.size} do not come from a scale of {scale}")
    small = [_shrink_mask(decode_rle(rle, masks.size), scale) for rle in masks.rles]
    shrunk = replace(
        masks,
        size=(height, width),
        rles=tuple(encode_rle(mask) for mask in small),
        boxes=np.array([mask_box(mask) for mask in small], np.float32).reshape(-1, 4),
        areas=np.array([mask.sum() for mask in small], np.int64),
        points=(masks.points / scale).astype(np.float32),
        crop_boxes=masks.crop_boxes // scale,
    )
    return shrunk if keep_empty else shrunk.select(shrunk.areas > 0)


def _shrink_mask(mask: NDArray[np.bool_], scale: int) -> NDArray[np.bool_]:
    height, width = mask.shape[0] // scale, mask.shape[1] // scale
    blocks = mask.reshape(height, scale, width, scale)
    half: NDArray[np.bool_] = 2 * blocks.sum(axis=(1, 3)) >= scale * scale
    return half
