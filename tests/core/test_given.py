"""Labels that no job made, against what numpy says of them."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from samplat import ImageInfo, InputError, SourceSpec, labels_result

SOURCE = SourceSpec(path="image.tif", factory="raster")


def of(labels: Any, **options: Any) -> Any:
    info = ImageInfo(shape=labels.shape, bands=1, dtype="uint8")
    return labels_result(labels, info, SOURCE, **options)


@mock.patch("samplat.given.TILE", (1, 4, 4))
@given(
    labels=arrays.arrays(
        np.uint32,
        arrays.array_shapes(min_dims=3, max_dims=3, max_side=9),
        elements=st.integers(0, 4) | st.just(2**31),
    )
)
def test_the_table_tells_what_the_labels_hold(labels: Any) -> None:
    result = of(labels, scores={2: 0.5}, columns={"class": {3: "tree"}})
    table = result.objects
    assert table["id"].to_pylist() == [n for n in np.unique(labels).tolist() if n]
    for row in table.to_pylist():
        places = np.argwhere(labels == row["id"])
        assert row["area_px"] == len(places)
        assert [row[n] for n in ("z0", "y0", "x0")] == places.min(axis=0).tolist()
        assert [row[n] for n in ("z1", "y1", "x1")] == (places.max(axis=0) + 1).tolist()
        painted = [t.index for t in result.grid if (labels[t.write.slices] == row["id"]).any()]
        assert row["tiles"] == painted
        assert row["predicted_iou"] == 0.5 if row["id"] == 2 else np.isnan(row["predicted_iou"])
        assert row["prompt.class"] == ("tree" if row["id"] == 3 else "")
    for window, part in result.shards():
        np.testing.assert_array_equal(part, labels[window.slices])
    assert result.complete


@pytest.mark.parametrize("value", [-1, 2**32 - 1])
def test_what_are_no_ids_are_refused(value: int) -> None:
    with pytest.raises(InputError, match=f"got {value}"):
        of(np.full((1, 3, 3), value))


def test_labels_of_another_shape_or_type_are_refused() -> None:
    info = ImageInfo(shape=(1, 3, 4), bands=1, dtype="uint8")
    for labels in (np.zeros((1, 4, 3), int), np.zeros((1, 3, 4))):
        with pytest.raises(InputError, match="expected integer labels"):
            labels_result(labels, info, SOURCE)
