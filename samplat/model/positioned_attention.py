"""Attention over a grid of tokens with decomposed relative positions, as one fused attention.

The position term of query and key, rows[query, key's row] + columns[query, key's column], is a dot
product too: appended to the query, and as one-hot rows to the key, it needs no matrix of all pairs.
Fused kernels want values as wide as keys, so that every channel appended counts twice. On a
processor large grids are therefore split into parts of fewer rows and columns, whose results are
joined by the logarithms of their sums.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PART = 16
"""Rows and columns of a part's keys."""
MULTIPLE = 32
"""Channels are filled up to a multiple of this: kernels for matrix units are slow at others."""


def positioned_attention(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Attend.

    Args:
        q: (B, heads, h · w, d) queries.
        k: likewise keys.
        v: likewise values.
        rows: (B, heads, h · w, h) what is added for the key's row.
        columns: (B, heads, h · w, w) and for its column.

    Returns:
        (B, heads, h · w, d).
    """
    h, w = rows.shape[-1], columns.shape[-1]
    q = q * q.shape[-1] ** -0.5
    if q.device.type == "cpu" and not q.requires_grad and (h > PART or w > PART):
        return _by_parts(q, k, v, rows, columns)
    wide = _widened(q, k, v, rows, columns)
    return F.scaled_dot_product_attention(*wide, scale=1.0)[..., : v.shape[-1]]


def _by_parts(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    h, w = rows.shape[-1], columns.shape[-1]
    grid = (*k.shape[:2], h, w, k.shape[-1])
    whole, logarithm = None, None
    for y in range(0, h, PART):
        for x in range(0, w, PART):
            cells = (..., slice(y, y + PART), slice(x, x + PART), slice(None))
            keys, values = (each.view(grid)[cells].flatten(2, 3) for each in (k, v))
            wide = _widened(q, keys, values, rows[..., y : y + PART], columns[..., x : x + PART])
            part, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *wide, scale=1.0
            )
            part, sums = part[..., : v.shape[-1]], sums[..., None]
            if whole is None or logarithm is None:
                whole, logarithm = part, sums
            else:
                # The share of the new part in the sum of both.
                whole = torch.lerp(whole, part, (sums - logarithm).sigmoid().to(part.dtype))
                logarithm = torch.logaddexp(logarithm, sums)
    return q if whole is None else whole


def _widened(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    h, w = rows.shape[-1], columns.shape[-1]
    filling = -(q.shape[-1] + h + w) % MULTIPLE
    positions = F.pad(one_hot_positions(h, w, k), (0, filling)).expand(*k.shape[:2], -1, -1)
    nothing = q.new_zeros(()).expand(*q.shape[:3], filling)
    return (
        torch.cat([q, rows, columns, nothing], dim=-1),
        torch.cat([k, positions], dim=-1),
        F.pad(v, (0, h + w + filling)),
    )


def one_hot_positions(h: int, w: int, like: Tensor) -> Tensor:
    """(h * w, h + w): row and column of each token as one-hot rows."""
    eye_h = torch.eye(h, dtype=like.dtype, device=like.device).repeat_interleave(w, dim=0)
    eye_w = torch.eye(w, dtype=like.dtype, device=like.device).repeat(h, 1)
    return torch.cat([eye_h, eye_w], dim=-1)
