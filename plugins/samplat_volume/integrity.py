"""Is the place of every voxel known? Asked before any work; SimpleITK does not always ask.

A zero distance in a NIfTI header becomes one millimetre there, and an affine that contradicts the
distances a line on stderr.
"""

from __future__ import annotations

import contextlib
import locale
import math
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from samplat import InputError
from samplat_volume.geometry import Geometry
from samplat_volume.layout import Layout

CONTRADICTION = 1e-3
"""Relative difference from which two statements of one distance are two distances."""
SKEW = 1e-4
"""Deviation of direction cosines from an orthonormal frame that rounding may explain."""


def read_geometry(layout: Layout, spacing: Sequence[float] | None = None) -> Geometry:
    """The geometry of a file as SimpleITK has it, once its header is known to make sense.

    Args:
        layout: what the header declares.
        spacing: millimetres (z, y, x) instead of what the header says.

    Raises:
        InputError: a distance is zero, negative, not finite or contradicted; axes are not at right
            angles; or the file has one slice only.
    """
    check_depth(layout.extent, layout.path)
    if spacing is None:
        check_spacing(layout.spacing, layout.path)
        _check_columns(layout)
    geometry = replace(_itk_geometry(layout), shape=layout.extent)
    if spacing is not None:
        geometry = replace(geometry, spacing=checked_override(spacing))
    check_geometry(geometry, layout.path)
    return geometry


def check_depth(shape: tuple[int, int, int], path: Path | str) -> None:
    """Refuse a picture: it has no depth to go through."""
    if shape[0] < 2:
        raise InputError(
            f"{path} is a picture of {shape[2]} x {shape[1]} pixels; expected a volume of at least "
            "2 slices: use samplat predict or samplat tile-segment for pictures"
        )


def check_spacing(spacing: Sequence[float] | None, path: Path | str) -> None:
    """Refuse distances (z, y, x), or (y, x), that are zero, negative or not finite."""
    if spacing is not None and not all(math.isfinite(s) and s > 0 for s in spacing):
        told = ", ".join(f"{s:g}" for s in spacing)
        raise InputError(
            f"{path} has a spacing of {told} mm ({'z, y, x'[-3 * len(spacing) + 2 :]}); expected "
            "positive numbers: say what it is with spacing=z,y,x"
        )


def checked_override(spacing: Sequence[float]) -> tuple[float, float, float]:
    """A spacing (z, y, x) that somebody states, as three positive numbers."""
    numbers = tuple(float(s) for s in spacing)
    if len(numbers) != 3 or not all(math.isfinite(s) and s > 0 for s in numbers):
        raise InputError(
            f"spacing must be three positive numbers of mm (z, y, x), got {list(spacing)}"
        )
    return numbers[0], numbers[1], numbers[2]


def _check_columns(layout: Layout) -> None:
    if layout.columns is None or layout.spacing is None:
        return
    for axis, told, meant in zip("zyx", layout.spacing, layout.columns, strict=True):
        if not abs(told - meant) <= CONTRADICTION * told:
            raise InputError(
                f"{layout.path} says that voxels are {told:g} mm apart along {axis} (pixdim) and "
                f"{meant:g} mm (sform); say which with spacing=z,y,x"
            )


def check_geometry(geometry: Geometry, path: Path | str) -> None:
    """Refuse axes that are not at right angles, and an origin that is nowhere.

    Raises:
        InputError: that.
    """
    check_spacing(geometry.spacing, path)
    frame = geometry.direction.T @ geometry.direction
    if not np.isfinite(frame).all() or np.abs(frame - np.eye(3)).max() > SKEW:
        raise InputError(
            f"{path} has axes that are not at right angles; expected orthonormal direction "
            "cosines: resample it onto a straight grid first"
        )
    if not all(map(math.isfinite, geometry.origin)):
        raise InputError(f"{path} has its origin at {geometry.origin}; expected finite numbers")


def _itk_geometry(layout: Layout) -> Geometry:
    if layout.path.name.lower().endswith((".nii", ".nii.gz")):
        return _nifti_geometry(layout)
    return itk_geometry(layout.path)


def itk_geometry(path: Path) -> Geometry:
    """The geometry of a file with three axes or more, of which the first three are space.

    Raises:
        InputError: SimpleITK cannot read it; the message is its own.
    """
    itk = simpleitk()
    reader = itk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _kept_locale():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error
    rank = reader.GetDimension()
    frame = np.asarray(reader.GetDirection(), np.float64).reshape(rank, rank)[:3, :3]
    (x, y, z), (sx, sy, sz) = reader.GetSize()[:3], reader.GetSpacing()[:3]
    ox, oy, oz = reader.GetOrigin()[:3]
    return Geometry(shape=(z, y, x), spacing=(sz, sy, sx), origin=(ox, oy, oz), direction=frame)


@contextlib.contextmanager
def _kept_locale() -> Iterator[None]:
    """ITK's reader of VTK files leaves the process in the locale "C", where open() means ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        if locale.setlocale(locale.LC_ALL) != before:
            locale.setlocale(locale.LC_ALL, before)


def _nifti_geometry(layout: Layout) -> Geometry:
    """By way of a file of one voxel with the same place: ITK reads no NIfTI-2, nor 5 dimensions."""
    header = _nifti_place(layout)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "place.nii"
        file.write_bytes(header + bytes(8))
        try:
            return itk_geometry(file)
        except InputError as error:
            reason = str(error).partition(" cannot be read: ")[2]
            raise InputError(f"{layout.path} cannot be placed: {reason}") from None


def _nifti_place(layout: Layout) -> bytes:
    from samplat_volume.binary_headers import nifti_version
    from samplat_volume.headers import BINARY_HEADER, first_bytes

    head = first_bytes(layout.path, BINARY_HEADER)
    order, version = nifti_version(head)
    header = bytearray(348)

    def put(kind: str, at: int, values: Sequence[Any]) -> None:
        struct.pack_into(f"<{len(values)}{kind}", header, at, *values)

    def get(kind: str, one: int, two: int) -> tuple[Any, ...]:
        wide = {"f": "d", "h": "i", "b": "i"} if version == 2 else {}
        count, code = int(kind[:-1]), kind[-1]
        at = two if version == 2 else one
        return struct.unpack_from(f"{order}{count}{wide.get(code, code)}", head, at)

    put("i", 0, [348])
    put("h", 40, [3, 1, 1, 1, 1, 1, 1, 1])
    put("h", 70, [2, 8])
    pixdim = get("8f", 76, 104)
    put("f", 76, [pixdim[0], *(p if math.isfinite(p) and p > 0 else 1.0 for p in pixdim[1:])])
    put("f", 108, [352.0, 1.0, 0.0])
    put("b", 123, [get("1b", 123, 500)[0] & 0x7F])
    put("h", 252, get("2h", 252, 344))
    put("f", 256, [*get("6f", 256, 352), *get("12f", 280, 400)])
    header[344:348] = b"n+1\0"
    return bytes(header) + bytes(4)


def simpleitk() -> Any:
    """SimpleITK, which says what it has to say in exceptions and not on stderr."""
    import SimpleITK

    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    return SimpleITK


def one_line(error: BaseException) -> str:
    """The last line of a message, which is where ITK says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return text.rpartition("ERROR: ")[2].rstrip(".!")
