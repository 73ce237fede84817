"""Square windows of a picture, one around each mask: where they lie, what they show, and back.

Maps of any stride cover the same picture, so that a place in pixels is a place in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from samplat.model.prompt_encoder import PADDING

MARGIN_SHARE, MARGIN_PIXELS = 0.2, 6.0
"""What a window shows around its box or mask: a share of half of the side, plus pixels."""
SPREAD = 2.6
"""A mask's extent counts up to so many standard deviations from its middle: stray specks of it
would otherwise widen the window."""
LONE_POINT = 16.0
"""Half of the side, in pixels, of what is taken to be the object where a mask is empty."""


class Prompted(NamedTuple):
    """The prompts of N objects, in pixels of the model's input."""

    points: Tensor
    """(N, K, 2) x, y."""
    labels: Tensor
    """(N, K) 1 object, 0 background, -1 padding."""
    boxes: Tensor
    """(N, 4) x0, y0, x1, y1; a row of NaN is no box."""

    @classmethod
    def of(
        cls, draft: Tensor, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None
    ) -> Prompted:
        """Prompts of N drafts (N, ...); what was left out is padding points and boxes of NaN."""
        count, device = len(draft), draft.device
        if points is None or labels is None:
            points = torch.zeros(count, 1, 2, device=device)
            labels = torch.full((count, 1), PADDING, device=device)
        if boxes is None:
            boxes = torch.full((count, 4), torch.nan, device=device)
        return cls(points, labels, boxes)

    def repeated(self, times: int) -> Prompted:
        """Each prompt so many times, one after the other."""
        return Prompted(*(part.repeat_interleave(times, dim=0) for part in self))


@dataclass(frozen=True, kw_only=True)
class Windows:
    """N windows, equally many of each of B pictures of one size, picture by picture in order."""

    middle: Tensor
    """(N, 2) x, y in pixels, fp32."""
    half: Tensor
    """(N, 1) half of the side in pixels, fp32."""
    picture: tuple[int, int]
    """Height and width of the pictures in pixels."""

    @classmethod
    @torch.no_grad()
    def around(cls, masks: Tensor, prompts: Prompted, picture: tuple[int, int]) -> Windows:
        """Windows around M masks of each of N prompts, prompt by prompt.

        A box tells where its object is; without one, the mask and the points on the object do.

        Args:
            masks: (N, M, h, w) logits.
            prompts: of the N.
            picture: height and width in pixels.
        """
        start, stop = _with_points(*_extents(masks > 0, picture), prompts)
        boxes = prompts.boxes.float()[:, None]
        boxed = boxes.isfinite().all(dim=-1, keepdim=True)
        start = torch.where(boxed, boxes[..., :2], start)
        stop = torch.where(boxed, boxes[..., 2:], stop)
        whole = start.new_tensor([picture[1], picture[0]])
        start = torch.where(start.isfinite(), start, 0 * whole)
        stop = torch.where(stop.isfinite(), stop, whole)
        half = (stop - start).amax(dim=-1, keepdim=True).clamp_min(1) / 2
        lone = ~(masks > 0).flatten(2).any(dim=2)[..., None] & ~boxed
        half = torch.where(lone, half + LONE_POINT, half) * (1 + MARGIN_SHARE) + MARGIN_PIXELS
        middle = (start + stop) / 2
        return cls(middle=middle.flatten(0, 1), half=half.flatten(0, 1), picture=picture)

    def select(self, chosen: Tensor) -> Windows:
        """Those windows of one picture where `chosen` (N,) is True."""
        return replace(self, middle=self.middle[chosen], half=self.half[chosen])

    def scaled(self, factor: float | Tensor) -> Windows:
        """Windows of the same middle; `factor` may be (N, 1)."""
        return replace(self, half=self.half * factor)

    def shifted(self, share: Tensor) -> Windows:
        """Windows moved by shares (N, 2) of half of their side."""
        return replace(self, middle=self.middle + share * self.half)

    def show(self, maps: Tensor, side: int) -> Tensor:
        """What the windows show of the pictures' maps: (N, C, side, side), 0 off the picture.

        Args:
            maps: (B, C, h, w).
            side: cells along a window.
        """
        grid = self._grid(side).reshape(len(maps), -1, side, 2)
        shown = F.grid_sample(maps, grid.to(maps.dtype), align_corners=False)
        parts = shown.reshape(*shown.shape[:2], -1, side, side)
        return parts.transpose(1, 2).flatten(0, 1)

    def show_own(self, maps: Tensor, side: int) -> Tensor:
        """What each window shows of a map of its own (N, C, h, w), in fp32: (N, C, side, side)."""
        grid = self._grid(side)
        return F.grid_sample(maps.float(), grid, align_corners=False, padding_mode="border")

    def known(self, side: int) -> Tensor:
        """(N, 1, side, side): 1 where a cell lies on the picture."""
        return (self._grid(side).abs() <= 1).all(dim=-1)[:, None].float()

    def put_back(self, cells: Tensor, stride: int) -> Tensor:
        """The windows' cells at their places in maps of 0: (N, C, side, side) to (N, C, h, w).

        Args:
            cells: what the windows hold.
            stride: pixels of the picture per pixel of the maps.
        """
        height, width = (length // stride for length in self.picture)
        y, x = (
            ((torch.arange(n, device=cells.device) + 0.5) * stride - self.middle[:, axis, None])
            / self.half
            for n, axis in ((height, 1), (width, 0))
        )
        return F.grid_sample(cells, _mesh(x, y), align_corners=False)

    def placed(self, points: Tensor, side: int) -> Tensor:
        """Places (N, K, 2) x, y in pixels, edges being whole numbers, in cells of the windows."""
        corner = (self.middle - self.half)[:, None]
        return (points.float() - corner) * (side / (2 * self.half[:, None]))

    def _grid(self, side: int) -> Tensor:
        """Where the cells lie, (N, side, side, 2) x, y: -1 and 1 are the picture's edges."""
        offset = (torch.arange(side, device=self.half.device) + 0.5) * (2 / side) - 1
        place = self.middle[:, None] + self.half[:, None] * offset[:, None]
        place = 2 * place / place.new_tensor([self.picture[1], self.picture[0]]) - 1
        return _mesh(place[..., 0], place[..., 1])


def _mesh(x: Tensor, y: Tensor) -> Tensor:
    """(N, h, w, 2) of columns x (N, w) and rows y (N, h)."""
    rows, columns = y.shape[1], x.shape[1]
    return torch.stack(
        [x[:, None].expand(-1, rows, -1), y[..., None].expand(-1, -1, columns)], dim=-1
    )


def _extents(on: Tensor, picture: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Start and stop x, y (N, M, 2) of masks (N, M, h, w), but for stray specks; inf if empty."""
    y0, y1 = _extent(on.sum(dim=-1), picture[0])
    x0, x1 = _extent(on.sum(dim=-2), picture[1])
    return torch.stack([x0, y0], dim=-1), torch.stack([x1, y1], dim=-1)


def _extent(counts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """First and last place along an axis of `length` pixels with a count (..., cells)."""
    counts, cells = counts.float(), counts.shape[-1]
    place = (torch.arange(cells, device=counts.device) + 0.5) * (length / cells)
    total = counts.sum(dim=-1).clamp_min(1)
    middle = (counts * place).sum(dim=-1) / total
    spread = ((counts * (place - middle[..., None]) ** 2).sum(dim=-1) / total).sqrt()
    half_cell = length / cells / 2
    reach = SPREAD * spread + half_cell
    low = torch.where(counts > 0, place, torch.inf).amin(dim=-1) - half_cell
    high = torch.where(counts > 0, place, -torch.inf).amax(dim=-1) + half_cell
    return torch.maximum(low, middle - reach), torch.minimum(high, middle + reach)


def _with_points(start: Tensor, stop: Tensor, prompts: Prompted) -> tuple[Tensor, Tensor]:
    """Extents (N, M, 2) widened to the points on the object."""
    on = (prompts.labels == 1)[..., None]
    place = prompts.points.float() + 0.5
    first = torch.where(on, place, torch.inf).amin(dim=1)[:, None]
    last = torch.where(on, place, -torch.inf).amax(dim=1)[:, None]
    return torch.minimum(start, first), torch.maximum(stop, last)
