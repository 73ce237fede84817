"""The prompt encoder of the paper: points, boxes and low-resolution masks to embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from samplat.model.common import LayerNorm2d

BACKGROUND, FOREGROUND, BOX_START, BOX_END = range(4)
PADDING = -1
GRIDS = 4
"""Positions of so many sizes of images are kept."""


class PromptEncoder(nn.Module):
    """Sparse tokens for points and box corners, a dense embedding for a mask.

    Args:
        dim: channels of the embedding.
        embedding_size: side of the image embedding in tokens.
        image_size: side of the model's square input in pixels.
        mask_channels: hidden channels of the mask's convolutions.
    """

    guided = False
    """True: it looks at the image, rows of one call may be of different kinds, and a crop of the
    model's input can be told its place in it."""

    def __init__(
        self,
        *,
        dim: int = 256,
        embedding_size: int = 64,
        image_size: int = 1024,
        mask_channels: int = 16,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embedding_size = embedding_size
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def dense_pe(self, rows: int | None = None, columns: int | None = None) -> Tensor:
        """Positional encoding (1, C, h, w) of the image embedding's tokens; not to be changed.

        Args:
            rows: of tokens, from the top; all of a square image unless given.
            columns: likewise.
        """
        whole = self.embedding_size
        return self.pe_layer.grid(whole, rows or whole, columns or whole)[None]

    def forward(
        self,
        image: Tensor,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Encode P prompts of one image.

        Args:
            image: (1, C, h, w) image embedding; the paper's encoder only takes its shape.
            points: (P, K, 2) x, y in pixels of the model's input.
            labels: (P, K) 1 object, 0 background, -1 padding.
            boxes: (P, 4) x0, y0, x1, y1 in pixels of the model's input.
            masks: (P, 1, 4 h, 4 w) logits.

        Returns:
            sparse (P, N, C) and dense (P, C, h, w).
        """
        tokens = []
        if points is not None and labels is not None:
            tokens.append(self._embed_points(points, labels, pad=boxes is None))
        if boxes is not None:
            tokens.append(self._embed_boxes(boxes))
        count = next((len(t) for t in (points, boxes, masks) if t is not None), 1)
        empty = self.no_mask_embed.weight.new_zeros(count, 0, self.dim)
        sparse = torch.cat(tokens, dim=1) if tokens else empty
        return sparse, self._embed_masks(masks, count, image.shape[-2:])

    def _encode(self, points: Tensor) -> Tensor:
        return self.pe_layer.encode((points + 0.5) / self.image_size)

    def _embed_points(self, points: Tensor, labels: Tensor, *, pad: bool) -> Tensor:
        if pad:
            points = torch.cat([points, points.new_zeros(len(points), 1, 2)], dim=1)
            labels = torch.cat([labels, labels.new_full((len(labels), 1), PADDING)], dim=1)
        kind = labels[..., None]
        encoded = self._encode(points)
        encoded = torch.where(kind == PADDING, self.not_a_point_embed.weight, encoded)
        for value in (BACKGROUND, FOREGROUND):
            weight = self._kind(value)
            encoded = torch.where(kind == value, encoded + weight, encoded)
        return encoded

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        corners = self._encode(boxes.reshape(-1, 2, 2))
        return corners + torch.cat([self._kind(BOX_START), self._kind(BOX_END)])

    def _kind(self, kind: int) -> Tensor:
        embedding = self.point_embeddings[kind]
        return embedding.get_parameter("weight")

    def _embed_masks(self, masks: Tensor | None, count: int, size: torch.Size) -> Tensor:
        if masks is not None:
            dense: Tensor = self.mask_downscaling(masks)
            return dense
        return self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(count, -1, *size)


class PositionEmbeddingRandom(nn.Module):
    """Random spatial frequencies (Tancik et al. 2020), as in the paper."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer(
            "positional_encoding_gaussian_matrix", scale * torch.randn(2, features)
        )
        self._grids: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def encode(self, coordinates: Tensor) -> Tensor:
        """(..., 2) x, y in 0..1 to (..., 2 · features), in the type of the frequencies."""
        matrix = self.positional_encoding_gaussian_matrix
        # bf16 would move a point by a pixel
        with torch.autocast(matrix.device.type, enabled=False):
            angles = 2 * math.pi * ((2 * coordinates.to(matrix.dtype) - 1) @ matrix)
            return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, size: int, rows: int, columns: int) -> Tensor:
        """(C, rows, columns): the encoding of the centres of cells, `size` of which are the image.

        Channels are last in memory. Grids are kept, as one takes as long as a tenth of a mask.
        """
        key, matrix = (size, rows, columns), self.positional_encoding_gaussian_matrix
        known = self._grids.get(key)
        if known is None or known[0].device != matrix.device or not known[0].equal(matrix):
            if len(self._grids) >= GRIDS:
                self._grids.clear()
            known = self._grids[key] = (matrix.clone(), self._grid(size, rows, columns))
        return known[1]

    @torch.inference_mode(mode=False)  # it may be kept for training
    @torch.no_grad()
    def _grid(self, size: int, rows: int, columns: int) -> Tensor:
        device = self.positional_encoding_gaussian_matrix.device
        y, x = (torch.arange(n, device=device) + 0.5 for n in (rows, columns))
        down, right = torch.meshgrid(y / size, x / size, indexing="ij")
        return self.encode(torch.stack([right, down], dim=-1)).permute(2, 0, 1)
