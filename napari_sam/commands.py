"""What the window does, from a shell; and the window."""

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


def napari(
    image: Annotated[
        Path | None, typer.Argument(help="Anything that napari, or a plugin of it, opens.")
    ] = None,
    project: Annotated[
        Path | None, typer.Option(help="Folder of a data engine project, instead of an image.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Name, or path of a checkpoint; a project has its own.")
    ] = "samplat-tiny",
    session: Annotated[
        Path | None, typer.Option(help="Folder of the work; found by the image if not given.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of embeddings, as of `tile-segment`; the user's if not given."),
    ] = None,
) -> None:
    """Open an image in napari, ready for clicks, or a project with its next picture."""
    from samplat import InputError

    if (image is None) == (project is None):
        raise InputError("expected an image to open, or --project DIR; one of them")
    if project is not None:
        if session is not None:
            raise InputError("a project keeps the sessions of its pictures; leave --session out")
        from napari_sam.opening import open_project

        open_project(project, cache).run()
        return
    if image is None or not image.exists():
        raise InputError(f"expected a picture, a stack or a zarr folder, but there is no {image}")
    from napari_sam.opening import open_window

    open_window(image, model, session, cache).run()
