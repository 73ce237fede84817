"""Labels as files: read back with other libraries, where the image lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clicks.files import write_ome_zarr, write_raster
from clicks.gui import opened, wait
from napari_sam.exporting import export_labels, write_labels
from napari_sam.reading import read_layers
from napari_sam.session import Session
from napari_sam.state import Object
from samplat import InputError

SHAPE = (1300, 1100)


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An image, the labels of it, and what a layer of them tells."""
    path = tmp_path_factory.mktemp("raster") / "image.tif"
    write_raster(path, np.full((1, *SHAPE), 9, np.uint8))
    ((_, told, _),) = read_layers(str(path))
    labels = np.zeros(SHAPE, np.uint32)
    labels[1000:1060, 1000:1050] = 4  # over four tiles
    labels[10:20, 30:40] = 70_000
    return path, labels, told


def test_rasters_lie_where_the_image_lies(raster: Any, tmp_path: Path) -> None:
    import rasterio

    path, labels, told = raster
    assert write_labels(str(tmp_path / "out.tif"), labels, told) == [str(tmp_path / "out.tif")]
    with rasterio.open(path) as image, rasterio.open(tmp_path / "out.tif") as written:
        assert (written.crs, written.transform) == (image.crs, image.transform)
        np.testing.assert_array_equal(written.read(1), labels)


def test_polygons_have_their_areas_scores_and_what_was_said(raster: Any, tmp_path: Path) -> None:
    import geopandas

    _, labels, told = raster
    objects = {
        4: Object(number=4, kind="roof", status="finished", score=0.75),
        70_000: Object(number=70_000, note="look again"),
    }
    export_labels(tmp_path / "out.parquet", labels, told, objects)
    table = geopandas.read_parquet(tmp_path / "out.parquet").set_index("id")
    assert table.crs.to_epsg() == 32645
    assert table.area.to_dict() == pytest.approx({4: 3000 * 0.09, 70_000: 100 * 0.09})
    assert table.loc[4, ["area_px", "class", "status", "note"]].tolist() == [
        3000,
        "roof",
        "finished",
        "",
    ]
    assert table.loc[70_000, "note"] == "look again"
    assert table["predicted_iou"].to_dict() == pytest.approx({4: 0.75, 70_000: np.nan}, nan_ok=True)
    left, bottom, right, top = table.loc[[70_000]].total_bounds
    assert (left, top) == pytest.approx((334_000 + 9, 3_060_000 - 3))
    assert (right, bottom) == pytest.approx((334_000 + 12, 3_060_000 - 6))


def test_volumes_lie_where_the_scan_lies(tmp_path: Path) -> None:
    import nibabel

    turned = np.diag([-1.5, 2, 3, 1]) + 0.0
    angle = np.radians(20)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turned[:3, 3] = (30, -20, 10)
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 8, 7), np.int16), turned), tmp_path / "scan.nii")
    ((_, told, _),) = read_layers(str(tmp_path / "scan.nii"))
    labels = np.zeros((7, 8, 9), np.uint32)
    labels[2:4, 3:6, 4:8] = 5
    write_labels(str(tmp_path / "out.nii.gz"), labels, told)
    written = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(written.affine, turned, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels.transpose())

    path = write_ome_zarr(tmp_path / "image.ome.zarr", np.ones((7, 8, 9), np.uint8), 3)
    ((_, told, _),) = read_layers(str(path))
    write_labels(str(tmp_path / "out.ome.zarr"), labels, told)
    ((levels, again, _),) = read_layers(str(tmp_path / "out.ome.zarr"))
    first = levels[0] if again["multiscale"] else levels
    np.testing.assert_array_equal(np.asarray(first), labels)
    assert again["scale"] == told["scale"] == [2.0, 0.5, 0.5]


def test_dicom_seg_of_a_series(tmp_path: Path) -> None:
    from pydicom import dcmread

    from volume.scans import noise, write_series

    folder = tmp_path / "series"
    write_series(folder, noise(shape=(5, 12, 10)), FrameOfReferenceUID="1.2.9")
    ((data, told, _),) = read_layers(str(folder))
    labels = np.zeros(data.shape, np.uint32)
    labels[1:3, 2:6, 3:7] = 1
    write_labels(str(tmp_path / "out.dcm"), labels, told)
    written = dcmread(tmp_path / "out.dcm")
    assert written.Modality == "SEG"
    assert written.pixel_array.sum() == 2 * 4 * 4


REFUSED = {
    "out.xyz": "suffix",
    "none/out.tif": "none",
    "out.nii.gz": "CRS",
    "out.dcm": "DICOM",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_refused_before_labels_are_read(
    raster: Any, tmp_path: Path, name: str
) -> None:
    class Unread:
        shape, ndim, dtype = SHAPE, 2, np.dtype(np.uint32)

        def __array__(self, *_: Any) -> Any:
            raise AssertionError("read")

    labels: Any = Unread() if name != "out.nii.gz" else raster[1]
    with pytest.raises(InputError, match=REFUSED[name]):
        export_labels(tmp_path / name, labels, raster[2])
    assert not list(tmp_path.iterdir())


def test_labels_of_other_things_are_refused(raster: Any, tmp_path: Path) -> None:
    _, labels, told = raster
    for wrong, match in ((labels[:-1], "pixels"), (np.zeros((2, *SHAPE), int), "pixels")):
        with pytest.raises(InputError, match=match):
            export_labels(tmp_path / "out.tif", wrong, told)
    with pytest.raises(InputError, match="axes"):
        export_labels(tmp_path / "out.tif", np.zeros((2, 2, 5, 5), int), {"name": "x"})
    turned = {"affine": np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])}
    with pytest.raises(InputError, match="turned"):
        export_labels(tmp_path / "out.nii", np.zeros((3, 4, 5), int), turned)
    with pytest.raises(InputError, match="ids from 0"):
        export_labels(tmp_path / "out.tif", np.full((5, 5), -1), {"name": "x"})


def test_the_button_writes_what_was_there_when_it_was_pressed(
    viewer: Any, raster: Any, tmp_path: Path
) -> None:
    import rasterio

    viewer.open(str(raster[0]), plugin="samplat")
    widget = opened(viewer, tmp_path)
    session: Session = widget.annotation.session
    session.paint((100, 700), np.full((50, 60), 3))
    widget.exports.export(tmp_path / "out.tif")
    session.paint((100, 700), np.zeros((50, 60), int))
    wait(lambda: "wrote" in widget.exports.told.text())
    with rasterio.open(tmp_path / "out.tif") as written:
        assert (written.read(1)[100:150, 700:760] == 3).all()
    assert not session.labels.held()
    assert not list(session.folder.glob("snapshot*"))
    widget.exports.export(tmp_path / "out.nii")
    wait(lambda: "CRS" in widget.exports.told.text())

    viewer.layers["objects"].save(str(tmp_path / "saved.tif"), plugin="samplat")
    with rasterio.open(tmp_path / "saved.tif") as written:
        assert written.shape == SHAPE
        assert not written.read(1).any()
