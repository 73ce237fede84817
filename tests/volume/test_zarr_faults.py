"""Chunks of OME-Zarr: one is told of missing ones, and damaged ones are errors with their names."""

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
def test_of_missing_chunks_one_is_told(
    tmp_path: Path, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = image(tmp_path, version)
    VolumeSource(str(path))
    assert not caplog.messages
    assert len(chunks(path)) == 3 * 3 * 3
    first, *others = chunks(path)[3:8]
    for chunk in (first, *others):
        chunk.unlink()
    read = VolumeSource(str(path)).read(WHOLE)[..., 0]
    (told,) = caplog.messages
    assert told.startswith(f"{first} is missing, and 5 of 27 chunks are, which count as 0: ")
    assert ((read == noise("uint16")) | (read == 0)).all()
    assert (read == 0).sum() > 100
    for chunk in chunks(path):
        chunk.unlink()
    with pytest.raises(InputError, match="a.zarr/0 has none of its 27 chunks"):
        VolumeSource(str(path))


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
