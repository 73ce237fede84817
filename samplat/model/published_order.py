"""The paper's networks in the published code's order of operations, so that rounding is the same.

What is fast elsewhere is exact algebra, but sums in another order round otherwise, and a pixel
right at a mask's edge may fall on the other side. Where the same kernels run, these functions give
the published code's numbers bit by bit; they take its time too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from samplat.model.common import LayerNorm2d
from samplat.model.image_encoder import (
    Attention,
    Block,
    ImageEncoderViT,
    join_windows,
    partition_windows,
    relative_positions,
)
from samplat.model.mask_decoder import Draft, MaskDecoder
from samplat.model.sam import Sam
from samplat.model.transformer import Attention as TokenAttention
from samplat.model.transformer import TwoWayBlock

PROMPTS = 4
"""Prompts decoded at once: products of fewer are summed otherwise, those of more take longer."""
HEADS = 2
"""Heads of global attention at once: all of them need 0.8 GB several times over at 1024 x 1024."""


def has_published_order(sam: Sam) -> bool:
    """Whether it is a network of the published code."""
    encoder, decoder = type(sam.image_encoder), type(sam.mask_decoder)
    return encoder is ImageEncoderViT and decoder is MaskDecoder and sam.mask_refiner is None


def encode(sam: Sam, pixels: Tensor) -> Tensor:
    """The embedding (B, C, h, w) of preprocessed pixels (B, 3, S, S), fp32."""
    encoder = sam.image_encoder
    assert isinstance(encoder, ImageEncoderViT)  # noqa: S101
    # Channels stay first in memory, as the convolutions of the neck sum otherwise if they do not.
    x = encoder.patch_embed.proj(pixels).permute(0, 2, 3, 1) + encoder.pos_embed
    for block in encoder.blocks:
        x = _block(block, x)  # type: ignore[arg-type]
    return _in_turn(encoder.neck, x.permute(0, 3, 1, 2))


def _block(block: Block, x: Tensor) -> Tensor:
    normed, window, shape = block.norm1(x), block.window_size, (x.shape[1], x.shape[2])
    if window:
        parts = partition_windows(normed, window)
        attended = join_windows(_attend(block.attn, parts), window, shape)
    else:
        attended = _attend(block.attn, normed)
    x = x + attended
    changed: Tensor = x + block.mlp(block.norm2(x))
    return changed


def _attend(attention: Attention, x: Tensor) -> Tensor:
    b, h, w, _ = x.shape
    heads = attention.heads
    qkv = attention.qkv(x).reshape(b, h * w, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.reshape(3, b * heads, h * w, -1).unbind(0)
    rows = relative_positions(attention.rel_pos_h, h)
    columns = relative_positions(attention.rel_pos_w, w)
    scale, step = q.shape[-1] ** -0.5, len(q) if b > 1 else HEADS
    parts = []
    for i in range(0, len(q), step):
        some = slice(i, i + step)
        grid = q[some].reshape(-1, h, w, q.shape[-1])
        down = torch.einsum("bhwc,hkc->bhwk", grid, rows)
        across = torch.einsum("bhwc,wkc->bhwk", grid, columns)
        weights = ((q[some] * scale) @ k[some].transpose(-2, -1)).view(-1, h, w, h, w)
        weights = weights.add_(down[:, :, :, :, None]).add_(across[:, :, :, None, :])
        parts.append(weights.view(-1, h * w, h * w).softmax(dim=-1) @ v[some])
    out = torch.cat(parts).view(b, heads, h, w, -1).permute(0, 2, 3, 1, 4).reshape(b, h, w, -1)
    projected: Tensor = attention.proj(out)
    return projected


def decode(sam: Sam, embedding: Tensor, *, points: Tensor | None, labels: Tensor | None) -> Draft:
    """All four masks of PROMPTS or more points (P, K, 2) on one embedding (1, C, h, w)."""
    decoder = sam.mask_decoder
    sparse, dense = sam.prompt_encoder(embedding, points, labels, None, None)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
    tokens = torch.cat([own.unsqueeze(0).expand(len(sparse), -1, -1), sparse], dim=1)
    image = torch.repeat_interleave(embedding, len(tokens), dim=0) + dense
    place = torch.repeat_interleave(sam.prompt_encoder.dense_pe(), len(tokens), dim=0)
    hidden, keys = _transform(decoder, image, place, tokens)
    upscaled = _in_turn(decoder.output_upscaling, keys.transpose(1, 2).view(image.shape))
    outputs = hidden[:, 1 : 1 + decoder.mask_count]
    networks = decoder.output_hypernetworks_mlps
    weights = torch.stack([mlp(outputs[:, i]) for i, mlp in enumerate(networks)], dim=1)
    b, c, h, w = upscaled.shape
    masks = (weights @ upscaled.view(b, c, h * w)).view(b, -1, h, w)
    return Draft(masks, decoder.iou_prediction_head(hidden[:, 0]), outputs)


def _transform(
    decoder: MaskDecoder, image: Tensor, place: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    transformer = decoder.transformer
    keys, places = (part.flatten(2).permute(0, 2, 1) for part in (image, place))
    queries = tokens
    for layer in transformer.blocks:
        queries, keys = _two_way(layer, queries, keys, tokens, places)
    seen = _look(transformer.final_attn_token_to_image, queries + tokens, keys + places, keys)
    return transformer.norm_final_attn(queries + seen), keys


def _two_way(
    layer: TwoWayBlock, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
) -> tuple[Tensor, Tensor]:
    if layer.first:
        queries = _look(layer.self_attn, queries, queries, queries)
    else:
        placed = queries + query_pe
        queries = queries + _look(layer.self_attn, placed, placed, queries)
    queries = layer.norm1(queries)
    seen = _look(layer.cross_attn_token_to_image, queries + query_pe, keys + key_pe, keys)
    queries = layer.norm2(queries + seen)
    queries = layer.norm3(queries + layer.mlp(queries))
    answer = _look(layer.cross_attn_image_to_token, keys + key_pe, queries + query_pe, queries)
    return queries, layer.norm4(keys + answer)


def _look(attention: TokenAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = attention.q_proj(q), attention.k_proj(k), attention.v_proj(v)
    q, k, v = (x.reshape(*x.shape[:2], attention.heads, -1).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.permute(0, 1, 3, 2)) / math.sqrt(q.shape[-1])
    out = (weights.softmax(dim=-1) @ v).transpose(1, 2)
    merged: Tensor = attention.out_proj(out.reshape(*out.shape[:2], -1))
    return merged


def _in_turn(layers: nn.Module, x: Tensor) -> Tensor:
    """Layer by layer, with channels normalised step by step."""
    for layer in layers.children():
        x = _normalised(layer, x) if isinstance(layer, LayerNorm2d) else layer(x)
    return x


def _normalised(norm: LayerNorm2d, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    spread = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(spread + norm.eps)
    return norm.weight[:, None, None] * x + norm.bias[:, None, None]
