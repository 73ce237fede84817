"""Training: simulated prompts, the paper's losses, drawn scenes, and the commands that use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samplat import hookimpl

if TYPE_CHECKING:
    import typer

REQUIRES = ("skimage",)


@hookimpl
def register_commands(app: typer.Typer) -> None:
    """Add `samplat train` and `samplat draw-scenes`."""
    from samplat_train.commands import add_commands

    add_commands(app)
