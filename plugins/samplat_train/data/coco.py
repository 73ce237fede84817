"""COCO instances: one JSON for many pictures (`cocodataset.org/#format-data`).

An object is an annotation with `segmentation` as polygons or run lengths. Crowds (`iscrowd`) are no
objects, and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samplat import InputError
from samplat_train.data.files import child, load_json, read_array
from samplat_train.data.pictures import Picture, as_image, levels_of
from samplat_train.data.rle import check_ids, decode_mask


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """The pictures of a COCO instances file that have an object, in the file's order."""

    path: Path
    """The JSON file."""
    roots: tuple[Path, ...]
    """Folders that a `file_name` may be relative to, in the order in which they are tried."""
    images: tuple[dict[str, Any], ...]
    """Entries of `images`."""
    annotations: dict[int, list[dict[str, Any]]] = field(repr=False)
    """Annotations by the id of their image; crowds are left out."""

    @classmethod
    def open(cls, path: Path, root: Path | None = None) -> CocoFile:
        """Read the JSON file; no picture is opened.

        Args:
            path: the file.
            root: folder of the pictures; without it `images/` beside the file is tried, then the
                file's own folder.

        Raises:
            InputError: it is no COCO instances file, ids are missing or there twice, or it holds
                no object.
        """
        content = _checked(load_json(path), path)
        check_ids(content["images"], f"{path}: images")
        check_ids(content["annotations"], f"{path}: annotations")
        annotations = _by_image(content, path)
        images = [i for i in content["images"] if annotations.get(i["id"])]
        if not images:
            raise InputError(f"{path}: not a single object to learn from")
        roots = (root,) if root else (path.parent / "images", path.parent)
        return cls(path=path, roots=roots, images=tuple(images), annotations=annotations)

    @property
    def name(self) -> str:
        """The file."""
        return str(self.path)

    def __len__(self) -> int:
        return len(self.images)

    def key(self, i: int) -> str:
        """The picture's `file_name`."""
        return str(self.images[i]["file_name"])

    def read(self, i: int) -> Picture:
        """Picture i; annotation k of it has the id k + 1.

        Raises:
            InputError: the picture is missing or of another size than the file tells, or a mask is
                corrupt or outside.
        """
        entry = self.images[i]
        path = self._find(entry["file_name"])
        image = as_image(read_array(path), path)
        size = image.shape[0], image.shape[1]
        told = entry.get("height"), entry.get("width")
        if told != size:
            raise InputError(f"{self.path}: tells {self.key(i)} to be of {told}, it is of {size}")
        masks = (
            decode_mask(a.get("segmentation"), size, f"{self.path}: annotation {a['id']}")
            for a in self.annotations[entry["id"]]
        )
        return Picture(name=self.key(i), image=image, labels=levels_of(masks, size))

    def _find(self, name: str) -> Path:
        for root in self.roots[:-1]:
            if (root / name).is_file():
                return child(root, name, self.path)
        return child(self.roots[-1], name, self.path)


def _checked(content: Any, path: Path) -> dict[str, Any]:
    whole = is_coco(content) and all(
        isinstance(i, dict) and isinstance(i.get("file_name"), str) for i in content["images"]
    )
    if not whole:
        raise InputError(
            f"{path}: expected a COCO instances file: images with file_name, and annotations"
        )
    return dict(content)


def is_coco(content: Any) -> bool:
    """Whether parsed JSON has the lists of a COCO file."""
    return isinstance(content, dict) and all(
        isinstance(content.get(name), list) for name in ("images", "annotations")
    )


def _by_image(content: dict[str, Any], path: Path) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if annotation.get("image_id") not in found:
            raise InputError(
                f"{path}: annotation {annotation['id']} is of image "
                f"{annotation.get('image_id')!r}, which is not in images"
            )
        if not annotation.get("iscrowd"):
            found[annotation["image_id"]].append(annotation)
    return found
