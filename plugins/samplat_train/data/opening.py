"""`open_source`: which reader a path is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from samplat import InputError
from samplat_train.data import vector, volumes
from samplat_train.data.coco import CocoFile, is_coco
from samplat_train.data.files import load_json
from samplat_train.data.folders import PictureFolder, files_of
from samplat_train.data.jobs import JobLabels
from samplat_train.data.pictures import PictureSource
from samplat_train.data.sa1b import Sa1bFolder
from samplat_train.data.vector import PolygonTiles
from samplat_train.data.volumes import VolumeFolder

RASTERS = (".tif", ".tiff", ".jp2", ".j2k", ".png", ".jpg", ".jpeg")

LAYOUTS = (
    "images/ and labels/ with pictures, .npy arrays or volumes",
    "sa_*.json beside sa_*.jpg (SA-1B)",
    "one COCO .json with its pictures",
    "rasters and one vector file",
    "run.json and labels/ of a job",
)
"""What a folder may be."""


def open_source(text: str) -> PictureSource:
    """Open training data of any format.

    Args:
        text: a folder (see `LAYOUTS`), a COCO `.json`, `IMAGES+FILE.json` for a COCO file whose
            pictures lie elsewhere, or `RASTER+VECTOR`, where RASTER is a file or a folder of them.

    Raises:
        InputError: it is nothing of that (names what was looked for and found), or is damaged.
    """
    path = Path(text)
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_file(path)
    for first, second in _halves(text):
        if first.exists() and second.is_file():
            return _open_pair(first, second)
    raise InputError(
        f"{text}: there is no such file or folder; expected a folder, a COCO .json, "
        "or RASTER+VECTOR"
    )


def _halves(text: str) -> list[tuple[Path, Path]]:
    cuts = [i for i, letter in enumerate(text) if letter == "+"]
    return [(Path(text[:i]), Path(text[i + 1 :])) for i in cuts]


def _open_file(path: Path) -> PictureSource:
    if path.suffix.lower() == ".json" and is_coco(load_json(path)):
        return CocoFile.open(path)
    if path.name.lower().endswith(vector.SUFFIXES):
        raise InputError(
            f"{path}: is no COCO file; polygons need the raster that they lie on: RASTER+{path}"
        )
    raise InputError(f"{path}: expected a COCO .json, RASTER+VECTOR, or a folder of training data")


def _open_pair(first: Path, second: Path) -> PictureSource:
    if first.is_dir() and second.suffix.lower() == ".json" and is_coco(load_json(second)):
        return CocoFile.open(second, first)
    if not second.name.lower().endswith(vector.SUFFIXES):
        raise InputError(
            f"{second}: expected polygons ({' '.join(vector.SUFFIXES)}) after the +, "
            "or a COCO .json after a folder of pictures"
        )
    rasters = _rasters(first) if first.is_dir() else [first]
    if not rasters:
        raise InputError(f"{first}: expected rasters ({' '.join(RASTERS)}), found {_found(first)}")
    return PolygonTiles.open(rasters, second)


def _rasters(folder: Path) -> list[Path]:
    return [p for p in files_of(folder, RASTERS) if p.parent == folder]


def _open_folder(folder: Path) -> PictureSource:
    for matches, opener in READERS:
        if matches(folder):
            return opener(folder)
    looked = "; ".join(LAYOUTS)
    raise InputError(f"{folder}: expected one of: {looked}; found {_found(folder)}")


def _found(folder: Path) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest if names else "nothing"


def _is_job(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def _has_volumes(folder: Path) -> bool:
    return _has_labels(folder) and bool(files_of(folder / "images", volumes.SUFFIXES))


def _has_labels(folder: Path) -> bool:
    return (folder / "images").is_dir() and any(p.is_dir() for p in folder.glob("labels*"))


def _is_sa1b(folder: Path) -> bool:
    return any(folder.glob("sa_*.json"))


def _coco_files(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.glob("*.json")) if is_coco(load_json(p))]


def _has_coco(folder: Path) -> bool:
    return len(_coco_files(folder)) == 1


def _open_coco(folder: Path) -> PictureSource:
    return CocoFile.open(_coco_files(folder)[0])


def _vectors(folder: Path) -> list[Path]:
    return [p for p in files_of(folder, vector.SUFFIXES) if p.parent == folder]


def _has_polygons(folder: Path) -> bool:
    return len(_vectors(folder)) == 1 and bool(_rasters(folder))


def _open_polygons(folder: Path) -> PictureSource:
    return PolygonTiles.open(_rasters(folder), _vectors(folder)[0])


READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], PictureSource]], ...] = (
    (_is_job, JobLabels.open),
    (_has_volumes, VolumeFolder.open),
    (_has_labels, PictureFolder.open),
    (_is_sa1b, Sa1bFolder.open),
    (_has_coco, _open_coco),
    (_has_polygons, _open_polygons),
)
"""In this order: a job's labels/ are no label pictures."""
