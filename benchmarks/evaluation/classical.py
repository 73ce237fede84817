"""What can be had from the same prompts without a model.

Each function takes a picture (H, W, 3) uint8 and a box or a point, and gives a mask (H, W).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.objects import Box, Mask, centre_point, mask_iou, tight_box

Picture = NDArray[np.uint8]

FLOOD_TOLERANCE = 20
"""Grey levels, in every band, by which a flooded pixel may differ from the point."""
GRABCUT_ROUNDS = 3
WATERSHED_SIGMA = 1.0
"""Gaussian smoothing before the gradient, in pixels."""
WALKER_SIDE = 128
"""The random walker runs on a picture reduced to this longest side: it takes seconds otherwise."""
WALKER_BETA = 1000.0
"""Better than 130 on every set of the evaluation data, so that the comparison is a fair one."""


def box_figures(image: Picture, truth: Mask) -> dict[str, float]:
    """IoU of the classical tools that start from the object's tight box."""
    box = tight_box(truth)
    return {
        "shape_box": shape_iou(truth, box),
        "grabcut_box": mask_iou(grabcut(image, box), truth),
    }


def point_figures(image: Picture, truth: Mask) -> dict[str, float]:
    """IoU of the classical tools that start from the object's centre point."""
    point = centre_point(truth)
    return {
        "flood_point": mask_iou(flood(image, point), truth),
        "watershed_point": mask_iou(watershed(image, point), truth),
        "random_walker_point": mask_iou(random_walker(image, point), truth),
    }


def shape_iou(truth: Mask, box: Box) -> float:
    """IoU of the filled box or of its inscribed ellipse, whichever is better.

    The choice knows the truth: this is what a box says by itself, at best.
    """
    shapes = filled_box(truth.shape, box), inscribed_ellipse(truth.shape, box)
    return max(mask_iou(shape, truth) for shape in shapes)


def filled_box(size: tuple[int, ...], box: Box) -> Mask:
    """All pixels of the box."""
    x0, y0, x1, y1 = box
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def inscribed_ellipse(size: tuple[int, ...], box: Box) -> Mask:
    """The pixels whose centres lie in the ellipse that touches the box's four sides."""
    x0, y0, x1, y1 = box
    y, x = np.ogrid[: size[0], : size[1]]
    across = (x + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
    down = (y + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
    inside: Mask = across**2 + down**2 <= 1
    return inside


def grabcut(image: Picture, box: Box) -> Mask:
    """OpenCV's GrabCut from a box; the whole box where nothing lies outside of it."""
    import cv2

    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    x0, y0, x1, y1 = box
    height, width = image.shape[:2]
    if (x1 - x0, y1 - y0) == (width, height):
        return filled_box((height, width), box)
    trimap = np.zeros((height, width), np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    rectangle = (x0, y0, x1 - x0, y1 - y0)
    pixels = np.ascontiguousarray(image)
    cv2.grabCut(pixels, trimap, rectangle, *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_RECT)
    return np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))


def flood(image: Picture, point: tuple[int, int]) -> Mask:
    """The 4-connected pixels around the point that differ from it by at most the tolerance."""
    import cv2

    marked = np.zeros((image.shape[0] + 2, image.shape[1] + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (1 << 8)
    tolerance = (FLOOD_TOLERANCE,) * 3
    cv2.floodFill(image.copy(), marked, point, 0, tolerance, tolerance, flags)
    inside: Mask = marked[1:-1, 1:-1] == 1
    return inside


def watershed(image: Picture, point: tuple[int, int]) -> Mask:
    """Watershed of the gradient with two markers: the point, and the picture's border."""
    from scipy.ndimage import gaussian_gradient_magnitude
    from skimage import segmentation

    gradient = gaussian_gradient_magnitude(grey(image), WATERSHED_SIGMA)
    flood_markers: Any = segmentation.watershed
    inside: Mask = flood_markers(gradient, markers(gradient.shape, point)) == 1
    return inside


def random_walker(image: Picture, point: tuple[int, int]) -> Mask:
    """Random walker between the point and the picture's border, on a reduced picture."""
    from skimage import segmentation

    small = reduced(grey(image), WALKER_SIDE)
    if np.ptp(small) == 0:
        return np.ones(image.shape[:2], bool)
    rows, columns = small.shape
    x = int((point[0] + 0.5) * columns / image.shape[1])
    y = int((point[1] + 0.5) * rows / image.shape[0])
    walk: Any = segmentation.random_walker
    seeds = markers(small.shape, (x, y))
    walked = walk(small, seeds, beta=WALKER_BETA, mode="bf") == 1
    return nearest(walked, image.shape[:2])


def reduced(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Values (H, W) averaged down to a longest side, at least 3 x 3; smaller ones stay."""
    import cv2

    scale = min(1.0, side / max(values.shape))
    rows, columns = (max(3, round(length * scale)) for length in values.shape)
    resize: Any = cv2.resize
    small: NDArray[np.float64] = resize(values, (columns, rows), interpolation=cv2.INTER_AREA)
    return small


def markers(size: tuple[int, ...], point: tuple[int, int]) -> NDArray[np.int32]:
    """Seeds (H, W): 1 at the point, 2 along the picture's border, 0 elsewhere."""
    seeds = np.full(size, 2, np.int32)
    seeds[1:-1, 1:-1] = 0
    seeds[point[1], point[0]] = 1
    return seeds


def grey(image: Picture) -> NDArray[np.float64]:
    """Luminance 0..1 of a picture (H, W, 3), with the weights of ITU-R BT.601."""
    values: NDArray[np.float64] = image @ np.array([0.299, 0.587, 0.114]) / 255
    return values


def nearest(mask: Mask, size: tuple[int, ...]) -> Mask:
    """A mask at another size, each pixel taking the value at its centre."""
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(int)
    return mask[np.ix_(rows, columns)]
