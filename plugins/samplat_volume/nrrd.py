"""NRRD: the header of a label volume, https://teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

from collections.abc import Iterable

from samplat_volume.labels import LabelVolume
from samplat_volume.streams import StreamWriter


def header(volume: LabelVolume) -> bytes:
    """Everything before the voxels; numbers with all their digits."""
    affine = volume.geometry.index_to_world
    lines = [
        "NRRD0005",
        f"type: {volume.dtype.name}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, volume.geometry.shape[::-1]))}",
        f"space directions: {' '.join(_vector(affine[:3, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        'space units: "mm" "mm" "mm"',
        f"space origin: {_vector(affine[:3, 3])}",
        "background:=0",
        f"hole:={volume.hole}",
        f"made by:={' '.join(volume.made_by.split())}",
    ]
    return ("\n".join(lines) + "\n\n").encode()


def _vector(values: Iterable[float]) -> str:
    return f"({','.join(repr(float(v)) for v in values)})"


NRRD = StreamWriter(name="nrrd", suffixes=(".nrrd",), header=header, compressed="voxels")
