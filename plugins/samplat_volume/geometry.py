"""Where the voxels of a volume lie in the patient or on the stage.

Indices are (z, y, x), as arrays have them; physical points are (x, y, z) in millimetres, in ITK's
and DICOM's frame: x grows to the patient's Left, y to Posterior, z to Superior (LPS).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import SimpleITK as sitk

    from samplat import ImageInfo


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The grid of a volume in physical space; anisotropic and oblique grids included."""

    shape: tuple[int, int, int]
    """Extent in voxels (z, y, x)."""
    spacing: tuple[float, float, float]
    """Millimetres between the centres of neighbouring voxels along (z, y, x)."""
    origin: tuple[float, float, float]
    """LPS position (x, y, z) in mm of the centre of voxel (0, 0, 0)."""
    direction: NDArray[np.float64]
    """(3, 3) as SimpleITK has it: columns are the LPS directions of the index axes x, y, z."""

    @property
    def index_to_world(self) -> NDArray[np.float64]:
        """(4, 4) affine from an index (x, y, z, 1) to LPS mm; voxel centres are whole indices."""
        affine = np.eye(4)
        affine[:3, :3] = self.direction * np.asarray(self.spacing[::-1])
        affine[:3, 3] = self.origin
        return affine

    @property
    def voxel_volume(self) -> float:
        """Cubic millimetres of one voxel."""
        return float(np.prod(self.spacing) * abs(np.linalg.det(self.direction)))

    def to_physical(self, index: NDArray[Any]) -> NDArray[np.float64]:
        """LPS positions (N, 3) xyz in mm of indices (N, 3) zyx, fractional ones included."""
        affine = self.index_to_world
        xyz = np.asarray(index, np.float64)[..., ::-1]
        moved: NDArray[np.float64] = xyz @ affine[:3, :3].T + affine[:3, 3]
        return moved

    def to_index(self, position: NDArray[Any]) -> NDArray[np.float64]:
        """Fractional indices (N, 3) zyx of LPS positions (N, 3) xyz in mm."""
        affine = self.index_to_world
        offset = np.asarray(position, np.float64) - affine[:3, 3]
        xyz = np.linalg.solve(affine[:3, :3], offset.reshape(-1, 3).T).T
        return np.ascontiguousarray(xyz[:, ::-1]).reshape(offset.shape)

    @classmethod
    def of_image(cls, image: sitk.Image) -> Geometry:
        """The geometry of a three-dimensional SimpleITK image."""
        width, height, depth = image.GetSize()
        sx, sy, sz = image.GetSpacing()
        ox, oy, oz = image.GetOrigin()
        return cls(
            shape=(depth, height, width),
            spacing=(sz, sy, sx),
            origin=(ox, oy, oz),
            direction=np.asarray(image.GetDirection(), np.float64).reshape(3, 3),
        )

    @classmethod
    def of_info(cls, info: ImageInfo) -> Geometry:
        """The geometry of an opened volume: its affine, taken apart into spacing and direction."""
        affine = np.asarray(info.index_to_world, np.float64)
        sz, sy, sx = info.spacing
        ox, oy, oz = map(float, affine[:3, 3])
        return cls(
            shape=info.shape,
            spacing=info.spacing,
            origin=(ox, oy, oz),
            direction=affine[:3, :3] / np.asarray((sx, sy, sz)),
        )

    def __eq__(self, other: object) -> bool:
        """Whether every number is the same."""
        return isinstance(other, Geometry) and self._key() == other._key()

    def __hash__(self) -> int:
        """Equal geometries hash alike."""
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        directions = tuple(map(float, np.ravel(self.direction)))
        return self.shape, self.spacing, self.origin, directions
