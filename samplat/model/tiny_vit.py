"""TinyViT-5M (Wu et al. 2022) as MobileSAM uses it for SAM's image encoder (`vit_t`).

Parameter names are those of the MobileSAM checkpoint; its unused classification head is dropped.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samplat.model.common import LayerNorm2d
from samplat.model.image_encoder import join_windows, partition_windows


class TinyViT(nn.Module):
    """A convolutional stage at stride 4, then windowed attention at strides 8, 16 and 16.

    Args:
        image_size: side of the square input in pixels; a multiple of 16.
        dims, depths, heads, windows: width, blocks, attention heads and window side per stage.
        out_channels: channels of the embedding.
    """

    def __init__(
        self,
        *,
        image_size: int = 1024,
        dims: tuple[int, ...] = (64, 128, 160, 320),
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (2, 4, 5, 10),
        windows: tuple[int, ...] = (7, 7, 14, 7),
        out_channels: int = 256,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.patch_embed = PatchEmbed(dims[0])
        self.layers = nn.ModuleList([ConvStage(dims[0], dims[1], depths[0])])
        for i in range(1, len(dims)):
            following = dims[i + 1] if i + 1 < len(dims) else None
            self.layers.append(AttentionStage(dims[i], following, depths[i], heads[i], windows[i]))
        self.neck = nn.Sequential(
            nn.Conv2d(dims[-1], out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Normalised pixels (B, 3, S, S) to one embedding (B, out_channels, S / 16, S / 16)."""
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return (self.neck(x),)


class ConvNorm(nn.Sequential):
    """A convolution without bias, then batch normalisation."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        super().__init__(OrderedDict(c=conv, bn=nn.BatchNorm2d(outputs)))


class PatchEmbed(nn.Module):
    """Pixels (B, 3, H, W) to (B, C, H / 4, W / 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, dim // 2, 3, 2), nn.GELU(), ConvNorm(dim // 2, dim, 3, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.seq(x)
        return out


class MBConv(nn.Module):
    """Inverted bottleneck with a shortcut, (B, C, H, W)."""

    def __init__(self, dim: int, expansion: int = 4) -> None:
        super().__init__()
        hidden = dim * expansion
        self.conv1 = ConvNorm(dim, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.conv2(F.gelu(self.conv1(x))))
        return F.gelu(self.conv3(hidden) + x)


class PatchMerging(nn.Module):
    """Change of width, (B, C, H, W); halves the resolution unless `stride` is 1."""

    def __init__(self, dim: int, out_dim: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, out_dim)
        self.conv2 = ConvNorm(out_dim, out_dim, 3, stride, groups=out_dim)
        self.conv3 = ConvNorm(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return out


class ConvStage(nn.Module):
    """The first stage."""

    def __init__(self, dim: int, out_dim: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MBConv(dim) for _ in range(depth))
        self.downsample = PatchMerging(dim, out_dim, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.downsample(x)
        return out


class AttentionStage(nn.Module):
    """Blocks of windowed attention, then the merging towards `out_dim` if there is one.

    The last merging keeps the resolution, so that the embedding has stride 16.
    """

    LAST_WIDTHS = (320, 448, 576)

    def __init__(self, dim: int, out_dim: int | None, depth: int, heads: int, window: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, window) for _ in range(depth))
        stride = 1 if out_dim in self.LAST_WIDTHS else 2
        self.downsample = PatchMerging(dim, out_dim, stride) if out_dim else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        if self.downsample is None:
            return x
        merged: Tensor = self.downsample(x)
        return merged


class Block(nn.Module):
    """Windowed attention, a local convolution, and an MLP over (B, C, H, W)."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = Attention(dim, heads, window)
        self.mlp = Mlp(dim)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.local_conv(x)
        out: Tensor = x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out

    def _attend(self, x: Tensor) -> Tensor:
        windows = partition_windows(x, self.window)
        attended = self.attn(windows.flatten(1, 2)).view_as(windows)
        return join_windows(attended, self.window, (x.shape[1], x.shape[2]))


class Attention(nn.Module):
    """Attention within a window (B, N, C) with a learned bias per absolute offset."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        # Each head's q, k and v lie together, unlike in the plain ViT.
        qkv = self.qkv(self.norm(x)).view(b, n, self.heads, 3, c // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        bias = self.attention_biases[:, self._offsets()].to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(b, n, c))
        return projected

    def _offsets(self) -> Tensor:
        """(N, N) index of |dy|, |dx| between two tokens of a window."""
        index = torch.arange(self.window, device=self.attention_biases.device)
        y, x = torch.meshgrid(index, index, indexing="ij")
        dy = (y.flatten()[:, None] - y.flatten()[None]).abs()
        dx = (x.flatten()[:, None] - x.flatten()[None]).abs()
        return dy * self.window + dx


class Mlp(nn.Module):
    """Normalised two-layer MLP (..., C)."""

    def __init__(self, dim: int, expansion: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, dim * expansion)
        self.fc2 = nn.Linear(dim * expansion, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out
