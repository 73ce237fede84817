"""Objects grown at random, and a segmenter that knows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label, map_coordinates

from samplat_volume.shapes import mask_box
from samplat_volume.slices import Mask, SliceAnswer, SlicePrompt

EXTENT = 72.0
"""Mm along each side of the grown volumes."""


def ellipsoid(rng: np.random.Generator, grid: Sequence[NDArray[np.float64]]) -> Mask:
    """Any orientation, no axis more than twice another."""
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    radii = rng.uniform(14, 28, 3)
    centre = EXTENT / 2 + rng.uniform(-4, 4, 3)
    whole = np.broadcast_arrays(*grid)
    at = np.stack([g - c for g, c in zip(whole, centre, strict=True)], axis=-1) @ axes
    return ((at / radii) ** 2).sum(axis=-1) <= 1


def bent_tube(rng: np.random.Generator, grid: Sequence[NDArray[np.float64]]) -> Mask:
    """Along the first axis, its middle on a curve, with round ends."""
    z, y, x = grid
    radius, length = rng.uniform(9, 14), rng.uniform(20, 28)
    swing, phase = rng.uniform(0, 6, 2), rng.uniform(0, 2 * np.pi, 2)
    along = (z - EXTENT / 2) / length
    off_y = y - EXTENT / 2 - swing[0] * np.sin(np.pi * along + phase[0])
    off_x = x - EXTENT / 2 - swing[1] * np.sin(np.pi * along + phase[1])
    narrowing = np.sqrt(np.clip(1 - np.abs(along) ** 4, 0, None))
    return off_y**2 + off_x**2 <= (radius * narrowing) ** 2


def blob(rng: np.random.Generator, grid: Sequence[NDArray[np.float64]]) -> Mask:
    """A ball with smooth dents and bumps."""
    away = np.sqrt(sum((g - EXTENT / 2) ** 2 for g in grid))
    noise = gaussian_filter(rng.normal(size=(12, 12, 12)), 1.5, mode="wrap")
    places = [g / EXTENT * 11 for g in np.broadcast_arrays(*grid)]
    bumps = map_coordinates(noise * 3.0 / np.abs(noise).max(), places, order=3, mode="nearest")
    return away <= rng.uniform(18, 24) + bumps


KINDS: tuple[Callable[..., Mask], ...] = (ellipsoid, bent_tube, blob)


def grown(seed: int, ratio: int) -> Mask:
    """(slices, rows, columns) of 1 mm pixels, slices `ratio` mm apart, in which no slice branches.

    What does is grown again from the next number.
    """
    steps = (float(ratio), 1.0, 1.0)
    grid = np.meshgrid(
        *((np.arange(int(EXTENT / s)) + 0.5) * s for s in steps), indexing="ij", sparse=True
    )
    for attempt in range(100):
        rng = np.random.default_rng([seed, ratio, attempt])
        truth = KINDS[seed % len(KINDS)](rng, grid)
        if truth.any() and all(label(s, np.ones((3, 3)))[1] <= 1 for s in truth):
            return truth
    raise AssertionError("no object without branches was found")


def middle(truth: Mask) -> int:
    """The slice that halves an object."""
    areas = np.cumsum(truth.sum(axis=(1, 2)))
    return int(np.searchsorted(areas, areas[-1] / 2))


def box_on(truth: Mask, index: int) -> SlicePrompt:
    """Its box in a slice."""
    return SlicePrompt(box=mask_box(truth[index]))


@dataclass
class Oracle:
    """Knows the object; of an empty slice, or a prompt beside the object, it finds nothing."""

    truth: Mask
    spoil: Callable[[int, Mask], Mask] = lambda index, mask: mask
    """Makes it imperfect; its predicted IoU does not know."""
    asked: Counter[int] = field(default_factory=Counter)
    """How often each slice was."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.truth.shape

    def __call__(self, index: int, prompts: Sequence[SlicePrompt]) -> list[SliceAnswer]:
        self.asked[index] += 1
        return [self._answer(index, p) for p in prompts]

    def _answer(self, index: int, prompt: SlicePrompt) -> SliceAnswer:
        there = self.truth[index]
        if not (there & pointed_at(prompt, there.shape)).any():
            return SliceAnswer(mask=np.zeros_like(there), predicted_iou=0.0)
        mask = self.spoil(index, there.copy())
        return SliceAnswer(mask=mask, predicted_iou=1.0, logits=np.where(mask, 5.0, -5.0))


def pointed_at(prompt: SlicePrompt, size: tuple[int, int]) -> Mask:
    """The pixels that a prompt is about."""
    at = np.zeros(size, bool)
    if prompt.box is not None:
        x0, y0, x1, y1 = np.rint(prompt.box).astype(int)
        at[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
    elif prompt.points is not None:
        for x, y in prompt.points[prompt.labels == 1]:
            at[int(y), int(x)] = True
    elif prompt.logits is not None:
        at = prompt.logits > 0
    return at


def dice(a: Mask, b: Mask) -> float:
    return 2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b))
