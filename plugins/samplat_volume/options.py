"""Options of the commands that open a volume."""

from typing import Annotated

import typer

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
    typer.Option("--allow-gaps", help="Slices of DICOM, or chunks of OME-Zarr, may be missing."),
]
AllowDuplicates = Annotated[
    bool, typer.Option("--allow-duplicates", help="DICOM: the first of several slices.")
]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", help="DICOM: leave out slices that are cut off.")
]
