"""The command `tile-segment`. Heavy libraries are imported when it runs, not here."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samplat import (
    ExecutorName,
    JobCommand,
    JobOrder,
    SchedulerAddress,
    Workers,
    chosen_executor,
    default_job_dir,
    exporters_for,
    fitting_tiles,
    place,
    usage_error,
)
from samplat_raster.drawing import Drawing
from samplat_raster.exporting import RightAngles, Simplify, Stac, with_item

if TYPE_CHECKING:
    from samplat import (
        ImageInfo,
        Plan,
        PromptSpec,
        Registry,
        SegmentJob,
        SourceSpec,
        Window,
    )

UNKNOWN_INPUT_SIZE = 1024
"""Taken as the side of a model's input when only its file is given: that of the paper's models."""
OVERLAPS = ("best", "small", "large")
AREA_HINT = "missing: coordinates are pixels, and there are no areas in square metres"


def tile_segment(
    image: Annotated[
        str, typer.Argument(metavar="INPUT", help="GeoTIFF, JPEG, PNG, JPEG 2000; path or URL.")
    ],
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="OUTPUT",
            help="Files to write: .tif .zarr .parquet .gpkg .fgb .geojson .stac.json; URLs too.",
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Name in `samplat models list`, or path of a checkpoint.")
    ] = "samplat-tiny",
    tile_size: Annotated[
        int | None, typer.Option(min=1, help="Side of a tile, in pixels; to fit the model.")
    ] = None,
    halo: Annotated[
        int | None,
        typer.Option(min=0, help="Pixels seen around a tile; half of the largest object."),
    ] = None,
    points_per_side: Annotated[
        int | None, typer.Option(min=1, help="Side of a tile's grid of prompts; usually 32.")
    ] = None,
    bidx: Annotated[
        str | None,
        typer.Option(help="One to three bands, by number or name, such as 4,3,2 or nir,red,green."),
    ] = None,
    bbox: Annotated[
        str | None,
        typer.Option(help="Only this part: x0,y0,x1,y1 in the raster's CRS, or in --bbox-crs."),
    ] = None,
    bbox_crs: Annotated[
        str | None, typer.Option(help="CRS of --bbox, such as EPSG:4326 (longitude first).")
    ] = None,
    window: Annotated[
        str | None, typer.Option(help="Only this part: x,y,width,height in pixels.")
    ] = None,
    gsd: Annotated[
        float | None,
        typer.Option(help="Ground sampling distance in metres to work at; that of the raster."),
    ] = None,
    allow_vrt: Annotated[
        bool,
        typer.Option("--allow-vrt", help="Open a VRT that puts rasters of its folder together."),
    ] = False,
    stretch: Annotated[
        str,
        typer.Option(
            help="Percentiles that become black and white; or values, such as 0:3000 or one such "
            "pair for each band; or `none`."
        ),
    ] = "2,98",
    nodata: Annotated[
        float | None, typer.Option(help="Value that means no data, if the file does not say it.")
    ] = None,
    scales: Annotated[
        str,
        typer.Option(
            "--scales",
            "--scale",
            help="Enlarge what the model sees, once (2) or several times (1,2): for small objects.",
        ),
    ] = "1",
    min_area: Annotated[
        float,
        typer.Option(min=0, help="Drop objects of fewer square metres; pixels without a CRS."),
    ] = 0.0,
    max_area: Annotated[
        float | None,
        typer.Option(min=0, help="Drop objects of more square metres; pixels without a CRS."),
    ] = None,
    fill_holes: Annotated[
        float,
        typer.Option(min=0, help="Fill holes of fewer square metres; pixels without a CRS."),
    ] = 0.0,
    drop_islands: Annotated[
        float,
        typer.Option(
            min=0, help="Drop smaller parts of objects, but the largest; likewise, and first."
        ),
    ] = 0.0,
    overlaps: Annotated[
        str | None,
        typer.Option(
            help="Which mask wins a shared pixel: best, small or large; small with prompts."
        ),
    ] = None,
    nested: Annotated[
        bool,
        typer.Option(
            "--nested",
            help="All masks, whole, with their parent_id, in vector outputs; rasters as without.",
        ),
    ] = False,
    pred_iou_thresh: Annotated[
        float | None, typer.Option(help="Drop masks of a lower predicted IoU.")
    ] = None,
    stability_thresh: Annotated[
        float | None, typer.Option(help="Drop masks of a lower stability score.")
    ] = None,
    simplify: Simplify = 0.0,
    right_angles: RightAngles = False,
    stac: Stac = False,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="What finds the masks; plugins may add some. automatic, prompted, or threshold, "
            "which needs no model."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Points, boxes or polygons to segment, instead of everything: "
            "GeoJSON, GPKG, FlatGeobuf, GeoParquet, CSV."
        ),
    ] = None,
    prompts_crs: Annotated[
        str | None,
        typer.Option(help="CRS of the prompts instead of their file's; pixel, image, EPSG:4326."),
    ] = None,
    prompts_object: Annotated[
        str | None,
        typer.Option(help="Column whose equal values make one object; `object` if it is there."),
    ] = None,
    prompts_label: Annotated[
        str | None,
        typer.Option(help="Column of 1 or 0: on the object, or not; `label` if it is there."),
    ] = None,
    prompts_layer: Annotated[
        str | None, typer.Option(help="Layer of a GeoPackage of prompts with several.")
    ] = None,
    prompts_window: Annotated[
        int | None,
        typer.Option(min=1, help="Pixels seen around a prompt; what the model sees at full size."),
    ] = None,
    executor: ExecutorName = None,
    workers: Workers = None,
    scheduler_address: SchedulerAddress = None,
    cache: Annotated[
        str | None,
        typer.Option(
            help="Folder, or URL, for embeddings of tiles: other thresholds then need no encoding."
        ),
    ] = None,
    job_dir: Annotated[
        str | None,
        typer.Option(
            help="Where the run keeps its state, or its URL (s3://...); beside the first output."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard another job in the job directory.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check everything, try one tile, say what would be done and what it would take.",
        ),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never download, as with SAMPLAT_OFFLINE=1.")
    ] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Progress and summary as lines of JSON.")
    ] = False,
) -> JobOrder:
    """Segment a raster of any size: tiles, one id per object, CRS and transform kept.

    Run the same command again to resume. Ends with 0 done, 1 failed, 2 wrong usage, 3 done but for
    tiles that are named.
    """
    from samplat import SegmentJob, registry

    if offline:
        os.environ["SAMPLAT_OFFLINE"] = "1"
    tools, outputs = registry(), [place(file) for file in files]
    drawing = Drawing(simplify=simplify, right_angles=right_angles)
    wanted = with_item(outputs) if stac else outputs
    exporters = exporters_for(tools, wanted, image=image, drawing=drawing)
    asked = _prompt_spec(
        prompts,
        prompts_window,
        crs=prompts_crs,
        object=prompts_object,
        label=prompts_label,
        layer=prompts_layer,
    )
    segmenter = segmenter or ("automatic" if asked is None else "prompted")
    # what was asked for shall show, inside of something larger too
    overlaps = overlaps or ("best" if asked is None else "small")
    _check_choices(tools, overlaps=overlaps, segmenter=segmenter)
    chosen = chosen_executor(tools, executor, workers=workers, scheduler_address=scheduler_address)
    rescaler, rescaler_options = _parse_stretch(stretch)
    factors = _parse_scales(scales)
    tile_size, halo = fitting_tiles(_input_size(tools, model, min(factors)), tile_size, halo)
    options = {"bidx": _parse_bands(bidx), "nodata": nodata, "gsd": gsd}
    part = _parse_part(window=window, bbox=bbox, bbox_crs=bbox_crs)
    source = _source(tools, image, {**options, "allow_vrt": allow_vrt or None})
    job = SegmentJob(
        source=source,
        job_dir=str(job_dir or default_job_dir(outputs[0])),
        model=model if segmenter in ("automatic", "prompted") else None,
        segmenter=segmenter,
        segmenter_options=_given(
            points_per_side=points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_thresh,
        ),
        rescaler=rescaler,
        rescaler_options=rescaler_options,
        tile_size=tile_size,
        halo=halo,
        scales=factors,
        overlaps=overlaps,  # type: ignore[arg-type] # checked above
        nested=nested,
        min_area=min_area or 1,
        max_area=max_area,
        fill_holes=fill_holes,
        drop_islands=drop_islands,
        embeddings=cache or None,
        prompts=asked,
    )
    if min_area or max_area is not None:
        job = replace(job, min_area=min_area)
    in_metres = bool(min_area or max_area is not None or fill_holes or drop_islands)

    def make() -> JobCommand:
        placed = replace(job, window=part and part(_info(tools, source)))
        if in_metres:
            placed = replace(placed, pixel_areas=_pixel_areas(tools, placed))
        return JobCommand(
            job=placed,
            tools=tools,
            exporters=exporters,
            log_json=log_json,
            described=_described,
            warned=functools.partial(_warned, image),
        )

    return JobOrder(
        make=make, exporters=exporters, chosen=chosen, overwrite=overwrite, dry_run=dry_run
    )


def _warned(image: str, planned: Plan) -> list[str]:
    return [] if planned.info.crs else [f"the CRS of {image} is {AREA_HINT}"]


def _input_size(tools: Registry, model: str, scale: int) -> int:
    spec = tools.models().get(model)
    return (spec.image_size if spec else UNKNOWN_INPUT_SIZE) // scale


def _check_choices(tools: Registry, **values: str) -> None:
    known = {
        "overlaps": OVERLAPS,
        "segmenter": tools.names("segmenters"),
    }
    for option, value in values.items():
        if value not in known[option]:
            usage_error(f"--{option} must be one of {', '.join(known[option])}; got {value!r}")


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _parse_bands(text: str | None) -> list[int | str] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not (1 <= len(parts) <= 3 and all(parts)):
        usage_error(
            "--bidx takes one to three numbers or names of bands with commas, such as 4,3,2; "
            f"got {text!r}"
        )
    return [int(p) if p.isdecimal() else p for p in parts]


def _parse_numbers(option: str, names: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(names.split(",")) or not all(map(math.isfinite, numbers)):
        usage_error(f"{option} takes {names}; got {text!r}")
    return numbers


def _parse_part(
    *, window: str | None, bbox: str | None, bbox_crs: str | None
) -> Callable[[ImageInfo], Window] | None:
    """Finds the part that was asked for in an image; None: all of it."""
    if window is not None and bbox is not None:
        usage_error("--window and --bbox both choose a part; give one of them")
    if bbox_crs is not None and bbox is None:
        usage_error("--bbox-crs says what --bbox is in; give that too")
    if window is not None:
        x, y, width, height = _parse_numbers("--window", "x,y,width,height", window)
        if not all(v.is_integer() for v in (x, y, width, height)) or min(width, height) < 1:
            usage_error(f"--window takes whole pixels x,y,width,height; got {window!r}")
        pixels = (int(x), int(y), int(width), int(height))
        return lambda info: _extent().window_of_pixels(info, pixels)
    if bbox is not None:
        x0, y0, x1, y1 = _parse_numbers("--bbox", "x0,y0,x1,y1", bbox)
        return lambda info: _extent().window_of_box(info, (x0, y0, x1, y1), bbox_crs)
    return None


def _extent() -> ModuleType:
    from samplat_raster import extent

    return extent


def _info(tools: Registry, source: SourceSpec) -> ImageInfo:
    opened = tools.open_source(source)
    try:
        return opened.info
    finally:
        opened.close()


def _parse_scales(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    factors = {int(p) for p in parts if p.strip().isdecimal() and int(p) > 0}
    if len(factors) != len(parts):
        usage_error(f"--scales takes different whole numbers such as 1,2; got {text!r}")
    return tuple(sorted(factors))


def _parse_ranges(text: str) -> list[list[float]]:
    try:
        ranges = [[float(end) for end in part.split(":")] for part in text.split(",")]
    except ValueError:
        ranges = [[]]
    if not all(len(ends) == 2 and ends[0] < ends[1] for ends in ranges):
        usage_error(f"--stretch takes values low:high, one pair or one for each band; got {text!r}")
    return ranges


def _parse_stretch(text: str) -> tuple[str, dict[str, Any]]:
    if text == "none":
        return "none", {}
    if ":" in text:
        return "range", {"ranges": _parse_ranges(text)}
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 <= low < high <= 100:
        usage_error(
            "--stretch takes two percentiles such as 2,98, values such as 0:3000, or none; "
            f"got {text!r}"
        )
    return "percentile", {"low": low, "high": high}


def _prompt_spec(prompts: Path | None, window: int | None, **options: Any) -> PromptSpec | None:
    from samplat import PromptSpec

    given = _given(**options)
    if prompts is None:
        if given or window is not None:
            usage_error(f"--prompts-{next(iter(given), 'window')} needs --prompts")
        return None
    return PromptSpec(path=str(prompts), options=given, window=window)


def _source(tools: Registry, image: str, options: Mapping[str, Any]) -> SourceSpec:
    from samplat import InputError, SourceSpec

    try:
        factory = tools.source_for(image).name
    except InputError:
        # ours says best what is wrong with a path that nobody claims
        factory = "raster"
    return SourceSpec(path=image, factory=factory, options=_given(**options))


def _pixel_areas(tools: Registry, job: SegmentJob) -> tuple[tuple[float, ...], ...] | None:
    """Square metres of pixels all over what is segmented; None where it has no CRS."""
    from samplat_raster.georeference import areas_over

    info = _info(tools, job.source)
    return areas_over(info if job.window is None else info.part(job.window))


def _described(planned: Plan) -> list[str]:
    _, height, width = planned.info.shape
    stretched = zip(planned.stretch.low, planned.stretch.high, strict=True)
    return [
        f"image: {width} x {height} pixels, {planned.info.bands} bands of {planned.info.dtype}",
        f"CRS: {_crs_name(planned.info.crs)}",
        f"stretch: {', '.join(f'{low:g} to {high:g}' for low, high in stretched)}",
        f"tiles: {len(planned.grid)} of {planned.job.tile_size} + {planned.grid.halo[2]} pixels",
    ]


def _crs_name(crs: str | None) -> str:
    from pyproj import CRS

    return str(CRS.from_wkt(crs).name) if crs else "none"
