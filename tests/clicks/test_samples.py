"""The pictures in the menu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clicks.gui import answered, opened, press, wait
from napari_sam.samples import CELL, FIELD, discs


def test_the_field_is_the_same_wherever_it_is_looked_at_from() -> None:
    rows, columns = np.arange(40_000, 40_900), np.arange(7_000, 8_000)
    whole = discs(rows, columns)
    np.testing.assert_array_equal(whole[100:300, 50:90], discs(rows[100:300], columns[50:90]))
    np.testing.assert_array_equal(whole[::8, ::8], discs(rows[::8], columns[::8]))
    cells = [whole[r : r + CELL, c : c + CELL] for r in (0, CELL) for c in (200, 200 + CELL)]
    shares = {round(float((cell > 120).mean()), 3) for cell in cells}
    assert len(shares) == 4  # no two discs are alike
    assert all(0.02 < share < 0.5 for share in shares)


@pytest.mark.parametrize("key", ["coins", "field", "bodies"])
def test_samples_open_from_the_menu_and_can_be_annotated(
    viewer: Any, tmp_path: Path, key: str
) -> None:
    (image,) = viewer.open_sample("samplat", key)
    widget = opened(viewer, tmp_path)
    place = {"coins": (121.0, 271.0), "bodies": (20.0, 60.0, 60.0)}.get(key, _middle_of_a_disc())
    viewer.dims.set_current_step(0, int(place[0])) if key == "bodies" else None
    widget.annotation.layers["points"].add(place)
    wait(lambda: answered(widget))
    press(viewer, "C")
    (each,) = widget.annotation.session.state.objects.values()
    assert widget.annotation.session.labels[tuple(round(p) for p in place)] == each.number
    assert 1000 < each.area < CELL**2
    assert image.ndim == len(place)


def _middle_of_a_disc() -> tuple[float, ...]:
    start = FIELD // 2 // CELL * CELL
    cell = discs(np.arange(start, start + CELL), np.arange(start, start + CELL))
    middle = np.argwhere(cell > 120).mean(axis=0) + start
    return tuple(map(float, middle))
