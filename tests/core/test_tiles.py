from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplat.errors import InputError
from samplat.tiles import TileGrid, Window


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    axes = draw(st.integers(1, 3))
    sizes = st.integers(1, 12)
    return TileGrid(
        shape=tuple(draw(sizes) for _ in range(axes)),
        tile_shape=tuple(draw(sizes) for _ in range(axes)),
        halo=tuple(draw(st.integers(0, 9)) for _ in range(axes)),
    )


@given(grids())
def test_write_windows_partition_the_image(grid: TileGrid) -> None:
    hits = np.zeros(grid.shape, int)
    for tile in grid:
        hits[tile.write.slices] += 1
    assert (hits == 1).all()


@given(grids())
def test_read_windows_contain_write_windows_and_stay_inside(grid: TileGrid) -> None:
    image = Window(start=(0,) * len(grid.shape), stop=grid.shape)
    for tile in grid:
        assert tile.read.contains(tile.write)
        assert image.contains(tile.read)


@given(grids())
def test_halo_is_complete_except_at_the_edge_of_the_image(grid: TileGrid) -> None:
    for tile in grid:
        for axis, halo in enumerate(grid.halo):
            assert tile.read.start[axis] == max(0, tile.write.start[axis] - halo)
            assert tile.read.stop[axis] == min(grid.shape[axis], tile.write.stop[axis] + halo)


@given(grids())
def test_neighbours_are_all_overlapping_pairs_once(grid: TileGrid) -> None:
    found = [(t.index, n.index) for t in grid for n in grid.neighbours(t)]
    tiles = list(grid)
    expected = [
        (a.index, b.index)
        for a in tiles
        for b in tiles
        if a.index < b.index and a.read.intersection(b.read).size
    ]
    assert found == expected


@given(grids())
def test_index_and_position_are_inverse(grid: TileGrid) -> None:
    assert [grid.index(grid.position(i)) for i in range(len(grid))] == list(range(len(grid)))


@given(grids())
def test_write_windows_coincide_with_shards(grid: TileGrid) -> None:
    for tile in grid:
        position = grid.position(tile.index)
        for p, size, start in zip(position, grid.tile_shape, tile.write.start, strict=True):
            assert start == p * size


@st.composite
def parts(draw: st.DrawFn) -> tuple[TileGrid, Window]:
    """The grid of a scene, and a part of the scene."""
    scene = draw(grids())
    ends = [sorted(draw(st.permutations(range(n + 1)))[:2]) for n in scene.shape]
    return scene, Window(start=tuple(a for a, _ in ends), stop=tuple(b for _, b in ends))


@given(parts())
def test_the_tiles_of_a_part_are_tiles_of_its_scene(case: tuple[TileGrid, Window]) -> None:
    scene, part = case
    grid = TileGrid.of_part(scene.shape, part, scene.tile_shape, scene.halo)
    hits = np.zeros(part.shape, int)
    found = []
    for tile in grid:
        hits[tile.write.slices] += 1
        read, write = tile.read.shifted(part.start), tile.write.shifted(part.start)
        found.append((read, write))
    assert (hits == 1).all()
    writing = ((t.read, t.write.intersection(part)) for t in scene)
    assert found == [(read, write) for read, write in writing if write.size]
    pairs = [(a.index, b.index) for a in grid for b in grid.neighbours(a)]
    tiles = list(grid)
    meet = [(a, b) for a in tiles for b in tiles if a.read.intersection(b.read).size]
    assert pairs == [(a.index, b.index) for a, b in meet if a.index < b.index]


@pytest.mark.parametrize(("start", "stop"), [((0, 0), (5, 4)), ((-1, 0), (2, 2)), ((2, 2), (2, 4))])
def test_a_part_must_have_pixels_inside_of_the_scene(
    start: tuple[int, ...], stop: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="expected a part of the scene"):
        TileGrid.of_part((4, 4), Window(start=start, stop=stop), (2, 2), (0, 0))


@pytest.mark.parametrize(
    ("shape", "tile_shape", "halo"),
    [
        ((0, 4), (2, 2), (0, 0)),
        ((4, 4), (0, 2), (0, 0)),
        ((4, 4), (2, 2), (-1, 0)),
        ((4,), (2, 2), (0,)),
    ],
)
def test_impossible_grids_are_refused(
    shape: tuple[int, ...], tile_shape: tuple[int, ...], halo: tuple[int, ...]
) -> None:
    with pytest.raises(InputError):
        TileGrid(shape=shape, tile_shape=tile_shape, halo=halo)


def test_window_arithmetic() -> None:
    outer, inner = Window(start=(2, 3), stop=(10, 9)), Window(start=(4, 5), stop=(6, 6))
    assert inner.relative_to(outer) == Window(start=(2, 2), stop=(4, 3))
    assert outer.intersection(Window(start=(20, 0), stop=(30, 5))).size == 0
    assert outer.contains(inner)
    assert not inner.contains(outer)
