"""The mask decoder of the paper: three masks and a single one, each with a predicted IoU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samplat.model.common import MLP, AttentionBlock, LayerNorm2d
from samplat.model.transformer import TwoWayTransformer


class Draft(NamedTuple):
    """M masks of each of N prompts as the decoder makes them."""

    logits: Tensor
    """(N, M, h, w)."""
    iou: Tensor
    """(N, M) predicted IoU."""
    tokens: Tensor
    """(N, M, C): the output tokens that the masks were made from."""

    def take(self, masks: Tensor) -> Draft:
        """The masks (N, m), by number, of each prompt."""
        rows = torch.arange(len(masks), device=masks.device)[:, None]
        return Draft(*(part[rows, masks] for part in self))


class Asked(NamedTuple):
    """What the decoder knows of N prompts before it draws their masks."""

    iou: Tensor
    """(N, 4) predicted IoU of the masks, the single one first."""
    tokens: Tensor
    """(N, 4, C): the output tokens that masks are made from."""
    image: Any
    """Image tokens of each prompt, in the way of whoever draws: a tensor (N, h w, C), or an
    `ImageRows`."""

    def select(self, chosen: Tensor) -> Asked:
        """Some of the prompts, by index or where True."""
        image = self.image
        part = image[chosen] if isinstance(image, Tensor) else image.select(chosen)
        return Asked(self.iou[chosen], self.tokens[chosen], part)


class MaskDecoder(nn.Module):
    """Output tokens query the image; the MLP of a mask token gives a linear classifier's weights.

    Args:
        dim: channels of the embedding.
        multimask_outputs: masks returned for an ambiguous prompt.
    """

    def __init__(
        self, *, transformer: TwoWayTransformer, dim: int = 256, multimask_outputs: int = 3
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.mask_count = multimask_outputs + 1
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self.mask_count, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, dim // 8, 3) for _ in range(self.mask_count)
        )
        self.iou_prediction_head = MLP(dim, 256, self.mask_count, 3)

    @property
    def upscaling(self) -> tuple[nn.ConvTranspose2d, LayerNorm2d, nn.ConvTranspose2d]:
        """The layers of the paper's upscaling that have weights."""
        first, norm, _, second, _ = self.output_upscaling
        return first, norm, second  # type: ignore[return-value]

    def forward(
        self, features: tuple[Tensor, ...], image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> Draft:
        """Decode P prompts of each of B images, image by image in order.

        Args:
            features: the image embedding (B, C, h, w), then any finer features of the encoder.
            image_pe: (B or 1, C, h, w).
            sparse: (B · P, N, C) prompt tokens.
            dense: (B · P, C, h, w) dense prompt embedding.

        Returns:
            four masks (B · P, 4, H, W), the single mask first.
        """
        asked = self.ask(features, image_pe, sparse, dense)
        return Draft(self.draw(asked, features[1:]), asked.iou, asked.tokens)

    def ask(
        self, features: tuple[Tensor, ...], image_pe: Tensor, sparse: Tensor, dense: Tensor
    ) -> Asked:
        """All but the masks; arguments as of `forward`."""
        # One dtype for everything of the image's size: under autocast, sums of two would be fp32.
        dtype = features[0].dtype
        image = _per_prompt(features[0], len(sparse)) + dense.to(dtype)
        pe = _per_prompt(image_pe.to(dtype), len(sparse))
        hidden, keys = self.transformer(self._spread(image), pe, self.prompted(sparse))
        # not `transpose` and `reshape`: channels are last in memory then, but torch does not see it
        return self.judged(hidden, keys.unflatten(1, dense.shape[2:]).permute(0, 3, 1, 2))

    def prompted(self, sparse: Tensor) -> Tensor:
        """Output tokens followed by prompt tokens (P, N, C)."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        return torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)

    def judged(self, hidden: Tensor, image: Any) -> Asked:
        """What the decoded tokens (P, 1 + masks or more, C) say."""
        tokens = hidden[:, 1 : 1 + self.mask_count]
        return Asked(self.iou_prediction_head(hidden[:, 0]), tokens, image)

    def draw(self, asked: Asked, fine: tuple[Tensor, ...], outputs: slice = slice(None)) -> Tensor:
        """Masks (P, M, H, W) of prompts that were asked for: those of the four in `outputs`."""
        upscaled = self._upscale(asked.image, fine)
        masks = self.mask_weights(asked.tokens, outputs) @ upscaled.flatten(2)
        return masks.reshape(*masks.shape[:2], *upscaled.shape[-2:])

    def mask_weights(self, tokens: Tensor, outputs: slice) -> Tensor:
        """Linear classifiers (P, M, c) of mask tokens (P, 4, C)."""
        pairs = zip(self.output_hypernetworks_mlps, tokens.unbind(1), strict=True)
        return torch.stack([mlp(token) for mlp, token in list(pairs)[outputs]], dim=1)

    def _spread(self, prompted: Tensor) -> Tensor:
        return prompted

    def _upscale(self, keys: Tensor, fine: tuple[Tensor, ...]) -> Tensor:
        upscaled: Tensor = self.output_upscaling(keys)
        return upscaled


class FineMaskDecoder(MaskDecoder):
    """A mask decoder that spreads prompts over the picture and adds finer features.

    Before and after the two-way transformer, image cells attend to each other for each prompt: the
    paper's image cells only meet through the few prompt tokens. Edges come from features at the
    mask's own resolution (as in HQ-SAM and SAM 2) instead of having to fit into the embedding,
    which can then be narrow.

    Args:
        fine_channels: channels of the encoder's features at twice the embedding's resolution.
    """

    def __init__(
        self,
        *,
        transformer: TwoWayTransformer,
        dim: int = 128,
        fine_channels: int = 32,
        multimask_outputs: int = 3,
    ) -> None:
        super().__init__(transformer=transformer, dim=dim, multimask_outputs=multimask_outputs)
        self.spread = CoarseAttention(dim)
        self.settle = CoarseAttention(dim)
        self.output_upscaling = nn.ConvTranspose2d(dim, fine_channels, 2, stride=2)  # type: ignore[assignment]
        self.fine_norm = LayerNorm2d(fine_channels)
        self.fine_mix = nn.Conv2d(fine_channels, fine_channels, 1)
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, dim, fine_channels, 3) for _ in range(self.mask_count)
        )

    def _spread(self, prompted: Tensor) -> Tensor:
        spread: Tensor = self.spread(prompted)
        return spread

    def _upscale(self, keys: Tensor, fine: tuple[Tensor, ...]) -> Tensor:
        merged = self.output_upscaling(self.settle(keys)) + _per_prompt(fine[0], len(keys))
        mixed: Tensor = self.fine_mix(F.gelu(self.fine_norm(merged)))
        return mixed


class CoarseAttention(nn.Module):
    """Attention among the cells of (B, C, H, W) at a quarter of the resolution, added to it."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.block = AttentionBlock(channels, heads)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.out(self.block(F.avg_pool2d(x, 4)))
        return x + F.interpolate(coarse, size=x.shape[-2:], mode="bilinear")


def _per_prompt(x: Tensor, prompts: int) -> Tensor:
    """(B, ...) as (prompts, ...): each image's entry once for each of its prompts."""
    if len(x) == 1:
        return x.expand(prompts, *x.shape[1:])
    # Channels last throughout: rows of tokens and pixels are then the same memory.
    rows = x.permute(0, 2, 3, 1).repeat_interleave(prompts // len(x), dim=0)
    return rows.permute(0, 3, 1, 2)
