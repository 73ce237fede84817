"""Segment Anything: image encoder, prompt encoder and mask decoder put together."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samplat.model import shared_decoding
from samplat.model.conv_encoder import ConvImageEncoder
from samplat.model.guided_prompt_encoder import GuidedPromptEncoder
from samplat.model.image_encoder import ImageEncoderViT
from samplat.model.last_cut import last_cut, worth_cutting
from samplat.model.mask_decoder import Asked, Draft, FineMaskDecoder, MaskDecoder
from samplat.model.mask_refiner import MaskRefiner, Refined
from samplat.model.prompt_encoder import PromptEncoder
from samplat.model.shared_image import SharedImage
from samplat.model.tiny_vit import TinyViT
from samplat.model.transformer import TwoWayTransformer
from samplat.model.windows import Prompted, Windows


class Sam(nn.Module):
    """The three networks, the normalisation of pixels, and a second look at masks if there is one.

    Args:
        image_size: side of the input in pixels for a square picture.
        frame_size: side of the square that holds the input of any picture, in pixels: what
            coordinates and mask logits refer to. `image_size` unless given.
        mask_stride: pixels of the input per pixel of the mask logits.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        *,
        image_size: int,
        frame_size: int | None = None,
        mask_stride: int = 4,
        mask_refiner: MaskRefiner | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.mask_refiner = mask_refiner
        self.image_size = image_size
        self.frame_size = frame_size or image_size
        self.mask_stride = mask_stride
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        self.register_buffer("pixel_mean", mean.view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", std.view(3, 1, 1), persistent=False)

    @property
    def mask_input_size(self) -> tuple[int, int]:
        """Height and width of mask logits, as they come out and as they go in as a prompt."""
        side = self.frame_size // self.mask_stride
        return (side, side)

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns at which the model sees a picture; see `input_scale`."""
        scale = input_scale((height, width), self.image_size, self.frame_size)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    @property
    def input_multiple(self) -> int:
        """What both sides of the encoder's input are multiples of: `image_size` if it is fixed."""
        return int(getattr(self.image_encoder, "input_multiple", self.image_size))

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Normalise pixels 0..255 (B, 3, h, w) and pad them to what the encoder takes.

        That is the square input, filled up with 0 as in the paper, or the next multiples of
        `input_multiple`, filled up with the last row and column: less to compute, and nothing that
        looks like an edge of the picture.
        """
        h, w = pixels.shape[-2:]
        fixed = self.input_multiple == self.image_size
        margin = (0, -w % self.input_multiple, 0, -h % self.input_multiple)
        return F.pad(self.normalise(pixels), margin, mode="constant" if fixed else "replicate")

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels 0..255 (B, 3, h, w) with the training data's mean 0 and standard deviation 1."""
        return (pixels.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std

    def encode(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Features of pixels 0..255 (B, 3, h, w), h and w at most `frame_size`.

        Returns:
            the embedding (B, C, H, W), then finer features where the encoder has them.
        """
        features: tuple[Tensor, ...] = self.image_encoder(self.preprocess(pixels))
        return features

    @property
    def shares(self) -> bool:
        """Whether prompts share the decoder's work on an image: the paper's decoder lets them."""
        return type(self.mask_decoder) is MaskDecoder

    def share(self, features: tuple[Tensor, ...]) -> SharedImage | None:
        """What all prompts without masks share of an image, where they `shares`."""
        if not self.shares:
            return None
        rows, columns = features[0].shape[-2:]
        no_mask = self.prompt_encoder.no_mask_embed.weight.to(features[0].dtype)
        pe = self.prompt_encoder.dense_pe(rows, columns)
        return SharedImage.of(self.mask_decoder, features[0] + no_mask.view(1, -1, 1, 1), pe)

    def decode(
        self,
        features: tuple[Tensor, ...],
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        outputs: slice = slice(None),
        shared: SharedImage | None = None,
        second_look: bool = True,
        on_draft: Callable[[Tensor, Tensor], object] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks for P prompts of one image, coordinates in pixels of the model's input.

        Args:
            features: what `encode` returned for one image.
            points: (P, K, 2) x, y.
            labels: (P, K) 1 object, 0 background, -1 padding.
            boxes: (P, 4) x0, y0, x1, y1.
            masks: (P, 1, *mask_input_size) logits.
            outputs: which of the four masks, the single one first.
            shared: what `share` returned for them.
            second_look: whether masks are looked at again, if the model does that.
            on_draft: told of what will be looked at again, as it would be returned without.

        Returns:
            logits (P, M, *mask_input_size) and predicted IoU (P, M).
        """
        asked, prompts = self.ask(
            features, points=points, labels=labels, boxes=boxes, masks=masks, shared=shared
        )
        draft = self.draw(features, asked, outputs, shared)
        if not second_look:
            return self._unfinished(features, draft)
        if on_draft is not None and self.mask_refiner is not None:
            on_draft(*self._unfinished(features, draft))
        return self.finish(features, draft, prompts)

    def ask(
        self,
        features: tuple[Tensor, ...],
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        shared: SharedImage | None = None,
    ) -> tuple[Asked, Prompted]:
        """All that the decoder knows before it draws masks; arguments as of `decode`."""
        rows, columns = features[0].shape[-2:]
        if masks is not None:
            masks = masks[..., : self._mask_cells(rows), : self._mask_cells(columns)]
        sparse, dense = self.prompt_encoder(features[0], points, labels, boxes, masks)
        if shared is not None and masks is None and shared.pays(sparse):
            asked = shared_decoding.ask(shared, sparse)
        else:
            pe = self.prompt_encoder.dense_pe(rows, columns).to(features[0].dtype)
            asked = self.mask_decoder.ask(features, pe, sparse, dense)
        return asked, Prompted.of(asked.iou, points, labels, boxes)

    def draw(
        self,
        features: tuple[Tensor, ...],
        asked: Asked,
        outputs: slice = slice(None),
        shared: SharedImage | None = None,
    ) -> Draft:
        """The masks of prompts that `ask` was called for; arguments as of `decode`."""
        if shared is not None and not isinstance(asked.image, Tensor):
            logits = shared_decoding.draw(shared, asked, outputs)
        else:
            logits = self.mask_decoder.draw(asked, features[1:], outputs)
        return Draft(logits, asked.iou[:, outputs], asked.tokens[:, outputs])

    def finish(
        self,
        features: tuple[Tensor, ...],
        draft: Draft,
        prompts: Prompted,
        *,
        last: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Drafts of one image looked at again.

        Args:
            features: what `encode` returned.
            draft: P drafts of M masks each.
            prompts: theirs.
            last: with the last cut, which costs more than the second look. Without it there may
                be several images, with equally many prompts each.

        Returns:
            logits (P, M, *mask_input_size) and predicted IoU (P, M).
        """
        if self.mask_refiner is None:
            return self._unfinished(features, draft)
        count = draft.iou.shape[1]
        if not draft.iou.numel():
            return draft.logits.new_zeros(len(draft.iou), count, *self.mask_input_size), draft.iou
        size = (features[2].shape[-2], features[2].shape[-1])
        windows = Windows.around(draft.logits, prompts, size)
        each = Draft(*(part.flatten(0, 1)[:, None] for part in draft))
        repeated = prompts.repeated(count)
        refined = self.mask_refiner(features, each, repeated, windows)
        logits = merged_masks(each.logits, refined.change, windows, self.mask_stride)
        if last:
            logits = self._cut(features[2], logits, refined, windows, repeated)
        logits = self._squared(logits, features[0])
        return logits.reshape(-1, count, *logits.shape[2:]), refined.iou.reshape(-1, count)

    def _unfinished(self, features: tuple[Tensor, ...], draft: Draft) -> tuple[Tensor, Tensor]:
        """Drafts as they are, at the size of finished masks; as `finish`."""
        size = [self._mask_cells(tokens) for tokens in features[0].shape[-2:]]
        logits = draft.logits.float()
        if logits.shape[-2:] != torch.Size(size):
            logits = F.interpolate(logits, size=size, mode="bilinear")
        return self._squared(logits, features[0]), draft.iou

    def _mask_cells(self, tokens: int) -> int:
        """Pixels of mask logits along so many tokens of the embedding."""
        return tokens * self.mask_input_size[0] // self.prompt_encoder.embedding_size

    def _squared(self, logits: Tensor, embedding: Tensor) -> Tensor:
        """Logits (N, M, h, w) of all of the embedding as they are of the whole square input."""
        rows, columns = embedding.shape[-2:]
        whole = self.prompt_encoder.embedding_size
        if (rows, columns) == (whole, whole):
            return logits
        h, w = logits.shape[-2:]
        margin = (0, w * whole // columns - w, 0, h * whole // rows - h)
        return F.pad(logits.float(), margin, mode="replicate")

    def _cut(
        self,
        pixels: Tensor,
        logits: Tensor,
        refined: Refined,
        windows: Windows,
        prompts: Prompted,
    ) -> Tensor:
        """Logits (N, 1, h, w) with the last cut where it is worth it."""
        side = refined.logits.shape[-1]
        worth = worth_cutting(windows, pixels, self.pixel_mean, self.pixel_std, side)
        if not worth.any():
            return logits
        chosen = windows.select(worth)
        asked = Prompted(*(part[worth] for part in prompts))
        cut = last_cut(pixels, refined.logits[worth], chosen, asked)
        inside = chosen.put_back(torch.ones_like(cut), self.mask_stride)
        placed = chosen.put_back(cut, self.mask_stride)
        logits = logits.clone()
        logits[worth] = logits[worth] * (1 - inside) + placed
        return logits


def merged_masks(drafts: Tensor, change: Tensor, windows: Windows, stride: int) -> Tensor:
    """Drafts (N, 1, h, w) with the changes of their windows: (N, 1, H / stride, W / stride)."""
    placed = windows.put_back(change, stride)
    return F.interpolate(drafts.float(), size=placed.shape[-2:], mode="bilinear") + placed


def input_scale(size: tuple[int, int], image_size: int, frame_size: int) -> float:
    """Pixels of the model's input per pixel of a picture of so many rows and columns.

    In the paper the longest side becomes `image_size`. An encoder that does not need a square
    sees as many pixels of a long picture as of a square one, as far as `frame_size` goes.
    """
    return min(frame_size / max(size), image_size / math.sqrt(size[0] * size[1]))


def frame_size(architecture: str, image_size: int) -> int:
    """Side in pixels of the square that holds the input of any picture; see `Sam`."""
    if architecture != "conv":
        return image_size
    multiple = ConvImageEncoder.input_multiple
    return math.ceil(image_size * ConvImageEncoder.stretch / multiple) * multiple


def build_vit(
    *,
    dim: int,
    depth: int,
    heads: int,
    global_blocks: tuple[int, ...],
    image_size: int = 1024,
) -> Sam:
    """SAM with a plain ViT, random weights."""
    encoder = ImageEncoderViT(
        image_size=image_size, dim=dim, depth=depth, heads=heads, global_blocks=global_blocks
    )
    return _paper_heads(encoder, image_size)


def build_vit_b(image_size: int = 1024) -> Sam:
    """ViT-B: 91 M parameters in the encoder."""
    return build_vit(
        dim=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11), image_size=image_size
    )


def build_vit_l(image_size: int = 1024) -> Sam:
    """ViT-L: 308 M parameters in the encoder."""
    return build_vit(
        dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23), image_size=image_size
    )


def build_vit_h(image_size: int = 1024) -> Sam:
    """ViT-H: 636 M parameters in the encoder."""
    return build_vit(
        dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31), image_size=image_size
    )


def build_vit_t(image_size: int = 1024) -> Sam:
    """TinyViT-5M as in MobileSAM."""
    return _paper_heads(TinyViT(image_size=image_size), image_size)


def build_conv(image_size: int = 512) -> Sam:
    """The bundled model's architecture: convolutional encoder, guided prompts, fine masks."""
    frame = frame_size("conv", image_size)
    prompt_encoder = GuidedPromptEncoder(
        dim=128, embedding_size=frame // ConvImageEncoder.stride, image_size=frame
    )
    decoder = FineMaskDecoder(
        transformer=TwoWayTransformer(dim=128, heads=4, mlp_dim=512), dim=128, fine_channels=32
    )
    return Sam(
        ConvImageEncoder(),
        prompt_encoder,
        decoder,
        image_size=image_size,
        frame_size=frame,
        mask_stride=2,
        mask_refiner=MaskRefiner(dim=128, fine_channels=32),
    )


BUILDERS: dict[str, Callable[..., Sam]] = {
    "vit_b": build_vit_b,
    "vit_l": build_vit_l,
    "vit_h": build_vit_h,
    "vit_t": build_vit_t,
    "conv": build_conv,
}
"""Architecture name to builder; each takes `image_size`."""


def _paper_heads(encoder: nn.Module, image_size: int) -> Sam:
    prompt_encoder = PromptEncoder(embedding_size=image_size // 16, image_size=image_size)
    decoder = MaskDecoder(transformer=TwoWayTransformer())
    return Sam(encoder, prompt_encoder, decoder, image_size=image_size)
