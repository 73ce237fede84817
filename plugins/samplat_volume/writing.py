"""Everything that labels in space can be written to, and the function that chooses by suffix."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Protocol

from samplat import Exporter, Registry
from samplat_volume.dicom_seg import DICOM_SEG
from samplat_volume.geometry import Geometry
from samplat_volume.labels import LabelVolume, of_array
from samplat_volume.metaimage import METAIMAGE
from samplat_volume.ngff import NGFF
from samplat_volume.nifti import NIFTI, NIFTI_GZ
from samplat_volume.nrrd import NRRD
from samplat_volume.table import TABLE


class Writer(Exporter, Protocol):
    """An exporter that also writes labels which are no job's."""

    def write(self, volume: LabelVolume, output: Path) -> None:
        """Write labels, whole or not at all."""
        ...


WRITERS: tuple[Writer, ...] = (NIFTI, NIFTI_GZ, NRRD, METAIMAGE, DICOM_SEG, NGFF, TABLE)


@functools.cache
def _by_suffix() -> Registry:
    found = Registry()
    for writer in WRITERS:
        found.add("exporters", "volume", writer)
    return found


def writer_for(path: Path) -> Writer:
    """The writer of an output's suffix.

    Raises:
        InputError: none writes it.
    """
    found: Any = _by_suffix().exporter_for(path)
    writer: Writer = found
    return writer


def write_labels(
    path: str | Path,
    labels: Any,
    geometry: Geometry,
    *,
    image: Any = None,
    source: str | None = None,
    made_by: str = "samplat",
    writer: Writer | None = None,
) -> None:
    """Write an array of labels; the suffix chooses the format, an older file is replaced.

    Args:
        path: .nii, .nii.gz, .nrrd, .mha, .dcm (DICOM SEG), .ome.zarr, or .csv (measurements).
        labels: ids (z, y, x), 0 is background; numpy's, zarr's or dask's, of any integer type.
        geometry: where its voxels lie.
        image: (z, y, x) or (z, y, x, band), what was segmented; its intensities go into .csv.
        source: path of what was segmented: .dcm needs the folder of its DICOM series, .ome.zarr
            references an OME-Zarr image.
        made_by: name of what found the objects.
        writer: instead of the one of the suffix, such as `DicomSegWriter(kind="labelmap")`.

    Raises:
        InputError: the labels are no ids, the format cannot hold them, or `path` is unusable.
        JobError: the disk is full or failing; an older file is still there.
    """
    output = Path(path)
    chosen = writer or writer_for(output)
    chosen.check(output)
    chosen.write(of_array(labels, geometry, image=image, source=source, made_by=made_by), output)
