"""Show a tile to the segmenter enlarged, and bring its masks back.

Small objects need it: a model sees a tile at a fixed number of pixels, and an object of a few of
them has no shape.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.masks import MaskSet, decode_rle, encode_rle, mask_box

Scalar = TypeVar("Scalar", np.uint8, np.bool_)


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
