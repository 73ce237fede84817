"""What a job is, what it will do, and what it gave: values and protocols, nothing runs here."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samplat.errors import InputError
from samplat.masks import MaskSet, Overlaps
from samplat.pixels import ImageInfo, ImageSource, Rescaler, SourceSpec, Stretch
from samplat.seams import SeamRules
from samplat.store import HOLE, JobStore, TileRecord
from samplat.tiles import TileGrid, Window

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

    @property
    def name(self) -> str:
        """Unique name."""
        ...

    def create(self, model: str | None, *args: Any, **options: Any) -> Segmenter:
        """Load what is needed, once per process.

        Raises:
            InputError: an option is unknown or unusable.
        """
        ...

    # A factory that loads models may also have `with_models(models) -> SegmenterFactory`: it is
    # called once with all registered models by name. One that encodes tiles may have
    # `with_embeddings(folder) -> SegmenterFactory`, called before `create` if a job names one.

    def identity(self, model: str | None, *args: Any, **options: Any) -> Mapping[str, Any]:
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
    window: Window | None = None
    """The part of the image to segment (z, y, x); None for all of it. Tiles and stretch are those
    of the whole image, so that the segmenter sees the same pixels whatever the part."""
    tile_size: int = 1024
    """Side of a tile's write window, in pixels; clipped to the image."""
    halo: int = 128
    """Pixels read around a write window; at least half of the largest object, for whole ones."""
    scales: tuple[int, ...] = (1,)
    """Factors by which a tile's pixels are enlarged before the segmenter sees them. At several, the
    smallest shows a tile at once and the larger ones show it in parts; see `samplat.scale`."""
    overlaps: Overlaps = "best"
    """Which mask gets a pixel that several masks of a tile claim."""
    min_area: int = 1
    """Objects of fewer pixels, after merging, become background."""
    seams: SeamRules = field(default_factory=SeamRules)
    """When objects of neighbouring tiles are one."""
    embeddings: str | None = None
    """Folder of an `EmbeddingCache` for segmenters that encode tiles. No label depends on it: a run
    with other thresholds finds its tiles encoded."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will do, found out before any tile is computed."""

    job: SegmentJob
    """The job as it was given."""
    info: ImageInfo
    """The image, or the part of it that is segmented."""
    window: Window
    """That part, in the frame of the whole image."""
    grid: TileGrid
    """The tiles, (z, y, x); one slice thick, in the frame of the part."""
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
    """The image, or the part of it that was segmented."""
    grid: TileGrid
    """The tiles: a window of an exporter's loop is best a tile's write window."""
    tiles: tuple[TileRecord, ...]
    """One record per tile, by index."""
    objects: pa.Table
    """One row per object, by id; see `seams.OBJECT_COLUMNS`."""
    store: JobStore
    """The job directory."""
    warnings: tuple[str, ...] = ()
    """What a person should know about this result, such as tiles that failed."""

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
        """The zarr v3 array of labels, uint32 (z, y, x), one shard per tile.

        Where only a part of an image was segmented, it begins `grid.lead` pixels before the part.
        """
        return self.store.labels_path

    def labels(self, window: Window) -> NDArray[np.uint32]:
        """Final ids (z, y, x) of a window: 0 is background, `HOLE` a quarantined tile's pixel.

        Raises:
            JobError: a shard is missing or damaged.
        """
        labels = np.full(window.shape, HOLE, np.uint32)
        for tile in self.grid.overlapping(window):
            part = tile.write.intersection(window)
            if part.size and self.tiles[tile.index].outcome != "quarantined":
                shard = self.store.read_shard(self.grid, tile)
                inner = shard[part.relative_to(tile.write).slices]
                labels[part.relative_to(window).slices] = inner
        return labels

    def shards(self) -> Iterator[tuple[Window, NDArray[np.uint32]]]:
        """Every tile's write window and its labels, by tile index."""
        return ((tile.write, self.labels(tile.write)) for tile in self.grid)


def plan(job: SegmentJob, tools: Tools) -> Plan:
    """Look at the image, fit the stretch, lay the grid; computes and writes nothing.

    Raises:
        InputError: the image or a parameter is unusable.
    """
    _check_parameters(job)
    factory = tools.segmenter(job.segmenter)
    if job.embeddings is not None and not hasattr(factory, "with_embeddings"):
        raise InputError(f"segmenter {job.segmenter} keeps no embeddings: leave the cache out")
    segmenter = factory.identity(job.model, **job.segmenter_options)
    source = tools.open_source(job.source)
    try:
        info, digest = source.info, source.digest
        _check_image(info, job.source.path)
        stretch = tools.rescaler(job.rescaler).fit(source, **job.rescaler_options)
    finally:
        source.close()
    _, height, width = info.shape
    window = job.window or Window(start=(0, 0, 0), stop=info.shape)
    grid = TileGrid.of_part(
        info.shape,
        window,
        tile_shape=(1, min(job.tile_size, height), min(job.tile_size, width)),
        halo=(0, job.halo, job.halo),
    )
    identity = _identity(job, digest, segmenter, stretch)
    part = info.part(window)
    return Plan(job=job, info=part, window=window, grid=grid, stretch=stretch, identity=identity)


def _identity(
    job: SegmentJob, image: str, segmenter: Mapping[str, Any], stretch: Stretch
) -> dict[str, Any]:
    return {
        "format": 1,
        "image": image,
        "image_options": dict(job.source.options),
        "segmenter": {"name": job.segmenter, **segmenter, **job.segmenter_options},
        "stretch": asdict(stretch),
        "window": asdict(job.window) if job.window else None,
        "tile_size": job.tile_size,
        "halo": job.halo,
        "scales": sorted(job.scales),
        "overlaps": job.overlaps,
        "min_area": job.min_area,
        "seams": asdict(job.seams),
    }


def _check_parameters(job: SegmentJob) -> None:
    for name, value, least in (
        ("tile_size", job.tile_size, 1),
        ("halo", job.halo, 0),
        ("scale", min(job.scales, default=0), 1),
        ("min_area", job.min_area, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if len(set(job.scales)) < len(job.scales):
        raise InputError(f"expected scales that differ, got {job.scales}")
    if job.overlaps not in ("best", "small", "large"):
        raise InputError(f"overlaps must be best, small or large, got {job.overlaps!r}")


def _check_image(info: ImageInfo, path: str) -> None:
    if min(info.shape) < 1 or info.bands < 1:
        raise InputError(f"{path} has no pixels: shape {info.shape}, {info.bands} bands")
    if np.dtype(info.dtype).kind not in "buif":
        raise InputError(f"{path} holds {info.dtype}; expected real numbers: convert it first")


def provenance(planned: Plan) -> dict[str, Any]:
    """Where and with what a job was first run, for `run.json`; decides nothing."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    names = ("samplat", "numpy", "scipy", "torch", "zarr", "pyarrow", "rasterio")
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "image": planned.job.source.path,
        "model": planned.job.model,
        "shape": planned.info.shape,
        "tiles": len(planned.grid),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: installed(name) for name in names},
    }
