"""Options of the commands that open a volume."""

from typing import Annotated

import typer

from samplat import usage_error

SPACES = ("voxel", "lps", "ras")
"""What coordinates may be in."""
Channel = Annotated[
    str | None, typer.Option(help="Of a volume with several: 0, or up to three, 0,1,2.")
]
Time = Annotated[int | None, typer.Option("--time", min=0, help="Of a volume with several times.")]
Series = Annotated[
    str | None, typer.Option(help="Of a folder of several DICOM series: UID or number.")
]
Spacing = Annotated[str | None, typer.Option(help="z,y,x in mm, instead of what the file says.")]
AllowGaps = Annotated[
    bool,
    typer.Option("--allow-gaps", help="Slices of a DICOM series may be missing."),
]
AllowDuplicates = Annotated[
    bool, typer.Option("--allow-duplicates", help="DICOM: the first of several slices.")
]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", help="DICOM: leave out slices that are cut off.")
]
Flat = Annotated[
    bool, typer.Option("--flat", help="OME-Zarr: a picture of one slice, as fields of plates are.")
]


def checked_slices(text: str) -> str:
    """Slices of a label image as they were given: middle, all, every:N or numbers."""
    step = text.removeprefix("every:")
    numbers = [part.strip() for part in text.split(",")]
    if text in ("middle", "all") or all(part.isdecimal() for part in numbers):
        return text
    if step == text or not step.isdecimal() or int(step) < 1:
        usage_error(f"--prompts-slices takes middle, all, every:N or numbers 3,17; got {text!r}")
    return text
