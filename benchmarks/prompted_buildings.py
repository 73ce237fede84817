"""Buildings by boxes from a vector file: whole and in tiles, in either CRS, beside one look.

    python -m benchmarks.prompted_buildings DATA [--json OUT]

DATA holds `geo_atlanta_spacenet4` and `geo_banepa`. Each building's polygon becomes a box prompt of
`samplat tile-segment --prompts`; its object is compared with the polygon, burnt into the raster's
grid. Runs: untiled (one tile holds the raster), tiled, and tiled with the prompts in the other CRS.
"direct" asks `samplat.predict` with the same boxes on the whole raster at once, by other code: a
raster larger than the model's input is shrunk for that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SETS = ("geo_atlanta_spacenet4", "geo_banepa")
TILE, UNTILED = 160, 100_000
OTHER_CRS = {"geo_atlanta_spacenet4": "EPSG:4326", "geo_banepa": "EPSG:32645"}
"""In which the prompts of the third run are; the files themselves are in UTM 16N and in degrees."""
TOLERANCE = 0.01


def buildings(
    data: Path,
    *,
    model: str = "samplat-tiny",
    sets: Sequence[str] = SETS,
    part: tuple[int, int, int, int] | None = None,
) -> Iterator[dict[str, Any]]:
    """One row of figures per set and run.

    Args:
        data: folder of the sets.
        model: as of `samplat.load_model`.
        sets: which of them.
        part: x0, y0, x1, y1 of a scene instead of the whole, with the buildings inside of it.
    """
    for name in sets:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            if part is None:
                scene, polygons = open_scene(data / name, work)
            else:
                scene, polygons = crop_scene(data / name, work, part)
            ious = _runs(name, scene, polygons, work, model)
        yield from (_row(name, run, found, ious["untiled"]) for run, found in ious.items())


def open_scene(folder: Path, work: Path) -> tuple[Path, Any]:
    """A georeferenced raster and its buildings; Banepa's chips have no CRS and become a mosaic."""
    import geopandas

    polygons = geopandas.read_file(folder / "buildings.geojson")
    chips = sorted((folder / "images").glob("*.tif"))
    scene = chips[0] if len(chips) == 1 else _mosaic(chips, work / "mosaic.tif")
    return scene, polygons


def _mosaic(chips: list[Path], output: Path) -> Path:
    """Web map tiles of zoom 19, named by column and row, in Web Mercator."""
    import rasterio

    places = np.array([[int(n) for n in chip.stem.split("-")[1:3]] for chip in chips])
    first, count = places.min(axis=0), np.ptp(places, axis=0) + 1
    side, half = 512, 20037508.342789244
    pixel = 2 * half / 2**19 / side
    transform = rasterio.Affine(
        pixel, 0, first[0] * side * pixel - half, 0, -pixel, half - first[1] * side * pixel
    )
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "crs": "EPSG:3857"}
    width, height = (int(n) * side for n in count)
    with rasterio.open(
        output, "w", width=width, height=height, transform=transform, tiled=True, **profile
    ) as out:
        for chip, place in zip(chips, places - first, strict=True):
            column, row = (int(n) * side for n in place)
            window = rasterio.windows.Window(column, row, side, side)
            out.write(_pixels(chip), window=window)
    return output


def _pixels(chip: Path) -> NDArray[np.uint8]:
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(chip) as dataset:
            pixels: NDArray[np.uint8] = dataset.read()
    return pixels


def crop_scene(folder: Path, work: Path, place: tuple[int, int, int, int]) -> tuple[Path, Any]:
    """A part x0, y0, x1, y1 of a scene, and the buildings that lie in it as a whole."""
    import rasterio
    import shapely

    scene, polygons = open_scene(folder, work)
    x0, y0, x1, y1 = place
    with rasterio.open(scene) as dataset:
        window = rasterio.windows.Window(x0, y0, x1 - x0, y1 - y0)
        pixels = dataset.read(window=window)
        transform = dataset.transform @ rasterio.Affine.translation(x0, y0)
        profile = {**dataset.profile, "driver": "GTiff", "transform": transform}
        profile |= {"width": x1 - x0, "height": y1 - y0}
        low, high = transform @ (0, y1 - y0), transform @ (x1 - x0, 0)
        bounds = shapely.box(*low, *high)
    with rasterio.open(work / "crop.tif", "w", **profile) as out:
        out.write(pixels)
    inside = polygons.to_crs(profile["crs"]).within(bounds)
    return work / "crop.tif", polygons[inside.to_numpy()].reset_index(drop=True)


def _runs(
    name: str, scene: Path, polygons: Any, work: Path, model: str
) -> Mapping[str, NDArray[np.float64]]:
    given, other = work / "given.geojson", work / "other.gpkg"
    polygons.to_file(given)
    polygons[["geometry"]].to_crs(OTHER_CRS[name]).to_file(other)
    runs = {
        "untiled": (given, UNTILED),
        "tiled": (given, TILE),
        "tiled, other CRS": (other, TILE),
    }
    found = {
        run: per_building_iou(_segment(scene, file, size, work / f"{k}.tif", model), polygons)
        for k, (run, (file, size)) in enumerate(runs.items())
    }
    return {**found, "direct": _direct(scene, polygons, model)}


def _segment(scene: Path, prompts: Path, tile_size: int, output: Path, model: str) -> Path:
    from samplat import PromptSpec, SegmentJob, SourceSpec, registry, segment
    from samplat_raster.cog import CogExporter

    job = SegmentJob(
        source=SourceSpec(path=str(scene), factory="raster"),
        job_dir=str(output.with_suffix(".job")),
        model=model,
        segmenter="prompted",
        rescaler="percentile",
        rescaler_options={"low": 2, "high": 98},
        tile_size=tile_size,
        prompts=PromptSpec(path=str(prompts)),
    )
    result = segment(job, executor=registry().executor("overlapping").create())
    CogExporter().export(result, output)
    result.objects.select(["id", "prompt.prompt_id"]).to_pandas().to_csv(
        output.with_suffix(".csv"), index=False
    )
    return output


def per_building_iou(labels: Path, polygons: Any) -> NDArray[np.float64]:
    """(N,) IoU of each building that touches a raster with the object of its number.

    Objects are told by their prompt's number where a table of the two lies beside the labels, and
    otherwise ids are those numbers: every building lies in the raster then.
    """
    import pandas as pd
    import rasterio

    with rasterio.open(labels) as dataset:
        ids, transform, crs = dataset.read(1), dataset.transform, dataset.crs
    table = labels.with_suffix(".csv")
    names = {number: number for number in range(1, len(polygons) + 1)}
    if table.exists():
        known = pd.read_csv(table)
        names = dict(zip(known["prompt.prompt_id"], known["id"], strict=True))
    truths = _burnt(polygons.to_crs(crs), ids.shape, transform)
    return np.array([_iou(truth, ids == names.get(number, -1)) for number, truth in truths.items()])


def _burnt(polygons: Any, shape: tuple[int, int], transform: Any) -> dict[int, NDArray[np.bool_]]:
    """Buildings with at least one pixel in a raster, by number from 1."""
    from rasterio.features import rasterize

    masks = (
        rasterize([polygon], out_shape=shape, transform=transform, dtype="uint8").astype(bool)
        for polygon in polygons.geometry
    )
    return {number: mask for number, mask in enumerate(masks, start=1) if mask.any()}


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def _direct(scene: Path, polygons: Any, model: str) -> NDArray[np.float64]:
    """The boxes on the whole raster at once, without tiles, windows or ids."""
    import rasterio

    from samplat import Prompts, embed, load_model, predict

    with rasterio.open(scene) as dataset:
        pixels, transform, crs = dataset.read(), dataset.transform, dataset.crs
    low, high = np.percentile(pixels, (2, 98), axis=(1, 2), keepdims=True)
    if pixels.dtype != np.uint8:
        pixels = (np.clip((pixels - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    image = np.ascontiguousarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0))
    loaded = load_model(model)
    embedding = embed(loaded, image)
    local, shape = polygons.to_crs(crs), pixels.shape[1:]
    truths = _burnt(local, shape, transform)
    ious = []
    for number, truth in truths.items():
        x0, y0, x1, y1 = local.geometry.iloc[number - 1].bounds
        (left, top), (right, bottom) = ~transform @ (x0, y1), ~transform @ (x1, y0)
        box = np.clip([left, top, right, bottom], 0, [shape[1], shape[0]] * 2)
        box[2:] = np.maximum(box[2:], box[:2] + 1)
        answer = predict(loaded, embedding, Prompts(boxes=[box]), multimask=False)
        ious.append(_iou(answer.masks[0, 0], truth))
    return np.array(ious)


def _row(
    name: str, run: str, ious: NDArray[np.float64], untiled: NDArray[np.float64]
) -> dict[str, Any]:
    apart = np.abs(ious - untiled)
    return {
        "set": name,
        "run": run,
        "buildings": len(ious),
        "mean_iou": round(float(ious.mean()), 4),
        "apart_mean": round(float(abs(ious.mean() - untiled.mean())), 4),
        "apart_share": round(float((apart > TOLERANCE).mean()), 4),
        "apart_most": round(float(apart.max()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="samplat-tiny")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=SETS, help="one of the sets")
    parser.add_argument("--part", help="x0,y0,x1,y1: a part of each scene, in pixels")
    options = parser.parse_args()
    sets = SETS if options.only is None else (options.only,)
    part = tuple(int(n) for n in options.part.split(",")) if options.part else None
    rows = []
    for row in buildings(options.data, model=options.model, sets=sets, part=part):
        rows.append(row)
        print(
            f"{row['set']:24} {row['run']:18} {row['buildings']:4} buildings, "
            f"mean IoU {row['mean_iou']:.4f}; {row['apart_mean']:.4f} from untiled, "
            f"{100 * row['apart_share']:.1f} % of them by more than {TOLERANCE}, "
            f"at most by {row['apart_most']:.4f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
