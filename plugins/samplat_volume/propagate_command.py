"""The command `propagate`. Heavy libraries are imported when it runs, not here."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samplat import usage_error
from samplat_volume.options import (
    SPACES,
    AllowDuplicates,
    AllowGaps,
    AllowTruncated,
    Channel,
    Series,
    Spacing,
    Time,
    checked_slices,
)

if TYPE_CHECKING:
    from samplat import SourceSpec
    from samplat_volume.following import Asked, Told

CARRY = ("box", "points", "logits", "box+points", "box+logits", "mixture")
PERCENTILES = "1,99"


def propagate(
    image: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="NIfTI, NRRD, MetaImage, DICOM folder, OME-Zarr ..."),
    ],
    out: Annotated[
        list[Path],
        typer.Option(
            "--out", "-o", help=".nii .nii.gz .nrrd .mha .dcm .ome.zarr .csv; repeatable."
        ),
    ],
    space: Annotated[
        str | None, typer.Option(help="What coordinates are in: voxel, lps or ras (mm).")
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(help="x,y,z on the object; x,y,z,0: not the object, a stop. Repeatable."),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(help="x0,y0,z0,x1,y1,z1 around it; flat: on one slice. Repeatable."),
    ] = None,
    number: Annotated[
        int, typer.Option("--object", min=1, help="Which object --point and --box are about.")
    ] = 1,
    prompts: Annotated[
        Path | None,
        typer.Option(help="CSV or JSON of points and boxes, or a label image to refine."),
    ] = None,
    prompts_as: Annotated[
        str, typer.Option(help="Of a label image: ask its boxes (box), or take its masks (mask).")
    ] = "box",
    prompts_slices: Annotated[
        str, typer.Option(help="Of a label image: middle, all, every:N, or numbers 3,17.")
    ] = "middle",
    plane: Annotated[
        str | None,
        typer.Option(
            help="axial, coronal, sagittal, z, y or x; that of the thickest voxels otherwise."
        ),
    ] = None,
    triplanar: Annotated[
        bool, typer.Option("--triplanar", help="Look along all three axes, and let them vote.")
    ] = False,
    carry: Annotated[
        str,
        typer.Option(help="How a slice is asked: one or more of box, points, logits; mixture."),
    ] = "box",
    window: Annotated[
        str | None,
        typer.Option(help="CT: soft-tissue, lung, bone, brain, liver, or width,level."),
    ] = None,
    percentiles: Annotated[
        str | None,
        typer.Option(help=f"Of the volume, that become black and white; {PERCENTILES}."),
    ] = None,
    channel: Channel = None,
    time_index: Time = None,
    series: Series = None,
    spacing: Spacing = None,
    allow_gaps: AllowGaps = False,
    allow_duplicates: AllowDuplicates = False,
    allow_truncated: AllowTruncated = False,
    model: Annotated[
        str, typer.Option(help="Name in `samplat models list`, or path of a checkpoint.")
    ] = "samplat-tiny",
    confidence: Annotated[
        Path | None, typer.Option(help="Confidence of each slice, as .csv or .json.")
    ] = None,
    job_dir: Annotated[
        Path | None, typer.Option(help="Where finished objects are kept; beside the first output.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard another run in the job directory.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never download, as with SAMPLAT_OFFLINE=1.")
    ] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Progress and summary as lines of JSON.")
    ] = False,
) -> None:
    """Follow objects of a volume from prompts on one or more slices to three dimensions.

    Run the same command again to resume; with other prompts, only what they touch is done anew.
    Ends with 0 done, 1 failed, 2 wrong usage, 3 done but for objects that are named.
    """
    if offline:
        os.environ["SAMPLAT_OFFLINE"] = "1"
    if prompts is None and not point and not box:
        usage_error("give at least one --point, --box or --prompts FILE")
    if space is not None and space not in SPACES:
        usage_error(f"--space must be one of {', '.join(SPACES)}; got {space!r}")
    if (point or box) and space is None:
        usage_error("say what --point and --box are in: --space voxel, lps or ras")
    if window is not None and percentiles is not None:
        usage_error("--window and --percentiles both choose grey values; give one of them")
    options = {
        "channel": _whole_numbers("--channel", channel),
        "time": time_index,
        "series": int(series) if series is not None and series.isdecimal() else series,
        "spacing": None if spacing is None else _numbers("--spacing", spacing, 3),
        "allow_gaps": allow_gaps or None,
        "allow_duplicates": allow_duplicates or None,
        "allow_truncated": allow_truncated or None,
    }
    asked = _asked(
        source=_source(image, options),
        outputs=out,
        space=space,
        points=[_point(text) for text in point or []],
        boxes=[_numbers("--box", text, 6) for text in box or []],
        number=number,
        prompts=prompts,
        drawn=_choice("--prompts-as", prompts_as, ("box", "mask")) == "mask",
        chosen=checked_slices(prompts_slices),
        plane=plane,
        triplanar=triplanar,
        carry=_carry(carry),
        window=window,
        percentiles=None if window else _percentiles(percentiles or PERCENTILES),
        model=model,
        confidence=confidence,
        job_dir=job_dir or default_job_dir(out[0]),
    )
    _run(asked, overwrite=overwrite, log_json=log_json)


def default_job_dir(output: Path) -> Path:
    """`out.nii.gz` has its objects in `out.nii.gz.samplat-objects`."""
    return output.with_name(output.name + ".samplat-objects")


def _run(asked: Asked, *, overwrite: bool, log_json: bool) -> None:
    from samplat import JobError, choose_progress
    from samplat_volume.following import follow

    began, progress = time.monotonic(), choose_progress(sys.stderr, log_json=log_json)
    told = follow(asked, progress=progress, overwrite=overwrite)
    if told.failed and not told.objects:
        raise JobError("; ".join(told.failed.values()))
    seconds = round(time.monotonic() - began, 2)
    typer.echo(
        json.dumps({"event": "summary", **_facts(told, asked), "seconds": seconds})
        if log_json
        else _summary(told, seconds)
    )
    if told.failed:
        raise typer.Exit(3)


def _facts(told: Told, asked: Asked) -> dict[str, Any]:
    return {
        "objects": [
            {
                "object": one.number,
                "slices": list(one.slices),
                "volume_ml": round(one.millilitres, 4),
                "look_at": [{"slice": k, "confidence": round(c, 3)} for k, c in one.doubtful],
                "planes": [
                    {"plane": name, "dice": round(dice, 3), "confidence": round(sure, 3)}
                    for name, dice, sure in one.opinions
                ],
                "reused": one.reused,
            }
            for one in told.objects
        ],
        "failed": told.failed,
        "plane": told.plane,
        "slices_encoded": told.encoded,
        "files": [str(output) for output in told.files],
        "job_dir": str(asked.job_dir),
    }


def _summary(told: Told, seconds: float) -> str:
    count = len(told.objects)
    lines = [f"{count} object{'' if count == 1 else 's'} across {told.plane}, {seconds:.1f} s"]
    for one in told.objects:
        first, last = one.slices
        again = ", as it was" if one.reused else ""
        lines.append(
            f"object {one.number}: slices {first} to {last}, {one.millilitres:.3g} ml{again}"
        )
        if one.doubtful:
            named = [f"{k} ({c:.2f})" for k, c in one.doubtful]
            lines.append(f"  least sure: look at slice {', '.join(named)}")
        for name, dice, sure in one.opinions:
            lines.append(f"  across {name}: dice {dice:.2f}, confidence {sure:.2f}")
    lines += [f"failed: {message}" for message in told.failed.values()]
    return "\n".join([*lines, *(f"wrote {output}" for output in told.files)])


def _asked(**arguments: Any) -> Asked:
    from samplat_volume.following import Asked

    return Asked(**arguments)


def _source(image: str, options: dict[str, Any]) -> SourceSpec:
    from samplat import SourceSpec

    given = {name: value for name, value in options.items() if value is not None}
    return SourceSpec(path=image, factory="volume", options=given)


def _numbers(option: str, text: str, *counts: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts or not all(map(math.isfinite, numbers)):
        told = " or ".join(map(str, counts))
        usage_error(f"{option} takes {told} numbers with commas; got {text!r}")
    return numbers


def _point(text: str) -> tuple[list[float], bool]:
    """x, y, z, and whether the object is there."""
    *place, label = [*_numbers("--point", text, 3, 4), 1.0][:4]
    if label not in (0, 1):
        usage_error(f"--point x,y,z,label takes 1 on the object and 0 beside it; got {text!r}")
    return place, label == 1


def _whole_numbers(option: str, text: str | None) -> int | list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        usage_error(f"{option} takes whole numbers from 0 with commas; got {text!r}")
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else numbers


def _percentiles(text: str) -> tuple[float, float]:
    low, high = _numbers("--percentiles", text, 2)
    if not 0 <= low < high <= 100:
        usage_error(f"--percentiles takes two of 0 to 100, the lower one first; got {text!r}")
    return low, high


def _choice(option: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        usage_error(f"{option} must be one of {', '.join(known)}; got {value!r}")
    return value


def _carry(text: str) -> tuple[str, ...]:
    kinds = tuple(_choice("--carry", part.strip(), CARRY) for part in text.split(","))
    return ("box", "points", "logits") if "mixture" in kinds else kinds
