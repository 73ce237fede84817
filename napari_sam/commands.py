"""What the window does, from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay(
    journal: Annotated[Path, typer.Argument(help="journal.jsonl, or the folder it lies in.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Zarr array to write.")],
) -> None:
    """Make the labels of a session in napari again from its journal."""
    from napari_sam.session import replay as follow
    from samplat import check_writable

    check_writable(output)
    steps, objects = follow(journal, output)
    typer.echo(f"{output}: {objects} objects after {steps} steps")
