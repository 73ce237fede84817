"""Volumes as items of `samplat batch`: series of a DICOM tree, fields of an OME-Zarr plate."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samplat import InputError
from samplat_volume.paths import METADATA, SUFFIXES, accepts

Inside = tuple[str, str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class VolumeKind:
    """What `volume-segment` takes."""

    name: str = "volume"
    command: str = "volume-segment"
    suffix: str = ".nii.gz"
    prompts: tuple[str, ...] = (".csv", ".json", *SUFFIXES)

    def accepts(self, path: str) -> bool:
        """Whether a path may be a volume, by its name; a folder by the names of its files."""
        return accepts(path)

    def inside(self, folder: Path) -> Sequence[Inside]:
        """The fields of a plate, or else all series of DICOM files in it and below it."""
        if any((folder / name).exists() for name in METADATA):
            return tuple(_fields(folder))
        return tuple(_series_below(folder))

    def arguments(self, image: str, outputs: Sequence[Path]) -> Sequence[str]:
        """INPUT --out OUTPUT ..."""
        return (image, *(part for output in outputs for part in ("--out", str(output))))

    @property
    def order(self) -> Any:
        """What `volume-segment` understands of its arguments."""
        from samplat_volume.segment_command import volume_segment

        return volume_segment


def _fields(folder: Path) -> Iterator[Inside]:
    """The images of a plate; nothing of an image."""
    from samplat_volume.zarr_chunks import open_group

    group = open_group(str(folder))
    told = dict(group.attrs.get("ome", group.attrs))
    if "plate" not in told:
        return
    try:
        wells = [str(well["path"]) for well in told["plate"]["wells"]]
        for well in wells:
            inner = dict(group[well].attrs.get("ome", group[well].attrs))
            for image in inner["well"]["images"]:
                place = f"{well}/{image['path']}"
                yield str(folder / place), place, {"flat": True}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is a plate whose wells or fields are not all there ({error}); "
            "copy it again, or name its images one by one"
        ) from error


def _series_below(folder: Path) -> Iterator[Inside]:
    """The DICOM series of all folders of a tree, in order of their names."""
    for place, folders, files in os.walk(folder):
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name in METADATA for name in files) or place.endswith(".zarr"):
            folders.clear()  # an image of another kind
        elif files:
            yield from _series_in(Path(place), folder)


def _series_in(place: Path, root: Path) -> Iterator[Inside]:
    from samplat_volume.dicom_slices import read_slices

    found: dict[str, list[bool]] = defaultdict(list)
    for file in sorted(place.iterdir()):
        if file.is_file() and _is_dicom(file):
            try:
                for one in read_slices(file):
                    found[one.series].append(bool(one.fault))
            except InputError:
                # that the series is damaged is said where it is opened
                found[""].append(False)
    uids = sorted(uid for uid, faults in found.items() if uid and not all(faults))
    below = place.relative_to(root).as_posix()
    called = "" if below == "." else below
    if len(uids) <= 1 and (uids or "" in found):
        yield str(place), called, {}
    elif uids:
        for number, uid in enumerate(uids, 1):
            yield str(place), f"{called}/series-{number}".strip("/"), {"series": uid}


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"
