"""samplat in napari: click, see the mask at once, and lose nothing.

Nothing heavy is imported here: `samplat --help` loads this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from samplat import hookimpl

if TYPE_CHECKING:
    import typer

REQUIRES = ("napari", "qtpy")
"""Libraries of the extra `samplat[napari]`."""


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """The commands `replay` and `napari`."""
    from napari_sam.commands import napari, replay

    app.command("napari")(napari)
    app.command("replay")(replay)
