"""NIfTI-1: the header of a label volume, https://nifti.nimh.nih.gov/nifti-1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from samplat import InputError
from samplat_volume.geometry import Geometry
from samplat_volume.labels import LabelVolume
from samplat_volume.streams import StreamWriter

HEADER = np.dtype(
    [
        ("sizeof_hdr", "<i4"),
        ("unused", "S35"),
        ("dim_info", "u1"),
        ("dim", "<i2", 8),
        ("intent_p", "<f4", 3),
        ("intent_code", "<i2"),
        ("datatype", "<i2"),
        ("bitpix", "<i2"),
        ("slice_start", "<i2"),
        ("pixdim", "<f4", 8),
        ("vox_offset", "<f4"),
        ("scl_slope", "<f4"),
        ("scl_inter", "<f4"),
        ("slice_end", "<i2"),
        ("slice_code", "u1"),
        ("xyzt_units", "u1"),
        ("cal_max", "<f4"),
        ("cal_min", "<f4"),
        ("slice_duration", "<f4"),
        ("toffset", "<f4"),
        ("glmax", "<i4"),
        ("glmin", "<i4"),
        ("descrip", "S80"),
        ("aux_file", "S24"),
        ("qform_code", "<i2"),
        ("sform_code", "<i2"),
        ("quatern", "<f4", 3),
        ("qoffset", "<f4", 3),
        ("srow", "<f4", (3, 4)),
        ("intent_name", "S16"),
        ("magic", "S4"),
    ]
)
"""348 bytes; four zeros follow, which say that there is no extension."""

DATATYPES = {"uint8": 2, "uint16": 512, "uint32": 768}
LARGEST_SIDE = 2**15 - 1
LABEL_INTENT = 1002
MILLIMETRES = 2
SCANNER = 1
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def header(volume: LabelVolume) -> bytes:
    """Everything before the voxels. Positions are in float32, as the format has it."""
    geometry = volume.geometry
    if max(geometry.shape) > LARGEST_SIDE:
        raise InputError(
            f"NIfTI holds at most {LARGEST_SIDE} voxels a side, got {geometry.shape} (z, y, x); "
            "write .nrrd or .mha"
        )
    fields = np.zeros((), HEADER)
    fields["sizeof_hdr"], fields["magic"], fields["vox_offset"] = HEADER.itemsize, b"n+1", 352
    fields["dim"] = (3, *geometry.shape[::-1], 1, 1, 1, 1)
    fields["datatype"] = DATATYPES[volume.dtype.name]
    fields["bitpix"] = 8 * volume.dtype.itemsize
    fields["scl_slope"] = 1
    fields["intent_code"], fields["xyzt_units"] = LABEL_INTENT, MILLIMETRES
    fields["descrip"] = f"samplat labels; background 0; hole {volume.hole}".encode()
    _place(fields, geometry)
    return fields.tobytes() + bytes(4)


def _place(fields: NDArray[np.void], geometry: Geometry) -> None:
    from scipy.spatial.transform import Rotation

    affine = geometry.index_to_world
    affine[:3] = LPS_TO_RAS @ affine[:3]
    axes = LPS_TO_RAS @ geometry.direction
    # a quaternion cannot mirror: pixdim[0] says that the third axis is to be turned round
    hand = 1.0 if np.linalg.det(axes) > 0 else -1.0
    quaternion = Rotation.from_matrix(axes * [1, 1, hand]).as_quat(canonical=True)
    fields["pixdim"] = (hand, *geometry.spacing[::-1], 0, 0, 0, 0)
    fields["qform_code"] = fields["sform_code"] = SCANNER
    fields["quatern"] = quaternion[:3]
    fields["qoffset"], fields["srow"] = affine[:3, 3], affine[:3]


NIFTI = StreamWriter(name="nifti", suffixes=(".nii",), header=header)
NIFTI_GZ = StreamWriter(
    name="nifti-gz", suffixes=(".nii.gz",), header=header, compressed="everything"
)
