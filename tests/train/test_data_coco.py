"""COCO instances: pycocotools' own loader is the oracle; every fault is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from samplat import InputError
from samplat_train.data.coco import CocoFile
from samplat_train.data.pictures import levels_of

SIZE = (20, 30)


def annotation(i, image, segmentation, **more):
    plain = {"id": i, "image_id": image, "category_id": 1, "iscrowd": 0}
    return {**plain, "segmentation": segmentation, **more}


def content():
    blob = np.zeros(SIZE, np.uint8)
    blob[3:9, 4:20] = 1
    rle = coco.encode(np.asfortranarray(blob))
    rle["counts"] = rle["counts"].decode()
    images = [
        {"id": i, "file_name": f"{name}.png", "height": 20, "width": 30}
        for i, name in enumerate(("a", "b", "empty", "crowd"), 1)
    ]
    annotations = [
        annotation(10, 1, [[2, 2, 12, 2, 12, 9, 2, 9], [20, 12, 27, 12, 24, 18]]),
        annotation(11, 1, [[5.5, 4.2, 18, 4.2, 11, 15]]),
        annotation(12, 2, rle),
        annotation(13, 2, {"size": list(SIZE), "counts": [100, 50, 450]}),
        annotation(14, 2, {"size": list(SIZE), "counts": [0, 600]}, iscrowd=1),
        annotation(15, 4, {"size": list(SIZE), "counts": [0, 600]}, iscrowd=1),
    ]
    categories = [{"id": 1, "name": "thing"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(folder, what, pictures="images"):
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(("a", "b", "empty", "crowd")):
        tone = np.full((*SIZE, 3), 40 * k, np.uint8)
        Image.fromarray(tone).save(folder / pictures / f"{name}.png")
    path = folder / "instances.json"
    path.write_text(json.dumps(what))
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pictures", ["images", "."])
def test_masks_are_those_of_pycocotools(tmp_path, pictures):
    path = write(tmp_path, content(), pictures)
    source, oracle = CocoFile.open(path), COCO(str(path))
    assert [source.key(i) for i in range(len(source))] == ["a.png", "b.png"]
    for i, image_id in enumerate((1, 2)):
        theirs = oracle.loadAnns(oracle.getAnnIds(image_id, iscrowd=False))
        masks = [oracle.annToMask(a).astype(bool) for a in theirs]
        picture = source.read(i)
        assert np.array_equal(picture.labels, levels_of(masks, SIZE))
        assert picture.objects == 2
        assert (picture.image == 40 * i).all()


def test_what_is_not_said_to_be_a_crowd_is_none(tmp_path):
    what = content()
    for entry in what["annotations"][:4]:
        del entry["iscrowd"]
    source = CocoFile.open(write(tmp_path, what))
    assert [source.read(i).objects for i in range(2)] == [2, 2]


def test_pictures_elsewhere(tmp_path):
    path = write(tmp_path / "here", content())
    (tmp_path / "there").mkdir()
    Image.fromarray(np.full((*SIZE, 3), 99, np.uint8)).save(tmp_path / "there" / "a.png")
    assert (CocoFile.open(path, tmp_path / "there").read(0).image == 99).all()
    with pytest.raises(InputError, match=r"the picture .*there/b\.png is missing"):
        CocoFile.open(path, tmp_path / "there").read(1)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"images": 3, "annotations": []}', '{"images": [{}], "annotations": []}']
)
def test_json_that_is_no_coco(tmp_path, text):
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"some\.json: expected a COCO instances file"):
        CocoFile.open(path)


def drop_objects(c):
    c["annotations"] = [a for a in c["annotations"] if a.get("iscrowd")]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (drop_objects, "not a single object to learn from"),
        (lambda c: c["annotations"][1].update(id=10), "two entries have the id 10"),
        (lambda c: c["images"][1].update(id=1), "images: two entries have the id 1"),
        (lambda c: c["annotations"][0].update(image_id=77), "annotation 10 is of image 77"),
        (lambda c: c["annotations"][0].pop("image_id"), "annotation 10 is of image None"),
    ],
)
def test_faults_found_at_opening(tmp_path, fault, message):
    what = content()
    fault(what)
    with pytest.raises(InputError, match=rf"instances\.json: .*{message}"):
        CocoFile.open(write(tmp_path, what))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda c: c["images"][0].update(height=21), r"tells a\.png to be of \(21, 30\)"),
        (lambda c: c["images"][0].update(file_name="../x.png"), "which lies outside"),
        (lambda c: c["images"][0].update(file_name="z.png"), r"z\.png is missing"),
        (lambda c: c["annotations"][0].pop("segmentation"), "annotation 10: expected polygons"),
        (lambda c: c["annotations"][0].update(segmentation=[]), "annotation 10: no mask"),
        (
            lambda c: c["annotations"][0].update(segmentation=[[50, 2, 60, 2, 60, 9]]),
            "annotation 10: a polygon .* outside the image",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [20, 30], "counts": "xyz"}),
            "annotation 10: corrupt run lengths",
        ),
    ],
)
def test_faults_of_a_picture(tmp_path, fault, message):
    what = content()
    fault(what)
    source = CocoFile.open(write(tmp_path, what))
    with pytest.raises(InputError, match=rf"instances\.json: .*{message}"):
        source.read(0)
    assert source.read(1).objects == 2
