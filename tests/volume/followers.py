"""Who follows objects without a model: the bright patch of a slice that a prompt means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from samplat_volume.propagated import PropagatedSegmenter
from samplat_volume.slices import SliceAnswer, SlicePrompt, SliceStack


@dataclass
class PatchSlices:
    """Of the bright patches of a slice the one most of which is meant; the `poison` fails."""

    stack: SliceStack
    poison: int | None = None
    asked: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.stack.shape

    def __call__(self, index: int, prompts: Sequence[SlicePrompt]) -> list[SliceAnswer]:
        self.asked.append(index)
        pixels = self.stack(index)
        if self.poison is not None and (pixels == self.poison).any():
            raise ValueError("poison")
        patches, _ = ndimage.label(pixels > 127)
        return [self._answer(patches, prompt) for prompt in prompts]

    def _answer(self, patches: NDArray[np.int32], prompt: SlicePrompt) -> SliceAnswer:
        wanted = np.zeros(patches.shape, bool)
        if prompt.draft is not None:
            wanted |= prompt.draft
        elif prompt.box is not None:
            x0, y0, x1, y1 = np.round(prompt.box).astype(int)
            wanted[max(y0, 0) : y1, max(x0, 0) : x1] = True
        else:
            (x, y), *_ = np.round(prompt.points[prompt.labels == 1]).astype(int)
            wanted[y, x] = True
        hits = np.bincount(patches[wanted], minlength=patches.max() + 1)
        hits[0] = 0
        mask = patches == hits.argmax() if hits.any() else np.zeros(patches.shape, bool)
        return SliceAnswer(mask=mask, predicted_iou=0.9)


@dataclass(frozen=True)
class PatchFactory:
    name: str = "patches"
    side: int = 1024
    asked: list[int] = field(default_factory=list)
    takes_prompts: bool = True
    takes_stacks: bool = True

    def create(self, model: str | None, **options: Any) -> PropagatedSegmenter:
        def slices(stack: SliceStack) -> PatchSlices:
            return PatchSlices(stack, asked=self.asked, **options)

        return PropagatedSegmenter(slices=slices)

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}

    def sight(self, model: str | None) -> int:
        return self.side
