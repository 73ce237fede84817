"""Volumes: medical and microscopy stacks, in their own space.

Nothing heavy is imported here: `samplat --help` loads this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from samplat import hookimpl

if TYPE_CHECKING:
    from samplat import Exporter

REQUIRES = ("highdicom", "pydicom", "SimpleITK")
"""Libraries of the extra `samplat[volume]`."""


@hookimpl
def register_exporters(register: Callable[[Exporter], None]) -> None:
    """Label volumes, DICOM SEG, and measurements of objects."""
    from samplat_volume.writing import WRITERS

    for writer in WRITERS:
        register(writer)
