"""SA-1B folders: `sa_*.jpg`, and beside each a `sa_*.json` with its masks as run lengths.

The format is that of the data set of the paper (section 5)::

    {"image": {"image_id", "width", "height", "file_name"},
     "annotations": [{"id", "segmentation": {"size": [H, W], "counts"}, "bbox": [x, y, w, h],
                      "area", "predicted_iou", "stability_score", "crop_box": [x, y, w, h],
                      "point_coords": [[x, y]]}, ...]}
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samplat import InputError, MaskSet, SamplatError, mask_set
from samplat_train.data.files import child, load_json, read_array
from samplat_train.data.pictures import Picture, as_image, levels_of
from samplat_train.data.rle import check_ids, decode_mask

QUALITY = 95
"""Of JPEG files written."""


@dataclass(frozen=True, kw_only=True)
class Sa1bFolder:
    """The pictures of an SA-1B folder, in order of name."""

    folder: Path
    """Holds the pictures and their JSON files."""
    records: tuple[str, ...]
    """Names of the JSON files."""

    @classmethod
    def open(cls, folder: Path) -> Sa1bFolder:
        """List the JSON files; none is read.

        Raises:
            InputError: there is no `sa_*.json`.
        """
        names = tuple(sorted(p.name for p in folder.glob("sa_*.json")))
        if not names:
            raise InputError(f"{folder}: expected an SA-1B folder, found no sa_*.json")
        return cls(folder=folder, records=names)

    @property
    def name(self) -> str:
        """The folder."""
        return str(self.folder)

    def __len__(self) -> int:
        return len(self.records)

    def key(self, i: int) -> str:
        """The file's name without suffix."""
        return self.records[i].removesuffix(".json")

    def read(self, i: int) -> Picture:
        """Picture i; mask k of the file has the id k + 1.

        Raises:
            InputError: the file is no SA-1B record, its picture is missing or of another size, a
                mask is corrupt, or an id is there twice.
        """
        path = self.folder / self.records[i]
        record = _checked_record(load_json(path), path)
        image_path = child(self.folder, record["image"]["file_name"], path)
        image = as_image(read_array(image_path), image_path)
        size = image.shape[0], image.shape[1]
        _check_size(record["image"], size, path)
        check_ids(record["annotations"], path)
        masks = (
            decode_mask(a.get("segmentation"), size, f"{path}: annotation {a['id']}")
            for a in record["annotations"]
        )
        return Picture(name=self.key(i), image=image, labels=levels_of(masks, size))


def _checked_record(record: Any, path: Path) -> dict[str, Any]:
    image = record.get("image") if isinstance(record, dict) else None
    if not isinstance(image, dict) or not isinstance(record.get("annotations"), list):
        raise InputError(f"{path}: expected an SA-1B record with image and annotations")
    if not isinstance(image.get("file_name"), str):
        raise InputError(f"{path}: image names no file_name")
    return dict(record)


def _check_size(image: dict[str, Any], size: tuple[int, int], path: Path) -> None:
    told = image.get("height"), image.get("width")
    if told != size:
        raise InputError(f"{path}: tells an image of {told}, {image['file_name']} is of {size}")


def write_sa1b(
    folder: Path,
    name: str,
    image: NDArray[np.uint8],
    masks: MaskSet | NDArray[np.bool_],
    *,
    suffix: str = ".jpg",
) -> Path:
    """Write a picture and its masks as one record of an SA-1B folder; replaces an older one.

    Args:
        folder: made if it is missing.
        name: of the files, without suffix: `sa_` and a number, which becomes the image's id;
            without one the id is a number made from the name.
        image: (H, W, 3).
        masks: with their scores, points and crops; or (N, H, W), whose scores are 1.
        suffix: .jpg as in SA-1B, or .png where no pixel may change.

    Returns:
        The JSON file; it appears last, and whole.

    Raises:
        InputError: the name or the suffix is unsuitable, or the masks are of another size.
        SamplatError: the files cannot be written.
    """
    if not name.startswith("sa_") or Path(name).name != name or suffix not in (".jpg", ".png"):
        raise InputError(f"expected a name sa_* with .jpg or .png, got {name!r} with {suffix!r}")
    found = masks if isinstance(masks, MaskSet) else mask_set(np.asarray(masks, bool))
    if found.size != image.shape[:2]:
        raise InputError(f"{name}: masks of {found.size} for an image of {image.shape[:2]}")
    record = _record(name + suffix, found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_image(folder / (name + suffix), image)
        _write(folder / f"{name}.json", json.dumps(record, allow_nan=False).encode())
    except OSError as error:
        raise SamplatError(f"cannot write {folder / name}: {error.strerror or error}") from error
    return folder / f"{name}.json"


def _record(file_name: str, masks: MaskSet) -> dict[str, Any]:
    number = _image_id(Path(file_name).stem)
    height, width = masks.size
    image = {"image_id": number, "width": width, "height": height, "file_name": file_name}
    annotations = [
        {"id": number * 100_000 + k, **_finite(one)} for k, one in enumerate(masks.to_coco(), 1)
    ]
    return {"image": image, "annotations": annotations}


def _image_id(stem: str) -> int:
    tail = stem.removeprefix("sa_")
    return int(tail) if tail.isdecimal() else int.from_bytes(tail.encode()[:6], "big")


def _finite(annotation: dict[str, Any]) -> dict[str, Any]:
    """Without the point of a mask that did not come from one: JSON has no NaN."""
    points = [p for p in annotation["point_coords"] if np.isfinite(p).all()]
    return {**annotation, "point_coords": points}


def _write_image(path: Path, image: NDArray[np.uint8]) -> None:
    import io

    buffer = io.BytesIO()
    kind = {".jpg": "JPEG", ".png": "PNG"}[path.suffix]
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind, quality=QUALITY)
    _write(path, buffer.getvalue())


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
