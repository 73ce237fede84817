"""DataArrays in, labelled DataArrays out, for images that live in xarray and Dask.

A lazy image gives lazy labels. Ids are consistent over the whole image, so no label is known before
all tiles are: what is lazy is the job as a whole. Its graph has a task for each tile, which is
given the pixels of that tile and its halo; one that merges, when all tiles are in the job
directory; and one for each tile of labels, which reads that directory again.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from samplat.attempts import TriedTask
from samplat.errors import InputError, JobError
from samplat.executors import SerialExecutor
from samplat.job import Plan, SegmenterFactory, SegmentJob, Tools, plan, provenance
from samplat.job_command import fitting_tiles
from samplat.pipeline import run_planned
from samplat.pixels import ImageInfo, ImageSource, Rescaler, SourceSpec
from samplat.places import Place, place
from samplat.plugins import registry
from samplat.prompters import Prompter
from samplat.segmenting import TileWork
from samplat.shards import HOLE, Labels
from samplat.stacking import StackRules
from samplat.stages import STRIPE
from samplat.store import JobStore
from samplat.tiles import TileGrid, Window
from samplat.workbench import AnySegmenter, Bench, load_segmenter, segmenter_key

T = TypeVar("T")

BANDS = ("band", "bands", "c", "channel", "channels", "rgb", "wavelength", "variable")
"""Names of dimensions, in lower case, that are never one of space."""
ORDER: Mapping[str, int] = {
    "z": 0, "depth": 0, "slice": 0,
    "y": 1, "lat": 1, "latitude": 1, "northing": 1, "row": 1,
    "x": 2, "lon": 2, "longitude": 2, "easting": 2, "column": 2,
}  # fmt: skip
"""Names of dimensions of which the order is known."""
THUMBNAIL = 1024
"""Most pixels along an axis of what the stretch is fitted to."""
UNKNOWN_SIGHT = 1024
"""Taken as what a model sees at once where it is no known one."""
NOT_LAZY = ("prompts", "fill_holes", "drop_islands", "window", "source", "job_dir", "embeddings")
"""Of a `SegmentJob`, what needs the image once more, or is told otherwise."""


def segment(
    image: xr.DataArray,
    *,
    job_dir: str | Place | None = None,
    model: str | None = "samplat-tiny",
    tile_size: int | None = None,
    halo: int | None = None,
    overwrite: bool = False,
    at_once: int | None = None,
    tools: Tools | None = None,
    **options: Any,
) -> xr.DataArray:
    """Segment everything in an image: an id for each object, 0 for background.

    Args:
        image: (y, x), (z, y, x), or either with a dimension of up to three bands, called `band` or
            `channel`, anywhere. Values that are not finite, or `_FillValue` in all bands, are no
            data.
        job_dir: directory of the job, which all workers must see; the same image and options
            resume there. None: a temporary one of this machine, removed when Python ends.
        model: as in `SegmentJob`.
        tile_size: side of a tile, in pixels; None: with its halo what the model sees.
        halo: pixels read around a tile; None: an eighth of what the model sees.
        overwrite: discard another job that the directory holds.
        at_once: tiles that are worked on at once; up to twice as many are in memory. None: as many
            as this process's Dask cluster has threads, or this machine without one.
        tools: what names stand for; None: the installed plugins.
        options: any other attribute of `SegmentJob`, such as `segmenter`, `rescaler`, `min_area`.
            A volume's slices are stacked along z unless `stacking` says otherwise.

    Returns:
        uint32 labels with the dimensions, coordinates and CRS of the image, without bands. Lazy,
        with a chunk for each tile, where the image is; then nothing is computed before they are.
        Pixels of tiles that failed are `samplat.HOLE`, and a warning names these.

    Raises:
        InputError: the image or an option is unusable.
    """
    tools = tools or registry()
    array = _Array.of(image)
    job = _job(array, job_dir, model, tile_size, halo, tools, options)
    threads = _threads() if at_once is None else at_once
    if threads < 1:
        raise InputError(f"at_once must be at least 1, got {at_once}")
    graph = _Graph(array=array, job=job, tools=tools, overwrite=overwrite, at_once=threads)
    lazy = graph.labels()
    labels = lazy if array.is_lazy else lazy.compute(scheduler="synchronous")
    return array.labelled(labels, job)


@dataclass(frozen=True, kw_only=True)
class _Array:
    """An image as the engine sees it."""

    image: xr.DataArray
    """As it was given."""
    dims: tuple[Hashable, ...]
    """Of space, in the order z, y, x."""
    band: Hashable | None
    """Dimension of bands."""
    is_lazy: bool
    """True: its pixels are not in memory."""

    @classmethod
    def of(cls, image: xr.DataArray) -> _Array:
        """An image, its dimensions understood.

        Raises:
            InputError: they cannot be.
        """
        if not isinstance(image, xr.DataArray):
            raise InputError(f"expected a DataArray, got {type(image).__name__}; choose a variable")
        bands = [dim for dim in image.dims if str(dim).lower() in BANDS]
        space = [dim for dim in image.dims if dim not in bands]
        if len(bands) > 1 or len(space) not in (2, 3):
            raise InputError(
                f"expected dimensions (y, x) or (z, y, x), and at most one of bands, got "
                f"{image.dims}; choose with isel, or rename one to `band`"
            )
        places = [ORDER.get(str(dim).lower(), -1) for dim in space]
        if -1 not in places and len(set(places)) == len(places):
            space = [dim for _, dim in sorted(zip(places, space, strict=True), key=lambda p: p[0])]
        if bands and not 1 <= image.sizes[bands[0]] <= 3:
            raise InputError(
                f"expected one to three bands, got {image.sizes[bands[0]]}; choose some with "
                f"isel({bands[0]}=[...])"
            )
        if image.dtype.kind not in "buif" or 0 in image.shape:
            raise InputError(f"expected real numbers, got {image.dtype} of shape {image.shape}")
        lazy = image.chunks is not None or not image.variable._in_memory
        return cls(image=image, dims=tuple(space), band=bands[0] if bands else None, is_lazy=lazy)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent (z, y, x)."""
        sides = [self.image.sizes[dim] for dim in self.dims]
        z, y, x = sides if self.is_volume else (1, *sides)
        return z, y, x

    @property
    def is_volume(self) -> bool:
        """Whether it has a z."""
        return len(self.dims) == 3

    @property
    def nodata(self) -> float | None:
        """The value that means no data, as rioxarray and CF have it."""
        for told in (self.image.attrs, self.image.encoding):
            for name in ("_FillValue", "nodata", "missing_value"):
                if told.get(name) is not None:
                    return float(np.asarray(told[name]).ravel()[0])
        return None

    @property
    def info(self) -> ImageInfo:
        """Description; the distance of pixels is that of their coordinates, 1 without."""
        matrix = np.eye(4)
        flat = [] if self.is_volume else [(1.0, 0.0)]
        places = [*flat, *map(self._place, self.dims)]
        for axis, (step, first) in enumerate(reversed(places)):
            matrix[axis, axis], matrix[axis, 3] = step, first
        rows = [(float(a), float(b), float(c), float(d)) for a, b, c, d in matrix]
        z, y, x = (abs(step) for step, _ in places)
        return ImageInfo(
            shape=self.shape,
            bands=self.image.sizes[self.band] if self.band is not None else 1,
            dtype=self.image.dtype.newbyteorder("=").name,
            index_to_world=(rows[0], rows[1], rows[2], rows[3]),
            crs=self._crs,
            nodata=self.nodata,
            spacing=(z, y, x),
        )

    def _place(self, dim: Hashable) -> tuple[float, float]:
        """Step from pixel to pixel along a dimension, and where the first one is."""
        known = self.image.coords.get(dim)
        if known is None or known.ndim != 1 or known.dtype.kind not in "uif" or known.size < 2:
            return 1.0, 0.0
        values = known.to_numpy().astype(np.float64)
        step = float(values[-1] - values[0]) / (len(values) - 1)
        if not np.isfinite(step) or not step:
            return 1.0, 0.0
        # rasters say where corners are, volumes where centres are
        return step, float(values[0]) - (0.0 if self.is_volume else step / 2)

    @property
    def _crs(self) -> str | None:
        name = self.grid_mapping
        attributes = self.image.coords[name].attrs if name is not None else {}
        found = attributes.get("crs_wkt") or attributes.get("spatial_ref")
        return None if found is None else str(found)

    @property
    def grid_mapping(self) -> str | None:
        """Name of the coordinate that holds the CRS."""
        told = self.image.encoding.get("grid_mapping", self.image.attrs.get("grid_mapping"))
        name = str(told or "spatial_ref")
        return name if name in self.image.coords else None

    def pixels(self, chunks: Sequence[int]) -> Any:
        """The pixels as a Dask array (z, y, x, band)."""
        import dask.array as da

        image = self.image
        if not self.is_lazy:
            return da.from_array(self._turned(image).to_numpy(), chunks=(*chunks, -1))
        if image.chunks is None:
            image = image.chunk(dict(zip(self.dims, chunks[-len(self.dims) :], strict=True)))
        return self._turned(image).data

    def _turned(self, image: xr.DataArray) -> xr.DataArray:
        band = self.band
        if band is None:
            band = "_band"
            image = image.expand_dims(band, -1)
        image = image.transpose(*self.dims, band)
        return image if self.is_volume else image.expand_dims("_z", 0)

    def labelled(self, labels: Any, job: SegmentJob) -> xr.DataArray:
        """Labels (z, y, x) in the place of the image."""
        space = [dim for dim in self.image.dims if dim != self.band]
        names = [name for name, c in self.image.coords.items() if self.band not in c.dims]
        coords = {name: self.image.coords[name] for name in names if name != self.band}
        flat = labels if self.is_volume else labels[0]
        attributes: dict[str, Any] = {
            "long_name": "object id",
            "background": 0,
            "hole": HOLE,
            "model": job.model or job.segmenter,
        }
        found = xr.DataArray(flat, coords=coords, dims=self.dims, name="labels", attrs=attributes)
        for there, here in (
            (self.image.attrs, found.attrs),
            (self.image.encoding, found.encoding),
        ):
            if "grid_mapping" in there:
                here["grid_mapping"] = there["grid_mapping"]
            if "_FillValue" in there:
                here["_FillValue"] = np.uint32(HOLE)
        return found.transpose(*space)


def _job(
    array: _Array,
    job_dir: str | Place | None,
    model: str | None,
    tile_size: int | None,
    halo: int | None,
    tools: Tools,
    options: Mapping[str, Any],
) -> SegmentJob:
    if wrong := sorted(set(NOT_LAZY) & options.keys()):
        raise InputError(f"{wrong[0]} is not taken here; write the image to a file for it")
    known: Callable[[], Mapping[str, Any]] = getattr(tools, "models", dict)
    spec = known().get(model or "")
    seen = UNKNOWN_SIGHT if spec is None else spec.image_size
    tile_size, halo = fitting_tiles(seen, tile_size, halo)
    stacked = {"stacking": StackRules(axis=0, gap=array.info.spacing[0])} if array.is_volume else {}
    try:
        return SegmentJob(
            source=SourceSpec(path=str(array.image.name or "DataArray"), factory="xarray"),
            job_dir=str(place(job_dir).absolute() if job_dir else _temporary()),
            model=model,
            tile_size=tile_size,
            halo=halo,
            **{**stacked, **options},
        )
    except TypeError as error:
        raise InputError(f"unknown option: {error}; expected attributes of SegmentJob") from error


def _threads() -> int:
    """Threads of the cluster that Dask uses just now, or else of this machine."""
    if "distributed" in sys.modules:
        from distributed import default_client

        try:
            return max(1, sum(map(int, default_client().nthreads().values())))
        except ValueError:
            pass  # there is none
    return os.cpu_count() or 1


def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="samplat-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / "job"


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """An image of which a thumbnail is here at most: enough for a plan."""

    info: ImageInfo
    digest: str
    pixels: NDArray[Any] | None = None
    """(z, y, x, band) of the thumbnail."""

    def read(self, window: Window) -> NDArray[Any]:
        """Nothing is here to be read."""
        raise JobError("the pixels of the image are not here any more")

    valid = read

    def thumbnail(self, max_size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The thumbnail, and where it has data."""
        if self.pixels is None:
            raise _Asked
        steps = tuple(slice(None, None, -(-n // max_size)) for n in self.pixels.shape[:3])
        pixels = self.pixels[steps]
        return pixels, _valid(pixels, self.info.nodata)

    def close(self) -> None:
        """Nothing is open."""


def _blank(info: ImageInfo) -> NDArray[Any]:
    return np.zeros((1, 1, 1, info.bands), info.dtype)


def _valid(pixels: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Where (z, y, x) pixels (z, y, x, band) are data."""
    found = np.ones(pixels.shape[:3], bool)
    if pixels.dtype.kind == "f":
        found &= np.isfinite(pixels).all(axis=-1)
    if nodata is not None and np.isfinite(nodata):
        found &= (pixels != nodata).any(axis=-1)
    return found


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The part of an image that one tile reads."""

    info: ImageInfo
    digest: str
    window: Window
    pixels: NDArray[Any]
    """(z, y, x, band) of the window."""

    def read(self, window: Window) -> NDArray[Any]:
        """Pixels of a window inside of the part."""
        return self.pixels[window.relative_to(self.window).slices]

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Where that has data."""
        return _valid(self.read(window), self.info.nodata)

    def thumbnail(self, max_size: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """There is none of a part."""
        raise JobError("a part of an image has no thumbnail")

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, kw_only=True)
class _Tools:
    """Plugins, and an image that is here."""

    plugins: Tools
    source: ImageSource

    def open_source(self, spec: SourceSpec) -> ImageSource:
        """That image."""
        return self.source

    def rescaler(self, name: str) -> Rescaler:
        """As the plugins have it."""
        return self.plugins.rescaler(name)

    def segmenter(self, name: str) -> SegmenterFactory:
        """As the plugins have it."""
        return self.plugins.segmenter(name)

    def prompter(self, name: str) -> Prompter:
        """As the plugins have it."""
        return self.plugins.prompter(name)


class _Asked(Exception):  # noqa: N818 no error: an answer
    """Somebody wants to look at the image."""


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """What Dask is told of a job."""

    array: _Array
    job: SegmentJob
    tools: Tools
    overwrite: bool
    at_once: int
    """Tiles of a group, of which two are under way."""

    def labels(self) -> Any:
        """Labels (z, y, x) as a Dask array of a chunk for each tile. No pixel is looked at.

        Raises:
            InputError: a parameter is unusable.
        """
        from dask.array import Array
        from dask.highlevelgraph import HighLevelGraph

        grid = self._grid()
        pixels = self.array.pixels(grid.tile_shape)
        thumbnail = _apart(self._thumbnail(pixels))
        parts = [_whole(pixels[tile.read.slices]) for tile in grid]
        name = f"samplat-{uuid.uuid4().hex}"
        needed = [thumbnail, *parts] if _is_key(thumbnail) else parts
        graph = HighLevelGraph.from_collections(
            name, self._tasks(name, grid, thumbnail, parts), dependencies=needed
        )
        return Array(graph, name, chunks=_chunks(grid), dtype=np.uint32)

    def _tasks(
        self, name: str, grid: TileGrid, thumbnail: Any, parts: Sequence[Any]
    ) -> dict[Any, Any]:
        """Tasks as tuples: a function, and the keys of what it is given."""
        begun, painted = f"begin-{name}", f"finish-{name}"
        given = _key(thumbnail) if _is_key(thumbnail) else thumbnail
        begin = partial(_begin, self._claim(), self.tools)
        tasks: dict[Any, Any] = {begun: (begin, given)}
        groups = _groups(grid, self.at_once)
        group_of = {index: number for number, group in enumerate(groups) for index in group}
        for number in range(len(groups)):
            last = (f"gate-{name}", number - 1) if number else begun
            done = (
                [(f"segment-{name}", index) for index in groups[number - 2]] if number > 1 else []
            )
            tasks[f"gate-{name}", number] = (_pass, last, done)
        for tile, part in zip(grid, parts, strict=True):
            work = partial(_segment, self.tools, tile.index)
            gate = (f"gate-{name}", group_of[tile.index])
            tasks[f"segment-{name}", tile.index] = (work, gate, _key(part))
            place = (name, *grid.position(tile.index))
            tasks[place] = (partial(_read, tile.index), painted)
        segmented = [(f"segment-{name}", tile.index) for tile in grid]
        tasks[painted] = (partial(_finish, self.tools), begun, segmented)
        return tasks

    def _grid(self) -> TileGrid:
        """The tiles, of a job whose parameters are checked."""
        flat = replace(self.job, rescaler="none", rescaler_options={})
        blank = _Sample(info=self.array.info, digest="", pixels=_blank(self.array.info))
        return plan(flat, _Tools(plugins=self.tools, source=blank)).grid

    def _claim(self) -> _Claim:
        from dask.base import tokenize

        digest = tokenize(self.array.image.variable, self.array.info)
        info = self.array.info
        return _Claim(job=self.job, info=info, digest=digest, overwrite=self.overwrite)

    def _thumbnail(self, pixels: Any) -> Any:
        """What the stretch is fitted to, lazily; None where it does not depend on the image."""
        unseen = _Sample(info=self.array.info, digest="")
        rescaler = self.tools.rescaler(self.job.rescaler)
        try:
            rescaler.fit(unseen, **self.job.rescaler_options)
        except _Asked:
            steps = tuple(slice(None, None, -(-n // THUMBNAIL)) for n in self.array.shape)
            # a view would keep all of its chunk
            return pixels[steps].map_blocks(np.copy, dtype=pixels.dtype)
        except TypeError as error:
            raise InputError(f"the rescaler {rescaler.name} does not take this: {error}") from error
        return None


def _whole(pixels: Any) -> Any:
    return pixels.rechunk(pixels.shape)


class _Apart:
    """An array that Dask computes by itself, beside the graph in which this is."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def compute(self) -> NDArray[Any]:
        """Its values."""
        found: NDArray[Any] = self._array.compute(scheduler="threads")
        return found


def _apart(thumbnail: Any) -> Any:
    """A thumbnail that shares no chunks with tiles.

    All of them would be kept, from the thumbnail, which needs each, to the last tile. Those that
    a cluster keeps anyway can only be had as a part of the graph.
    """
    if thumbnail is None:
        return None
    return _whole(thumbnail) if _is_persisted(thumbnail) else _Apart(thumbnail)


def _is_persisted(array: Any) -> bool:
    """Whether the workers of a cluster hold some of it."""
    if "distributed" not in sys.modules:
        return False
    from distributed import Future

    layers = array.dask.layers.values()
    values = (task for layer in layers if layer.is_materialized() for task in layer.values())
    return any(isinstance(getattr(task, "value", task), Future) for task in values)


def _is_key(thumbnail: Any) -> bool:
    """Whether a thumbnail is a part of the graph."""
    return not (thumbnail is None or isinstance(thumbnail, _Apart))


def _groups(grid: TileGrid, size: int) -> list[list[int]]:
    """Tiles by when they are worked on; neighbours soon after each other."""

    def place(index: int) -> tuple[int, ...]:
        z, row, column = grid.position(index)
        return z, column // STRIPE, row, column

    order = sorted(range(len(grid)), key=place)
    return [order[start : start + size] for start in range(0, len(order), size)]


def _key(whole: Any) -> tuple[Any, ...]:
    """The key of an array of one chunk."""
    return (whole.name, *(0,) * whole.ndim)


def _chunks(grid: TileGrid) -> tuple[tuple[int, ...], ...]:
    """Sides of the write windows along each axis."""
    sides: list[dict[int, int]] = [{}, {}, {}]
    for tile in grid:
        for known, step, side in zip(
            sides, grid.position(tile.index), tile.write.shape, strict=True
        ):
            known[step] = side
    return tuple(tuple(known[step] for step in sorted(known)) for known in sides)


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """A job, and what is known of its image before anybody looks at it."""

    job: SegmentJob
    info: ImageInfo
    digest: str
    overwrite: bool


def _begin(claim: _Claim, tools: Tools, thumbnail: NDArray[Any] | _Apart | None) -> Plan:
    """Fit the stretch, and claim the job directory."""
    if isinstance(thumbnail, _Apart):
        thumbnail = thumbnail.compute()
    sample = _Sample(info=claim.info, digest=claim.digest, pixels=thumbnail)
    planned = plan(claim.job, _Tools(plugins=tools, source=sample))
    with planned.store.lease():
        planned.store.begin(planned.identity, provenance(planned), overwrite=claim.overwrite)
    return planned


class _Latest:
    """The segmenter of this process that was used last: a model is not loaded for each tile."""

    def __init__(self) -> None:
        self._kept: tuple[str, Tools, AnySegmenter] | None = None
        self._lock = threading.Lock()

    def get(self, planned: Plan, tools: Tools) -> AnySegmenter:
        """The segmenter of a job."""
        key = segmenter_key(planned, tools)
        with self._lock:
            if self._kept is None or self._kept[0] != key:
                # with its tools, so that nothing else gets their number
                self._kept = (key, tools, load_segmenter(planned.job, tools))
            return self._kept[2]


LATEST = _Latest()


def _pass(planned: Plan, done: Sequence[int]) -> Plan:
    """Let the next group of tiles begin, when the one before the last is done.

    A scheduler that may load the pixels of all tiles first would do so.
    """
    return planned


@dataclass(frozen=True, kw_only=True)
class _GivenWork(TileWork):
    """Segments a tile whose pixels it was given."""

    given: Bench

    def bench(self) -> Bench:
        """Those pixels, and the segmenter."""
        return self.given


def _segment(tools: Tools, index: int, planned: Plan, pixels: NDArray[Any]) -> int:
    """Segment a tile and enter it in the ledger, unless it is there."""
    if not planned.store.is_finished(index):
        part = _Part(
            info=planned.info,
            digest=str(planned.identity["image"]),
            window=planned.grid[index].read,
            pixels=pixels,
        )
        bench = Bench(plan=planned, source=part, segmenter=LATEST.get(planned, tools))
        TriedTask(work=_GivenWork(plan=planned, tools=tools, given=bench))(index)
    return index


@dataclass(frozen=True, kw_only=True)
class _Known(SerialExecutor):
    """Runs all stages but that of tiles: these were run, and it has the records."""

    plan: Plan

    def map(self, task: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
        """Results, or the records that are there."""
        if getattr(task, "stage", "") == TileWork.stage:
            known: Any = self.plan.store.tiles.known
            return (known(index) for index in indices)
        return super().map(task, indices)


@dataclass(frozen=True, kw_only=True)
class _Painted:
    """A finished job, as far as labels go."""

    store: JobStore
    grid: TileGrid
    holes: frozenset[int]
    """Tiles that failed."""


def _finish(tools: Tools, planned: Plan, tiles: Sequence[int]) -> _Painted:
    """Match, merge and paint, when all tiles are there."""
    gone = _Sample(info=planned.info, digest=str(planned.identity["image"]))
    result = run_planned(
        planned, tools=_Tools(plugins=tools, source=gone), executor=_Known(plan=planned)
    )
    for warning in result.warnings:
        warnings.warn(warning, stacklevel=2)
    if result.dtype != np.uint32:
        raise JobError(
            f"there are {result.objects.num_rows} objects, more than 32 bits can count: write the "
            "image to a file, and use samplat.segment"
        )
    holes = frozenset(record.index for record in result.quarantined)
    return _Painted(store=planned.store, grid=planned.grid, holes=holes)


def _read(index: int, painted: _Painted) -> Labels:
    """The labels of a tile."""
    tile = painted.grid[index]
    if index in painted.holes:
        return np.full(tile.write.shape, HOLE, np.uint32)
    return painted.store.read_shard(painted.grid, tile)
