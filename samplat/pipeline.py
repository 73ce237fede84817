"""One job: from an image to labels and a table of objects.

`pixels -> tiles -> embedding -> masks -> objects -> seams -> labels -> file`
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samplat.masks import MaskSet, Overlaps
from samplat.executors import Executor, SerialExecutor
from samplat.pixels import ImageInfo, ImageSource, Rescaler, SourceSpec, Stretch
from samplat.progress import Progress, Silent
from samplat.seams import SeamRules
from samplat.store import HOLE, JobStore, TileRecord
from samplat.tiles import Tile, TileGrid, Window

if TYPE_CHECKING:
    import pyarrow as pa


class Segmenter(Protocol):
    """Turns the pixels of a tile into masks; called from several threads at once."""

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        """Masks of one tile.

        Args:
            pixels: (H, W, 3).
            valid: (H, W). True: data. What it returns outside of them is discarded.
        """
        ...


class SegmenterFactory(Protocol):
    """Makes segmenters; registered by a plugin."""

    name: str

    def create(self, model: str | None, **options: Any) -> Segmenter:
        """Load what is needed, once per process.

        Raises:
            InputError: an option is unknown or unusable.
        """
        ...

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        """JSON values that change when the masks would: weights' digest, parameters. Cheap."""
        ...


class Tools(Protocol):
    """What the names in a job stand for. The plugin registry is one; it is picklable."""

    def open_source(self, spec: SourceSpec) -> ImageSource:
        """Open the job's image."""
        ...

    def rescaler(self, name: str) -> Rescaler:
        """The rescaler of this name."""
        ...

    def segmenter(self, name: str) -> SegmenterFactory:
        """The segmenter factory of this name."""
        ...


@dataclass(frozen=True, kw_only=True)
class SegmentJob:
    """Everything that decides the labels of one image: specs only, so that it pickles."""

    source: SourceSpec
    """The image."""
    job_dir: str
    """Directory of the ledger, the objects and the labels; a run resumes when it holds this job."""
    model: str | None = "samplat-tiny"
    """Name in the registry or path of a checkpoint; None for a segmenter without a model."""
    segmenter: str = "automatic"
    """Name of the registered segmenter."""
    segmenter_options: Mapping[str, Any] = field(default_factory=dict)
    """Its keyword options, JSON values only."""
    rescaler: str = "percentile"
    """Name of the registered rescaler, fitted once to the whole image."""
    rescaler_options: Mapping[str, Any] = field(default_factory=dict)
    """Its keyword options, JSON values only."""
    tile_size: int = 1024
    """Side of a tile's write window, in pixels; clipped to the image."""
    halo: int = 128
    """Pixels read around a write window; at least half of the largest object, for whole ones."""
    scale: int = 1
    """Factor by which a tile's pixels are enlarged before the segmenter sees them."""
    overlaps: Overlaps = "best"
    """Which mask gets a pixel that several masks of a tile claim."""
    min_area: int = 1
    """Objects of fewer pixels, after merging, become background."""
    seams: SeamRules = SeamRules()
    """When objects of neighbouring tiles are one."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do, found out before any tile is computed."""

    job: SegmentJob
    """The job as it was given."""
    info: ImageInfo
    """The image."""
    grid: TileGrid
    """The tiles, (z, y, x); one slice thick."""
    stretch: Stretch
    """The fixed map of the image's values to uint8."""
    identity: Mapping[str, Any]
    """JSON values; equal identities mean equal labels. Recorded in `run.json`."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """A finished job: what exporters read. Every read is checked against the ledger."""

    job: SegmentJob
    """The job that ran."""
    info: ImageInfo
    """The image."""
    grid: TileGrid
    """The tiles: a window of an exporter's loop is best a tile's write window."""
    tiles: tuple[TileRecord, ...]
    """One record per tile, by index."""
    objects: pa.Table
    """One row per object, by id; see `seams.OBJECT_COLUMNS`."""
    store: JobStore
    """The job directory."""

    @property
    def quarantined(self) -> tuple[TileRecord, ...]:
        """Tiles that failed; their pixels are `HOLE` in the labels."""
        return tuple(t for t in self.tiles if t.outcome == "quarantined")

    @property
    def skipped(self) -> tuple[TileRecord, ...]:
        """Tiles without a valid pixel; their labels are 0."""
        return tuple(t for t in self.tiles if t.outcome == "skipped")

    @property
    def labels_path(self) -> Path:
        """The zarr v3 array of labels, uint32 (z, y, x), one shard per tile."""
        return self.store.labels_path

    def labels(self, window: Window) -> NDArray[np.uint32]:
        """Final ids (z, y, x) of a window: 0 is background, `HOLE` a quarantined tile's pixel.

        Raises:
            JobError: a shard is missing or damaged.
        """
        raise NotImplementedError

    def shards(self) -> Iterator[tuple[Window, NDArray[np.uint32]]]:
        """Every tile's write window and its labels, by tile index."""
        return ((tile.write, self.labels(tile.write)) for tile in self.grid)


def plan(job: SegmentJob, tools: Tools) -> Plan:
    """Look at the image, fit the stretch, lay the grid; computes and writes nothing.

    Raises:
        InputError: the image or a parameter is unusable.
    """
    raise NotImplementedError


def run_job(
    job: SegmentJob,
    *,
    tools: Tools,
    executor: Executor = SerialExecutor(),
    progress: Progress = Silent(),
    overwrite: bool = False,
) -> JobResult:
    """Run a job, or resume it when its directory holds the same one.

    Args:
        job: what to do.
        tools: what its names stand for; `samplat.plugins.load()` gives the registry of plugins.
        executor: runs the tiles.
        progress: told about the stages "tiles", "seams" and "labels".
        overwrite: discard another job that the directory holds.

    Raises:
        InputError: the image or a parameter is unusable.
        JobError: the directory holds another job, is in use, or damaged; or every tile failed.
    """
    raise NotImplementedError
