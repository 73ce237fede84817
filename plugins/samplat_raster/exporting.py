"""Options that `tile-segment` and `export` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from samplat import Place

Simplify = Annotated[
    float,
    typer.Option(min=0, help="Simplify polygons, by about so many metres; pixels without a CRS."),
]
RightAngles = Annotated[
    bool,
    typer.Option("--right-angles", help="Give right angles to outlines that nearly have them."),
]
Stac = Annotated[
    bool, typer.Option("--stac", help="Also write a STAC item, OUTPUT.stac.json of the first one.")
]


def with_item(outputs: Sequence[Place]) -> list[Place]:
    """The outputs and, unless there is one, a STAC item that is called like the first of them."""
    if any(output.name.lower().endswith(".stac.json") for output in outputs):
        return list(outputs)
    return [*outputs, outputs[0].with_name(outputs[0].name + ".stac.json")]
