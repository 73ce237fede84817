"""Where an image is asked what is there: grids of points, in layers of crops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError


@dataclass(frozen=True, kw_only=True)
class GridParameters:
    """Parameters of `generate_masks`; the names and defaults of the reference generator.

    Raises:
        InputError: a value out of its range.
    """

    points_per_side: int | None = 32
    """Points along each side of the image; None when `point_grids` is given."""
    points_per_batch: int = 64
    """Points decoded and filtered together: bounds memory, does not change the masks."""
    pred_iou_thresh: float = 0.88
    """Masks of a lower predicted IoU are dropped; in 0..1, or any finite number: -1 keeps all."""
    stability_score_thresh: float = 0.95
    """Masks of a lower stability score are dropped; in 0..1, or any finite number likewise."""
    stability_score_offset: float = 1.0
    """Shift of the threshold, in logits, for the stability score."""
    box_nms_thresh: float = 0.7
    """IoU of boxes, 0..1, above which the less confident mask is dropped, within a crop."""
    draft_nms_thresh: float = 1.0
    """IoU of masks, 0..1, above which the less confident draft is not looked at again, if the model
    looks at its masks twice: most points of a grid mean the same few masks. 1 looks at all."""
    crop_n_layers: int = 0
    """Layers of crops to search besides the whole image; layer i has (2^i)² crops."""
    crop_nms_thresh: float = 0.7
    """IoU of boxes, 0..1, above which the mask from the larger crop is dropped."""
    crop_overlap_ratio: float = 512 / 1500
    """Overlap of the first layer's crops, as a share of the image's short side: 0..1, not 1."""
    crop_n_points_downscale_factor: int = 1
    """Points per side of layer i are divided by this to the power of i."""
    point_grids: Sequence[NDArray[Any]] | None = None
    """Own points instead of `points_per_side`: (N, 2) x, y in 0..1 for each crop layer."""
    min_mask_region_area: int = 0
    """Holes and islands of fewer pixels are removed; 0 leaves them."""
    exact: bool = False
    """Masks rounded as the published code rounds them: those that may stay are drawn again in its
    order of operations, in full precision, and an image that is given is encoded so too. Of models
    that are not the paper's ViTs, all confident masks are filtered at the image's resolution."""

    def __post_init__(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            raise InputError("give either points_per_side or point_grids, the other one None")
        positive = ("points_per_batch", "crop_n_points_downscale_factor", "points_per_side")
        for name in positive:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be >= 1, got {value}")
        if self.crop_n_layers < 0 or self.min_mask_region_area < 0:
            raise InputError("crop_n_layers and min_mask_region_area must be >= 0")
        self._check_thresholds()
        self._check_grids()

    def _check_thresholds(self) -> None:
        for name in ("pred_iou_thresh", "stability_score_thresh", "stability_score_offset"):
            if not math.isfinite(value := getattr(self, name)):
                raise InputError(f"{name} must be a finite number, got {value}")
        for name in ("box_nms_thresh", "crop_nms_thresh", "draft_nms_thresh"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InputError(f"{name} must be in 0..1, got {value}")
        if not 0 <= self.crop_overlap_ratio < 1:
            raise InputError(
                f"crop_overlap_ratio must be >= 0 and < 1, got {self.crop_overlap_ratio}"
            )

    def _check_grids(self) -> None:
        if self.point_grids is None:
            return
        if len(self.point_grids) != self.crop_n_layers + 1:
            raise InputError(f"expected {self.crop_n_layers + 1} point grids, one per crop layer")
        for grid in map(np.asarray, self.point_grids):
            if grid.ndim != 2 or grid.shape[1] != 2 or not len(grid):
                raise InputError(f"expected point grids of shape (N, 2), got {grid.shape}")
            if not ((grid >= 0) & (grid <= 1)).all():
                raise InputError(
                    "expected point grids of x, y in 0..1, as shares of the crop's sides, got "
                    f"{grid.min():g} to {grid.max():g}"
                )

    def grid(self, layer: int) -> NDArray[np.float32]:
        """(N, 2) points x, y in 0..1 of a crop layer."""
        if self.point_grids is not None:
            return np.asarray(self.point_grids[layer], np.float32)
        side = int((self.points_per_side or 1) / self.crop_n_points_downscale_factor**layer)
        return point_grid(max(1, side))


def point_grid(side: int) -> NDArray[np.float32]:
    """(side², 2) centres of a regular grid of cells over the unit square, row by row."""
    centres = (np.arange(side, dtype=np.float32) + 0.5) / side
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def crop_boxes(
    size: tuple[int, int], layers: int, overlap_ratio: float
) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Crops of an image (H, W): layer and x0, y0, x1, y1, the whole image first.

    Layer i has 2^i crops a side, overlapping by `overlap_ratio` of the short side at layer 1 and
    by half as much at each further one (paper, appendix B).
    """
    height, width = size
    yield 0, (0, 0, width, height)
    for layer in range(1, layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / n))
        crop_h, crop_w = (-(-(overlap * (n - 1) + extent) // n) for extent in size)
        for x0 in (int((crop_w - overlap) * i) for i in range(n)):
            for y0 in (int((crop_h - overlap) * i) for i in range(n)):
                yield layer, (x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height))
