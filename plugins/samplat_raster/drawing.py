"""How polygons are drawn: along pixel edges, simplified, or with right angles.

Nothing heavy is imported here: the commands' arguments are read with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samplat import ImageInfo


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a vector format is told about its polygons. Labels do not depend on it."""

    simplify: float = 0.0
    """How far, in metres, edges may move to have fewer vertices; in pixels without a CRS.
    Neighbours keep sharing theirs."""
    right_angles: bool = False
    """Whether outlines that nearly have right angles get them; neighbours may then overlap."""

    def tolerance(self, info: ImageInfo) -> float:
        """`simplify` in pixels, of the size that they have in the middle of the image."""
        import numpy as np

        from samplat_raster.georeference import pixel_areas

        if info.crs is None or not self.simplify:
            return self.simplify
        middle = np.array([[info.shape[2] / 2, info.shape[1] / 2]])
        return float(self.simplify / np.sqrt(pixel_areas(middle, info)[0]))


EXACT = Drawing()
"""Along pixel edges."""
