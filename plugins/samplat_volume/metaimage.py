"""MetaImage: the header of a label volume, https://itk.org/Wiki/ITK/MetaIO/Documentation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from samplat_volume.labels import LabelVolume
from samplat_volume.streams import StreamWriter

ELEMENT_TYPES = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT", "uint32": "MET_UINT"}


def header(volume: LabelVolume) -> bytes:
    """Everything before the voxels; numbers with all their digits."""
    geometry = volume.geometry
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        f"TransformMatrix = {_numbers(np.ravel(geometry.direction.T))}",
        f"Offset = {_numbers(geometry.origin)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_numbers(geometry.spacing[::-1])}",
        f"DimSize = {' '.join(map(str, geometry.shape[::-1]))}",
        "Background = 0",
        f"Hole = {volume.hole}",
        f"ElementType = {ELEMENT_TYPES[volume.dtype.name]}",
        "ElementDataFile = LOCAL",
    ]
    return ("\n".join(lines) + "\n").encode()


def _numbers(values: Iterable[float]) -> str:
    return " ".join(repr(float(v)) for v in values)


METAIMAGE = StreamWriter(name="metaimage", suffixes=(".mha",), header=header)
