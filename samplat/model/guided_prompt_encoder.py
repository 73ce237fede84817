"""A prompt encoder that also looks at the picture under the prompt: the bundled model's.

The paper's encoder tells the decoder where a prompt is and leaves finding out what is there to
attention, which takes long to learn. Here a point also carries the image feature under it, a box
the mean feature inside it and features from around it, which say what is not the object; and both
are drawn onto the dense embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samplat.model.prompt_encoder import BACKGROUND, FOREGROUND, PADDING, PromptEncoder

POINT_RADII = (0.75, 3.0)
"""Radii of the discs that points are drawn with, in tokens of the embedding."""
RING_SHARE, RING_TOKENS = 0.05, 1.0
"""How far outside of a box its surroundings are looked at: a share of its side, plus tokens."""
RING = ((0.25, 0), (0.75, 0), (0.25, 1), (0.75, 1), (0, 0.25), (0, 0.75), (1, 0.25), (1, 0.75))
"""Where around the box, x and y as shares of the widened box."""


class GuidedPromptEncoder(PromptEncoder):
    """Points and boxes as tokens with the features under them, and as maps on the embedding."""

    guided = True

    def __init__(
        self,
        *,
        dim: int = 128,
        embedding_size: int = 64,
        image_size: int = 512,
        mask_channels: int = 16,
    ) -> None:
        super().__init__(
            dim=dim,
            embedding_size=embedding_size,
            image_size=image_size,
            mask_channels=mask_channels,
        )
        self.stride = image_size // embedding_size
        self.point_feature = nn.Linear(dim, dim)
        self.box_feature = nn.Linear(dim, dim)
        self.ring_feature = nn.Linear(dim, dim)
        self.ring_embed = nn.Embedding(1, dim)
        self.map_embed = nn.Conv2d(2 + 2 * len(POINT_RADII), dim, 1, bias=False)
        self.mask_downscaling = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(1, mask_channels, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, 1),
        )

    def forward(
        self,
        image: Tensor,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        origin: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode P prompts of each of B images.

        Args:
            image: (B, C, h, w) image embeddings; P is the prompts divided by B.
            points: (B · P, K, 2) x, y in pixels of the model's input.
            labels: (B · P, K) 1 object, 0 background, -1 padding.
            boxes: (B · P, 4) x0, y0, x1, y1 in pixels of the model's input; a row of NaN is no box.
            masks: (B · P, 1, 4 h, 4 w) logits.
            origin: (B · P, 2) pixels x, y added to positions: where a training crop lies in the
                model's input.

        Returns:
            sparse (B · P, N, C) and dense (B · P, C, h, w).
        """
        count = next((len(t) for t in (points, boxes, masks) if t is not None), len(image))
        shift = image.new_zeros(count, 2) if origin is None else origin
        if points is None or labels is None:
            points = image.new_zeros(count, 1, 2)
            labels = image.new_full((count, 1), PADDING)
        if boxes is None:
            boxes = image.new_full((count, 4), torch.nan)
        sparse = [
            self._point_tokens(image, points, labels, shift),
            self._box_tokens(image, boxes, shift),
            self._ring_tokens(image, boxes, shift),
        ]
        dense = self._embed_masks(masks, count, image.shape[-2:])
        maps = self._maps(image, points, labels, boxes)
        return torch.cat(sparse, dim=1), dense + self.map_embed(maps)

    def _point_tokens(self, image: Tensor, points: Tensor, labels: Tensor, shift: Tensor) -> Tensor:
        tokens = self._embed_points(points + shift[:, None], labels, pad=False)
        under = self.point_feature(_sample(image, points, self.stride))
        return tokens + torch.where(labels[..., None] == PADDING, 0.0, under)

    def _box_tokens(self, image: Tensor, boxes: Tensor, shift: Tensor) -> Tensor:
        given = boxes.isfinite().all(dim=-1)[:, None, None]
        known = boxes.nan_to_num()
        corners = self._embed_boxes(known + shift.repeat(1, 2))
        cover_y, cover_x = self._coverage(known, image)
        inside = torch.einsum("bpy,bpx,bcyx->bpc", cover_y, cover_x, image)
        area = (cover_y.sum(-1) * cover_x.sum(-1)).clamp_min(1e-3)[..., None]
        mean = self.box_feature((inside / area).flatten(0, 1))[:, None]
        tokens = torch.cat([corners[:, :1] + mean, corners[:, 1:] + mean], dim=1)
        return torch.where(given, tokens, self.not_a_point_embed.weight)

    def _ring_tokens(self, image: Tensor, boxes: Tensor, shift: Tensor) -> Tensor:
        """(B · P, 8, C): places around the box; padding without a box and off the image."""
        places = _ring(boxes, self.stride)
        size = places.new_tensor([image.shape[-1], image.shape[-2]]) * self.stride
        # NaN compares false: without a box no place lies on the image.
        known = ((places >= 0) & (places < size)).all(dim=-1, keepdim=True)
        places = places.nan_to_num()
        under = self.ring_feature(_sample(image, places, self.stride))
        tokens = self._encode(places + shift[:, None]) + under + self.ring_embed.weight
        return torch.where(known, tokens, self.not_a_point_embed.weight)

    def _coverage(self, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, h) and (B, P, w): the fraction of each row and column of tokens in the box."""
        h, w = image.shape[-2:]
        x0, y0, x1, y1 = (boxes / self.stride).reshape(len(image), -1, 4).unbind(-1)
        return cells_covered(y0, y1, h), cells_covered(x0, x1, w)

    def _maps(self, image: Tensor, points: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        h, w = image.shape[-2:]
        rows, columns = self._coverage(boxes.nan_to_num(), image)
        box = (rows[..., None] * columns[..., None, :]).flatten(0, 1)
        bulge = box * _bulge(boxes.nan_to_num() / self.stride, (h, w))
        drawn = [
            discs(points, labels == kind, radius, self.stride, (h, w))
            for kind in (BACKGROUND, FOREGROUND)
            for radius in POINT_RADII
        ]
        return torch.stack([box, bulge, *drawn], dim=-1).to(image.dtype).permute(0, 3, 1, 2)


def _ring(boxes: Tensor, stride: int) -> Tensor:
    """Pixels x, y (P, 8, 2) just outside of boxes (P, 4)."""
    start, stop = boxes[:, :2], boxes[:, 2:]
    margin = RING_SHARE * (stop - start) + RING_TOKENS * stride
    share = boxes.new_tensor(RING)
    wide = stop - start + 2 * margin
    return (start - margin)[:, None] + share * wide[:, None]


def _bulge(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(P, h, w): 1 in the middle of a box, 0 on its inscribed ellipse, -1 and no less beyond."""
    h, w = size
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp_min(1) / 2
    x = torch.arange(w, device=boxes.device) + 0.5
    y = torch.arange(h, device=boxes.device) + 0.5
    across = ((x - middle[:, :1]) / half[:, :1]) ** 2
    down = ((y - middle[:, 1:]) / half[:, 1:]) ** 2
    return (1 - across[:, None] - down[..., None]).clamp_min(-1)


def _sample(image: Tensor, points: Tensor, stride: int) -> Tensor:
    """Bilinear features (B · P, K, C) of embeddings (B, C, h, w) at points (B · P, K, 2)."""
    h, w = image.shape[-2:]
    size = points.new_tensor([w, h]) * stride
    grid = (2 * (points + 0.5) / size - 1).reshape(len(image), -1, points.shape[1], 2)
    under = F.grid_sample(image, grid.to(image.dtype), align_corners=False, padding_mode="border")
    return under.permute(0, 2, 3, 1).flatten(0, 1)


def cells_covered(start: Tensor, stop: Tensor, cells: int) -> Tensor:
    """(..., cells): the fraction of each unit cell that lies between start and stop."""
    left = torch.arange(cells, device=start.device, dtype=start.dtype)
    return (torch.minimum(stop[..., None], left + 1) - torch.maximum(start[..., None], left)).clamp(
        0, 1
    )


def discs(
    points: Tensor, chosen: Tensor, radius: float, stride: int, size: tuple[int, int]
) -> Tensor:
    """(P, h, w): a Gaussian of `radius` tokens around each chosen point; the nearest counts."""
    h, w = size
    centre = (points + 0.5) / stride
    y = torch.arange(h, device=points.device) + 0.5
    x = torch.arange(w, device=points.device) + 0.5
    rows = torch.exp(-((y - centre[..., 1:]) ** 2) / (2 * radius**2)) * chosen[..., None]
    columns = torch.exp(-((x - centre[..., :1]) ** 2) / (2 * radius**2))
    return (rows[..., :, None] * columns[..., None, :]).amax(dim=1)
