"""Headers of files that hold one block of voxels: NIfTI, MetaImage, NRRD, VTK, GIPL.

Only what is needed to find the voxels and to distrust the header; the geometry is SimpleITK's.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from samplat import InputError
from samplat_volume.binary_headers import read_gipl, read_nifti
from samplat_volume.header_parts import GZIP, Unusable
from samplat_volume.layout import Layout
from samplat_volume.text_headers import read_meta, read_nrrd, read_vtk

HEADER = 2**20
"""Bytes at the start of a file within which a text header ends."""
BINARY_HEADER = 2**12
"""Likewise a binary one."""


def read_layout(path: Path) -> Layout:
    """Where the voxels of a file are, from its header.

    Raises:
        InputError: the header is cut off, damaged, or of a kind that is not read.
    """
    reader = next(read for suffix, read in READERS.items() if path.name.lower().endswith(suffix))
    try:
        most = BINARY_HEADER if reader in (read_nifti, read_gipl) else HEADER
        return reader(path, first_bytes(path, most))
    except Unusable as fault:
        raise InputError(f"{path}: {fault}") from None
    except (struct.error, ValueError, KeyError, IndexError, OverflowError, TypeError) as fault:
        raise InputError(
            f"{path} has no complete header of its format ({type(fault).__name__}: {fault}); "
            "copy or download it again"
        ) from None


def first_bytes(path: Path, most: int = HEADER) -> bytes:
    """The first bytes; of a file that is compressed as a whole, the first of its content."""
    with path.open("rb") as file:
        data = file.read(most)
    if not data:
        raise InputError(f"{path} is empty; copy or download it again")
    if data[:2] != GZIP:
        return data
    try:
        return zlib.decompressobj(31).decompress(data, most)
    except zlib.error as error:
        raise InputError(f"{path} is damaged: {error}; copy or download it again") from None


READERS: Mapping[str, Callable[[Path, bytes], Layout]] = {
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".mha": read_meta,
    ".mhd": read_meta,
    ".nrrd": read_nrrd,
    ".nhdr": read_nrrd,
    ".vtk": read_vtk,
    ".gipl": read_gipl,
    ".gipl.gz": read_gipl,
}
"""Suffixes, and what reads their headers."""
