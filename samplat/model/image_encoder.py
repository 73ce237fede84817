"""The plain ViT image encoder of the paper (appendix A): ViT-B, ViT-L and ViT-H.

Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samplat.model.common import LayerNorm2d, MLPBlock
from samplat.model.positioned_attention import positioned_attention


class ImageEncoderViT(nn.Module):
    """A ViT with windowed attention, a few global blocks, and a convolutional neck.

    Args:
        image_size: side of the square input in pixels; a multiple of `patch_size`.
        dim, depth, heads: width, number of blocks, attention heads.
        global_blocks: indices of the blocks with global attention.
        window_size: side of an attention window in tokens.
        out_channels: channels of the embedding.
    """

    def __init__(
        self,
        *,
        image_size: int = 1024,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        global_blocks: tuple[int, ...] = (2, 5, 8, 11),
        window_size: int = 14,
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        tokens = image_size // patch_size
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, tokens, dim))
        windows = (0 if i in global_blocks else window_size for i in range(depth))
        self.blocks = nn.ModuleList(Block(dim, heads, w, tokens) for w in windows)
        self.neck = nn.Sequential(
            nn.Conv2d(dim, out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Embedding of normalised pixels.

        Args:
            x: (B, 3, image_size, image_size).

        Returns:
            one tensor (B, out_channels, image_size / patch_size, image_size / patch_size).
        """
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return (self.neck(x.permute(0, 3, 1, 2)),)


class PatchEmbed(nn.Module):
    """Pixels (B, 3, H, W) to tokens (B, H / patch, W / patch, C)."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x)
        # Rows of channels in memory: all that follows reads and writes them that way.
        return tokens.permute(0, 2, 3, 1).contiguous()


class Block(nn.Module):
    """Transformer block (B, H, W, C); attention is global when `window_size` is 0."""

    drop_path = 0.0
    """Share of the images of a training batch for which each branch is left out (stochastic depth,
    Huang et al. 2016); set by what trains."""

    def __init__(self, dim: int, heads: int, window_size: int, tokens: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, window_size or tokens)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLPBlock(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._dropped(self._attend(self.norm1(x)))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= self.drop_path
        return branch * kept / (1 - self.drop_path)

    def _attend(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attn(x, self.window_size)
        return attended


class Attention(nn.Module):
    """Multi-head attention over (B, H, W, C) with decomposed relative positions."""

    def __init__(self, dim: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // heads))

    def forward(self, x: Tensor, window: int = 0) -> Tensor:
        """Attend within windows of so many tokens a side, or everywhere if 0.

        Windows reach beyond the picture, where tokens are 0 before the linear layer.
        """
        shape = (x.shape[1], x.shape[2])
        qkv = self.qkv(x)
        if not window:
            projected: Tensor = self.proj(self._attend(qkv))
            return projected
        windows = partition_windows(qkv, window, self.qkv.bias)
        joined: Tensor = self.proj(join_windows(self._attend(windows), window, shape))
        return joined

    def _attend(self, qkv: Tensor) -> Tensor:
        b, h, w, c = (*qkv.shape[:3], qkv.shape[3] // 3)
        parts = qkv.reshape(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        out = positioned_attention(q, k, v, *self._position_terms(q, h, w))
        return out.transpose(1, 2).reshape(b, h, w, c)

    def _position_terms(self, q: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
        b, n, _, d = q.shape
        grid = q.reshape(b, n, h, w, d)
        rows = torch.einsum("bnhwc,hkc->bnhwk", grid, relative_positions(self.rel_pos_h, h))
        columns = torch.einsum("bnhwc,wkc->bnhwk", grid, relative_positions(self.rel_pos_w, w))
        return rows.reshape(b, n, h * w, h), columns.reshape(b, n, h * w, w)


def relative_positions(table: Tensor, size: int) -> Tensor:
    """(size, size, C): the embedding of query i relative to key j.

    Args:
        table: (2 n - 1, C) for the n that the weights were trained at; interpolated to fit.
        size: tokens along the axis.
    """
    length = 2 * size - 1
    if table.shape[0] != length:
        resized = F.interpolate(table.T[None].float(), size=length, mode="linear")[0].T
        table = resized.to(table.dtype)
    index = torch.arange(size, device=table.device)
    return table[index[:, None] - index[None, :] + size - 1]


def partition_windows(x: Tensor, size: int, beyond: Tensor | None = None) -> Tensor:
    """(B, H, W, C) to (B · windows, size, size, C), filled up at the bottom and right.

    Args:
        x: tokens.
        size: of a window.
        beyond: (C,) what fills up; 0 if not given.
    """
    b, h, w, c = x.shape
    rows, columns = -(-h // size), -(-w // size)
    if (rows * size, columns * size) != (h, w):
        filling = x.new_zeros(c) if beyond is None else beyond.to(x.dtype)
        padded = filling.expand(b, rows * size, columns * size, c).contiguous()
        padded[:, :h, :w] = x
        x = padded
    x = x.view(b, rows, size, columns, size, c)
    return x.transpose(2, 3).reshape(-1, size, size, c)


def join_windows(windows: Tensor, size: int, shape: tuple[int, int]) -> Tensor:
    """The inverse of `partition_windows` for an image of `shape` (H, W) tokens."""
    h, w = shape
    rows, columns = -(-h // size), -(-w // size)
    x = windows.view(-1, rows, columns, size, size, windows.shape[-1]).transpose(2, 3)
    x = x.reshape(-1, rows * size, columns * size, windows.shape[-1])
    return x[:, :h, :w].contiguous()
