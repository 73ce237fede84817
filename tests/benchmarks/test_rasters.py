"""The rasters benchmark's own arithmetic and scenes, on small work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks import mosaics, rasters, samgeo_tiles
from samplat.errors import InputError


def test_a_mosaic_is_a_raster_of_pictures_or_nothing(tmp_path: Path) -> None:
    pictures = mosaics.textures()
    path = mosaics.write_mosaic(tmp_path / "m.tif", 3000, share=0.5, seed=1)
    with rasterio.open(path) as file:
        assert (file.shape, file.count, file.nodata) == ((3000, 3000), 3, 0)
        assert file.crs.to_epsg() == 32614
        assert file.block_shapes[0] == (512, 512)
        whole = file.read().transpose(1, 2, 0)
    empty = [not whole[y : y + 512, x : x + 512].any() for y in (0, 2048) for x in (0, 2048)]
    assert 0 < sum(empty) < 4
    for y in range(0, 2560, 512):
        for x in range(0, 2560, 512):
            block = whole[y : y + 512, x : x + 512]
            assert not block.any() or any(np.array_equal(block, p) for p in pictures)


def test_a_mosaic_of_many_gigapixels_is_small(tmp_path: Path) -> None:
    path = mosaics.write_mosaic(tmp_path / "m.tif", 50_000)
    assert path.stat().st_size < 20e6
    with rasterio.open(path) as file:
        assert file.read(1, window=rasterio.windows.Window(49_000, 49_000, 100, 100)).any()


def test_quality_counts_parts_losses_and_shared_ids() -> None:
    truth = np.array([[1, 1, 2, 2, 3, 4, 0]])
    ids = np.array([[7, 8, 9, 9, 0, 9, 5]])
    assert rasters.quality(ids, truth, 3) == {
        "objects": 4,
        "parts_each": pytest.approx(4 / 3),
        "lost": 1,
        "ids": 4,
        "ids_of_several": 1,
        "calls": 3,
    }


def test_the_naive_way_cuts_objects_at_every_border(tmp_path: Path) -> None:
    truth = np.zeros((64, 64), np.int64)
    truth[10:40, 10:40], truth[50:60, 2:12] = 1, 2
    ids, calls = rasters.naive_ids(rasters.painted_scene(tmp_path, truth), 32)
    assert calls == 4
    assert rasters.quality(ids, truth, calls)["parts_each"] == 2.5
    done = rasters.run(tmp_path / "scene.tif", tmp_path, rasters.oracle, tile_size=32, halo=16)
    assert done.segmenter.calls == 4
    assert done.result.objects["area_px"].to_pylist() == [900, 100]


SAMGEO = """
import numpy as np
import rasterio
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from rasterio.features import shapes


class Predictor(SamPredictor):
    pass


class SamGeo:
    def __init__(self):
        raise AssertionError("there are no weights")

    def generate(self, source, output, batch, batch_sample_size, erosion_kernel, **others):
        assert batch and erosion_kernel == (3, 3), others
        side = batch_sample_size[0]
        with rasterio.open(source) as src, rasterio.open(
            output, "w", **{**src.profile, "count": 1, "dtype": "uint8"}
        ) as out:
            pixels = src.read().transpose(1, 2, 0)
            for y in range(0, src.height, side):
                part = np.ascontiguousarray(pixels[y : y + side])
                masks = self.mask_generator.generate(part)
                found = np.any([m["segmentation"] for m in masks], axis=0)
                assert sum(m["area"] for m in masks) == found.sum()
                # a row of nothing where tiles meet
                found[0] = False
                out.write(255 * found.astype("uint8"), 1, window=((y, y + side), (0, src.width)))

    def tiff_to_gpkg(self, source, output):
        import geopandas
        import shapely

        with rasterio.open(source) as src:
            band = src.read(1)
            traced = shapes(band, transform=src.transform)
            found = [shapely.geometry.shape(shape) for shape, value in traced if value]
        geopandas.GeoDataFrame(geometry=found, crs=src.crs).to_file(output)
"""


def test_samgeo_is_run_without_weights_and_its_rows_are_the_objects(tmp_path: Path) -> None:
    """In a process of its own, a module of our making in place of theirs."""
    (tmp_path / "samgeo").mkdir()
    (tmp_path / "samgeo" / "__init__.py").write_text("raise AssertionError('not needed')")
    (tmp_path / "samgeo" / "samgeo.py").write_text(SAMGEO)
    truth = np.zeros((64, 64), np.int64)
    truth[10:40, 10:40], truth[50:60, 2:12] = 1, 2
    image = rasters.painted_scene(tmp_path, truth)
    (ids, calls), peak = rasters.alone(samgeo_tiles.samgeo_ids, tmp_path, image, 32, rasters.oracle)
    found = rasters.quality(ids, truth, calls)
    assert (found["calls"], found["ids"], found["lost"]) == (2, 3, 0)
    assert found["parts_each"] == 1.5
    assert peak > 2**20


def test_no_samgeo_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no samgeo/samgeo\.py"):
        samgeo_tiles.samgeo_ids(tmp_path, tmp_path / "scene.tif", 32, rasters.oracle)


def test_buildings_are_skipped_without_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rasters.main(["--only", "buildings", "--data", str(tmp_path)]) == 0
    assert "give --data DIR" in capsys.readouterr().out


def test_hedge_and_road_come_out_as_they_are(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    assert rasters.main(["--only", "hedge", "long_object", "--json", str(output)]) == 0
    figures = json.loads(output.read_text())
    assert figures["hedge"] == {"polygons": 2, "polygons_turned": 2, "missing_px": 0}
    road = figures["long_object"]
    assert road["polygons"] == road["rings"] == 1
    assert road["tiles"] >= 12
    assert road["missing_px"] == 0
