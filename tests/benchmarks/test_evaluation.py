"""The accuracy benchmark on pictures whose answers are known."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from benchmarks import accuracy
from benchmarks.evaluation import classical, volumes, zoom
from benchmarks.evaluation.figures import measure_picture
from benchmarks.evaluation.objects import (
    centre_point,
    choose_objects,
    even_ranks,
    mask_iou,
    next_click,
    tight_box,
)
from benchmarks.evaluation.segmenter import Stopwatch
from benchmarks.evaluation.sets import SETS, crop_grid, read_folder
from samplat.errors import InputError


def disc(size, centre, radius):
    y, x = np.ogrid[: size[0], : size[1]]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


def rectangle(size, x0, y0, x1, y1):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def paint(mask, inside=200, outside=50):
    return np.repeat(np.where(mask, inside, outside).astype(np.uint8)[..., None], 3, axis=2)


# objects and prompts


def test_objects_are_spread_over_the_ranks_of_size_and_small_ones_left_out():
    labels = np.zeros((100, 400), np.uint16)
    for i in range(21):
        labels[: 40 + i, 10 * i : 10 * i + 2] = i + 1  # 80 to 120 pixels
    labels[90:97, 300:307] = 99  # 49 pixels
    areas = [int(mask.sum()) for mask in choose_objects(labels, most=5)]
    assert areas == [120, 110, 100, 90, 80]


def test_an_object_is_all_pixels_of_its_label():
    labels = np.zeros((50, 50), int)
    labels[:5, :5] = labels[-5:, -5:] = 7
    (mask,) = choose_objects(labels)
    assert mask.sum() == 50


@pytest.mark.parametrize(("count", "ranks"), [(0, []), (1, [0]), (3, [0, 1, 2]), (10, [0, 4, 9])])
def test_even_ranks_keep_both_ends(count, ranks):
    assert even_ranks(count, 3) == ranks


def test_centre_of_a_disc_and_border_as_an_edge():
    assert centre_point(disc((60, 80), (33, 22), 9)) == (33, 22)
    assert centre_point(rectangle((9, 40), 0, 0, 9, 9)) == (4, 4)


def test_tight_box_is_half_open():
    assert tight_box(rectangle((30, 30), 4, 5, 9, 12)) == (4, 5, 9, 12)


def test_iou_of_known_masks():
    a, b = rectangle((10, 10), 0, 0, 4, 4), rectangle((10, 10), 2, 0, 6, 4)
    assert mask_iou(a, b) == pytest.approx(8 / 24)
    assert mask_iou(a & ~a, b & ~b) == 1


def test_next_click_goes_to_the_middle_of_the_largest_error():
    truth = rectangle((40, 40), 0, 0, 20, 40)
    surplus = truth | rectangle((40, 40), 30, 10, 35, 15)
    assert next_click(surplus, truth) == (32, 12, 0)
    missing = surplus & ~rectangle((40, 40), 2, 20, 11, 29)
    assert next_click(missing, truth) == (6, 24, 1)
    assert next_click(truth, truth) is None


# classical tools


def test_shape_is_exact_for_rectangles_and_ellipses():
    for truth in (rectangle((50, 60), 7, 8, 30, 21), disc((61, 61), (30, 30), 20)):
        assert classical.shape_iou(truth, tight_box(truth)) > 0.95


def test_every_classical_tool_finds_a_bright_disc():
    truth = disc((80, 100), (44, 37), 15)
    noise = np.random.default_rng(0).integers(-5, 6, (80, 100, 1))
    image = (paint(truth) + noise).astype(np.uint8)
    figures = classical.box_figures(image, truth) | classical.point_figures(image, truth)
    assert set(figures) == {
        "shape_box",
        "grabcut_box",
        "flood_point",
        "watershed_point",
        "random_walker_point",
    }
    assert min(figures.values()) > 0.85


def test_flood_compares_with_the_point_and_not_with_the_neighbour():
    ramp = np.repeat(np.tile(np.arange(0, 200, 2, dtype=np.uint8), (5, 1))[..., None], 3, axis=2)
    assert classical.flood(ramp, (50, 2)).sum() == 5 * 21


def test_classical_tools_survive_flat_pictures_and_full_boxes():
    image = np.full((40, 30, 3), 90, np.uint8)
    image.flags.writeable = False  # as Pillow hands them out
    whole = np.ones((40, 30), bool)
    assert classical.box_figures(image, whole)["grabcut_box"] == 1
    classical.point_figures(image, whole)
    classical.box_figures(image, rectangle((40, 30), 5, 5, 20, 20))


# zoom


@pytest.mark.parametrize("rule", ["auto", 1.0, 2.0, 7.5])
def test_views_lie_in_the_picture_and_hold_the_prompt(rule):
    rng = np.random.default_rng(1)
    for _ in range(200):
        height, width = (int(v) for v in rng.integers(1, 1500, 2))
        x0, y0 = int(rng.integers(width)), int(rng.integers(height))
        box = x0, y0, int(rng.integers(x0, width)) + 1, int(rng.integers(y0, height)) + 1
        by_box = zoom.box_view((height, width), box, rule)
        by_point = zoom.point_view((height, width), (x0, y0), rule)
        for view in (by_box, by_point):
            assert 0 <= view.x0 <= x0 < view.x1 <= width
            assert 0 <= view.y0 <= y0 < view.y1 <= height
        assert by_box.x1 >= box[2]
        assert by_box.y1 >= box[3]


def test_zoom_rules():
    whole = zoom.View(x0=0, y0=0, x1=640, y1=480)
    assert zoom.point_view((480, 640), (3, 3), 1.0) == whole
    assert zoom.box_view((480, 640), (3, 3, 9, 9), 1.0) == whole
    near = zoom.box_view((480, 640), (310, 230, 330, 250), "auto")
    assert near == zoom.View(x0=272, y0=192, x1=368, y1=288)  # 96 pixels around the box
    wide = zoom.box_view((480, 640), (300, 200, 400, 220), "auto")
    assert (wide.x1 - wide.x0, wide.y1 - wide.y0) == (300, 300)
    assert zoom.point_view((400, 512), (0, 0), "auto") == zoom.View(x0=0, y0=0, x1=512, y1=400)
    corner = zoom.point_view((2000, 2000), (1990, 5), "auto")
    assert corner == zoom.View(x0=1488, y0=0, x1=2000, y1=512)


def test_parse_zoom():
    assert zoom.parse_zoom("auto") == "auto"
    assert zoom.parse_zoom("2") == 2
    for text in ("0.5", "nan", "inf", "big"):
        with pytest.raises(ValueError, match="at least 1"):
            zoom.parse_zoom(text)


# models


@dataclass
class Answer:
    masks: np.ndarray
    predicted_iou: np.ndarray
    logits: np.ndarray


class Oracle:
    """Knows the objects by the red of their pixels, so crops of a picture do not confuse it.

    Three masks: nothing, all, and the object of the first point or the box's middle, which it
    scores 0.1, 0.2 and 0.9. As a single mask it gives the object, too.
    """

    def __init__(self):
        self.embedded, self.asked = [], []

    def embed(self, image):
        self.embedded.append(image.shape[:2])
        return image[..., 0]

    def predict(self, embedding, prompts, *, multimask):
        self.asked.append(prompts)
        if prompts.points is None:
            places = (prompts.boxes[:, :2] + prompts.boxes[:, 2:]) / 2
        else:
            places = prompts.points[:, 0]
        objects = [embedding == embedding[int(y), int(x)] for x, y in places]
        full = np.ones_like(objects[0])
        masks = [[~full, full, one] if multimask else [one] for one in objects]
        scores = [0.1, 0.2, 0.9] if multimask else [0.9]
        return Answer(
            masks=np.array(masks),
            predicted_iou=np.tile(np.float32(scores), (len(masks), 1)),
            logits=np.zeros((len(masks), len(scores), 4, 4), np.float32),
        )


class Eroder(Oracle):
    """Sees only what its positive clicks lie in: a quarter of the square object each."""

    def predict(self, embedding, prompts, *, multimask):
        answer = super().predict(embedding, prompts, multimask=multimask)
        if prompts.points is None:
            return answer
        for row, points in enumerate(prompts.points):
            seen = np.zeros(embedding.shape, bool)
            for x, y in points.astype(int) // 16:
                seen[y * 16 : y * 16 + 16, x * 16 : x * 16 + 16] = True
            answer.masks[row, -1] &= seen
        return answer


def scene():
    objects = [rectangle((120, 700), 40 * i + 5, 10, 40 * i + 35, 30 + 5 * i) for i in range(4)]
    image = np.zeros((120, 700, 3), np.uint8)
    for i, mask in enumerate(objects):
        image[mask] = 50 + 40 * i
    return image, objects


@pytest.mark.parametrize("rule", [1.0, 3.0, "auto"])
def test_an_oracle_is_right_at_any_zoom(rule):
    image, objects = scene()
    records = measure_picture(Oracle(), image, objects, zoom=rule)
    for record, truth in zip(records, objects, strict=True):
        for name in ("box", "point_top", "point_best", "clicks_1", "clicks_3", "clicks_5"):
            assert record[name] == 1
        assert record["iou_error_box"] == pytest.approx(0.1)
        if rule == 1.0:
            errors = 0.1, abs(0.2 - truth.mean()), 0.1
            assert record["iou_error_point"] == pytest.approx(np.mean(errors), abs=1e-6)


def test_a_whole_picture_is_embedded_once():
    image, objects = scene()
    oracle = Oracle()
    measure_picture(oracle, image, objects)
    assert oracle.embedded == [(120, 700)]
    assert [len(prompts) for prompts in oracle.asked] == [4] * 7


def test_prompts_are_moved_into_their_view():
    image, objects = scene()
    oracle = Oracle()
    measure_picture(oracle, image, objects[3:], zoom="auto", points=False)
    assert oracle.embedded == [(105, 105)]
    assert oracle.asked[0].boxes.tolist() == [[37, 10, 67, 45]]


def test_top_and_best_differ_when_scores_mislead():
    class Misled(Oracle):
        def predict(self, embedding, prompts, *, multimask):
            answer = super().predict(embedding, prompts, multimask=multimask)
            answer.predicted_iou = 1 - answer.predicted_iou
            return answer

    image, objects = scene()
    for record in measure_picture(Misled(), image, objects):
        assert (record["point_top"], record["point_best"]) == (0, 1)


def test_clicks_correct_the_largest_error_and_bring_the_logits():
    truth = rectangle((64, 64), 16, 16, 48, 48)
    segmenter = Eroder()
    (record,) = measure_picture(segmenter, paint(truth), [truth])
    assert record["clicks_1"] == pytest.approx(0.25)
    assert record["clicks_3"] == pytest.approx(0.75)
    assert record["clicks_5"] == 1  # the fourth click completes it, and it is kept
    last = segmenter.asked[-1]
    assert last.points.shape == (1, 5, 2)
    assert last.labels.tolist() == [[1] * 5]
    assert last.masks.shape == (1, 4, 4)


def test_stopwatch_counts_calls_and_shares_them_among_prompts():
    image, objects = scene()
    watch = Stopwatch(Oracle())
    measure_picture(watch, image, objects, clicks=False)
    assert (len(watch.encodes), len(watch.prompts)) == (1, 2)
    assert set(watch.figures()) == {"ms_encode", "ms_prompt"}


# files


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((11, 320, 320), (7.5, 0.5, 0.5), 0),
        ((320, 320, 11), (0.5, 0.5, 5.0), 2),
        ((52, 55, 60), (1.0, 1.0, 1.0), 0),
        ((77, 76, 42), (1.0, 1.001, 1.0), 2),
        ((35, 51, 35), (1.0, 1.0, 1.0), 0),
    ],
)
def test_slices_have_the_finest_pixels(shape, spacing, axis):
    assert volumes.slice_axis(shape, spacing) == axis


def test_label_volumes_find_their_image(tmp_path):
    names = (
        "t2.nii.gz",
        "t2_seg-manual.nii.gz",
        "t2s_whole.nii.gz",
        "t2s_whole_gmseg_manual.nii.gz",
        "spleen2_ct.nii.gz",
        "spleen2_label.nii.gz",
        "brain1_image.nrrd",
        "brain1_label.nrrd",
        "lost_label.nrrd",
    )
    pairs = {b.name: a.name for a, b in volumes.match_labels([tmp_path / n for n in names])}
    assert pairs == {
        "t2_seg-manual.nii.gz": "t2.nii.gz",
        "t2s_whole_gmseg_manual.nii.gz": "t2s_whole.nii.gz",
        "spleen2_label.nii.gz": "spleen2_ct.nii.gz",
        "brain1_label.nrrd": "brain1_image.nrrd",
    }


def test_stretch_cuts_at_the_window():
    values = np.array([-1000.0, -160.0, 41.0, 240.0, 900.0])
    assert volumes.stretch(values, volumes.CT_SOFT_TISSUE).tolist() == [0, 0, 128, 255, 255]
    assert volumes.stretch(np.full((2, 2, 2), 5.0)).tolist() == np.zeros((2, 2, 2)).tolist()


def test_crops_do_not_overlap_and_small_pictures_stay_whole():
    assert crop_grid((300, 1100), 512) == [
        (slice(0, 512), slice(0, 512)),
        (slice(0, 512), slice(512, 1024)),
    ]


def test_volumes_become_slices_with_large_enough_objects(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    labels = np.zeros((6, 20, 24), np.uint8)
    labels[2:4, 5:15, 5:15] = 2
    labels[4, :7, :7] = 1  # 49 pixels
    for name, values in (("a_image", labels * 100), ("a_label", labels)):
        volume = sitk.GetImageFromArray(values)
        volume.SetSpacing((1.0, 1.0, 4.0))
        sitk.WriteImage(volume, str(tmp_path / f"{name}.nrrd"))
    slices = list(volumes.read_pairs(tmp_path))
    assert [name for name, _, _ in slices] == ["a_label.nrrd [2]", "a_label.nrrd [3]"]
    assert slices[0][1].max() == 255
    assert (slices[0][2] == labels[2]).all()


def write_set(root):
    truth = np.zeros((60, 60), np.uint16)
    truth[disc((60, 60), (20, 20), 10)] = 300
    truth[disc((60, 60), (45, 45), 8)] = 301
    for place, array in (("images", paint(truth > 0)[..., 0]), ("labels", truth)):
        folder = root / "bio_dsb2018" / place
        folder.mkdir(parents=True)
        Image.fromarray(array).save(folder / "one.png")
    return truth


def test_a_folder_of_pictures_keeps_sixteen_bit_labels(tmp_path):
    truth = write_set(tmp_path)
    (picture,) = read_folder(tmp_path / "bio_dsb2018")
    assert (picture.labels == truth).all()
    assert picture.image.shape == (60, 60, 3)


def test_labels_that_do_not_fit_are_named(tmp_path):
    write_set(tmp_path)
    label = tmp_path / "bio_dsb2018" / "labels" / "one.png"
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(label)
    with pytest.raises(InputError, match=r"one\.png is \(9, 9\)"):
        list(read_folder(tmp_path / "bio_dsb2018"))
    label.unlink()
    with pytest.raises(InputError, match="has no labels"):
        list(read_folder(tmp_path / "bio_dsb2018"))


# the command


def test_classical_only_prints_a_table_and_writes_json(tmp_path, capsys):
    write_set(tmp_path)
    out = tmp_path / "out.json"
    assert accuracy.main([str(tmp_path), "--classical-only", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())["bio_dsb2018"]
    assert (figures["n"], figures["pictures"]) == (2, 1)
    assert figures["flood_point"] == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split()[:3] == ["set", "n", "shape_box"]
    assert "skipped" in printed.err


def test_a_model_and_the_classical_tools_share_one_row(tmp_path):
    write_set(tmp_path)
    oracle = Oracle()
    figures = accuracy.measure_set(oracle, SETS[0], tmp_path, accuracy.Options())
    wanted = {"n", "box", "point_top", "point_best", "clicks_1", "clicks_3", "clicks_5"}
    wanted |= {"iou_error", "shape_box", "grabcut_box", "flood_point", "ms_encode", "ms_prompt"}
    assert wanted <= set(figures)
    assert figures["shape_box"] > 0.85


def test_the_size_of_the_model_is_printed_once_below_the_table(tmp_path, capsys, monkeypatch):
    class Sized(Oracle):
        parameters = 8_123_456

    monkeypatch.setattr(accuracy, "SamplatSegmenter", lambda name, storage: Sized())
    write_set(tmp_path)
    out = tmp_path / "out.json"
    assert accuracy.main([str(tmp_path), "--no-classical", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[2] == "parameters of samplat-tiny: 8,123,456"
    assert printed.count("parameters") == 1
    assert json.loads(out.read_text())["bio_dsb2018"]["parameters"] == 8_123_456


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("missing/out.json", "there is no directory"),
        ("/proc/out.json", "cannot write /proc/out.json"),
        ("bio_dsb2018", "it is a directory"),
    ],
)
def test_an_unwritable_json_is_told_before_the_run(tmp_path, capsys, monkeypatch, out, message):
    write_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert accuracy.main([str(tmp_path), "--classical-only", "--json", out]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()  # nothing was measured or skipped yet
    assert message in line
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sets", "nonsense"], "no set is called 'nonsense'"),
        (["--sets", "geo_banepa"], "has no folder 'geo_banepa'"),
        ([], "has no folder"),
    ],
)
def test_bad_calls_end_in_one_line(tmp_path, capsys, arguments, message):
    assert accuracy.main([str(tmp_path), "--classical-only", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
