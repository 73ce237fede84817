"""All masks of a raster in vector files: polygons, parents, and the ids of the label rasters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray

from raster.crafted import UTM, write
from samplat import MaskSet, mask_set
from samplat.plugins import Registry

Command = Callable[..., tuple[int, str, str]]
SIDE = 160
SQUARES = ((80, 80, 70), (80, 80, 40), (60, 60, 15), (62, 62, 6), (100, 96, 14), (150, 10, 8))
"""Half a side around a row and a column: all but the last lie in the first, three in the second."""
PARENTS = (None, 0, 1, 2, 1, None)


@dataclass(frozen=True)
class Bits:
    """A mask for each bit of the red band."""

    name: str = "bits"

    def create(self, model: str | None, **options: Any) -> Bits:
        return self

    def identity(self, model: str | None, **options: Any) -> Mapping[str, Any]:
        return {}

    def __call__(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> MaskSet:
        found = (pixels[None, ..., 0] >> np.arange(len(SQUARES))[:, None, None] & 1).astype(bool)
        return mask_set(found[found.any(axis=(1, 2))])


@pytest.fixture
def bits(tools: Registry) -> None:
    if "bits" not in tools.names("segmenters"):
        tools.add("segmenters", "test", Bits())


def squares() -> NDArray[np.bool_]:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.array([(abs(y - r) < h) & (abs(x - c) < h) for r, c, h in SQUARES])


def box(square: tuple[int, int, int]) -> Any:
    """On the ground, of `crafted.UTM`."""
    row, column, half = square
    corners = [UTM["transform"] @ p for p in ((column - half + 1, row - half + 1),)]
    corners.append(UTM["transform"] @ (column + half, row + half))
    return shapely.box(*corners[0], *corners[1])


@pytest.mark.usefixtures("bits")
@pytest.mark.parametrize("overlaps", ["small", "large"])
def test_vectors_hold_all_masks_with_their_parents(
    overlaps: str, samplat: Command, tmp_path: Path
) -> None:
    weights = 1 << np.arange(len(SQUARES))[:, None, None]
    image = np.repeat((squares() * weights).sum(axis=0)[None].astype(np.uint8), 3, axis=0)
    path, out = write(tmp_path / "in.tif", image, **UTM), tmp_path / "out.parquet"
    given = ("--segmenter", "bits", "--stretch", "none", "--tile-size", 64, "--halo", 32)
    status, told, err = samplat(
        "tile-segment", path, out, tmp_path / "out.tif", *given, "--nested", "--overlaps", overlaps
    )
    assert status == 0, err
    assert told.startswith("6 masks, ")
    masks = geopandas.read_parquet(out).set_index("id")
    assert masks.is_valid.all()
    number = {
        name: next(k for k, s in enumerate(SQUARES) if box(s).equals(geometry))
        for name, geometry in masks.geometry.items()
    }
    assert sorted(number.values()) == list(range(len(SQUARES)))
    for name, parent in masks["parent_id"].items():
        expected = PARENTS[number[name]]
        assert (None if np.isnan(parent) else number[parent]) == expected

    with rasterio.open(tmp_path / "out.tif") as raster:
        labels = raster.read(1)
    for name, mask in masks.iterrows():
        shown = np.unique(labels[squares()[number[name]] & (labels == name)]).tolist()
        assert shown == ([name] if mask["label_ids"] else [])
        assert str(name) in mask["label_ids"].split(",") or not mask["label_ids"]
    hidden = {number[n] for n, ids in masks["label_ids"].items() if not ids}
    assert hidden == (set() if overlaps == "small" else {1, 2, 3, 4})

    status, _, err = samplat(
        "export", f"{out}.samplat-job", tmp_path / "later.gpkg", "--simplify", 1
    )
    assert status == 0, err
    later = geopandas.read_file(tmp_path / "later.gpkg").set_index("id")
    assert later["parent_id"].to_dict().keys() == masks["parent_id"].to_dict().keys()
    assert later.geometry.geom_equals(masks.geometry.loc[later.index]).all()


@pytest.mark.usefixtures("bits")
def test_simplified_masks_fit_across_tiles(samplat: Command, tmp_path: Path) -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    discs = [(y - 80) ** 2 + (x - 70) ** 2 < r**2 for r in (60, 30)]
    image = np.repeat((discs[0] + 2 * discs[1])[None].astype(np.uint8), 3, axis=0)
    path = write(tmp_path / "in.tif", image, **UTM)
    given = ("--segmenter", "bits", "--stretch", "none", "--tile-size", 64, "--halo", 32)
    exact, drawn = tmp_path / "exact.parquet", tmp_path / "drawn.gpkg"
    assert samplat("tile-segment", path, exact, *given, "--nested")[0] == 0
    pixel = abs(UTM["transform"].a)
    assert samplat("export", f"{exact}.samplat-job", drawn, "--simplify", pixel)[0] == 0
    whole = geopandas.read_parquet(exact).set_index("id").geometry
    fewer = geopandas.read_file(drawn).set_index("id").geometry.loc[whole.index]
    assert len(whole) == 2
    assert fewer.is_valid.all()
    assert (fewer.count_coordinates() < 0.7 * whole.count_coordinates()).all()
    assert (fewer.symmetric_difference(whole).area < 0.05 * whole.area).all()
    assert (shapely.get_num_geometries(fewer.to_numpy()) == 1).all()
