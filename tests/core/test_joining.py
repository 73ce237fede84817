from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from numpy.typing import NDArray

from samplat.joining import spanning
from samplat.merging import group_objects

TILES, EACH = 8, 5


@given(
    st.lists(st.tuples(*[st.integers(0, TILES * EACH - 1)] * 2), max_size=120),
    st.lists(st.integers(1, TILES - 1), max_size=3),
)
def test_parts_that_are_joined_first_give_the_same_groups(
    pairs: list[tuple[int, int]], cuts: list[int]
) -> None:
    """However tiles are put into parts, and however often objects are said to be one."""
    places = np.array(pairs, np.int64).reshape(-1, 2)
    links = ((places // EACH).astype(np.uint64) << np.uint64(32)) + (places % EACH).astype(
        np.uint64
    )
    counts = np.full(TILES, EACH)
    ends = [0, *sorted(cuts), TILES]
    owner = places[:, 0] // EACH if len(places) else np.zeros(0, np.int64)
    parts = [spanning(links[(owner >= a) & (owner < b)]) for a, b in itertools.pairwise(ends)]
    joined, whole = group_objects(counts, parts), group_objects(counts, [links])
    assert joined.count == whole.count
    assert joined.group.tolist() == whole.group.tolist()
    assert all(is_small(part) for part in parts)


def is_small(part: NDArray[np.uint64]) -> bool:
    """Whether each object is named once, by a smaller one that is not named itself."""
    return (
        len(np.unique(part[:, 1])) == len(part)
        and not np.isin(part[:, 0], part[:, 1]).any()
        and bool((part[:, 0] < part[:, 1]).all())
    )
