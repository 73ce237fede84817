"""The rasters benchmark's own arithmetic and scenes, on small work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from benchmarks import mosaics, rasters


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


def test_what_a_function_calls_is_lifted_with_it(tmp_path: Path) -> None:
    source = (
        "import torch\ndef a(x): return b(x) + 1\ndef b(x): return 2 * x\ndef c(): return torch\n"
    )
    (tmp_path / "common.py").write_text(source)
    space: dict[str, object] = {}
    exec(rasters.lifted(tmp_path / "common.py", "a"), space)  # noqa: S102 our own
    assert space["a"](3) == 7  # type: ignore[operator]
    assert "c" not in space


def test_hedge_and_road_come_out_as_they_are(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    assert rasters.main(["--only", "hedge", "long_object", "--json", str(output)]) == 0
    figures = json.loads(output.read_text())
    assert figures["hedge"] == {"polygons": 2, "polygons_turned": 2, "missing_px": 0}
    road = figures["long_object"]
    assert road["polygons"] == road["rings"] == 1
    assert road["tiles"] >= 12
    assert road["missing_px"] == 0
