"""OME-Zarr 0.5, checked by ome-zarr-models and opened by ome-zarr's reader."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ome_zarr.io import parse_url
from ome_zarr.reader import Label, Multiscales, Reader
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels

from samplat import HOLE, InputError
from samplat_volume import ngff
from samplat_volume.geometry import Geometry
from samplat_volume.ngff import NGFF, chunk_shape, levels_of, shard_shape
from samplat_volume.writing import write_labels
from volume.labelled import balls, geometries, grid, some_labels


def nodes(path: Path) -> list[Any]:
    location = parse_url(path, mode="r")
    assert location is not None
    return list(Reader(location)())


def stored(labels: NDArray[np.uint32], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.where(labels == HOLE, np.iinfo(dtype).max, labels).astype(dtype)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(geometry=geometries(9), largest=st.sampled_from([3, 300, 70_000]))
def test_every_level_is_every_nth_voxel_in_its_place(
    tmp_path: Path, geometry: Geometry, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngff, "SMALLEST", 2)
    monkeypatch.setattr(ngff, "CHUNK_DEPTH", 2)
    monkeypatch.setattr(ngff, "CHUNK_SIDES", (3,))
    monkeypatch.setattr(ngff, "SHARD_VOXELS", 2 * 3 * 3 * 2)
    labels = some_labels(geometry.shape, largest)
    path = tmp_path / "cells.ome.zarr"
    write_labels(path, labels, geometry)
    model = ImageLabel.from_zarr(zarr.open_group(path, mode="r")).attributes.ome
    group = zarr.open_group(path, mode="r")
    frame = geometry.direction.T @ geometry.index_to_world[:3]  # index to the volume's own axes
    for dataset, level in zip(model.multiscales[0].datasets, levels_of(geometry), strict=True):
        array: Any = group[dataset.path]
        steps = tuple(slice(None, None, step) for step in level.step)
        assert np.array_equal(array[...], stored(labels[steps], array.dtype))
        scale, translation = (t.model_dump() for t in dataset.coordinateTransformations)
        last = np.array(level.shape) - 1
        place = np.array(scale["scale"]) * last + translation["translation"]
        expected = frame @ [*(last * level.step)[::-1], 1]
        np.testing.assert_allclose(place[::-1], expected, rtol=1e-9, atol=1e-9)
    exact: Any = group.attrs["samplat"]
    assert np.array_equal(exact["index_to_world"], geometry.index_to_world)


def test_the_reader_opens_labels_with_their_colours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = balls((20, 300, 280), 4)
    labels[0] = HOLE
    path = tmp_path / "cells.ome.zarr"
    with caplog.at_level(logging.ERROR):
        write_labels(path, labels, grid(labels.shape))
        (node,) = nodes(path)
    assert not caplog.records
    assert [type(spec) for spec in node.specs] == [Label, Multiscales]
    assert [d.shape for d in node.data] == [(20, 300, 280), (20, 150, 140)]
    assert np.array_equal(node.data[0].compute(), stored(labels, np.dtype(np.uint8)))
    assert np.array_equal(node.data[1].compute(), stored(labels[:, ::2, ::2], np.dtype(np.uint8)))
    ids = sorted(np.unique(labels[labels != HOLE]))[1:]
    assert sorted(node.metadata["color"]) == [*ids, 255]
    assert len({tuple(c) for c in node.metadata["color"].values()}) == len(ids) + 1
    assert node.metadata["properties"][255] == {"hole": True}


def an_image(path: Path, shape: tuple[int, ...]) -> Path:
    """A small OME-Zarr 0.5 image."""
    group = zarr.create_group(path, zarr_format=3)
    group.create_array("0", shape=shape, dtype="uint8", dimension_names=["z", "y", "x"])
    axes = [{"name": n, "type": "space", "unit": "millimeter"} for n in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    multiscale = {"name": "scan", "axes": axes, "datasets": datasets}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    return path


def test_labels_go_into_an_image_that_then_lists_them(tmp_path: Path) -> None:
    labels = some_labels((3, 4, 5), 6)
    image = an_image(tmp_path / "scan.ome.zarr", labels.shape)
    for name in ("cells.ome.zarr", "nuclei.ome.zarr", "cells.ome.zarr"):
        write_labels(image / "labels" / name, labels, grid(labels.shape))
    group = zarr.open_group(image / "labels", mode="r")
    listed = Labels.from_zarr(group).attributes.ome.labels
    assert listed == ["cells.ome.zarr", "nuclei.ome.zarr"]
    Image.from_zarr(zarr.open_group(image, mode="r"))
    label = json.loads((image / "labels" / listed[0] / "zarr.json").read_text())
    assert label["attributes"]["ome"]["image-label"]["source"] == {"image": "../.."}
    names = [node.zarr.basename() for node in nodes(image) if node.load(Label)]
    assert names == listed


def test_labels_beside_their_image_say_where_it_is(tmp_path: Path) -> None:
    labels = some_labels((3, 4, 5), 6)
    image = an_image(tmp_path / "scan.ome.zarr", labels.shape)
    path = tmp_path / "cells.ome.zarr"
    write_labels(path, labels, grid(labels.shape), source=str(image))
    found = nodes(path)
    assert [node.zarr.basename() for node in found] == ["scan.ome.zarr", "cells.ome.zarr"]


def test_chunks_are_checked_and_a_missing_one_is_a_hole(tmp_path: Path) -> None:
    labels = balls((10, 140, 150), 4)
    path = tmp_path / "cells.ome.zarr"
    write_labels(path, labels, grid(labels.shape, (1, 1, 1)))
    array: Any = zarr.open_group(path, mode="r")["0"]
    assert [type(c).__name__ for c in array.compressors] == ["ZstdCodec", "Crc32cCodec"]
    (shard,) = (p for p in (path / "0").rglob("*") if p.is_file() and p.name != "zarr.json")
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        array[...]
    shard.unlink()
    assert (array[...] == 255).all()


@given(
    shape=st.tuples(*[st.integers(1, 5000)] * 3),
    block=st.tuples(st.integers(1, 300), st.integers(1, 5000), st.integers(1, 5000)),
)
@settings(deadline=None)
def test_shards_are_whole_chunks_that_fit_in_memory(
    shape: tuple[int, int, int], block: tuple[int, int, int]
) -> None:
    chunks = chunk_shape(shape, block)
    shards = shard_shape(shape, chunks, block)
    assert all(s % c == 0 for s, c in zip(shards, chunks, strict=True))
    assert np.prod(shards, dtype=np.int64) <= max(ngff.SHARD_VOXELS, np.prod(chunks))


@pytest.mark.parametrize("side", [128, 384, 512, 640, 768, 1024])
def test_shards_are_tiles(side: int) -> None:
    block = (32, side, side)
    chunks = chunk_shape((400, 2048, 2048), block)
    assert shard_shape((400, 2048, 2048), chunks, block) == block


def test_long_voxels_are_halved_last() -> None:
    levels = levels_of(grid((100, 2048, 2048), (4.0, 1.0, 1.0)))
    assert [level.step for level in levels] == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)]


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    image = an_image(tmp_path / "scan.ome.zarr", (3, 4, 5))
    with pytest.raises(InputError, match="was not written by samplat"):
        write_labels(image, np.ones((3, 4, 5), bool), grid((3, 4, 5)))
    Image.from_zarr(zarr.open_group(image, mode="r"))
    with pytest.raises(InputError, match="there is no directory"):
        NGFF.check(tmp_path / "labels" / "cells.ome.zarr")
