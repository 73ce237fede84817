"""SA-1B folders: written and read to the same masks, by pycocotools too; every fault is named."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco

from samplat import InputError, MaskSet, SamplatError, mask_set
from samplat_train.data.pictures import levels_of
from samplat_train.data.sa1b import Sa1bFolder, write_sa1b

SIZE = (24, 31)
KEYS = {
    "id",
    "segmentation",
    "bbox",
    "area",
    "predicted_iou",
    "stability_score",
    "crop_box",
    "point_coords",
}


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def some_masks():
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 2:20, 3:28] = True
    masks[1, 5:9, 5:9] = True  # nested
    masks[2, 15:24, 20:31] = True  # overlapping
    return masks


@pytest.fixture
def folder(tmp_path):
    write_sa1b(tmp_path / "sa", "sa_17", picture(), some_masks(), suffix=".png")
    return tmp_path / "sa"


def change(folder, change):
    path = folder / "sa_17.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@settings(deadline=None, max_examples=30)
@given(st.lists(hnp.arrays(bool, SIZE).filter(np.any), max_size=5))
def test_round_trip(tmp_path_factory, masks):
    folder = tmp_path_factory.mktemp("sa")
    stack = np.array(masks, bool).reshape(-1, *SIZE)
    write_sa1b(folder, "sa_1", picture(), stack, suffix=".png")
    found = Sa1bFolder.open(folder).read(0)
    assert np.array_equal(found.image, picture())
    assert np.array_equal(found.labels, levels_of(stack, SIZE))
    assert found.objects == len(masks)


def test_a_label_picture_survives(tmp_path):
    labels = np.kron(np.arange(12).reshape(3, 4), np.ones((8, 8), int))
    masks = np.stack([labels == i for i in range(1, 12)])
    write_sa1b(tmp_path, "sa_2", picture()[:, :32].repeat(2, 1)[:, :32], masks)
    assert np.array_equal(Sa1bFolder.open(tmp_path).read(0).labels, labels[None])


def test_pycocotools_reads_what_was_written(folder):
    record = json.loads((folder / "sa_17.json").read_text())
    image = {"image_id": 17, "width": 31, "height": 24, "file_name": "sa_17.png"}
    assert record["image"] == image
    ids = [a["id"] for a in record["annotations"]]
    assert len(set(ids)) == 3
    for annotation, mask in zip(record["annotations"], some_masks(), strict=True):
        assert annotation.keys() == KEYS
        assert np.array_equal(coco.decode(annotation["segmentation"]).astype(bool), mask)
        assert coco.area(annotation["segmentation"]) == annotation["area"]
        assert coco.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
        assert annotation["crop_box"] == [0, 0, 31, 24]


def test_scores_points_and_crops_are_kept(tmp_path):
    plain = mask_set(some_masks())
    scored = {
        **vars(plain),
        "predicted_iou": np.array([0.9, 0.8, 0.7], np.float32),
        "points": np.array([[4, 5], [np.nan, np.nan], [1, 2]], np.float32),
        "crop_boxes": np.array([[0, 0, 31, 24], [2, 2, 12, 12], [0, 0, 31, 24]], np.int32),
    }
    path = write_sa1b(tmp_path, "sa_3", picture(), MaskSet(**scored))
    first, second, _ = json.loads(path.read_text())["annotations"]
    assert first["predicted_iou"] == pytest.approx(0.9)
    assert (first["point_coords"], second["point_coords"]) == ([[4.0, 5.0]], [])
    assert second["crop_box"] == [2, 2, 10, 10]


def test_jpeg_is_the_default_and_close(tmp_path):
    smooth = np.broadcast_to(np.linspace(0, 255, 31).astype(np.uint8)[None, :, None], (*SIZE, 3))
    write_sa1b(tmp_path, "sa_4", smooth, some_masks())
    assert (tmp_path / "sa_4.jpg").exists()
    found = Sa1bFolder.open(tmp_path).read(0).image
    assert np.abs(found.astype(int) - smooth).max() < 12


def test_uncompressed_counts_are_read(folder):
    def uncompress(record):
        flat = some_masks()[0].T.ravel()
        edges = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *edges, flat.size]).tolist()
        record["annotations"][0]["segmentation"]["counts"] = counts

    change(folder, uncompress)
    labels = Sa1bFolder.open(folder).read(0).labels
    assert np.array_equal(labels, levels_of(some_masks(), SIZE))


def test_opening_reads_nothing_and_keys_are_names(folder):
    (folder / "sa_2.json").write_text("no JSON")
    (folder / "notes.json").write_text("{}")
    source = Sa1bFolder.open(folder)
    assert [source.key(i) for i in range(len(source))] == ["sa_17", "sa_2"]
    assert source.name == str(folder)
    assert pickle.loads(pickle.dumps(source)) == source  # noqa: S301 our own bytes
    with pytest.raises(InputError, match=r"sa_2\.json: cannot be read as JSON"):
        source.read(1)


def test_a_record_without_masks_is_a_picture_without_objects(folder):
    change(folder, lambda r: r["annotations"].clear())
    assert Sa1bFolder.open(folder).read(0).objects == 0


def of_first(name, value):
    return lambda record: record["annotations"][0].update({name: value})


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda r: r.pop("image"), "expected an SA-1B record with image and annotations"),
        (lambda r: r.pop("annotations"), "expected an SA-1B record"),
        (lambda r: r["image"].pop("file_name"), "image names no file_name"),
        (lambda r: r["image"].update(file_name="sa_9.png"), "the picture .* is missing"),
        (lambda r: r["image"].update(file_name="../../x.png"), "which lies outside"),
        (lambda r: r["image"].update(file_name="/etc/hostname"), "which lies outside"),
        (lambda r: r["image"].update(width=30), r"tells an image of \(24, 30\)"),
        (of_first("id", 1700002), "two entries have the id 1700002"),
        (of_first("segmentation", None), "annotation 1700001: expected polygons, or a run-length"),
        (of_first("segmentation", {"size": [24, 31], "counts": "abc"}), "corrupt run lengths"),
        (of_first("segmentation", {"size": [31, 24], "counts": [744]}), r"a mask of \[31, 24\]"),
    ],
)
def test_faults_of_a_record(folder, fault, message):
    change(folder, fault)
    with pytest.raises(InputError, match=rf"sa_17\.json: .*{message}"):
        Sa1bFolder.open(folder).read(0)


@pytest.mark.parametrize("text", ["[]", "3", '{"image": []}', "null", '{"a": ', "[" * 10**5])
def test_json_that_is_no_record(folder, text):
    (folder / "sa_17.json").write_text(text)
    with pytest.raises(InputError, match=r"sa_17\.json: (expected an SA-1B|cannot be read)"):
        Sa1bFolder.open(folder).read(0)


def test_a_picture_of_another_size_or_none(folder):
    Image.fromarray(picture()[:10]).save(folder / "sa_17.png")
    with pytest.raises(InputError, match=r"sa_17\.png is of \(10, 31\)"):
        Sa1bFolder.open(folder).read(0)
    (folder / "sa_17.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    with pytest.raises(InputError, match=r"sa_17\.png: cannot be read as a picture"):
        Sa1bFolder.open(folder).read(0)


def test_a_folder_without_records(tmp_path):
    with pytest.raises(InputError, match=r"found no sa_\*\.json"):
        Sa1bFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("name", "suffix"), [("photo", ".jpg"), ("sa_1/../x", ".jpg"), ("sa_1", ".tif")]
)
def test_names_that_would_not_be_found_again(tmp_path, name, suffix):
    with pytest.raises(InputError, match=r"expected a name sa_\*"):
        write_sa1b(tmp_path, name, picture(), some_masks(), suffix=suffix)


def test_masks_of_another_size_are_not_written(tmp_path):
    with pytest.raises(InputError, match="sa_1: masks of"):
        write_sa1b(tmp_path, "sa_1", picture()[:9], some_masks())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_older_record(folder, monkeypatch):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SamplatError, match="cannot write .*sa_17: No space left on device"):
        write_sa1b(folder, "sa_17", picture(1), some_masks()[:1], suffix=".png")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
