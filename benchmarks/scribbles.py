"""What a scribble should be to the model: points along it, or a mask? On labelled pictures.

python benchmarks/scribbles.py [--data DIR] [--model samplat-tiny]

A scribble is drawn as a person would: along the object, through its middle. Printed are the mean
and the median IoU of the mask with the object, by what the scribble became.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import samplat
from napari_sam import pointed
from napari_sam.pointed import Seen
from napari_sam.state import Scribble

COUNTS = 1, 2, 3, 4, 6, 8, 12
STROKES = 3, 9
"""Widths in pixels of strokes that become masks."""
LEAST = 150
"""Pixels of the smallest objects."""


def pictures(data: Path) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Kind, picture and labels."""
    for kind, labels, most in (
        ("bio_dsb2018", "labels", 8),
        ("bio_axon_sem", "labels_axon_instances", 2),
        ("nat_davis2016", "labels", 10),
    ):
        found = sorted((data / kind / "images").rglob("*.*"))
        for path in found[:: max(1, len(found) // most)][:most]:
            beside = data / kind / labels / path.relative_to(data / kind / "images")
            truth = next(iter(beside.parent.glob(beside.stem + ".*")), None)
            if truth is not None:
                seen = Image.open(path)
                seen = seen.convert("L" if seen.mode in ("L", "I;16", "P") else "RGB")
                yield kind, np.asarray(seen), np.asarray(Image.open(truth))


def objects(labels: NDArray[Any], most: int) -> Iterator[NDArray[np.bool_]]:
    """Some of a picture's objects, the same ones each time."""
    numbers, areas = np.unique(labels[labels > 0], return_counts=True)
    large = numbers[areas >= LEAST]
    for number in large[:: max(1, len(large) // most)][:most]:
        parts, count = ndimage.label(labels == number)
        if count:
            yield parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1


def scribble_on(mask: NDArray[np.bool_]) -> Scribble:
    """Along the object's long axis, through the middle of what lies across it."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    places = np.argwhere(depth > 0.4 * depth.max())
    _, _, axes = np.linalg.svd(places - places.mean(axis=0), full_matrices=False)
    along = (places - places.mean(axis=0)) @ axes[0]
    bins = np.digitize(along, np.linspace(along.min(), along.max(), 9)[1:-1])
    path = [places[bins == b].mean(axis=0) for b in np.unique(bins)]
    path = path if len(path) > 1 else [path[0], path[0] + 1]
    return Scribble(places=tuple(tuple(map(float, p)) for p in path))


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def stroke(scribble: Scribble, size: tuple[int, int], width: int) -> NDArray[np.bool_]:
    from PIL import ImageDraw

    drawn = Image.new("1", (size[1], size[0]))
    path = [(x, y) for y, x in scribble.places]
    ImageDraw.Draw(drawn).line(path, fill=1, width=width, joint="curve")
    return np.asarray(drawn, bool)


def answers(model: Any, embedding: Any, scribble: Scribble) -> Iterator[tuple[str, Any]]:
    """By what the scribble is to the model, its best mask."""
    size = embedding.original_size
    seen = Seen(axes=(0, 1), start=(0, 0), step=1, size=size)
    masks = {
        w: samplat.mask_prompts(model, embedding, [stroke(scribble, size, w)]) for w in STROKES
    }
    asked: dict[str, dict[str, Any]] = {}
    for count in COUNTS:
        pointed.ALONG = count
        said = pointed.pointed([scribble], seen)
        asked[f"{count} points"] = {"points": said.points, "labels": said.labels}
    for width, mask in masks.items():
        asked[f"mask {width} px"] = {"masks": mask}
        asked[f"mask {width} px, 3 points"] = {**asked["3 points"], "masks": mask}
    for name, told in asked.items():
        found = samplat.predict(
            model, embedding, samplat.Prompts(**told), multimask=name == "1 points"
        )
        yield name, found.masks[0, int(found.predicted_iou[0].argmax())]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/eval"))
    parser.add_argument("--model", default="samplat-tiny")
    parser.add_argument("--objects", type=int, default=5, help="of each picture")
    told = parser.parse_args()
    model = samplat.load_model(told.model)
    found: dict[str, dict[str, list[float]]] = {}
    for kind, pixels, labels in pictures(told.data):
        embedding = samplat.embed(model, pixels)
        for truth in objects(labels, told.objects):
            for name, mask in answers(model, embedding, scribble_on(truth)):
                by_kind = found.setdefault(name, {})
                by_kind.setdefault(kind, []).append(iou(mask, truth))
    for name, by_kind in found.items():
        every = np.concatenate(list(by_kind.values()))
        parts = "  ".join(f"{k} {np.mean(v):.3f} ({len(v)})" for k, v in by_kind.items())
        print(f"{name:22} mean {every.mean():.3f}  median {np.median(every):.3f}   {parts}")


if __name__ == "__main__":
    main()
