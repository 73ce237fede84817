"""Procedural training pictures with instance masks."""

import numpy as np

from .aerial import draw_aerial
from .canvas import Scene

_FAMILIES = {
    "aerial": (0.35, draw_aerial),
}
KINDS: tuple[str, ...] = tuple(_FAMILIES)
"""Names that `draw_scene` accepts as `kind`."""


def draw_scene(rng: np.random.Generator, *, size: int = 512, kind: str | None = None) -> Scene:
    """Draw a scene of `size` x `size` pixels; the same `rng` state draws the same scene.

    Without `kind` one of `KINDS` is drawn by its weight. Raises ValueError for an unknown kind.
    """
    if kind is None:
        weights = np.array([weight for weight, _ in _FAMILIES.values()])
        kind = str(rng.choice(KINDS, p=weights / weights.sum()))
    if kind not in _FAMILIES:
        raise ValueError(f"expected a kind out of {KINDS}, got {kind!r}")
    return _FAMILIES[kind][1](rng, size)


__all__ = ["KINDS", "Scene", "draw_scene"]
