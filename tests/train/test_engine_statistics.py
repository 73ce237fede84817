"""Figures equal to values computed by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from shapely.geometry import MultiPolygon, box

from samplat import Prompts
from samplat_train.engine import Project, Retrained, retrain, statistics
from samplat_train.engine.statistics import concavity, relative_size
from train.engine_oracle import load_oracle

SIDE = 100


def block(y0, y1, x0, x1):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def project(tmp_path):
    for i in range(3):
        image = np.full((SIDE, SIDE), 20 * i, np.uint8)
        image[:10, :10] += 10
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    return Project.create(tmp_path / "p", [tmp_path], model="oracle", load=load_oracle)


def annotate(project):
    """Two masks in picture 0, one in picture 1, a rejected one; picture 2 stays empty."""
    with project.annotate(0) as session:
        answer = session.prompt(Prompts(points=[(50, 50)]))[0]
        first = session.accept(answer, seconds=10.0)
        session.edit(first, block(0, 50, 0, 50), seconds=4.0)
        session.accept(
            block(0, 10, 90, 100), prompts=Prompts(points=[(95, 5), (80, 5)], boxes=[88, 0, 99, 12],
            labels=[1, 0]), seconds=6.0,
        )  # fmt: skip
        session.finish()
    with project.annotate(1) as session:
        session.accept(block(0, 20, 0, 20) | block(0, 60, 0, 10), seconds=30.0)
        gone = session.accept(block(5, 9, 5, 9), seconds=2.0)
        session.reject(gone, seconds=1.5)
        session.finish()


def test_effort_equals_hand_computed_values(project):
    annotate(project)
    found = statistics(project)
    assisted, semi, automatic = found.stages
    assert (found.pictures, found.masks) == (3, 3)
    assert (assisted.pictures_finished, assisted.pictures, assisted.masks) == (2, 2, 3)
    assert assisted.masks_per_picture == 1.5
    effort = assisted.effort
    assert (effort.seconds_mean, effort.seconds_median) == (50 / 3, 14.0)
    assert (effort.clicks_mean, effort.clicks_median) == (5 / 3, 1.0)
    assert assisted.sources == {"person": 1 / 3, "model": 1 / 3, "corrected": 1 / 3}
    assert assisted.rejected_seconds == 3.5
    assert assisted.effort_by_model == {"oracle": effort}
    for other in (semi, automatic):
        assert (other.masks, other.masks_per_picture, other.effort.seconds_mean) == (0, None, None)


def test_properties_equal_hand_computed_values(project):
    """Blocks of 2500, 100 and 800 of 10 000 pixels; the last one is an L in a hull of 1000."""
    annotate(project)
    shape = statistics(project).properties
    assert shape.relative_size_mean == pytest.approx((0.5 + 0.1 + 0.08**0.5) / 3)
    assert shape.relative_size == (0, 1, 1, 0, 0, 1, 0, 0, 0, 0)
    assert shape.concavity_mean == pytest.approx((0 + 0 + 0.2) / 3)
    assert shape.concavity[0] == 2
    assert sum(shape.concavity) == 3
    assert shape.masks_per_picture == {"1-10": 2, "11-50": 0, "51-100": 0, "101-200": 0, ">200": 0}
    expected = np.zeros((5, 5), int)
    expected[1, 1] += 1  # 25, 25
    expected[0, 4] += 1  # 5, 95
    expected[1, 0] += 1  # (400 * 10 + 400 * 40) / 800 = 25, (400 * 10 + 400 * 5) / 800 = 7.5
    assert np.array_equal(shape.centres, expected)


def test_pre_filled_masks_took_nobodys_time(project):
    project.set_stage("semi-automatic")
    with project.annotate(0) as session:
        assert len(session.proposals) >= 1
        count = len(session.proposals)
        session.accept(block(0, 50, 50, 100), seconds=8.0)
        session.finish()
    semi = statistics(project).stages[1]
    assert (semi.masks, semi.prefilled) == (count + 1, count)
    assert (semi.effort.masks, semi.effort.seconds_mean) == (1, 8.0)
    assert semi.sources["model"] == count / (count + 1)


def test_rounds_are_reported_and_all_of_it_is_json(project, tmp_path):
    annotate(project)

    class Better:
        recipe = {"steps": 1}  # noqa: RUF012

        def __call__(self, parent, source, folder):
            (folder / "model.safetensors").write_bytes(b"better")
            figures = {"before": {"point": 0.4}, "after": {"point": 0.6}}
            return Retrained(path=folder / "model.safetensors", figures=figures)

    retrain(project, Better())
    facts = json.loads(json.dumps(statistics(project).as_dict(), allow_nan=False))
    assert facts["rounds"][0]["figures"]["after"] == {"point": 0.6}
    assert [s["stage"] for s in facts["stages"]] == [
        "assisted",
        "semi-automatic",
        "fully-automatic",
    ]


def test_half_a_line_is_noted(project):
    annotate(project)
    with project.record_path(1).open("ab") as file:
        file.write(b'{"id": "m0')
    assert statistics(project).masks == 3
    assert "000001.jsonl: half a line of 10 bytes" in statistics(project).notes[0]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (block(3, 4, 7, 8), 0.0),
        (block(3, 9, 7, 30), 0.0),
        (block(0, 20, 0, 20) | block(0, 60, 0, 10), 0.2),
        (block(0, 30, 0, 10) | block(0, 30, 20, 30), 1 / 3),
        (np.triu(np.ones((2, 2), bool)), 1 - 3 / 3.5),
    ],
)
def test_concavity_by_hand(mask, expected):
    assert concavity(mask) == pytest.approx(expected)


masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)).filter(
    np.any
)


@given(masks)
@settings(deadline=None, max_examples=60)
def test_concavity_equals_shapelys_hull_however_turned(mask):
    assert 0 <= concavity(mask) + 1e-12 < 1
    assert concavity(mask) == pytest.approx(concavity(mask.T))
    assert concavity(mask) == pytest.approx(concavity(mask[::-1]))
    ys, xs = np.nonzero(mask)
    pixels = [box(x, y, x + 1, y + 1) for x, y in zip(xs, ys, strict=True)]
    hull = MultiPolygon(pixels).convex_hull
    assert concavity(mask) == pytest.approx(1 - mask.sum() / hull.area)


@given(masks, st.integers(2, 4))
@settings(deadline=None, max_examples=40)
def test_enlarging_a_picture_changes_no_relative_figure(mask, factor):
    large = np.kron(mask, np.ones((factor, factor), bool))
    assert relative_size(large) == pytest.approx(relative_size(mask))
    assert concavity(large) == pytest.approx(concavity(mask))
