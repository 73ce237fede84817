"""Chunks of OME-Zarr that are missing or damaged are errors with their names, never zeros."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from samplat import InputError, Window
from samplat_volume.source import VolumeSource
from samplat_volume.writing import write_labels
from volume.labelled import OBLIQUE, grid
from volume.scans import SHAPE, noise
from volume.test_source import ome_zarr

WHOLE = Window(start=(0, 0, 0), stop=SHAPE)
VERSIONS = ("0.4", "0.5", "sharded", "blosc", "plain")


def image(folder: Path, version: str) -> Path:
    known = version if version in ("0.4", "0.5") else "0.5"
    path = ome_zarr(folder / "a.zarr", noise("uint16"), known)
    if version != known:
        how: dict[str, Any] = {
            "sharded": {"chunks": (2, 4, 4), "shards": (2, 8, 8)},
            "blosc": {"chunks": (2, 8, 8), "compressors": zarr.codecs.BloscCodec()},
            "plain": {"chunks": (2, 8, 8), "compressors": None},
        }[version]
        group: Any = zarr.open_group(str(path), mode="a")
        del group["0"]
        group.create_array("0", shape=SHAPE, dtype="uint16", **how)[...] = noise("uint16")
    return path


def chunks(path: Path) -> list[Path]:
    return sorted(p for p in (path / "0").rglob("*") if p.is_file() and "z" not in p.name)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_missing_chunk_is_named_when_it_is_opened(tmp_path: Path, version: str) -> None:
    path = image(tmp_path, version)
    assert len(chunks(path)) == 3 * 3 * 3
    for chunk in chunks(path)[::5]:
        data = chunk.read_bytes()
        chunk.unlink()
        name = chunk.relative_to(tmp_path)
        with pytest.raises(InputError, match=f"{name} is missing: .*allow_gaps"):
            VolumeSource(str(path))
        assert VolumeSource(str(path), allow_gaps=True).read(WHOLE).shape == (*SHAPE, 1)
        chunk.write_bytes(data)
    for chunk in chunks(path)[3:8]:
        chunk.unlink()
    with pytest.raises(InputError, match="is missing, as 4 other chunks are"):
        VolumeSource(str(path))
    source = VolumeSource(str(path), allow_gaps=True)
    read = source.read(WHOLE)[..., 0]
    assert ((read == noise("uint16")) | (read == 0)).all()
    assert (read == 0).sum() > 100


@pytest.mark.parametrize("version", VERSIONS)
def test_a_chunk_that_goes_missing_while_it_is_read(tmp_path: Path, version: str) -> None:
    """As behind a URL, whose chunks nobody lists."""
    path = image(tmp_path, version)
    source, chunk = VolumeSource(str(path)), chunks(path)[13]
    chunk.unlink()
    with pytest.raises(InputError, match=f"{chunk.relative_to(tmp_path)} is missing: "):
        source.read(WHOLE)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_damaged_chunk_is_named_among_all_that_are_read(tmp_path: Path, version: str) -> None:
    path = image(tmp_path, version)
    source, chunk = VolumeSource(str(path)), chunks(path)[13]
    data, told = chunk.read_bytes(), f"{chunk.relative_to(tmp_path)} cannot be read: .* copy"
    cuts = sorted({1, 9, len(data) - 1, *np.linspace(2, len(data) - 1, 6).astype(int).tolist()})
    for damaged in (*(data[:cut] for cut in cuts), b"\xff" * (len(data) + 1)):
        chunk.write_bytes(damaged)
        with pytest.raises(InputError, match=told):
            source.read(Window(start=(0, 3, 3), stop=SHAPE))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_metadata_that_is_cut_off(tmp_path: Path, version: str) -> None:
    path = image(tmp_path, version)
    names = ("zarr.json", "0/zarr.json") if version == "0.5" else (".zattrs", "0/.zarray")
    for name in names:
        whole = (path / name).read_bytes()
        for cut in np.linspace(0, len(whole) - 3, 25).astype(int).tolist():
            (path / name).write_bytes(whole[:cut])
            with pytest.raises(InputError, match="a.zarr") as error:
                VolumeSource(str(path))
            assert "\n" not in str(error.value)
        (path / name).write_bytes(whole)
    assert VolumeSource(str(path)).info.shape == SHAPE


def test_an_image_without_depth_is_refused(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", noise("uint16"), "0.5")
    meta = json.loads((path / "zarr.json").read_text())
    image = meta["attributes"]["ome"]["multiscales"][0]
    image["axes"] = image["axes"][1:]
    (path / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="has axes y, x; expected z, y, x"):
        VolumeSource(str(path))
    flat = ome_zarr(tmp_path / "b.zarr", noise("uint16", (1, 20, 17)), "0.5")
    with pytest.raises(InputError, match="is a picture of 17 x 20 pixels"):
        VolumeSource(str(flat))


def test_chunks_of_coarser_levels_are_missed_by_who_reads_them(tmp_path: Path) -> None:
    path = image(tmp_path, "0.5")
    next(p for p in (path / "1" / "c").rglob("*") if p.is_file()).unlink()
    source = VolumeSource(str(path))
    with pytest.raises(InputError, match=r"a.zarr/1/c/.* is missing"):
        source.thumbnail(10)


@pytest.mark.parametrize("value", [0, -1, float("nan"), None, "x", [1]])
def test_impossible_scales(tmp_path: Path, value: Any) -> None:
    path = image(tmp_path, "0.5")
    meta = json.loads((path / "zarr.json").read_text())
    dataset = meta["attributes"]["ome"]["multiscales"][0]["datasets"][0]
    dataset["coordinateTransformations"][0]["scale"][0] = value
    (path / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="expected positive numbers|unusable metadata"):
        VolumeSource(str(path))


def test_our_own_images_keep_their_rotation(tmp_path: Path) -> None:
    """The format has none: it is in an attribute of ours, which must not contradict the scale."""
    geometry = grid(SHAPE, direction=OBLIQUE @ np.diag([1.0, 1.0, -1.0]))
    labels = noise("uint16")
    path = tmp_path / "a.ome.zarr"
    write_labels(path, labels, geometry)
    found = VolumeSource(str(path)).geometry
    np.testing.assert_allclose(found.index_to_world, geometry.index_to_world, atol=1e-12)
    meta = json.loads((path / "zarr.json").read_text())
    meta["attributes"]["samplat"]["index_to_world"][1][1] *= 3
    (path / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="apart along z, y, x .scale. and .*remove one"):
        VolumeSource(str(path))
