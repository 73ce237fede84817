"""One labelled object, followed through its volume in five ways."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evaluation.objects import mask_box
from benchmarks.evaluation.stacks import LabelledObject
from samplat_volume.model_slices import ModelSlices
from samplat_volume.projection import Projection
from samplat_volume.slices import SlicePrompt, Stack
from samplat_volume.triplanar import dice, triplanar
from samplat_volume.walks import Rules

METHODS = ("per_slice", "propagated", "triplanar", "repeat_slice")
MULTIPLIERS = (1.5, 2.0, 2.5, 3.0)
"""Standard deviations of grey levels that region growing accepts."""
GROWN = tuple(f"grown_{m}{where}" for m in MULTIPLIERS for where in ("", "_in_box"))
"""Settings of region growing; one of them counts for a whole set."""
ROUNDS, RADIUS = 4, 2
"""Of region growing: times the statistics are renewed, and voxels around its seed for the first."""

Volume = NDArray[np.bool_]


class ModelPlanes:
    """A model on the slices of a volume across every axis; each is encoded once."""

    def __init__(self, model: Any, labelled: LabelledObject, embed: Any = None) -> None:
        stacks = [Stack(volume=labelled.pixels, axis=a, spacing=labelled.spacing) for a in range(3)]
        self._stacks = stacks
        self._slices = [
            ModelSlices(model, s, embed=embed, remembered=max(s.shape[0], 1)) for s in stacks
        ]

    def segmenter(self, axis: int) -> ModelSlices:
        """Of the slices across an axis."""
        return self._slices[axis]

    def reader(self, axis: int) -> Stack:
        """Reads them."""
        return self._stacks[axis]


def follow(
    model: Any,
    labelled: LabelledObject,
    *,
    embed: Any = None,
    projection: Projection | None = None,
    rules: Rules | None = None,
) -> dict[str, float]:
    """Dice of each of the methods, and the seconds that the model's took."""
    planes, began = ModelPlanes(model, labelled, embed), time.monotonic()
    middle, axis = labelled.middle, labelled.axis
    prompt = SlicePrompt(box=mask_box(labelled.stack[middle]))
    sliced = per_slice(planes.segmenter(axis), labelled.stack)
    seen = triplanar(
        planes,
        axis,
        {middle: prompt},
        spacing=labelled.spacing,
        projection=projection,
        rules=rules,
    )
    seconds = time.monotonic() - began
    found = seen.first.mask()
    masks = {
        "per_slice": sliced,
        "propagated": found,
        "repeat_slice": repeated(found, middle),
    }
    figures = {name: dice(mask, labelled.stack) for name, mask in masks.items()}
    figures["triplanar"] = dice(seen.mask, labelled.truth)
    ordered = {name: figures[name] for name in METHODS}
    return ordered | region_growing(labelled) | {"seconds": seconds}


def per_slice(segmenter: ModelSlices, truth: Volume) -> Volume:
    """(slices, rows, columns): the object's tight box asked in every slice that it is in."""
    out = np.zeros_like(truth)
    for index in np.flatnonzero(truth.any(axis=(1, 2))):
        prompt = SlicePrompt(box=mask_box(truth[index]))
        out[index] = segmenter(int(index), [prompt])[0].mask
    return out


def repeated(found: Volume, middle: int) -> Volume:
    """The mask of the middle slice on every slice on which propagation found the object."""
    out = np.zeros_like(found)
    out[found.any(axis=(1, 2))] = found[middle]
    return out


def region_growing(labelled: LabelledObject) -> dict[str, float]:
    """Dice of SimpleITK's ConfidenceConnected from the middle of the prompt's box, by `GROWN`.

    It is tried with several multipliers, and both as it is and cut to the box in every slice.
    """
    import SimpleITK

    x0, y0, x1, y1 = mask_box(labelled.stack[labelled.middle])
    pixels = np.moveaxis(labelled.pixels, labelled.axis, 0)
    image = SimpleITK.GetImageFromArray(pixels.astype(np.float32))
    seed = ((x0 + x1 - 1) // 2, (y0 + y1 - 1) // 2, labelled.middle)
    column = np.zeros_like(labelled.stack)
    column[:, y0:y1, x0:x1] = True
    found = []
    for multiplier in MULTIPLIERS:
        grown = SimpleITK.ConfidenceConnected(image, [seed], ROUNDS, multiplier, RADIUS)
        mask = SimpleITK.GetArrayFromImage(grown) > 0
        found += [dice(m, labelled.stack) for m in (mask, mask & column)]
    return dict(zip(GROWN, found, strict=True))
