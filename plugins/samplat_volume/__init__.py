"""Volumes: scans and stacks in their own space, from DICOM, NIfTI, NRRD, MetaImage, TIFF, OME-Zarr.

Nothing heavy is imported here: `samplat --help` loads this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from samplat import hookimpl

if TYPE_CHECKING:
    import typer

    from samplat import Exporter, JobKind, Prompter, Rescaler, SegmenterFactory, SourceFactory

REQUIRES = ("highdicom", "ome_zarr", "ome_zarr_models", "pydicom", "SimpleITK", "tifffile")
"""Libraries of the extra `samplat[volume]`."""


@hookimpl
def register_sources(register: Callable[[SourceFactory], None]) -> None:
    """Volumes on disk, and OME-Zarr anywhere."""
    from samplat_volume.source import VolumeFactory

    register(VolumeFactory())


@hookimpl
def register_rescalers(register: Callable[[Rescaler], None]) -> None:
    """Window and level, by name or in numbers."""
    from samplat_volume.intensity import WindowRescaler

    register(WindowRescaler())


@hookimpl
def register_prompters(register: Callable[[Prompter], None]) -> None:
    """Points and boxes of a list, and label images to refine."""
    from samplat_volume.stack_prompter import VolumePrompter

    register(VolumePrompter())


@hookimpl
def register_segmenters(register: Callable[[SegmenterFactory], None]) -> None:
    """What follows an object from slice to slice."""
    from samplat_volume.propagated import PropagatedFactory

    register(PropagatedFactory())


@hookimpl
def register_exporters(register: Callable[[Exporter], None]) -> None:
    """Label volumes, DICOM SEG, and measurements of objects."""
    from samplat_volume.writing import WRITERS

    for writer in WRITERS:
        register(writer)


@hookimpl
def register_job_kinds(register: Callable[[JobKind], None]) -> None:
    """Volumes as items of a batch."""
    from samplat_volume.kind import VolumeKind

    register(VolumeKind())


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """The commands `propagate` and `volume-segment`."""
    from samplat import carried_out
    from samplat_volume.propagate_command import propagate
    from samplat_volume.segment_command import volume_segment

    app.command("propagate")(propagate)
    app.command("volume-segment")(carried_out(volume_segment))
