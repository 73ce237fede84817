from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from samplat import files
from samplat.claims import Claims
from samplat.errors import JobError
from samplat.ledger import TileRecord
from samplat.masks import mask_set
from samplat.objects import TileObjects, tile_objects
from samplat.shards import HOLE, decode_shard, encode_shard, labels_header
from samplat.store import JobStore
from samplat.tiles import TileGrid, Window

GRID = TileGrid(shape=(1, 50, 40), tile_shape=(1, 32, 32), halo=(0, 8, 8))
JOB = {"image": "abc", "halo": 8, "stretch": {"low": (0.0,)}}


def some_objects(index: int = 3) -> TileObjects:
    rng = np.random.default_rng(index)
    tile = GRID[index]
    masks = rng.random((4, *tile.read.shape[1:])) < 0.2
    return tile_objects(
        mask_set(masks, points=rng.random((4, 2)), predicted_iou=rng.random(4)),
        tile=tile,
        valid=np.ones(tile.read.shape, bool),
        bounds=GRID.bounds,
        overlaps="best",
    )


def entry(index: int = 3, digest: str | None = None, **facts: Any) -> TileRecord:
    given = {"outcome": "done", "objects": 4, "attempts": 1, "seconds": 0.1, "peak_mb": 9.0}
    return TileRecord(index=index, objects_sha256=digest, **{**given, **facts})


@pytest.fixture
def store(job_dir: Path) -> JobStore:
    made = JobStore(path=job_dir)
    with made.lease():
        made.begin(JOB, {"host": "here"})
    return made


def same(a: TileObjects, b: TileObjects) -> bool:
    arrays = ("boxes", "areas", "owned_boxes", "owned_areas", "predicted_iou", "stability", "cut")
    return (
        a.rles == b.rles
        and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays)
        and all(getattr(a, n).dtype == getattr(b, n).dtype for n in (*arrays, "points"))
        and np.array_equal(a.points, b.points, equal_nan=True)
    )


def test_objects_round_trip(store: JobStore) -> None:
    objects = some_objects()
    record = entry(digest=store.write_objects(objects))
    assert same(store.read_objects(GRID[3], record), objects)


def test_a_tile_is_finished_by_its_marker_and_not_before(store: JobStore) -> None:
    digest = store.write_objects(some_objects())
    assert not store.is_finished(3)
    store.tiles.enter(entry(digest=digest))
    assert store.is_finished(3)
    assert store.tiles.read(3) == entry(digest=digest)


def test_skipped_is_finished_and_quarantined_is_not(store: JobStore) -> None:
    store.tiles.enter(entry(1, outcome="skipped"))
    store.tiles.enter(entry(2, outcome="quarantined", error="no"))
    assert store.is_finished(1)
    assert not store.is_finished(2)


def test_every_damaged_byte_of_a_marker_unmakes_it(store: JobStore) -> None:
    store.tiles.enter(entry(1, outcome="skipped"))
    path = store.path / "tiles" / "000001.json"
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        record = store.tiles.read(1)
        assert record is None or record == entry(1, outcome="skipped")


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_damaged_objects_are_an_error_and_are_redone(store: JobStore, damage: str) -> None:
    record = entry(digest=store.write_objects(some_objects()))
    store.tiles.enter(record)
    path = store.path / "objects" / "000003.arrow"
    spoil(path, damage)
    assert not store.is_finished(3)
    with pytest.raises(JobError, match=r"objects of tile 3.*run the job.s command again"):
        store.read_objects(GRID[3], record)


def spoil(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


def labels_of(index: int) -> NDArray[np.uint32]:
    shape = GRID[index].write.shape
    return np.random.default_rng(index).integers(0, 9, shape).astype(np.uint32)


@pytest.mark.parametrize("index", range(4))
def test_shards_round_trip_at_the_edge_too(store: JobStore, index: int) -> None:
    store.write_shard(GRID, GRID[index], labels_of(index), "final")
    assert store.is_painted(GRID, GRID[index], "final")
    assert not store.is_painted(GRID, GRID[index], "other")
    assert np.array_equal(store.read_shard(GRID, GRID[index]), labels_of(index))


def test_shards_of_large_ids_round_trip(store: JobStore) -> None:
    labels = labels_of(1).astype(np.uint64) + 2**40
    store.write_labels_header(GRID, np.uint64)
    store.write_shard(GRID, GRID[1], labels, "final")
    assert np.array_equal(store.read_shard(GRID, GRID[1]), labels)


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_damaged_shards_are_an_error_and_are_redone(store: JobStore, damage: str) -> None:
    store.write_shard(GRID, GRID[3], labels_of(3), "final")
    spoil(store.labels_path / "c" / "0" / "1" / "1", damage)
    assert not store.is_painted(GRID, GRID[3], "final")
    with pytest.raises(JobError, match="labels of tile 3"):
        store.read_shard(GRID, GRID[3])


def test_a_shard_that_was_never_painted_is_not_background(store: JobStore) -> None:
    import zarr

    store.write_labels_header(GRID, np.uint32)
    with pytest.raises(JobError, match="labels of tile 0"):
        store.read_shard(GRID, GRID[0])
    array = zarr.open_array(store.labels_path, mode="r")
    assert (np.asarray(array[...]) == HOLE).all()


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("side", [1, 7, 31, 32, 64, 250, 256, 257, 300])
def test_any_tile_size_makes_a_valid_shard(side: int, dtype: Any) -> None:
    labels = np.arange(side * side, dtype=dtype).reshape(1, side, side)
    labels[0, 0, 0] = np.iinfo(dtype).max - 1
    window = Window(start=(0, 0, 0), stop=labels.shape)
    data = encode_shard(labels, labels.shape)
    assert np.array_equal(decode_shard(data, window, labels.shape, dtype), labels)
    assert data == encode_shard(labels.copy(), labels.shape)


SHARDS = [
    ((1, 1024, 1024), (1, 1024, 1024)),
    ((1, 96, 1536), (1, 70, 1030)),
    ((1, 96, 1536), (1, 96, 100)),
    ((64, 1024, 512), (40, 600, 512)),
    ((600, 40, 520), (600, 33, 260)),
]


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize(("shard", "shape"), SHARDS)
def test_shards_are_those_that_zarr_writes(
    shard: tuple[int, ...], shape: tuple[int, ...], dtype: Any
) -> None:
    import zarr
    from zarr.core.buffer import cpu
    from zarr.storage import MemoryStore

    corner = np.random.default_rng(1).integers(0, 9, [-(-n // 16) for n in shape], dtype)
    labels = corner.repeat(16, 0).repeat(16, 1).repeat(16, 2)[tuple(map(slice, shape))]
    header = labels_header(TileGrid(shape=shape, tile_shape=shard, halo=(0, 0, 0)), dtype)
    content: Any = {"zarr.json": cpu.Buffer.from_bytes(header)}
    array = zarr.open_array(MemoryStore(content), mode="r+").with_config(
        {"write_empty_chunks": True}
    )
    array[...] = labels
    ours = encode_shard(labels, shard)
    assert ours == content["c/0/0/0"].to_bytes()
    assert np.array_equal(
        decode_shard(ours, Window(start=(0, 0, 0), stop=shape), shard, dtype), labels
    )


def test_every_flipped_bit_of_a_shard_is_noticed() -> None:
    labels = np.random.default_rng(0).integers(0, 5, (1, 64, 64), np.uint32)
    data, window = encode_shard(labels, labels.shape), Window(start=(0, 0, 0), stop=labels.shape)
    for bit in np.random.default_rng(1).integers(0, 8 * len(data), 300).tolist():
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(JobError, match="checksum"):
            decode_shard(bytes(spoilt), window, labels.shape, np.uint32)


def test_seams_round_trip_and_those_of_other_inputs_are_stale(store: JobStore) -> None:
    links = np.array([[1, 2], [3, 2**63]], np.uint64)
    claims = Claims(
        ids=np.array([5, 2**40], np.uint64),
        areas=np.array([3, 4]),
        boxes=np.arange(12).reshape(2, 6),
        rles=(b"1234", b"^QP5"),
        refused=np.array([9], np.uint64),
    )
    digest = store.write_seams(0, links, claims, "these")
    assert store.seams_digest(0, "these") == digest
    assert store.seams_digest(0, "those") is None
    found, claimed = store.read_seams(0, digest)
    assert np.array_equal(found, links)
    assert claimed.rles == claims.rles
    for name in ("ids", "areas", "boxes", "refused"):
        assert np.array_equal(getattr(claimed, name), getattr(claims, name)), name
        assert getattr(claimed, name).dtype == getattr(claims, name).dtype, name
    with pytest.raises(JobError, match=r"seams of tile 0.*run the job.s command again"):
        store.read_seams(0, "another")


def test_final_ids_and_table_belong_together(store: JobStore) -> None:
    names = [np.array(n, np.uint32) for n in ([4, 0], [], [7])]
    table = [pa.record_batch({"id": [1, 2]}), pa.record_batch({"id": [3]})]
    digest = store.write_final(names, table, "these")
    assert store.final_digest("these") == digest
    assert store.final_digest("those") is None
    final = store.read_final(digest)
    assert [final.of_tile(i).tolist() for i in range(3)] == [[4, 0], [], [7]]
    assert final.of(np.array([2 << 32, 1, 0], np.uint64)).tolist() == [7, 0, 4]
    assert final.dtype == np.uint32
    assert store.read_table()["id"].to_pylist() == [1, 2, 3]
    spoil(store.path / "seams" / "table.arrow", "flipped")
    assert store.final_digest("these") is None
    with pytest.raises(JobError, match="table of objects"):
        store.read_table()


def test_run_json_tells_what_the_job_is(store: JobStore) -> None:
    run = json.loads((store.path / "run.json").read_text())
    assert run["identity"]["halo"] == 8
    assert run["provenance"] == {"host": "here"}


def test_the_same_job_is_welcome(store: JobStore) -> None:
    store.begin(JOB, {})


def test_another_job_is_refused_naming_what_differs(store: JobStore) -> None:
    other = {**JOB, "halo": 9, "stretch": {"low": (1.0,)}}
    with pytest.raises(JobError, match=r"halo is 8 there, 9 here; stretch.low is \[0.0\] there"):
        store.begin(other, {})


def test_overwrite_discards_only_what_a_job_writes(store: JobStore) -> None:
    (store.path / "notes.txt").write_text("mine")
    store.tiles.enter(entry(1, outcome="skipped"))
    store.begin({**JOB, "halo": 9}, {}, overwrite=True)
    assert not store.is_finished(1)
    assert (store.path / "notes.txt").exists()


def test_overwrite_of_the_same_job_resumes(store: JobStore) -> None:
    store.tiles.enter(entry(1, outcome="skipped"))
    store.begin(JOB, {}, overwrite=True)
    assert store.is_finished(1)


def test_a_damaged_run_json_is_refused(store: JobStore) -> None:
    spoil(store.path / "run.json", "cut")
    with pytest.raises(JobError, match="damaged"):
        store.begin(JOB, {})
    store.begin(JOB, {}, overwrite=True)


def test_a_directory_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("")
    with pytest.raises(JobError, match=r"holds no job \(found holiday.jpg\)"):
        JobStore(path=tmp_path).begin(JOB, {})


def test_orphans_of_killed_processes_are_removed(store: JobStore) -> None:
    orphan = store.path / "objects" / f".000001.parquet.1234{files.TEMPORARY}"
    orphan.write_bytes(b"half")
    store.begin(JOB, {})
    assert not orphan.exists()


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    path = tmp_path / "job"
    path.write_text("")
    with pytest.raises(JobError, match="cannot use"), JobStore(path=path).lease():
        pass


def test_canonical_json_refuses_what_it_cannot_keep() -> None:
    with pytest.raises(TypeError, match="expected a JSON value, got set"):
        files.canonical({"a": {1}})
