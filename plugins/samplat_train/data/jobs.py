"""Job directories of our own: the final labels of a finished job, on the image that it segmented.

What a model found becomes a picture to learn from, once a person has looked at it: labels of a
teacher, or of an earlier round. Pixels of tiles that failed count as nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import HOLE, InputError, SourceSpec, Stretch, TileGrid, Window
from samplat_train.data.files import load_json
from samplat_train.data.pictures import PART, Picture
from samplat_train.data.rasters import SIDE, opened, pixels_of, spec_of, windows_of


@dataclass(frozen=True, kw_only=True)
class JobLabels:
    """The tiles of a job's labels that an object lies on."""

    path: Path
    """The job directory."""
    image: SourceSpec
    """What the job segmented."""
    stretch: Stretch
    """How its numbers became uint8: a model learns from what the job's model saw."""
    windows: tuple[Window, ...] = field(repr=False)
    """Of each picture, (z, y, x), one slice thick."""

    @classmethod
    def open(cls, path: Path, *, side: int = SIDE) -> JobLabels:
        """Look at the ledger, the table of objects and the image's header.

        Args:
            path: the job directory.
            side: largest side of a picture in pixels.

        Raises:
            InputError: it is no job directory, the job is not finished or found nothing, or its
                image is missing or of another size.
        """
        run = load_json(path / "run.json")
        try:
            seen, shape = run["identity"], tuple(run["provenance"]["shape"])
            image = spec_of(_image_path(run["provenance"]["image"], path), seen["image_options"])
            stretch = Stretch(**{k: tuple(v) for k, v in seen["stretch"].items()})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: run.json is not a job's: {error}") from error
        _check_image(image, shape, path)
        _check_finished(path, shape, run["provenance"]["tiles"])
        boxes = _boxes(path)
        windows = (w for w in windows_of(shape, side) if _meets(w, boxes))
        return cls(path=path, image=image, stretch=stretch, windows=tuple(windows))

    @property
    def name(self) -> str:
        """The directory."""
        return str(self.path)

    def __len__(self) -> int:
        return len(self.windows)

    def key(self, i: int) -> str:
        """`image#slice_row_column` of the window's first pixel."""
        place = "_".join(map(str, self.windows[i].start))
        return f"{Path(self.image.path).name}{PART}{place}"

    def read(self, i: int) -> Picture:
        """Picture i, with the ids of the job.

        Raises:
            InputError: the image or the labels cannot be read.
        """
        window = self.windows[i]
        with opened(self.image) as source:
            image, _ = pixels_of(source, window, self.stretch, self.key(i))
        labels = _read_labels(self.path, window)
        return Picture(name=self.key(i), image=image, labels=labels)


def _image_path(told: str, job: Path) -> str:
    """The path as the job was given it, or that from the job's folder."""
    beside = job.parent / told
    return str(beside) if not Path(told).exists() and beside.exists() else told


def _check_image(image: SourceSpec, shape: tuple[int, ...], path: Path) -> None:
    with opened(image) as source:
        found = source.info.shape
    if found != shape:
        raise InputError(f"{path}: the job saw {image.path} with {shape} pixels, it has {found}")


def _check_finished(path: Path, shape: tuple[int, ...], tiles: int) -> None:
    """Every tile has a marker, and every one that did not fail has its labels."""
    header = load_json(path / "labels" / "zarr.json")
    shard = tuple(header["chunk_grid"]["configuration"]["chunk_shape"])
    grid = TileGrid(shape=shape, tile_shape=shard, halo=(0, 0, 0))
    missing = [i for i in range(len(grid)) if not _is_finished(path, grid, i)]
    if missing or len(grid) != tiles:
        raise InputError(
            f"{path}: the job is not finished: {len(missing)} of {tiles} tiles have no labels; "
            "run its command again"
        )


def _is_finished(path: Path, grid: TileGrid, index: int) -> bool:
    marker = path / "tiles" / f"{index:06d}.json"
    if not marker.exists():
        return False
    shard = (path / "labels" / "c").joinpath(*map(str, grid.position(index)))
    return shard.exists() or load_json(marker).get("outcome") == "quarantined"


def _boxes(path: Path) -> NDArray[np.int64]:
    """Half-open boxes (N, 2, 3) of the objects: first and last (z, y, x)."""
    import pyarrow as pa

    names = ("z0", "y0", "x0", "z1", "y1", "x1")
    try:
        with pa.memory_map(str(path / "seams" / "table.arrow")) as file:
            table = pa.ipc.open_file(file).read_all().select(names)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: the table of objects cannot be read: {error}") from error
    if not table.num_rows:
        raise InputError(f"{path}: the job found not a single object to learn from")
    return np.stack([table[n].to_numpy() for n in names], axis=1).reshape(-1, 2, 3)


def _meets(window: Window, boxes: NDArray[np.int64]) -> bool:
    start, stop = np.array(window.start), np.array(window.stop)
    return bool(((boxes[:, 0] < stop) & (boxes[:, 1] > start)).all(axis=1).any())


def _read_labels(path: Path, window: Window) -> NDArray[np.uint32]:
    """(1, H, W); what the job did not decide is 0."""
    try:
        labels: NDArray[np.uint32] = np.asarray(_array(path)[window.slices])
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: labels {window.start} to {window.stop}: {reason}") from error
    labels[labels == HOLE] = 0
    return labels


@lru_cache(maxsize=16)
def _array(path: Path) -> Any:
    import zarr

    return zarr.open_array(path / "labels", mode="r")
