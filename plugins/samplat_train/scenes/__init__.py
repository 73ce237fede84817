"""Procedural training pictures with instance masks.

    from samplat_train.scenes import draw_scene
    scene = draw_scene(np.random.default_rng(0))      # the same seed draws the same scene
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import abstract, aerial, medical, microscopy, natural
from .finish import finished

_FAMILIES = {
    "aerial": (0.35, aerial),
    "natural": (0.30, natural),
    "microscopy": (0.20, microscopy),
    "medical": (0.10, medical),
    "abstract": (0.05, abstract),
}
KINDS: tuple[str, ...] = tuple(_FAMILIES)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture and what a person would point at in it.

    image: uint8 (H, W, 3), RGB.
    labels: uint16 (L, H, W), 1 <= L <= 2; each level a flat partition, 0 = no object, ids dense
        from 1. Level 0 holds whole objects; level 1 parts of them and things on them.
    kind: one of KINDS.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    kind: str


def draw_scene(
    rng: np.random.Generator, *, size: int = 512, kind: str | None = None
) -> Scene:
    """Draw one scene of `size` x `size` pixels; `kind` None picks by weight.

    Raises:
        ValueError: `kind` is not one of KINDS.
    """
    if kind is None:
        kind = str(rng.choice(KINDS, p=[weight for weight, _ in _FAMILIES.values()]))
    if kind not in _FAMILIES:
        raise ValueError(f"expected a kind out of {KINDS}, got {kind!r}")
    canvas, style = _FAMILIES[kind][1].draw(rng, size)
    return Scene(image=finished(rng, canvas.image, style), labels=canvas.labels(), kind=kind)


__all__ = ["KINDS", "Scene", "draw_scene"]
