"""The mask decoder's work on an image that all prompts of it share, done once.

Only seven or so tokens differ between the prompts of an image, and what they add to the image
tokens is of low rank: an attention's output is a sum of (heads x tokens) vectors. So the image
tokens of a prompt are

    scale * shared + coefficients^T rows + constant

and need not be formed. `shared` (C, N) belongs to the image: what the decoder's linear layers make
of it is computed here, and for each prompt they are applied to the few rows (`shared_decoding`). A
layer normalisation of the sum is centred parts and a new scale, whose variance follows from the
products of parts. Only the order of sums differs from `TwoWayTransformer`, whose weights are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from samplat.model.mask_decoder import MaskDecoder
from samplat.model.transformer import Attention, TwoWayBlock


class Projection(NamedTuple):
    """What a linear layer makes of image tokens that are placed, per head (H, d, N)."""

    moving: Tensor
    """Of the shared tokens: counts times the prompts' scale."""
    still: Tensor | None
    """Of positions and constant; None where there is no scale yet: `moving` is the sum then."""


class View(NamedTuple):
    """Image tokens as an attention of the prompts' tokens sees them."""

    keys: Projection
    """What queries are compared with."""
    values: Tensor
    """(H, d, N) of the shared tokens alone."""
    constant: Tensor
    """(C,) of the image tokens."""


class Level(NamedTuple):
    """Image tokens as a layer of the transformer lets them take of the prompts' tokens."""

    queries: Projection
    """What the keys of the prompts' tokens are compared with."""
    added: Tensor | None
    """(C,) what is added to all image tokens; None where it is in the shared ones."""
    lengths: Tensor
    """(1, N) of the shared tokens, centred, squared; fp32."""
    products: tuple[Tensor, ...]
    """Of these with the rows that the layers so far add, in order: maps (H, d, N) for the values of
    those rows, (1, N) for a row that is constant."""


@dataclass(frozen=True, kw_only=True)
class SharedImage:
    """One image as a mask decoder sees it, ready for prompts without mask prompts."""

    decoder: MaskDecoder
    """Whose weights are used."""
    views: tuple[View, ...]
    """One for each attention of the prompts' tokens to the image."""
    levels: tuple[Level, ...]
    """One for each attention of the image to the prompts' tokens, after the view of its number."""
    upscaled: Tensor
    """(N, 4 c): what the first upscaling layer makes of the shared tokens at the end."""
    upscaled_constant: Tensor
    """(4 c,): and of the constant."""
    size: tuple[int, int]
    """Rows and columns of image tokens."""

    @classmethod
    @torch.inference_mode()
    def of(cls, decoder: MaskDecoder, image: Tensor, pe: Tensor) -> SharedImage:
        """Prepare an image.

        Args:
            decoder: the paper's.
            image: (1, C, h, w) embedding with the dense embedding of no mask added. Maps are kept
                in its type.
            pe: (1, C, h, w) positional encoding.
        """
        with torch.autocast(image.device.type, enabled=False):
            return _prepared(cls, decoder, image, pe)

    def pays(self, sparse: Tensor) -> bool:
        """Whether prompts of so many tokens (P, K, C) are less work this way."""
        tokens = 1 + self.decoder.mask_count + sparse.shape[1]
        return tokens * self.decoder.transformer.final_attn_token_to_image.heads <= sparse.shape[2]


def _prepared(
    cls: type[SharedImage], decoder: MaskDecoder, image: Tensor, pe: Tensor
) -> SharedImage:
    dtype, transformer = image.dtype, decoder.transformer
    shared, place = image.float().flatten(2)[0], pe.float().flatten(2)[0]
    constant = shared.new_zeros(len(shared))
    views = [_first_view(transformer.blocks[0], shared, place, dtype)]
    levels: list[Level] = []
    adders: list[Tensor] = []  # (rows, C) by which the layers so far add to image tokens
    lookers = [layer.cross_attn_token_to_image for layer in transformer.blocks[1:]]
    lookers.append(transformer.final_attn_token_to_image)
    for layer, looker in zip(transformer.blocks, lookers, strict=True):
        answering = layer.cross_attn_image_to_token
        queries = _projection(answering, answering.q_proj, shared, place, constant, dtype)
        offset = constant + answering.out_proj.bias
        adders.append(answering.out_proj.weight.T)
        if levels:
            adders.append(offset[None])
        else:  # still the same for all prompts
            queries = _first_projection(queries)
            shared = shared + offset[:, None]
        added = offset if levels else None
        shared, adders = centred(shared, 0), [centred(each, 1) for each in adders]
        lengths = shared.square().sum(dim=0, keepdim=True)
        products = tuple(_product(answering, each @ shared, dtype) for each in adders)
        levels.append(Level(queries, added, lengths, products))
        weight, constant = layer.norm4.weight, layer.norm4.bias
        shared, adders = weight[:, None] * shared, [weight * each for each in adders]
        keys = _projection(looker, looker.k_proj, shared, place, constant, dtype)
        values = _by_head(looker, looker.v_proj.weight @ shared, dtype)
        views.append(View(keys, values, constant))
    first = decoder.upscaling[0]
    return cls(
        decoder=decoder,
        views=tuple(views),
        levels=tuple(levels),
        upscaled=(shared.T @ upscaling(first)).to(dtype),
        upscaled_constant=(constant @ upscaling(first) + upscaling_bias(first)).to(dtype),
        size=(image.shape[-2], image.shape[-1]),
    )


def _first_view(layer: TwoWayBlock, shared: Tensor, place: Tensor, dtype: torch.dtype) -> View:
    """What is the same for all prompts, for fused attention: channels along memory."""
    looker = layer.cross_attn_token_to_image
    keys = looker.k_proj.weight @ (shared + place) + looker.k_proj.bias[:, None]
    keys, values = (
        _by_head(looker, part, dtype).mT.contiguous().mT
        for part in (keys, looker.v_proj.weight @ shared)
    )
    return View(Projection(keys, None), values, shared.new_zeros(len(shared)))


def _projection(
    attention: Attention,
    linear: nn.Linear,
    shared: Tensor,
    place: Tensor,
    constant: Tensor,
    dtype: torch.dtype,
) -> Projection:
    still = linear.weight @ (place + constant[:, None]) + linear.bias[:, None]
    return Projection(
        _by_head(attention, linear.weight @ shared, dtype), _by_head(attention, still, dtype)
    )


def _first_projection(parts: Projection) -> Projection:
    """Of tokens that no prompt has changed: the two parts together."""
    return parts if parts.still is None else Projection(parts.moving + parts.still, None)


def _product(attention: Attention, x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if len(x) == 1 else _by_head(attention, x, dtype)


def _by_head(attention: Attention, x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.view(attention.heads, -1, x.shape[-1]).to(dtype)


def centred(x: Tensor, dim: int) -> Tensor:
    """Less its mean along an axis."""
    return x - x.mean(dim=dim, keepdim=True)


def upscaling(layer: nn.ConvTranspose2d) -> Tensor:
    """Weights of a 2 x 2 upscaling as a matrix (C, 4 c): four cells of c channels."""
    return layer.weight.permute(0, 2, 3, 1).flatten(1)


def upscaling_bias(layer: nn.ConvTranspose2d) -> Tensor:
    """Its bias (4 c,)."""
    return layer.get_parameter("bias").repeat(4)
