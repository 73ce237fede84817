"""A model of samplat as a segmenter of slices: only what is visited is encoded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import samplat
from samplat import InputError
from samplat_volume.slices import Mask, SliceAnswer, SlicePrompt, SliceStack

if TYPE_CHECKING:
    from samplat import Embedding, Model

REMEMBERED = 24
"""Embeddings kept in memory: some 8 MB each for the bundled model, 4 for the paper's."""
SQUARE = 1.25
"""Pixels whose sides differ by more than this factor are made square for the model."""
PADDING = -1


class ModelSlices:
    """Slices of a stack, encoded at the first prompt of each.

    Slices whose pixels are far from square are enlarged along one side before the model sees them,
    as it knows the world's proportions; masks come back in the stack's pixels.

    Args:
        model: from `samplat.load_model`.
        stack: whose slices are prompted.
        embed: another function than `samplat.embed`, such as an `EmbeddingCache`'s.
        remembered: so many embeddings are kept in memory, those used last.
    """

    def __init__(
        self,
        model: Model,
        stack: SliceStack,
        *,
        embed: Callable[[Model, NDArray[Any]], Embedding] | None = None,
        remembered: int = REMEMBERED,
    ) -> None:
        if remembered < 1:
            raise InputError(f"at least one embedding has to be kept, got remembered={remembered}")
        self._model, self._stack, self._remembered = model, stack, remembered
        self._embed = embed or samplat.embed
        self._embeddings: OrderedDict[int, Embedding] = OrderedDict()
        self._size = square_size(stack.shape[1:], stack.steps[1:])
        self.encoded = 0
        """Slices encoded so far, those encoded again included."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows, columns."""
        return self._stack.shape

    def __call__(self, index: int, prompts: Sequence[SlicePrompt]) -> list[SliceAnswer]:
        """Answers in the order of the prompts; prompts of one kind are decoded together."""
        answers: dict[int, SliceAnswer] = {}
        for kind in sorted({_kind(p) for p in prompts}):
            rows = [i for i, p in enumerate(prompts) if _kind(p) == kind]
            asked = self._answer(index, [prompts[i] for i in rows], None)
            answers |= dict(zip(rows, asked, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def drafted(
        self,
        index: int,
        prompt: SlicePrompt,
        on_draft: Callable[[SliceAnswer], object],
    ) -> SliceAnswer:
        """The answer to one prompt; `on_draft` is told of it before a second look changes it."""
        return self._answer(index, [prompt], lambda answers: on_draft(answers[0]))[0]

    def _answer(
        self,
        index: int,
        prompts: list[SlicePrompt],
        on_draft: Callable[[list[SliceAnswer]], object] | None,
    ) -> list[SliceAnswer]:
        """Prompts that all give the same things."""
        embedding = self.embedding(index)
        # One point alone may mean several things.
        several = _kind(prompts[0]) == (1, False, False, False)
        given = self._placed(prompts, embedding)

        def drafted(prediction: samplat.Prediction) -> None:
            if on_draft is not None:
                on_draft(self._best(prediction))

        return self._best(
            samplat.predict(
                self._model,
                embedding,
                given,
                multimask=several,
                on_draft=None if on_draft is None else drafted,
            )
        )

    def _best(self, prediction: samplat.Prediction) -> list[SliceAnswer]:
        """Of each prompt the mask with the highest predicted IoU."""
        best = prediction.predicted_iou.argmax(axis=1)
        return [
            SliceAnswer(
                mask=resampled(prediction.masks[i, k], self.shape[1:]),
                predicted_iou=float(np.clip(prediction.predicted_iou[i, k], 0, 1)),
                logits=prediction.logits[i, k],
            )
            for i, k in enumerate(best)
        ]

    def embedding(self, index: int) -> Embedding:
        """Of one slice, from memory if it was used lately."""
        if index in self._embeddings:
            self._embeddings.move_to_end(index)
            return self._embeddings[index]
        made = self._embed(self._model, enlarged(self._stack(index), self._size))
        self.encoded += 1
        self._embeddings[index] = made
        while len(self._embeddings) > self._remembered:
            self._embeddings.popitem(last=False)
        return made

    def _placed(self, prompts: list[SlicePrompt], embedding: Embedding) -> samplat.Prompts:
        most, has_box, has_logits, has_draft = _kind(prompts[0])
        y, x = (to / of for to, of in zip(self._size, self.shape[1:], strict=True))
        points = labels = None
        if most:
            # The centre of a pixel is a whole number, so that the middle of an edge is -0.5.
            points = np.stack([(p.points + 0.5) * (x, y) - 0.5 for p in prompts])
            labels = np.stack([p.labels for p in prompts])
        masks = np.stack([p.logits for p in prompts]) if has_logits else None
        if has_draft and not has_logits:
            drafts = [enlarged(p.draft.astype(np.uint8) * 255, self._size) > 127 for p in prompts]
            masks = samplat.mask_prompts(self._model, embedding, drafts)
        return samplat.Prompts(
            points=points,
            labels=labels,
            boxes=np.stack([p.box * (x, y, x, y) for p in prompts]) if has_box else None,
            masks=masks,
        )


def _kind(prompt: SlicePrompt) -> tuple[int, bool, bool, bool]:
    """Number of points, and whether there are a box, logits and a draft."""
    count = 0 if prompt.points is None else len(prompt.points)
    others = (prompt.box, prompt.logits, prompt.draft)
    has_box, has_logits, has_draft = (each is not None for each in others)
    return count, has_box, has_logits, has_draft


def square_size(size: tuple[int, int], steps: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns with square pixels for a slice of `size`; never fewer than it has."""
    finest = min(steps)
    if max(steps) <= SQUARE * finest:
        return size
    rows, columns = (max(n, round(n * step / finest)) for n, step in zip(size, steps, strict=True))
    return rows, columns


def enlarged(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A slice (H, W[, band]) at another size, by linear interpolation."""
    if pixels.shape[:2] == size:
        return pixels
    from PIL import Image

    bands = pixels[..., None] if pixels.ndim == 2 else pixels
    resize = (size[1], size[0])
    made = [
        np.asarray(Image.fromarray(bands[..., b]).resize(resize, Image.Resampling.BILINEAR))
        for b in range(bands.shape[-1])
    ]
    stacked: NDArray[np.uint8] = np.stack(made, axis=-1)
    return stacked[..., 0] if pixels.ndim == 2 else stacked


def resampled(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask at the size of its slice; a pixel is True where most of it is covered."""
    if mask.shape == size:
        return mask
    from PIL import Image

    shown = Image.fromarray(mask.astype(np.uint8) * 255)
    covered: Mask = np.asarray(shown.resize((size[1], size[0]), Image.Resampling.BOX)) > 127
    return covered
