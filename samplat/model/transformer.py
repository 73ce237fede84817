"""The two-way transformer of the mask decoder (paper, appendix A, "Lightweight mask decoder")."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from samplat.model.common import MLPBlock


class TwoWayTransformer(nn.Module):
    """Prompt tokens and image tokens attend to each other, `depth` times."""

    def __init__(self, *, depth: int = 2, dim: int = 256, heads: int = 8, mlp_dim: int = 2048):
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(dim, heads, mlp_dim, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    @property
    def blocks(self) -> list[TwoWayBlock]:
        """The layers, from first to last."""
        return [layer for layer in self.layers if isinstance(layer, TwoWayBlock)]

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            image: (B, C, H, W) embedding with the dense prompt added.
            image_pe: (B or 1, C, H, W) positional encoding.
            tokens: (B, N, C) output tokens and sparse prompts.

        Returns:
            tokens (B, N, C) and image tokens (B, H · W, C).
        """
        keys = image.flatten(2).transpose(1, 2)
        # Rows of channels as those of the image: sums of unlike layouts take thirty times as long.
        key_pe = image_pe.flatten(2).transpose(1, 2).contiguous()
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe)
        attended = self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys)
        return self.norm_final_attn(queries + attended), keys


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, MLP, image to tokens."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, downsample=2)

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        queries, placed = self.look_at_tokens(queries, query_pe), keys + key_pe
        attended = self.cross_attn_token_to_image(queries + query_pe, placed, keys)
        queries = self.take_in(queries, attended)
        attended = self.cross_attn_image_to_token(placed, queries + query_pe, queries)
        return queries, self.norm4(keys + attended)

    def look_at_tokens(self, queries: Tensor, query_pe: Tensor) -> Tensor:
        """Tokens after attention among themselves."""
        attended: Tensor = self.norm1(self._self_attend(queries, query_pe))
        return attended

    def take_in(self, queries: Tensor, attended: Tensor) -> Tensor:
        """Tokens after what they saw of the image, and the MLP."""
        queries = self.norm2(queries + attended)
        changed: Tensor = self.norm3(queries + self.mlp(queries))
        return changed

    def _self_attend(self, queries: Tensor, query_pe: Tensor) -> Tensor:
        # In the first block the tokens *are* their positions: no residual, nothing added.
        if self.first:
            attended: Tensor = self.self_attn(queries, queries, queries)
            return attended
        placed = queries + query_pe
        out: Tensor = queries + self.self_attn(placed, placed, queries)
        return out


class Attention(nn.Module):
    """Multi-head attention whose inner width is the outer one divided by `downsample`."""

    def __init__(self, dim: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        split = self._split
        out = F.scaled_dot_product_attention(
            split(self.q_proj(q)), split(self.k_proj(k)), split(self.v_proj(v))
        )
        merged: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        return x.view(b, n, self.heads, c // self.heads).transpose(1, 2)
