"""What is annotated in a window: cells, ponds, a hippocampus, each with outlines of the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.objects import Mask, choose_objects
from benchmarks.evaluation.sets import read_folder
from benchmarks.evaluation.stacks import SETS as STACKS
from samplat.errors import InputError

PONDS = (
    "501,268 505,262 510,258 518,257 526,259 532,252 542,246 552,243 564,242 564,249 558,259"
    " 556,275 550,288 540,292 530,290 522,291 510,284 503,278 504,273",
    "352,512 358,508 368,508 380,510 386,516 387,526 384,534 382,542 388,552 392,558 393,568"
    " 391,577 384,587 376,594 371,600 362,603 356,600 352,592 349,582 349,572 352,560 355,548"
    " 353,538 351,525",
    "858,348 862,341 870,337 884,337 892,334 900,338 906,346 905,355 902,363 896,366 886,363"
    " 876,364 866,362 860,359",
    "548,311 556,312 562,321 568,331 566,336 560,343 552,348 538,348 532,344 534,338 540,328"
    " 545,318",
)
"""Four ponds of the NAIP scene, outlined by hand on an enlargement: x,y of corners of pixels."""
CELLS = 5
"""Nuclei of the picture that are annotated."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """An image as a viewer takes it, and what is to be found in it."""

    name: str
    """Of the row."""
    pixels: NDArray[Any]
    """(H, W), (H, W, 3), or (z, y, x) of a volume."""
    rgb: bool
    """True: the last axis is colour."""
    scale: tuple[float, ...]
    """Length of a pixel along each axis."""
    objects: tuple[tuple[int, Mask], ...]
    """For each object the slice it is clicked on, 0 in an image, and its pixels there (H, W)."""
    truth: NDArray[np.bool_] | None = None
    """(z, y, x) of the only object of a volume."""


def cells(root: Path) -> Scene:
    """Nuclei of the picture in the middle of DSB2018, by name."""
    pictures = list(read_folder(root / "bio_dsb2018"))
    chosen = pictures[len(pictures) // 2]
    rgb = chosen.image.ndim == 3
    masks = choose_objects(chosen.labels, most=CELLS)
    return Scene(
        name="dsb2018",
        pixels=chosen.image[..., :3] if rgb else chosen.image,
        rgb=rgb,
        scale=(1.0, 1.0),
        objects=tuple((0, mask) for mask in masks),
    )


def ponds(root: Path) -> Scene:
    """Water in a NAIP picture of 5 m."""
    import rasterio
    from skimage.draw import polygon2mask

    with rasterio.open(root / "geo_nogt_naip_landsat" / "naip_20140720.tif") as file:
        pixels = np.moveaxis(file.read((1, 2, 3)), 0, -1)
        scale = file.res
    outlines = [
        np.array([corner.split(",") for corner in pond.split()], float)[:, ::-1] - 0.5
        for pond in PONDS
    ]
    masks = [polygon2mask(pixels.shape[:2], each) for each in outlines]
    return Scene(
        name="naip",
        pixels=pixels,
        rgb=True,
        scale=tuple(scale),
        objects=tuple((0, mask) for mask in masks),
    )


def hippocampus(root: Path) -> Scene:
    """The volume in the middle of its set, by name, clicked on the slice that halves the object."""
    chosen = next(s for s in STACKS if s.name == "hippocampus")
    volumes = list(chosen.read(root / chosen.folder))
    each = volumes[len(volumes) // 2]
    pixels = np.ascontiguousarray(np.moveaxis(each.pixels, each.axis, 0))
    lengths = list(each.spacing)
    scale = (lengths.pop(each.axis), *lengths)
    return Scene(
        name="hippocampus",
        pixels=pixels,
        rgb=False,
        scale=scale,
        objects=((each.middle, each.stack[each.middle]),),
        truth=each.stack,
    )


SCENES: dict[str, tuple[str, Callable[[Path], Scene]]] = {
    "dsb2018": ("bio_dsb2018", cells),
    "naip": ("geo_nogt_naip_landsat", ponds),
    "hippocampus": ("med_hippocampus", hippocampus),
}
"""Folder of the evaluation data and reader of each row."""


def scenes(root: Path) -> Iterator[Scene]:
    """All of them.

    Raises:
        InputError: a folder is missing.
    """
    for folder, read in SCENES.values():
        if not (root / folder).is_dir():
            raise InputError(f"{root} has no folder {folder!r}; pass the evaluation data's folder")
        yield read(root)
