from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from core.oracle import ArraySource, oracle_job, oracle_tools, paint, random_labels
from samplat import joining
from samplat.executors import SerialExecutor
from samplat.joining import spanning
from samplat.merging import group_objects
from samplat.pipeline import run_job

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


class Far(SerialExecutor):
    """Says that it is distant."""

    def check(self, plan: Any, tools: Any) -> None:
        pass


def test_what_is_joined_afar_has_the_names_of_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "PART", 3)
    truth = random_labels(np.random.default_rng(3), (50, 61), 12, 60)
    tools = oracle_tools(image=ArraySource(paint(truth)))
    near = run_job(oracle_job(tmp_path / "near"), tools=tools)
    far = run_job(oracle_job(tmp_path / "far"), tools=tools, executor=Far())
    assert len(list((tmp_path / "far" / "seams").glob("*.joined.json"))) == -(-len(far.grid) // 3)
    assert not list((tmp_path / "near" / "seams").glob("*.joined.json"))
    names = str(near.objects.to_pylist())  # where nothing is unlike itself
    assert str(far.objects.to_pylist()) == names
    for (_, one), (_, other) in zip(far.shards(), near.shards(), strict=True):
        assert (one == other).all()
    # what is damaged is joined anew
    (tmp_path / "far" / "seams" / "000001.joined.json").write_text("{}")
    (tmp_path / "far" / "seams" / "final.json").unlink()
    again = run_job(oracle_job(tmp_path / "far"), tools=tools, executor=Far())
    assert str(again.objects.to_pylist()) == names
