"""Small images of every kind that a batch takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import SimpleITK as sitk
from affine import Affine
from numpy.typing import NDArray

from core.oracle import random_labels

QUICK = ("--set", "segmenter=threshold", "--set", "raster.tile-size=32", "--set", "raster.halo=8")
OWN = {
    "raster": ("--segmenter", "threshold", "--tile-size", "32", "--halo", "8"),
    "volume": ("--segmenter", "threshold"),
}


def blobs(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Bright pixels on dark ones."""
    labels = random_labels(np.random.default_rng(seed), shape[-2:], 8, 60)
    return np.broadcast_to(np.where(labels > 0, 255, 0), shape).astype(np.uint8)


def write_volume(path: Path, *, seed: int, shape: tuple[int, int, int] = (5, 40, 36)) -> Path:
    image = sitk.GetImageFromArray(np.ascontiguousarray(blobs(shape, seed)))
    image.SetSpacing((0.5, 0.75, 2.5))
    sitk.WriteImage(image, str(path))
    return path


def write_scene(path: Path, *, seed: int, shape: tuple[int, int] = (70, 90)) -> Path:
    place = {"crs": "EPSG:32633", "transform": Affine(1, 0, 500_000, 0, -1, 5_000_000)}
    size = {"width": shape[1], "height": shape[0], "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **place) as file:
        file.write(blobs(shape, seed), 1)
    return path


def cut(path: Path) -> bytes:
    """Cut a file off; returns what it was."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def write_plate(
    folder: Path, shape: tuple[int, ...] = (3, 24, 28), wells: tuple[str, ...] = ("A/1", "B/2")
) -> None:
    """An OME-Zarr plate of two fields in each well; pictures if the shape is one of two axes."""
    import zarr

    plate = zarr.create_group(str(folder), zarr_format=3)
    plate.attrs["ome"] = {"version": "0.5", "plate": {"wells": [{"path": well} for well in wells]}}
    names = "zyx"[-len(shape) :]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in names]
    for well in wells:
        images = [{"path": "0"}, {"path": "1"}]
        plate.create_group(well).attrs["ome"] = {"version": "0.5", "well": {"images": images}}
        for seed, image in enumerate(images):
            group = plate.create_group(f"{well}/{image['path']}")
            scale = {"type": "scale", "scale": [1.0, 0.5, 0.5][-len(shape) :]}
            datasets = [{"path": "0", "coordinateTransformations": [scale]}]
            scales = [{"axes": axes, "datasets": datasets}]
            group.attrs["ome"] = {"version": "0.5", "multiscales": scales}
            group["0"] = blobs(shape, seed)


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The same table in the format of the suffix."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({n: [row.get(n) for row in rows] for n in columns}), path)
    else:
        lines = [
            ",".join("" if row.get(n) is None else str(row[n]) for n in columns) for row in rows
        ]
        path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return path
