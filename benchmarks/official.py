"""The official code as a reference to measure against: a checkout of it, given by its path.

It needs three functions of torchvision. Where that is not installed, stand-ins of the same meaning
take their place; non-maximum suppression is the only one that takes part in a timed run.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samplat.errors import InputError

BUILDERS = {"vit_b": "build_sam_vit_b", "vit_l": "build_sam_vit_l", "vit_h": "build_sam_vit_h"}


def check_checkout(folder: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        InputError: the folder is no checkout of segment-anything.
    """
    if not (folder / "segment_anything" / "build_sam.py").is_file():
        raise InputError(f"expected a checkout of segment-anything, but {folder} is none")


def load_official(checkout: Path, architecture: str, state: dict[str, Tensor]) -> Any:
    """The official network with these weights, in evaluation mode."""
    if importlib.util.find_spec("torchvision") is None:
        _stand_in()
    sys.path.insert(0, str(checkout))
    package = importlib.import_module("segment_anything")
    sam = getattr(package, BUILDERS[architecture])()
    sam.load_state_dict(state, strict=False)
    return sam.eval().requires_grad_(False)


def official_generator(sam: Any, **parameters: Any) -> Any:
    """Its automatic mask generator."""
    package = importlib.import_module("segment_anything")
    return package.SamAutomaticMaskGenerator(sam, output_mode="coco_rle", **parameters)


def official_predictor(sam: Any) -> Any:
    """Its predictor."""
    return importlib.import_module("segment_anything").SamPredictor(sam)


def _stand_in() -> None:
    names = ("", ".ops", ".ops.boxes", ".transforms", ".transforms.functional")
    modules = {f"torchvision{name}": types.ModuleType(f"torchvision{name}") for name in names}
    sys.modules.update(modules)
    boxes: Any = modules["torchvision.ops.boxes"]
    boxes.batched_nms, boxes.box_area = batched_nms, box_area
    functional: Any = modules["torchvision.transforms.functional"]
    functional.resize, functional.to_pil_image = resize, to_pil_image


def box_area(boxes: Tensor) -> Tensor:
    """(N,) areas of boxes x0, y0, x1, y1."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, categories: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression within categories, best first."""
    shift = categories.to(boxes) * (boxes.max() + 1 if len(boxes) else 0)
    placed = boxes + shift[:, None]
    order = scores.argsort(descending=True, stable=True)
    area = box_area(placed)
    kept = []
    while len(order):
        first, order = order[0], order[1:]
        kept.append(first)
        start = torch.maximum(placed[first, :2], placed[order, :2])
        stop = torch.minimum(placed[first, 2:], placed[order, 2:])
        shared = (stop - start).clamp_min(0).prod(dim=1)
        order = order[shared / (area[first] + area[order] - shared) <= iou_threshold]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)


def to_pil_image(pixels: np.ndarray[Any, Any]) -> Any:
    """An array (H, W, 3) as a picture."""
    from PIL import Image

    return Image.fromarray(pixels)


def resize(picture: Any, size: tuple[int, int]) -> Any:
    """A picture at another size (rows, columns), bilinear."""
    from PIL import Image

    return picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
