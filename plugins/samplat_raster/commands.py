"""The command `tile-segment`. Heavy libraries are imported when it runs, not here."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from samplat import (
        Exporter,
        JobResult,
        Plan,
        Progress,
        PromptSpec,
        Registry,
        Rehearsal,
        SegmentJob,
        SourceSpec,
    )

UNKNOWN_INPUT_SIZE = 1024
"""Taken as the side of a model's input when only its file is given: that of the paper's models."""
OVERLAPS = ("best", "small", "large")
AREA_HINT = "missing: coordinates are pixels, and there are no areas in square metres"


def tile_segment(
    image: Annotated[
        str, typer.Argument(metavar="INPUT", help="GeoTIFF, JPEG, PNG, JPEG 2000; path or URL.")
    ],
    outputs: Annotated[
        list[Path],
        typer.Argument(metavar="OUTPUT", help="Files to write: .tif .zarr .parquet .gpkg"),
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
        str | None, typer.Option(help="One to three bands, from 1, such as 4,3,2.")
    ] = None,
    stretch: Annotated[
        str, typer.Option(help="Percentiles that become black and white; or `none`.")
    ] = "2,98",
    nodata: Annotated[
        float | None, typer.Option(help="Value that means no data, if the file does not say it.")
    ] = None,
    scale: Annotated[
        int, typer.Option(min=1, help="Enlarge what the model sees; small objects need it.")
    ] = 1,
    min_area: Annotated[int, typer.Option(min=0, help="Drop objects of fewer pixels.")] = 1,
    overlaps: Annotated[
        str | None,
        typer.Option(
            help="Which mask wins a shared pixel: best, small or large; small with prompts."
        ),
    ] = None,
    pred_iou_thresh: Annotated[
        float | None, typer.Option(help="Drop masks of a lower predicted IoU.")
    ] = None,
    stability_thresh: Annotated[
        float | None, typer.Option(help="Drop masks of a lower stability score.")
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(help="What finds the masks; plugins may add some. automatic, or prompted."),
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
    executor: Annotated[
        str, typer.Option(help="overlapping (reads and writes meanwhile), serial or threads.")
    ] = "overlapping",
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder for embeddings of tiles: other thresholds then need no encoding."
        ),
    ] = None,
    job_dir: Annotated[
        Path | None, typer.Option(help="Where the run keeps its state; beside the first output.")
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
) -> None:
    """Segment a raster of any size: tiles, one id per object, CRS and transform kept.

    Run the same command again to resume. Ends with 0 done, 1 failed, 2 wrong usage, 3 done but for
    tiles that are named.
    """
    from samplat import SegmentJob, registry

    if offline:
        os.environ["SAMPLAT_OFFLINE"] = "1"
    tools = registry()
    exporters = _exporters(tools, outputs, image)
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
    _check_choices(tools, overlaps=overlaps, executor=executor, segmenter=segmenter)
    rescaler, rescaler_options = _parse_stretch(stretch)
    tile_size, halo = fitting_tiles(_input_size(tools, model, scale), tile_size, halo)
    job = SegmentJob(
        source=_source(tools, image, _parse_bands(bidx), nodata),
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
        scale=scale,
        overlaps=overlaps,  # type: ignore[arg-type] # checked above
        min_area=min_area,
        embeddings=str(cache) if cache else None,
        prompts=asked,
    )
    run = _Run(job=job, tools=tools, exporters=exporters, log_json=log_json)
    planned = run.check()
    if dry_run:
        run.describe(planned)
    else:
        run.carry_out(executor, overwrite=overwrite)


def fitting_tiles(seen: int, tile_size: int | None, halo: int | None) -> tuple[int, int]:
    """Tile size and halo with which a tile and its halo fill what the model sees.

    Args:
        seen: side of the window that the model sees without shrinking it, in pixels of the image.
        tile_size: as given, or None to be chosen.
        halo: as given, or None for an eighth of `seen`.
    """
    chosen = max(1, seen // 8) if halo is None else halo
    return tile_size or max(1, seen // 4, seen - 2 * chosen), chosen


def _input_size(tools: Registry, model: str, scale: int) -> int:
    spec = tools.models().get(model)
    return (spec.image_size if spec else UNKNOWN_INPUT_SIZE) // scale


@dataclass(kw_only=True)
class _Run:
    """One use of the command, after its arguments were understood."""

    job: SegmentJob
    tools: Registry
    exporters: Mapping[Path, Exporter]
    log_json: bool
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        from samplat import choose_progress

        self.progress: Progress = choose_progress(sys.stderr, log_json=self.log_json)

    def check(self) -> Plan:
        """Refuse what cannot work: outputs first, they are the cheaper ones."""
        from samplat import plan

        for output, exporter in self.exporters.items():
            exporter.check(output)
        planned = plan(self.job, self.tools)
        if planned.info.crs is None:
            self.progress.message(f"warning: the CRS of {self.job.source.path} is {AREA_HINT}")
        return planned

    def describe(self, planned: Plan) -> None:
        """Say what would be done and what it would take, by one tile; a run does not ask first."""
        from samplat import rehearse

        rehearsed = rehearse(planned, self.tools)
        typer.echo(_described(planned, self.exporters))
        typer.echo(_projected(rehearsed, planned))

    def carry_out(self, executor: str, *, overwrite: bool) -> None:
        """Run the job, write the outputs, say what was done."""
        from samplat import run_job

        result = run_job(
            self.job,
            tools=self.tools,
            executor=self.tools.executor(executor).create(),
            progress=self.progress,
            overwrite=overwrite,
        )
        self._export(result)
        for warning in result.warnings:
            self.progress.message(f"warning: {warning}")
        self._summarise(result)
        if not result.complete:
            raise typer.Exit(3)

    def _export(self, result: JobResult) -> None:
        self.progress.start("export", len(self.exporters))
        for output, exporter in self.exporters.items():
            exporter.export(result, output)
            self.progress.advance("export")
        self.progress.finish("export")

    def _summarise(self, result: JobResult) -> None:
        facts: dict[str, Any] = {
            "objects": result.objects.num_rows,
            "tiles": len(result.tiles),
            "skipped": len(result.skipped),
            "quarantined": [tile.index for tile in result.quarantined],
            **_fates(result),
            "seconds": round(time.monotonic() - self.began, 2),
            "files": [str(output) for output in self.exporters],
            "job_dir": self.job.job_dir,
        }
        line = json.dumps({"event": "summary", **facts}) if self.log_json else _summary(facts)
        typer.echo(line)


def default_job_dir(output: Path) -> Path:
    """`out.tif` keeps its state in `out.tif.samplat-job`."""
    return output.with_name(output.name + ".samplat-job")


def _usage(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


def _check_choices(tools: Registry, **values: str) -> None:
    known = {
        "overlaps": OVERLAPS,
        "executor": tools.names("executors"),
        "segmenter": tools.names("segmenters"),
    }
    for option, value in values.items():
        if value not in known[option]:
            _usage(f"--{option} must be one of {', '.join(known[option])}; got {value!r}")


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _parse_bands(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not (1 <= len(parts) <= 3 and all(p.strip().isdecimal() for p in parts)):
        _usage(f"--bidx takes one to three band numbers with commas, such as 4,3,2; got {text!r}")
    return [int(p) for p in parts]


def _parse_stretch(text: str) -> tuple[str, dict[str, float]]:
    if text == "none":
        return "none", {}
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 <= low < high <= 100:
        _usage(f"--stretch takes two percentiles such as 2,98, or none; got {text!r}")
    return "percentile", {"low": low, "high": high}


def _exporters(tools: Registry, outputs: list[Path], image: str) -> dict[Path, Exporter]:
    from samplat import InputError

    found: dict[Path, Exporter] = {}
    for output in outputs:
        if output in found:
            _usage(f"{output} is given twice; each output needs its own name")
        if output.exists() and Path(image).exists() and output.samefile(image):
            _usage(f"{output} is the input; choose another output")
        try:
            found[output] = tools.exporter_for(output)
        except InputError as error:
            _usage(str(error))
    return found


def _prompt_spec(prompts: Path | None, window: int | None, **options: Any) -> PromptSpec | None:
    from samplat import PromptSpec

    given = _given(**options)
    if prompts is None:
        if given or window is not None:
            _usage(f"--prompts-{next(iter(given), 'window')} needs --prompts")
        return None
    return PromptSpec(path=str(prompts), options=given, window=window)


def _fates(result: JobResult) -> dict[str, Any]:
    """What became of the prompts, if there were any: how many of each fate."""
    if result.prompts is None:
        return {}
    counts = Counter(result.prompts["fate"].to_pylist())
    return {"prompts": dict(sorted(counts.items())), "report": str(result.store.report_path)}


def _source(
    tools: Registry, image: str, bidx: list[int] | None, nodata: float | None
) -> SourceSpec:
    from samplat import InputError, SourceSpec

    try:
        factory = tools.source_for(image).name
    except InputError:
        # ours says best what is wrong with a path that nobody claims
        factory = "raster"
    return SourceSpec(path=image, factory=factory, options=_given(bidx=bidx, nodata=nodata))


def _described(planned: Plan, exporters: Mapping[Path, Exporter]) -> str:
    _, height, width = planned.info.shape
    stretched = zip(planned.stretch.low, planned.stretch.high, strict=True)
    lines = (
        f"image: {width} x {height} pixels, {planned.info.bands} bands of {planned.info.dtype}",
        f"CRS: {_crs_name(planned.info.crs)}",
        f"stretch: {', '.join(f'{low:g} to {high:g}' for low, high in stretched)}",
        f"tiles: {len(planned.grid)} of {planned.job.tile_size} + {planned.grid.halo[2]} pixels",
        *_asked(planned),
        f"job directory: {planned.job.job_dir}",
        *(f"would write {output} ({exporter.name})" for output, exporter in exporters.items()),
    )
    return "\n".join(lines)


def _asked(planned: Plan) -> list[str]:
    if planned.prompts is None or planned.sight is None:
        return []
    wide = sum(unit.factor > 1 for unit in planned.units)
    told = Counter(planned.prompts.features["fate"].to_pylist())
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(told.items()))
    return [
        f"prompts: {planned.prompts.features.num_rows} ({fates}) of {len(planned.prompts)} objects",
        f"windows: {len(planned.units)} of {planned.sight.side} pixels, {wide} seen smaller",
    ]


def _projected(one: Rehearsal | None, planned: Plan) -> str:
    if one is None:
        return "no tile has data"
    what, count = ("window", len(planned.units)) if planned.units else ("tile", len(planned.grid))
    minutes, gib = one.seconds * count / 60, one.peak_bytes / 2**30
    return (
        f"one {what}: {one.seconds:.1f} s, {one.objects} objects\n"
        f"all of them: about {minutes:.1f} min, {gib:.2f} GiB of memory at most"
    )


def _crs_name(crs: str | None) -> str:
    from pyproj import CRS

    return str(CRS.from_wkt(crs).name) if crs else "none"


def _summary(facts: Mapping[str, Any]) -> str:
    left = [f"{facts['skipped']} skipped"] if facts["skipped"] else []
    left += [f"{len(facts['quarantined'])} failed"] if facts["quarantined"] else []
    tiles = f"{facts['tiles']} tiles" + (f" ({', '.join(left)})" if left else "")
    head = f"{facts['objects']} objects, {tiles}, {facts['seconds']:.1f} s"
    lines = [head, *(f"wrote {name}" for name in facts["files"])]
    if "prompts" in facts:
        fates = ", ".join(f"{count} {fate}" for fate, count in facts["prompts"].items())
        lines.append(f"prompts: {fates}; see {facts['report']}")
    return "\n".join(lines)
