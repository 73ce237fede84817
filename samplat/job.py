"""What a job is, what it will do, and what it gave: values and protocols, nothing runs here."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from samplat.answers import PromptedSegmenter
from samplat.errors import InputError
from samplat.files import canonical, sha256
from samplat.job_directory import RunRecord
from samplat.ledger import TileRecord
from samplat.masks import MaskSet, Overlaps
from samplat.nested_store import NestedStore
from samplat.object_prompts import PromptSpec
from samplat.pixels import ImageInfo, ImageSource, Rescaler, SourceSpec, Stretch
from samplat.places import Place, place
from samplat.prompt_units import PromptUnit, Sight, plan_units, stack_units
from samplat.prompters import AnyPrompts, Prompter
from samplat.seams import SeamRules
from samplat.shards import HOLE, Labels
from samplat.stack_answers import StackSegmenter
from samplat.stack_prompts import StackPrompts
from samplat.stacking import StackRules
from samplat.store import JobStore
from samplat.tiles import TileGrid, Window

if TYPE_CHECKING:
    import pyarrow as pa


UNKNOWN_SIGHT = 1024
"""Side of what is seen around a prompt if the segmenter does not say: the paper's models'."""


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

    def create(
        self, model: str | None, *args: Any, **options: Any
    ) -> Segmenter | PromptedSegmenter | StackSegmenter:
        """Load what is needed, once per process.

        Raises:
            InputError: an option is unknown or unusable.
        """
        ...

    # A factory that loads models may also have `with_models(models) -> SegmenterFactory`: it is
    # called once with all registered models by name. One that encodes tiles may have
    # `with_embeddings(folder) -> SegmenterFactory`, called before `create` if a job names one.
    # One that `takes_prompts` makes a `PromptedSegmenter` instead, and may say with
    # `sight(model) -> int` how many pixels a side its model sees at their own size. One that
    # `takes_stacks` besides makes a `StackSegmenter`, for prompts of jobs that stack slices; it may
    # have `follower(model, embed) -> StackFollower`, for windows that somebody looks at.

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

    def prompter(self, name: str) -> Prompter:
        """The finder of prompts of this name."""
        ...


@dataclass(frozen=True, kw_only=True)
class SegmentJob:
    """Everything that decides the labels of one image: specs only, so that it pickles."""

    source: SourceSpec
    """The image."""
    job_dir: str
    """Directory of the ledger, the objects and the labels, or its URL in a store that fsspec knows;
    a run resumes when it holds this job."""
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
    nested: bool = False
    """Whether all masks are kept whole, too, each with the one that it lies in; see `nested`. The
    labels are the same."""
    min_area: float = 1
    """Smaller objects, after merging, become background; in pixels, or as `pixel_areas` has it."""
    max_area: float | None = None
    """So do larger ones; None keeps them."""
    drop_islands: float = 0
    """Parts of an object that are smaller, and not its largest one, become background; 0 keeps all.
    Measured like `min_area`, and before holes are filled."""
    fill_holes: float = 0
    """Holes in an object that are smaller become a part of it; 0 fills none. `min_area` and
    `max_area` apply to what objects are then."""
    pixel_areas: tuple[tuple[float, ...], ...] | None = None
    """Areas of pixels at points spread evenly over the image (y, x), the first and the last on its
    edges, such as square metres, or cubic millimetres of voxels; None: areas are pixels."""
    min_extent: float = 0
    """Objects that are shorter along any axis, after merging, become background; in the units of
    the image's spacing."""
    seams: SeamRules = field(default_factory=SeamRules)
    """When objects of neighbouring tiles are one."""
    stacking: StackRules | None = None
    """How masks of slices become objects in three dimensions; None: each slice of z is for itself,
    and its objects are flat."""
    prompts: PromptSpec | None = None
    """What is asked for; None: everything. With prompts there is one object for each, from windows
    of their own; the halo is not used then, and labels depend on the tiles in no pixel. With
    `stacking` an object is followed from slice to slice, and its id is that of its prompts."""
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
    """The tiles, (z, y, x), in the frame of the part; one slice thick unless slices are stacked."""
    stretch: Stretch
    """The fixed map of the image's values to uint8."""
    identity: Mapping[str, Any]
    """JSON values; equal identities mean equal labels. Recorded in `run.json`."""
    prompts: AnyPrompts | None = None
    """What is asked for; None: everything."""
    sight: Sight | None = None
    """Whence prompts are looked at."""
    units: tuple[PromptUnit, ...] = ()
    """Prompts by the window that answers them."""

    @functools.cached_property
    def store(self) -> JobStore:
        """The job directory."""
        return JobStore(path=place(self.job.job_dir))


def tile_pixel_areas(
    areas: tuple[tuple[float, ...], ...] | None, grid: TileGrid
) -> NDArray[np.float64]:
    """(T,) area of a pixel in the middle of each tile, by `SegmentJob.pixel_areas`."""
    from scipy.interpolate import RegularGridInterpolator

    if areas is None:
        return np.ones(len(grid))
    known = np.asarray(areas, np.float64)
    _, height, width = grid.shape
    lattice = np.linspace(0, height, known.shape[0]), np.linspace(0, width, known.shape[1])
    y, x = (_middles(grid, axis) for axis in (1, 2))
    places = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    one_slice = RegularGridInterpolator(lattice, known)(places).ravel()
    return np.tile(one_slice, grid.counts[0])


def _middles(grid: TileGrid, axis: int) -> NDArray[np.float64]:
    """Along an axis, the middle of what the tiles write."""
    edges = np.arange(grid.counts[axis] + 1) * grid.tile_shape[axis] - grid.lead[axis]
    edges = np.clip(edges, 0, grid.shape[axis])
    return (edges[:-1] + edges[1:]) / 2


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
    prompts: pa.Table | None = None
    """What became of each feature that was asked for; None without prompts. Columns: `feature`,
    from 1 as in the file; `prompt_id`; `fate`; `id` of its object or null; `factor`, how many times
    smaller the object was seen as a whole; `note`."""

    nested: pa.Table | None = None
    """One row per mask, by id, if they were asked for: the columns of `objects`; `parent_id`, the
    id of the mask in which it lies or null; `label_ids`, the ids of its pixels in the labels, where
    it shows; `group`, how the job directory calls it."""

    @property
    def features(self) -> pa.Table:
        """What vector outputs show: all masks if they were asked for, otherwise the objects."""
        return self.objects if self.nested is None else self.nested

    def nested_masks(self, index: int) -> Iterator[tuple[int, Window, NDArray[np.bool_]]]:
        """What the masks cover of a tile's write window, by id: row in `nested`, box, and pixels.

        Pixels are (y, x) over the box; True: covered. Only where `nested` is there.

        Raises:
            JobError: they are missing or damaged.
        """
        if self.tiles[index].outcome == "done":
            store = NestedStore(path=self.store.path)
            yield from store.masks_of(self.grid[index], self._mask_groups)

    @functools.cached_property
    def _mask_groups(self) -> NDArray[np.int64]:
        groups: NDArray[np.int64] = self.features["group"].to_numpy()
        return groups

    @functools.cached_property
    def run(self) -> RunRecord:
        """What the directory says of the run.

        Raises:
            JobError: that is damaged.
        """
        return self.store.read_run()

    @property
    def quarantined(self) -> tuple[TileRecord, ...]:
        """Tiles that failed; their pixels are `HOLE` in the labels."""
        return tuple(t for t in self.tiles if t.outcome == "quarantined")

    @property
    def complete(self) -> bool:
        """Whether every tile and every prompt was worked on without a failure."""
        fates = [] if self.prompts is None else self.prompts["fate"].to_pylist()
        return not self.quarantined and "failed" not in fates

    @property
    def skipped(self) -> tuple[TileRecord, ...]:
        """Tiles without a valid pixel; their labels are 0."""
        return tuple(t for t in self.tiles if t.outcome == "skipped")

    @property
    def labels_path(self) -> Place:
        """The zarr v3 array of labels (z, y, x), of type `dtype`, one shard per tile.

        Where only a part of an image was segmented, it begins `grid.lead` pixels before the part.
        """
        return self.store.labels_path

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the ids: uint32, or uint64 where there are more than 2**32 - 2 objects."""
        return np.dtype(str(self.objects.schema.field("id").type))

    def labels(self, window: Window) -> Labels:
        """Final ids (z, y, x) of a window: 0 is background, `HOLE` a quarantined tile's pixel.

        Raises:
            JobError: a shard is missing or damaged.
        """
        labels: Labels = np.full(window.shape, HOLE, self.dtype)
        for tile in self.grid.overlapping(window):
            part = tile.write.intersection(window)
            if part.size and self.tiles[tile.index].outcome != "quarantined":
                shard = self.store.read_shard(self.grid, tile)
                if part == window == tile.write:
                    return shard
                inner = shard[part.relative_to(tile.write).slices]
                labels[part.relative_to(window).slices] = inner
        return labels

    def shards(self) -> Iterator[tuple[Window, Labels]]:
        """Every tile's write window and its labels, by tile index."""
        return ((tile.write, self.labels(tile.write)) for tile in self.grid)


def plan(job: SegmentJob, tools: Tools) -> Plan:
    """Look at image and prompts, fit the stretch, lay the grid; computes and writes nothing.

    Raises:
        InputError: the image or a parameter is unusable.
    """
    _check_parameters(job)
    factory = tools.segmenter(job.segmenter)
    if job.embeddings is not None and not hasattr(factory, "with_embeddings"):
        raise InputError(f"segmenter {job.segmenter} keeps no embeddings: leave the cache out")
    _check_prompted(job, factory)
    source = tools.open_source(job.source)
    try:
        info, digest = source.info, source.digest
        _check_image(info, job.source.path)
        prompts = _prompts(job, tools, source)
        segmenter = factory.identity(job.model, **job.segmenter_options)
        stretch = tools.rescaler(job.rescaler).fit(source, **job.rescaler_options)
    finally:
        source.close()
    window = job.window or Window(start=(0, 0, 0), stop=info.shape)
    tile_shape, halo = _tile_shape(job, info)
    if prompts is not None:
        halo = (0, 0, 0)
    grid = TileGrid.of_part(info.shape, window, tile_shape=tile_shape, halo=halo)
    identity = _identity(job, digest, segmenter, stretch)
    part = info.part(window)
    planned = Plan(job=job, info=part, window=window, grid=grid, stretch=stretch, identity=identity)
    return planned if prompts is None else _with_prompts(planned, prompts, factory)


def _tile_shape(job: SegmentJob, info: ImageInfo) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Extent of the tiles and their halo, (z, y, x)."""
    shape, halo = [job.tile_size] * 3, [job.halo] * 3
    if job.stacking is None:
        shape[0], halo[0] = 1, 0
    else:
        axis = job.stacking.axis
        shape[axis], halo[axis] = job.stacking.block, job.stacking.halo(info.spacing)
    return tuple(map(min, shape, info.shape)), tuple(halo)


def _check_prompted(job: SegmentJob, factory: SegmenterFactory) -> None:
    takes = getattr(factory, "takes_prompts", False)
    if job.prompts is not None and not takes:
        raise InputError(
            f"segmenter {job.segmenter} takes no prompts; leave them out, or choose `prompted`"
        )
    if job.prompts is None:
        if takes:
            raise InputError(f"segmenter {job.segmenter} needs prompts; none were given")
        return
    if job.prompts.window is not None and job.prompts.window < 1:
        raise InputError(
            f"the window of prompts must be at least 1 pixel, got {job.prompts.window}"
        )
    if job.window is not None:
        raise InputError(
            "prompts say themselves where to look: leave out the window, or the prompts beyond it"
        )
    follows = getattr(factory, "takes_stacks", False)
    if job.stacking is not None and not follows:
        raise InputError(
            f"segmenter {job.segmenter} answers prompts on one slice: leave out stacking, or "
            "choose one that follows objects"
        )
    if job.stacking is None and follows:
        raise InputError(f"segmenter {job.segmenter} follows objects: say how slices are stacked")
    if job.nested:
        raise InputError("answers to prompts are not nested: leave out `nested`, or the prompts")
    if len(job.scales) > 1:
        raise InputError(f"prompts are answered at one scale, got {job.scales}")


def _prompts(job: SegmentJob, tools: Tools, source: ImageSource) -> AnyPrompts | None:
    if job.prompts is None:
        return None
    prompter = tools.prompter(job.prompts.prompter)
    found = prompter.prompts(source, job.prompts.path, **job.prompts.options)
    if not len(found):
        raise InputError(f"no prompt of {job.prompts.path} points into {job.source.path}")
    axis = found.axis if isinstance(found, StackPrompts) else None
    if axis != (job.stacking.axis if job.stacking else None):
        raise InputError(
            f"the prompts of {job.prompts.path} are on slices across axis {axis} of (z, y, x), "
            "those of the job are across another one; give both the same"
        )
    return found


def _with_prompts(planned: Plan, prompts: AnyPrompts, factory: SegmenterFactory) -> Plan:
    job, shape = planned.job, planned.info.shape
    axes = job.stacking.axes if job.stacking else (0, 1, 2)
    seen = getattr(factory, "sight", lambda model: UNKNOWN_SIGHT)(job.model) // job.scales[0]
    window = job.prompts.window if job.prompts else None
    sight = Sight(shape=tuple(shape[axis] for axis in axes), side=window or max(1, seen))
    asked = {"sha256": prompts.digest(), "window": sight.side}
    units = (
        stack_units(prompts, sight, axes)
        if isinstance(prompts, StackPrompts)
        else plan_units(prompts, sight)
    )
    return replace(
        planned,
        identity={**planned.identity, "prompts": asked},
        prompts=prompts,
        sight=sight,
        units=units,
    )


def _identity(
    job: SegmentJob, image: str, segmenter: Mapping[str, Any], stretch: Stretch
) -> dict[str, Any]:
    return {
        "format": 3,
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
        **_given(job),
        "seams": asdict(job.seams),
    }


def _given(job: SegmentJob) -> dict[str, Any]:
    """What a job says of sizes, nesting, stacking: jobs that say nothing are what they were."""
    given: dict[str, Any] = {} if job.max_area is None else {"max_area": job.max_area}
    given |= {n: getattr(job, n) for n in ("drop_islands", "fill_holes") if getattr(job, n)}
    if job.nested:
        given["nested"] = True
    if job.min_extent:
        given["min_extent"] = job.min_extent
    if job.stacking is not None:
        given["stacking"] = asdict(job.stacking)
    if job.pixel_areas is not None:
        given["pixel_areas"] = sha256(canonical({"": job.pixel_areas}))
    return given


def _check_parameters(job: SegmentJob) -> None:
    for name, value, least in (
        ("tile_size", job.tile_size, 1),
        ("halo", job.halo, 0),
        ("scale", min(job.scales, default=0), 1),
        ("min_area", job.min_area, 0),
        ("drop_islands", job.drop_islands, 0),
        ("fill_holes", job.fill_holes, 0),
        ("min_extent", job.min_extent, 0),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if job.nested and (job.fill_holes or job.drop_islands):
        raise InputError("nested masks are whole: leave out fill_holes and drop_islands, or nested")
    if job.stacking is not None and (job.nested or job.fill_holes or job.drop_islands):
        raise InputError(
            "nested, fill_holes and drop_islands are for flat objects: leave them out, or stacking"
        )
    if len(set(job.scales)) < len(job.scales):
        raise InputError(f"expected scales that differ, got {job.scales}")
    if job.max_area is not None and job.max_area < job.min_area:
        raise InputError(
            f"max_area must be at least min_area, got {job.max_area:g} and {job.min_area:g}"
        )
    if job.overlaps not in ("best", "small", "large"):
        raise InputError(f"overlaps must be best, small or large, got {job.overlaps!r}")


def _check_image(info: ImageInfo, path: str) -> None:
    if min(info.shape) < 1 or info.bands < 1:
        raise InputError(f"{path} has no pixels: shape {info.shape}, {info.bands} bands")
    if np.dtype(info.dtype).kind not in "buif":
        raise InputError(f"{path} holds {info.dtype}; expected real numbers: convert it first")


def located(job: SegmentJob) -> SegmentJob:
    """The same job for processes with another working directory: local paths are absolute."""
    image, model = Path(job.source.path), Path(job.model or "")
    if image.exists():
        job = replace(job, source=replace(job.source, path=str(image.absolute())))
    # a folder may happen to have the name of a model
    if model.is_file() and (model.suffix or len(model.parts) > 1):
        job = replace(job, model=str(model.absolute()))
    if job.embeddings is not None:
        job = replace(job, embeddings=str(place(job.embeddings).absolute()))
    return replace(job, job_dir=str(place(job.job_dir).absolute()))


def provenance(planned: Plan) -> dict[str, Any]:
    """Where and with what a job was first run, for `run.json`; decides nothing.

    `result` is what `open_result` makes the result of, when the image is gone.
    """
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
        "result": {
            "job": asdict(planned.job),
            "ImageInfo": asdict(planned.info),
            "TileGrid": asdict(planned.grid),
        },
    }


def warnings_of(records: Sequence[TileRecord]) -> tuple[str, ...]:
    """What a person should know of a result with these tiles."""
    failed = [r.index for r in records if r.outcome == "quarantined"]
    found = []
    if failed:
        names = ", ".join(map(str, failed[:10])) + (" ..." if len(failed) > 10 else "")
        found.append(f"{len(failed)} of {len(records)} tiles failed and are holes: {names}")
    if all(r.outcome == "skipped" for r in records):
        found.append("the image has no valid pixel: there are no objects")
    return tuple(found)
