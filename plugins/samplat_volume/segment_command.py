"""The command `volume-segment`. Heavy libraries are imported when it runs, not here."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
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
from samplat_volume.options import (
    SPACES,
    AllowDuplicates,
    AllowGaps,
    AllowTruncated,
    Channel,
    Flat,
    Series,
    Spacing,
    Time,
    checked_slices,
)

if TYPE_CHECKING:
    from samplat import ImageInfo, Place, Plan, PromptSpec, Registry, SegmentJob, SourceSpec
    from samplat_volume.planes import Plane

UNKNOWN_INPUT_SIZE = 1024
"""Taken as what is seen at once where no known model says it."""
WITH_MODEL = ("automatic", "propagated")
"""Segmenters that are a model's; others need none."""
SHOWN = ("draft", "box", "mask")
OVERLAPS = ("best", "small", "large")
PLANES = ("z", "y", "x", "axial", "coronal", "sagittal")
PERCENTILES = "1,99"


def volume_segment(
    image: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="NIfTI, NRRD, MetaImage, DICOM folder, OME-Zarr ..."),
    ],
    out: Annotated[
        list[str],
        typer.Option(
            "--out", "-o", help=".nii .nii.gz .nrrd .mha .dcm .ome.zarr .csv; repeatable."
        ),
    ],
    model: Annotated[
        str, typer.Option(help="Name in `samplat models list`, or path of a checkpoint.")
    ] = "samplat-tiny",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="CSV or JSON of points and boxes, or a label image to refine: one object for each."
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(help="What coordinates of --prompts are in: voxel, lps or ras (mm)."),
    ] = None,
    prompts_as: Annotated[
        str,
        typer.Option(
            help="Of a label image: ask its boxes and masks (draft), its boxes (box), or keep its "
            "masks on the slices that are taken (mask)."
        ),
    ] = "draft",
    prompts_slices: Annotated[
        str, typer.Option(help="Of a label image: all, middle, every:N, or numbers 3,17.")
    ] = "all",
    prompts_window: Annotated[
        int | None,
        typer.Option(min=1, help="Side of what is seen around an object; to fit the model."),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="What finds masks on a slice: automatic, or threshold (brighter than the middle "
            "of the window) without a model; with --prompts propagated; plugins may add some."
        ),
    ] = None,
    plane: Annotated[
        str | None,
        typer.Option(
            help="axial, coronal, sagittal, z, y or x; that of the thickest voxels otherwise."
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(help="CT: soft-tissue, lung, bone, brain, liver, or width,level."),
    ] = None,
    percentiles: Annotated[
        str | None,
        typer.Option(help=f"Of the volume, that become black and white; {PERCENTILES}."),
    ] = None,
    gap: Annotated[
        float | None,
        typer.Option(min=0, help="Bridge what is missing for up to so many mm; one slice."),
    ] = None,
    min_volume: Annotated[
        float, typer.Option(min=0, help="Drop objects of fewer cubic millimetres.")
    ] = 0.0,
    max_volume: Annotated[
        float | None, typer.Option(min=0, help="Drop objects of more cubic millimetres.")
    ] = None,
    min_extent: Annotated[
        float, typer.Option(min=0, help="Drop objects shorter than so many mm along any axis.")
    ] = 0.0,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Side of a tile in a slice; to fit the model.")
    ] = None,
    halo: Annotated[
        int | None,
        typer.Option(min=0, help="Pixels seen around a tile; that of the largest object."),
    ] = None,
    z_block: Annotated[int, typer.Option(min=1, help="Slices of a tile.")] = 16,
    overlaps: Annotated[
        str, typer.Option(help="Which mask of a slice wins a shared pixel: best, small or large.")
    ] = "best",
    points_per_side: Annotated[
        int | None, typer.Option(min=1, help="Side of a tile's grid of prompts; usually 32.")
    ] = None,
    pred_iou_thresh: Annotated[
        float | None, typer.Option(help="Drop masks of a lower predicted IoU.")
    ] = None,
    stability_thresh: Annotated[
        float | None, typer.Option(help="Drop masks of a lower stability score.")
    ] = None,
    channel: Channel = None,
    time_index: Time = None,
    series: Series = None,
    spacing: Spacing = None,
    allow_gaps: AllowGaps = False,
    allow_duplicates: AllowDuplicates = False,
    allow_truncated: AllowTruncated = False,
    flat: Flat = False,
    executor: ExecutorName = None,
    workers: Workers = None,
    scheduler_address: SchedulerAddress = None,
    cache: Annotated[
        str | None,
        typer.Option(
            help="Folder, or URL, for embeddings of slices, which need no encoding again."
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
    """Segment everything in a volume: slice by slice, linked to objects in three dimensions.

    With --prompts only what is pointed at: followed from slice to slice, with its number for an id.

    Run the same command again to resume. Ends with 0 done, 1 failed, 2 wrong usage, 3 done but for
    tiles or objects that are named.
    """
    from samplat import SegmentJob, SourceSpec, StackRules, registry

    if offline:
        os.environ["SAMPLAT_OFFLINE"] = "1"
    tools, outputs = registry(), [place(each) for each in out]
    exporters = exporters_for(tools, outputs, image=image)
    follows = prompts is not None
    segmenter = segmenter or ("propagated" if follows else "automatic")
    _check_choices(tools, segmenter=segmenter, overlaps=overlaps, follows=follows)
    chosen = chosen_executor(tools, executor, workers=workers, scheduler_address=scheduler_address)
    if follows:
        _check_unused(
            gap=gap,
            halo=halo,
            points_per_side=points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            stability_thresh=stability_thresh,
        )
    rescaler, rescaler_options = _grey_values(window, percentiles)
    options = _given(
        channel=_numbers("--channel", channel, int),
        time=time_index,
        series=int(series) if series is not None and series.isdecimal() else series,
        spacing=_numbers("--spacing", spacing, float, count=3),
        allow_gaps=allow_gaps or None,
        allow_duplicates=allow_duplicates or None,
        allow_truncated=allow_truncated or None,
        flat=flat or None,
    )
    source = SourceSpec(path=image, factory="volume", options=options)
    plane = _choice("--plane", plane, PLANES)
    asked = _prompt_spec(
        prompts,
        outputs,
        window=prompts_window,
        space=_choice("--space", space, SPACES),
        shown=_choice("--prompts-as", prompts_as, SHOWN),
        chosen=checked_slices(prompts_slices),
    )
    needs_model = segmenter in WITH_MODEL
    job = SegmentJob(
        source=source,
        job_dir=str(job_dir or default_job_dir(outputs[0])),
        model=model if needs_model else None,
        segmenter=segmenter,
        segmenter_options=_given(
            points_per_side=points_per_side,
            pred_iou_thresh=pred_iou_thresh,
            stability_score_thresh=stability_thresh,
        ),
        rescaler=rescaler,
        rescaler_options=rescaler_options,
        overlaps=overlaps,  # type: ignore[arg-type] # checked above
        min_extent=min_extent,
        embeddings=cache or None,
    )

    def make() -> JobCommand:
        across = _plane(_info(tools, source), plane)
        seen = _seen(tools, model) if needs_model else None
        tile_size, margin = _tiles(across, seen, tile, halo)
        bridged = across.thickness if gap is None and not follows else gap or 0
        placed = replace(
            job,
            tile_size=tile_size,
            halo=margin,
            stacking=StackRules(axis=across.axis, block=z_block, gap=bridged),
            prompts=asked and replace(asked, options={**asked.options, "axis": across.axis}),
        )
        return JobCommand(
            job=_within(placed, across.geometry.voxel_volume, min_volume, max_volume),
            tools=tools,
            exporters=exporters,
            log_json=log_json,
            described=lambda planned: _described(planned, across),
            warned=lambda planned: _unseen(planned, tools),
        )

    return JobOrder(
        make=make, exporters=exporters, chosen=chosen, overwrite=overwrite, dry_run=dry_run
    )


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _check_choices(tools: Registry, *, follows: bool, **values: str) -> None:
    known = {
        "overlaps": OVERLAPS,
        "segmenter": [n for n in tools.names("segmenters") if _fits(tools, n, follows)],
    }
    for option, value in values.items():
        if value not in known[option]:
            usage_error(f"--{option} must be one of {', '.join(known[option])}; got {value!r}")


def _fits(tools: Registry, segmenter: str, follows: bool) -> bool:
    """Whether a segmenter follows what prompts point at, or else finds everything."""
    wanted = "takes_stacks" if follows else "takes_prompts"
    return getattr(tools.segmenter(segmenter), wanted, False) is follows


def _check_unused(**values: Any) -> None:
    for name, value in values.items():
        if value is not None:
            usage_error(f"--{name.replace('_', '-')} has no meaning with --prompts; leave it out")


def _choice(option: str, value: str | None, known: Sequence[str]) -> str | None:
    if value is not None and value not in known:
        usage_error(f"{option} must be one of {', '.join(known)}; got {value!r}")
    return value


def _prompt_spec(
    path: Path | None, outputs: Sequence[Place], *, window: int | None, **options: Any
) -> PromptSpec | None:
    from samplat import PromptSpec
    from samplat_volume.mark_files import is_label_image

    if path is None:
        return None
    if path.resolve() in {output.resolve() for output in outputs}:
        usage_error(f"{path} are the prompts; choose another output")
    if is_label_image(path) and options["space"] is not None:
        usage_error("a label image has no coordinates; leave out --space")
    names = ("shown", "chosen") if is_label_image(path) else ("space",)
    told = {name: options[name] for name in names}
    return PromptSpec(path=str(path), prompter="volume", options=told, window=window)


def _unseen(planned: Plan, tools: Registry) -> Sequence[str]:
    """What should be known of slices with prompts before any work."""
    if planned.prompts is None:
        return ()
    from samplat_volume.stack_prompter import check_seen

    source = tools.open_source(planned.job.source)
    try:
        return check_seen(planned, source)
    finally:
        source.close()


def _numbers(
    option: str, text: str | None, kind: type[int | float], *, count: int | None = None
) -> list[Any] | None:
    """Numbers with commas; None where there is no text."""
    if text is None:
        return None
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or count not in (None, len(numbers)) or not all(map(math.isfinite, numbers)):
        wanted = "whole numbers" if kind is int else f"{count} numbers"
        usage_error(f"{option} takes {wanted} with commas; got {text!r}")
    return numbers


def _grey_values(window: str | None, percentiles: str | None) -> tuple[str, dict[str, Any]]:
    """The rescaler and its options."""
    if window is not None and percentiles is not None:
        usage_error("--window and --percentiles both choose grey values; give one of them")
    if window is not None:
        return "window", {"window": window}
    low, high = _numbers("--percentiles", percentiles or PERCENTILES, float, count=2) or (0, 0)
    if not 0 <= low < high <= 100:
        usage_error(f"--percentiles takes two of 0 to 100 in order; got {percentiles!r}")
    return "percentile", {"low": low, "high": high}


def _info(tools: Registry, source: SourceSpec) -> ImageInfo:
    opened = tools.open_source(source)
    try:
        return opened.info
    finally:
        opened.close()


def _plane(info: ImageInfo, name: str | None) -> Plane:
    from samplat_volume.geometry import Geometry
    from samplat_volume.planes import INDEX_PLANES, plane_of

    thickest = max(range(3), key=lambda axis: (info.spacing[axis], -axis))
    return plane_of(Geometry.of_info(info), name or INDEX_PLANES[thickest])


def _seen(tools: Registry, model: str) -> int:
    spec = tools.models().get(model)
    return spec.image_size if spec else UNKNOWN_INPUT_SIZE


def _tiles(plane: Plane, seen: int | None, tile: int | None, halo: int | None) -> tuple[int, int]:
    """Tile size and halo: whole slices where they fit."""
    seen = UNKNOWN_INPUT_SIZE if seen is None else seen
    if tile is None and max(plane.shape) <= seen:
        return max(plane.shape), halo or 0
    return fitting_tiles(seen, tile, halo)


def _within(job: SegmentJob, voxel: float, least: float, most: float | None) -> SegmentJob:
    """A job whose objects have so many cubic millimetres."""
    if not least and most is None:
        return job
    everywhere = ((voxel, voxel), (voxel, voxel))
    return replace(job, min_area=least, max_area=most, pixel_areas=everywhere)


def _described(planned: Plan, plane: Plane) -> Sequence[str]:
    shape, spacing = planned.info.shape, planned.info.spacing
    stretched = zip(planned.stretch.low, planned.stretch.high, strict=True)
    tile, halo = planned.grid.tile_shape, planned.grid.halo
    return (
        f"volume: {' x '.join(map(str, shape))} voxels (z, y, x) of {planned.info.dtype}",
        f"spacing: {', '.join(f'{mm:g}' for mm in spacing)} mm",
        f"slices: {plane.count} across {plane}, {plane.thickness:g} mm thick",
        f"grey values: {', '.join(f'{low:g} to {high:g}' for low, high in stretched)}",
        f"tiles: {len(planned.grid)} of {' x '.join(map(str, tile))} "
        f"+ {', '.join(map(str, halo))} voxels",
    )
