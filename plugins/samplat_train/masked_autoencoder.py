"""A masked autoencoder around the plain ViT encoder (He et al. 2022, arXiv 2111.06377).

The paper starts from encoders that were pretrained this way (section 3, "Image encoder"). Windows
and masks do not mix: of a window of tokens, a random quarter is left. So, as ViTDet does (Li et al.
2022, arXiv 2203.16527), the encoder is pretrained as a plain ViT, all attention global among the
visible tokens and all positions absolute; windows and relative positions come with the
transplantation into Segment Anything (`transplant`).

Parameters of the encoder have the names of the official checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samplat import BUILDERS, InputError, Sam

PATCH_EPSILON = 1e-6
"""Added to the variance of a patch: a flat one has none."""


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """The size of a plain ViT."""

    dim: int
    """Channels of a token."""
    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads of a block."""
    patch: int
    """Side of a token's patch in pixels."""


def hollow_sam(architecture: str) -> Sam:
    """A network of an architecture that holds no weights, only shapes and pixel statistics.

    Raises:
        InputError: unknown, or its encoder is no plain ViT.
    """
    if architecture not in BUILDERS:
        raise InputError(f"architecture must be one of {', '.join(BUILDERS)}, got {architecture!r}")
    with torch.device("meta"):
        sam = BUILDERS[architecture](image_size=64)
    if not is_plain_vit(sam.image_encoder):
        raise InputError(
            f"masked pretraining needs a plain ViT encoder, {architecture} has none: "
            "choose vit_b, vit_l or vit_h"
        )
    # Put together again, so that the statistics of pixels are real.
    return Sam(sam.image_encoder, sam.prompt_encoder, sam.mask_decoder, image_size=64)


def is_plain_vit(encoder: nn.Module) -> bool:
    """Whether an image encoder is one of the paper's."""
    return all(hasattr(encoder, name) for name in ("patch_embed", "pos_embed", "blocks", "neck"))


def shape_of(encoder: nn.Module) -> EncoderShape:
    """The shape of a plain ViT encoder."""
    dim, _, patch, _ = encoder.get_parameter("patch_embed.proj.weight").shape
    return EncoderShape(
        dim=dim,
        depth=len(list(encoder.get_submodule("blocks").children())),
        heads=int(encoder.get_submodule("blocks.0.attn").heads),  # type: ignore[arg-type]
        patch=patch,
    )


class MaskedAutoencoder(nn.Module):
    """Encoder of the visible patches, light decoder of all.

    Args:
        sam: a network, possibly a hollow one, that tells shapes and pixel statistics.
        image_size: side of the square input in pixels; a multiple of the patch.
        mask_share: share of the patches that the encoder does not see.
        decoder_dim, decoder_depth, decoder_heads: size of the decoder, by default the method's.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        sam: Sam,
        *,
        image_size: int,
        mask_share: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
    ) -> None:
        super().__init__()
        shape = shape_of(sam.image_encoder)
        side = tokens_along(image_size, shape.patch)
        self.patch = shape.patch
        self.tokens = side**2
        self.kept = kept_tokens(self.tokens, mask_share)
        self.encoder = PlainEncoder(shape, side)
        self.decoder = Decoder(
            shape, side, dim=decoder_dim, depth=decoder_depth, heads=decoder_heads
        )
        self.register_buffer("pixel_mean", sam.pixel_mean.clone(), persistent=False)
        self.register_buffer("pixel_std", sam.pixel_std.clone(), persistent=False)
        self.apply(_initialise)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels 0..255 (B, 3, S, S) as the encoder gets them, here and in Segment Anything."""
        return (pixels.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """Predict all patches from the visible ones.

        Args:
            x: (B, 3, S, S) normalised pixels.
            order: (B, N) a permutation of the patches for each image; its first `kept` are visible.

        Returns:
            (B, N, patch · patch · 3) pixels of every patch, normalised patch by patch.
        """
        seen: Tensor = self.encoder(x, order[:, : self.kept])
        out: Tensor = self.decoder(seen, order)
        return out

    def masked(self, order: Tensor) -> Tensor:
        """(B, N) bool. True: the encoder does not see the patch."""
        return torch.ones_like(order, dtype=torch.bool).scatter(1, order[:, : self.kept], False)

    def loss(self, x: Tensor, order: Tensor) -> Tensor:
        """Mean squared error on masked patches; 1 is what predicting each patch's mean gives."""
        return reconstruction_loss(self(x, order), patchify(x, self.patch), self.masked(order))


class PlainEncoder(nn.Module):
    """The encoder of Segment Anything without windows, relative positions and neck."""

    pos_embed: Tensor

    def __init__(self, shape: EncoderShape, side: int) -> None:
        super().__init__()
        projection = nn.Conv2d(3, shape.dim, shape.patch, stride=shape.patch)
        self.patch_embed = nn.ModuleDict({"proj": projection})
        self.register_buffer("pos_embed", sine_positions(side, shape.dim))
        self.blocks = nn.ModuleList(PlainBlock(shape.dim, shape.heads) for _ in range(shape.depth))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Tokens of some patches.

        Args:
            x: (B, 3, S, S) normalised pixels.
            visible: (B, K) indices of patches, row by row; all without it.

        Returns:
            (B, K, C) in the order of `visible`.
        """
        tokens = self.patch_embed["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed.flatten(
            1, 2
        )
        if visible is not None:
            tokens = pick(tokens, visible)
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = tokens
        return out


class Decoder(nn.Module):
    """Fills the masked places with one learned token and predicts pixels; thrown away later."""

    positions: Tensor

    def __init__(self, shape: EncoderShape, side: int, *, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        # Segment Anything's neck takes tokens as they are, so the last norm belongs to the decoder.
        self.norm_in = nn.LayerNorm(shape.dim, eps=1e-6)
        self.embed = nn.Linear(shape.dim, dim)
        self.mask_token = nn.Parameter(0.02 * torch.randn(dim))
        self.register_buffer("positions", sine_positions(side, dim).flatten(1, 2), persistent=False)
        self.blocks = nn.ModuleList(PlainBlock(dim, heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, 3 * shape.patch**2)

    def forward(self, seen: Tensor, order: Tensor) -> Tensor:
        """Visible tokens (B, K, C), the first K of `order` (B, N), to pixels (B, N, P · P · 3)."""
        tokens = self.embed(self.norm_in(seen))
        missing = order.shape[1] - tokens.shape[1]
        blanks = self.mask_token.to(tokens.dtype).expand(len(tokens), missing, -1)
        tokens = put_back(torch.cat([tokens, blanks], dim=1), order) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.head(self.norm_out(tokens))
        return out


class PlainBlock(nn.Module):
    """Transformer block (B, N, C) with global attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.ModuleDict({"lin1": nn.Linear(dim, 4 * dim), "lin2": nn.Linear(4 * dim, dim)})

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then transform each token."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp["lin2"](F.gelu(self.mlp["lin1"](self.norm2(x))))
        return out


class PlainAttention(nn.Module):
    """Multi-head attention over (B, N, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Every token looks at every other one."""
        b, n, c = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(*qkv.unbind(0))
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(b, n, c))
        return projected


def reconstruction_loss(prediction: Tensor, target: Tensor, masked: Tensor) -> Tensor:
    """Mean squared error per pixel of the masked patches, each normalised by itself.

    Args:
        prediction: (B, N, D) normalised pixels of patches.
        target: (B, N, D) pixels of patches.
        masked: (B, N) bool. True: the patch counts.

    Returns:
        a scalar in fp32 (section 3, "Reconstruction target").
    """
    mean, deviation = patch_statistics(target.float())
    error = (prediction.float() - (target.float() - mean) / deviation).square().mean(dim=-1)
    return error[masked].mean()


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, N, 1) of the values of each patch (B, N, D)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + PATCH_EPSILON).sqrt()


def patchify(x: Tensor, patch: int) -> Tensor:
    """Images (B, 3, H, W) to patches (B, H / patch · W / patch, patch · patch · 3), row by row."""
    b, c, h, w = x.shape
    grid = x.view(b, c, h // patch, patch, w // patch, patch).permute(0, 2, 4, 3, 5, 1)
    return grid.reshape(b, -1, patch * patch * c)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """The inverse of `patchify` for square images."""
    b, n, d = patches.shape
    side = round(n**0.5)
    grid = patches.view(b, side, side, patch, patch, d // patch**2).permute(0, 5, 1, 3, 2, 4)
    return grid.reshape(b, -1, side * patch, side * patch)


def random_order(images: int, tokens: int, generator: torch.Generator) -> Tensor:
    """(images, tokens): a random permutation of the tokens for each image."""
    return torch.rand(images, tokens, generator=generator).argsort(dim=1)


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Of tokens (B, N, C) those of an index (B, K), in its order."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def put_back(tokens: Tensor, order: Tensor) -> Tensor:
    """The inverse of `pick` for a permutation: token i of the result was at `order == i`."""
    return pick(tokens, order.argsort(dim=1))


def sine_positions(side: int, dim: int) -> Tensor:
    """(1, side, side, dim) fixed positions: sines and cosines of the column, then of the row."""
    if dim % 4:
        raise InputError(f"positions need a width that is a multiple of 4, got {dim}")
    frequencies = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1).float()
    columns, rows = waves.expand(side, -1, -1), waves[:, None].expand(-1, side, -1)
    return torch.cat([columns, rows], dim=-1)[None]


def tokens_along(image_size: int, patch: int) -> int:
    """Tokens along a side of the input.

    Raises:
        InputError: patches do not tile it, or there are fewer than four.
    """
    if image_size % patch or image_size < 2 * patch:
        raise InputError(
            f"image_size must be a multiple of {patch}, at least {2 * patch}, got {image_size}"
        )
    return image_size // patch


def kept_tokens(tokens: int, mask_share: float) -> int:
    """How many tokens stay visible: at least one, and not all.

    Raises:
        InputError: `mask_share` is not between 0 and 1.
    """
    if not 0 < mask_share < 1:
        raise InputError(f"mask_share must lie between 0 and 1, got {mask_share}")
    return min(tokens - 1, max(1, int(tokens * (1 - mask_share) + 0.5)))


def _initialise(module: nn.Module) -> None:
    """Xavier's weights (appendix A.1 there); the patch projection counts as a linear layer."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.data.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
