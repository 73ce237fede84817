"""Procedural training pictures with instance masks.

```python
from samplat_train.scenes import draw_scene
scene = draw_scene(np.random.default_rng(0))  # the same seed draws the same scene
```
"""

from collections.abc import Callable

import numpy as np

from .abstract import draw_abstract
from .aerial import draw_aerial
from .canvas import Scene
from .medical import draw_medical
from .microscopy import draw_microscopy
from .natural import draw_natural

_FAMILIES: dict[str, tuple[float, Callable[[np.random.Generator, int], Scene]]] = {
    "aerial": (0.35, draw_aerial),
    "natural": (0.30, draw_natural),
    "microscopy": (0.20, draw_microscopy),
    "medical": (0.10, draw_medical),
    "abstract": (0.05, draw_abstract),
}

KINDS: tuple[str, ...] = tuple(_FAMILIES)
"""Names that `draw_scene` accepts as `kind`."""


def draw_scene(rng: np.random.Generator, *, size: int = 512, kind: str | None = None) -> Scene:
    """Draw a scene of `size` x `size` pixels; the same state of `rng` draws the same scene.

    Without `kind`, one of `KINDS` is chosen by its weight. Raises ValueError for an unknown kind.
    """
    if kind is None:
        kind = str(rng.choice(KINDS, p=[weight for weight, _ in _FAMILIES.values()]))
    if kind not in _FAMILIES:
        raise ValueError(f"expected a kind out of {KINDS}, got {kind!r}; leave it out for any")
    return _FAMILIES[kind][1](rng, size)


__all__ = ["KINDS", "Scene", "draw_scene"]
