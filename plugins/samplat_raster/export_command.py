"""The command `export`: more files of a job that has run."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from samplat_raster.drawing import Drawing
from samplat_raster.exporting import RightAngles, Simplify, Stac, with_item


def export(
    job: Annotated[
        str, typer.Argument(metavar="JOB", help="Job directory: what ends in .samplat-job; a URL.")
    ],
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="OUTPUT",
            help="Files to write: .tif .zarr .parquet .gpkg .fgb .geojson .stac.json; URLs too.",
        ),
    ],
    simplify: Simplify = 0.0,
    right_angles: RightAngles = False,
    stac: Stac = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Progress and summary as lines of JSON.")
    ] = False,
) -> None:
    """Write more files of a finished job; nothing is computed again, the image is not needed.

    Ends with 0 done, 1 failed, 2 wrong usage, 3 done but for tiles that failed.
    """
    from samplat import (
        check_output,
        choose_progress,
        exporters_for,
        open_result,
        place,
        registry,
        write_outputs,
    )

    drawing = Drawing(simplify=simplify, right_angles=right_angles)
    outputs = [place(file) for file in files]
    wanted = with_item(outputs) if stac else outputs
    exporters = exporters_for(registry(), wanted, image=None, drawing=drawing)
    for output, exporter in exporters.items():
        check_output(exporter, output)
    progress = choose_progress(sys.stderr, log_json=log_json)
    with open_result(job) as result:
        write_outputs(result, exporters, progress)
    for warning in result.warnings:
        progress.message(f"warning: {warning}")
    written = [str(output) for output in exporters]
    if log_json:
        facts = {"objects": result.objects.num_rows, "files": written, "job_dir": job}
        typer.echo(json.dumps({"event": "summary", **facts}))
    else:
        typer.echo("\n".join(f"wrote {name}" for name in written))
    if result.quarantined:
        raise typer.Exit(3)
