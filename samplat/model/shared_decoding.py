"""Prompts decoded on a `SharedImage`: the same as `MaskDecoder`, with far less work on the image.

Maps of the image are (..., channels, tokens), so that both softmaxes run along memory.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samplat.model.mask_decoder import Asked
from samplat.model.shared_image import (
    Level,
    Projection,
    SharedImage,
    View,
    centred,
    upscaling,
    upscaling_bias,
)
from samplat.model.transformer import Attention, TwoWayBlock

STRIP = 2**19
"""Values that are upscaled at once on a CPU, so that they stay in its cache."""


class ImageRows(NamedTuple):
    """Image tokens of P prompts, before the constant."""

    scale: Tensor
    """(P, 1, N) of the shared tokens."""
    coefficients: Tensor
    """(P, R, N) of the rows."""
    rows: Tensor
    """(P, R, C), fp32."""

    def select(self, chosen: Tensor) -> ImageRows:
        """The tokens of some prompts."""
        return ImageRows(*(part[chosen] for part in self))


def ask(shared: SharedImage, sparse: Tensor) -> Asked:
    """Tokens and predicted IoU for P prompts (P, K, C); as `MaskDecoder.ask`."""
    with torch.autocast(sparse.device.type, enabled=False):
        return _ask(shared, sparse.float())


def _ask(shared: SharedImage, sparse: Tensor) -> Asked:
    decoder, transformer = shared.decoder, shared.decoder.transformer
    start = decoder.prompted(sparse)
    tokens, image = start, None
    values: list[Tensor | None] = []
    for layer, view, level in zip(transformer.blocks, shared.views, shared.levels, strict=False):
        tokens = layer.look_at_tokens(tokens, start)
        seen = _look(layer.cross_attn_token_to_image, tokens + start, view, image)
        tokens = layer.take_in(tokens, seen)
        image = _answered(layer, tokens, start, level, image, values)
    # The prompts' own tokens have done their part.
    tokens, start = (part[:, : 1 + decoder.mask_count] for part in (tokens, start))
    looker = transformer.final_attn_token_to_image
    seen = _look(looker, tokens + start, shared.views[-1], image)
    return decoder.judged(transformer.norm_final_attn(tokens + seen), image)


def _look(attention: Attention, x: Tensor, view: View, image: ImageRows | None) -> Tensor:
    """What prompts' tokens (P, T, C) see of the image: (P, T, C)."""
    query = _split(attention.q_proj(x), attention.heads)
    p, h, t, d = query.shape
    bias = attention.v_proj.bias.view(h, 1, d)
    if image is None:
        return _merged(attention, _look_at_shared(query, view) + bias)
    shares = _scores(attention.k_proj, query, view.keys, image).softmax(dim=-1)
    own = (shares @ image.coefficients.mT).float() @ image.rows + view.constant
    value = attention.v_proj.weight.view(h, d, -1).mT
    seen = _from_image(shares * image.scale, view.values) + own.view(p, h, t, -1) @ value
    return _merged(attention, seen + bias)


def _look_at_shared(query: Tensor, view: View) -> Tensor:
    """All prompts' tokens in one attention, as long as the image is one to all: (P, H, T, d)."""
    p, h, t, d = query.shape
    folded = query.transpose(0, 1).reshape(1, h, p * t, d).to(view.values.dtype)
    keys, values = view.keys.moving.mT[None], view.values.mT[None]
    seen = F.scaled_dot_product_attention(folded, keys, values)
    return seen.view(h, p, t, d).transpose(0, 1).float()


def _scores(linear: nn.Linear, x: Tensor, maps: Projection, image: ImageRows | None) -> Tensor:
    """Products of vectors (P, H, T, d) / root of d with projected image tokens: (P, H T, N)."""
    p, h, t, d = x.shape
    x = x / math.sqrt(d)
    moving = _on_image(x, maps.moving)
    if image is None or maps.still is None:
        return moving
    scores = torch.addcmul(_on_image(x, maps.still), moving, image.scale)
    wide = (x @ linear.weight.view(h, d, -1)).view(p, h * t, -1)
    return scores.baddbmm_((wide @ image.rows.mT).to(scores.dtype), image.coefficients)


def _answered(
    layer: TwoWayBlock,
    tokens: Tensor,
    start: Tensor,
    level: Level,
    image: ImageRows | None,
    values: list[Tensor | None],
) -> ImageRows:
    """Image tokens with what they take of prompts' tokens (P, T, C), normalised.

    Args:
        layer: whose second attention it is.
        tokens: of the prompts.
        start: these at first, their places.
        level: of the image.
        image: its tokens before.
        values: (P, H, T, d) that all rows so far come from, in order, and None for constant rows;
            those of this layer are appended.
    """
    attention = layer.cross_attn_image_to_token
    keys = _split(attention.k_proj(tokens + start), attention.heads)
    value = _split(attention.v_proj(tokens), attention.heads)
    p, h, t, d = value.shape
    scores = _scores(attention.q_proj, keys, level.queries, image)
    coefficients = [scores.view(p, h, t, -1).softmax(dim=2).view_as(scores)]
    rows = [(value @ attention.out_proj.weight.mT.view(h, d, -1)).view(p, h * t, -1)]
    values.append(value)
    if level.added is not None:
        coefficients.append(torch.ones_like(scores[:, :1]))
        rows.append(level.added.expand(p, 1, -1))
        values.append(None)
    if image is not None:
        coefficients.insert(0, image.coefficients)
        rows.insert(0, image.rows)
    whole = ImageRows(
        scale=torch.ones_like(scores[:, :1]) if image is None else image.scale,
        coefficients=torch.cat(coefficients, dim=1),
        rows=centred(torch.cat(rows, dim=1), 2),
    )
    return _normalised(layer.norm4, level, whole, values)


def _normalised(
    norm: nn.LayerNorm, level: Level, image: ImageRows, values: list[Tensor | None]
) -> ImageRows:
    """Layer normalisation of centred image tokens, but for its constant.

    The squared length of scale * shared + coefficients^T rows is that of its parts and their
    product; `values` are those of the rows.
    """
    scale, coefficients, rows = image
    products = [
        maps.expand(len(rows), -1, -1) if v is None else _on_image(v, maps)
        for v, maps in zip(values, level.products, strict=True)
    ]
    cross = torch.cat(products, dim=1).mul_(2 * scale)
    own = cross.baddbmm_((rows @ rows.mT).to(cross.dtype), coefficients).mul_(coefficients)
    square = level.lengths * scale.float().square()
    square = (square + own.sum(dim=1, keepdim=True, dtype=torch.float32)).clamp_min(0)
    factor = (square / rows.shape[2] + norm.eps).rsqrt().to(scale.dtype)
    return ImageRows(scale * factor, coefficients.mul_(factor), rows * norm.weight)


def draw(shared: SharedImage, asked: Asked, outputs: slice) -> Tensor:
    """Masks of prompts that were asked for; as `MaskDecoder.draw`."""
    with torch.autocast(asked.tokens.device.type, enabled=False):
        image: ImageRows = asked.image
        weights = shared.decoder.mask_weights(asked.tokens, outputs).to(shared.upscaled.dtype)
        wide = (image.rows @ upscaling(shared.decoder.upscaling[0])).to(weights.dtype)
        h, w = shared.size
        masks = weights.new_empty(*weights.shape[:2], h, 2, 2, w, 2, 2)
        rows = h if wide.is_cuda else max(1, STRIP // (wide.shape[2] * w * max(1, len(wide))))
        for i in range(0, h, rows):
            some = min(rows, h - i)
            drawn = _drawn(shared, image, slice(i * w, (i + some) * w), wide, weights)
            parts = drawn.view(len(masks), some, w, 2, 2, 2, 2, weights.shape[1])
            masks[:, :, i : i + some] = parts.permute(0, 7, 1, 3, 5, 2, 4, 6)
        return masks.view(*weights.shape[:2], 4 * h, 4 * w)


def _drawn(
    shared: SharedImage, image: ImageRows, cells: slice, wide: Tensor, weights: Tensor
) -> Tensor:
    """Masks (P, n, 16 M) on n image tokens, each of which is 2 x 2 cells of 2 x 2 pixels."""
    dtype, n = wide.dtype, cells.stop - cells.start
    _, norm, second = shared.decoder.upscaling
    scale, coefficients = (part[..., cells].mT for part in (image.scale, image.coefficients))
    x = torch.addcmul(shared.upscaled_constant, shared.upscaled[cells], scale)
    x = x.baddbmm_(coefficients, wide).view(-1, n, 4, len(norm.weight))
    x = F.layer_norm(x, norm.weight.shape, norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
    x = F.linear(F.gelu(x), upscaling(second).mT.to(dtype), upscaling_bias(second).to(dtype))
    x = F.gelu(x).view(-1, 16 * n, weights.shape[2]) @ weights.mT
    return x.view(-1, n, 16 * weights.shape[1])


def _split(x: Tensor, heads: int) -> Tensor:
    """(P, T, I) to (P, H, T, d)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _merged(attention: Attention, x: Tensor) -> Tensor:
    """Heads (P, H, T, d) put together: (P, T, C)."""
    merged: Tensor = attention.out_proj(x.transpose(1, 2).flatten(2))
    return merged


def _on_image(x: Tensor, maps: Tensor) -> Tensor:
    """Vectors (P, H, T, d) times maps (H, d, N): (P, H T, N)."""
    p, h, t, d = x.shape
    columns = x.transpose(0, 1).reshape(h, p * t, d).to(maps.dtype) @ maps
    return columns.view(h, p, t, -1).transpose(0, 1).reshape(p, h * t, -1)


def _from_image(shares: Tensor, maps: Tensor) -> Tensor:
    """Sums of maps (H, d, N) by shares (P, H T, N): (P, H, T, d), fp32."""
    p, h = len(shares), len(maps)
    rows = shares.view(p, h, -1, shares.shape[-1]).transpose(0, 1)
    sums = rows.reshape(h, -1, shares.shape[-1]) @ maps.mT
    return sums.view(h, p, -1, sums.shape[-1]).transpose(0, 1).float()
