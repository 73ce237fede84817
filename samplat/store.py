"""The job directory: the ledger, the objects of each tile, the seams, the labels.

::

    JOB/run.json               what the job is, and with what it was run
    JOB/tiles/000123.json      one marker per finished tile
    JOB/objects/000123.parquet the tile's objects
    JOB/seams/000123.parquet   links of the tile's objects to tiles of higher index, and its marker
    JOB/seams/final.parquet    final id of every provisional one     JOB/seams/table.parquet
    JOB/labels/                zarr v3, one shard per write window, zstd + crc32c
    JOB/painted/000123.json    one marker per finished shard
    JOB/answers/000123.parquet masks of the prompts of one window, and its marker; only with prompts

Every file appears under its final name whole, and its marker after it. What has no marker, or does
not match it, was never done. A marker also names the digest of what it was computed from, so that
a result whose inputs changed is stale, not wrong.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from samplat import files
from samplat.errors import JobError
from samplat.objects import TileObjects
from samplat.shards import HOLE, decode_shard, encode_shard, labels_header
from samplat.tiles import Tile, TileGrid

if TYPE_CHECKING:
    import pyarrow as pa

Outcome = Literal["done", "skipped", "quarantined"]
__all__ = ["HOLE", "JobStore", "TileRecord"]

FOLDERS = ("tiles", "objects", "seams", "labels", "painted", "answers")
BOX_COLUMNS = ("z0", "y0", "x0", "z1", "y1", "x1")


@dataclass(frozen=True, kw_only=True)
class TileRecord:
    """The ledger's entry for one tile."""

    index: int
    """Ordinal of the tile."""
    outcome: Outcome
    """done; skipped: no valid pixel to write; quarantined: failed at every attempt."""
    objects: int
    """Number of objects."""
    objects_sha256: str | None
    """Digest of the objects' file; None unless done."""
    attempts: int
    """How often the tile was tried; 0 when skipped."""
    seconds: float
    """Time of the last attempt."""
    peak_mb: float
    """Peak resident memory of the process so far, in MiB."""
    error: str | None = None
    """Last error of a quarantined tile."""
    inputs: str | None = None
    """Digest of what it was made from, if that is not the image itself but answers to prompts."""


@dataclass(frozen=True, kw_only=True)
class JobStore:
    """A job directory. Holds only its path, so that workers can be handed one."""

    path: Path
    """The directory."""

    @property
    def labels_path(self) -> Path:
        """The zarr array of final labels."""
        return self.path / "labels"

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Exclusive use of the directory by this process; ends with it, however it dies.

        Raises:
            JobError: another process has it, or the directory cannot be made.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", is_singleton=False)
            lock.acquire(timeout=0)
        except Timeout:
            raise JobError(f"{self.path} is in use by {self._owner()}; wait or stop it") from None
        except OSError as error:
            raise JobError(f"cannot use {self.path} as a job directory: {error}") from error
        try:
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            files.write_sealed(self.path / "owner.json", owner)
            yield
        finally:
            (self.path / "owner.json").unlink(missing_ok=True)
            lock.release()

    def _owner(self) -> str:
        # the owner takes the lock first and writes its name a moment later
        for _ in range(20):
            if owner := files.read_sealed(self.path / "owner.json"):
                return f"process {owner['pid']} on {owner['host']}"
            time.sleep(0.05)
        return "another process"

    def begin(
        self, identity: Mapping[str, Any], provenance: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        """Claim the directory for a job, or find that it already holds this one.

        Raises:
            JobError: it holds another job, or files that are not a job's.
        """
        run = self.path / "run.json"
        if not run.exists():
            self._refuse_foreign_files()
        elif overwrite and not self._holds(identity):
            self.discard()
        else:
            self._refuse_other(identity)
        if not self._holds(identity):
            files.write_sealed(run, {"identity": identity, "provenance": provenance})
        files.remove_orphans(self.path)
        for folder in FOLDERS:
            (self.path / folder).mkdir(exist_ok=True)
        files.sync_directory(self.path)

    def _holds(self, identity: Mapping[str, Any]) -> bool:
        run = files.read_sealed(self.path / "run.json")
        return run is not None and files.canonical(run["identity"]) == files.canonical(identity)

    def _refuse_other(self, identity: Mapping[str, Any]) -> None:
        run = files.read_sealed(self.path / "run.json")
        if run is None:
            raise JobError(f"{self.path / 'run.json'} is damaged; use --overwrite to start anew")
        there, here = _flat(run["identity"]), _flat(identity)
        names = sorted(n for n in there | here if there.get(n) != here.get(n))
        if names:
            told = "; ".join(f"{n} is {there.get(n)!r} there, {here.get(n)!r} here" for n in names)
            raise JobError(
                f"{self.path} holds another job: {told}. "
                "Use --overwrite to discard it, or another --job-dir"
            )

    def _refuse_foreign_files(self) -> None:
        ours = {".lock", "owner.json"}
        names = sorted(p.name for p in self.path.iterdir() if p.name not in ours)
        foreign = [name for name in names if not name.endswith(files.TEMPORARY)]
        if foreign:
            raise JobError(
                f"{self.path} is not empty and holds no job (found {foreign[0]}); "
                "choose an empty or new directory"
            )

    def discard(self) -> None:
        """Remove the results that the directory holds, and nothing but what a job writes.

        Raises:
            JobError: something cannot be removed; it would be taken for the next job's.
        """
        for folder in FOLDERS:
            try:
                shutil.rmtree(self.path / folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise JobError(f"cannot empty {self.path / folder}: {error}") from error

    def _file(self, folder: str, index: int, suffix: str) -> Path:
        return self.path / folder / f"{index:06d}{suffix}"

    def write_objects(self, objects: TileObjects) -> str:
        """Write the objects of a tile; it is not finished until `write_record`. Returns SHA-256."""
        data = _table_bytes(_objects_table(objects))
        files.write_atomic(self._file("objects", objects.tile.index, ".parquet"), data)
        return files.sha256(data)

    def write_record(self, record: TileRecord) -> None:
        """Enter a tile in the ledger."""
        files.write_sealed(self._file("tiles", record.index, ".json"), asdict(record))

    def read_record(self, index: int) -> TileRecord | None:
        """The ledger's entry; None where there is none, or it is damaged."""
        entry = files.read_sealed(self._file("tiles", index, ".json"))
        return None if entry is None else TileRecord(**entry)

    def is_finished(self, index: int, inputs: str | None = None) -> bool:
        """Whether a tile need not be computed again: it is in the ledger, and its objects match.

        Args:
            index: ordinal of the tile.
            inputs: digest of what it is to be made from.
        """
        record = self.read_record(index)
        if record is None or record.outcome == "quarantined" or record.inputs != inputs:
            return False
        path = self._file("objects", index, ".parquet")
        return record.outcome == "skipped" or _digest(path) == record.objects_sha256

    def read_objects(self, tile: Tile, record: TileRecord) -> TileObjects:
        """The objects of a finished tile.

        Raises:
            JobError: the file is missing or does not match the ledger.
        """
        path = self._file("objects", tile.index, ".parquet")
        data = _checked(path, record.objects_sha256, f"the objects of tile {tile.index}")
        return _objects_from(_table_from(data), tile)

    def write_answers(self, index: int, answers: pa.Table) -> str:
        """Write the answers of a unit; it is not finished until its record is. Returns SHA-256."""
        data = _table_bytes(answers)
        files.write_atomic(self._file("answers", index, ".parquet"), data)
        return files.sha256(data)

    def write_answer_record(self, record: TileRecord) -> None:
        """Enter a unit of prompts in the ledger; its index is the unit's."""
        files.write_sealed(self._file("answers", record.index, ".json"), asdict(record))

    def read_answer_record(self, index: int) -> TileRecord | None:
        """The ledger's entry for a unit; None where there is none, or it is damaged."""
        entry = files.read_sealed(self._file("answers", index, ".json"))
        return None if entry is None else TileRecord(**entry)

    def is_answered(self, index: int) -> bool:
        """Whether a unit need not be computed again."""
        record = self.read_answer_record(index)
        if record is None or record.outcome != "done":
            return False
        return _digest(self._file("answers", index, ".parquet")) == record.objects_sha256

    def read_answers(self, record: TileRecord) -> pa.Table:
        """The answers of a finished unit.

        Raises:
            JobError: the file is missing or does not match the ledger.
        """
        path = self._file("answers", record.index, ".parquet")
        what = f"the answers of window {record.index}"
        return _table_from(_checked(path, record.objects_sha256, what))

    def write_report(self, report: pa.Table) -> None:
        """Write what became of each prompt, as CSV for people."""
        import pyarrow as pa
        import pyarrow.csv

        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(report, sink)
        files.write_atomic(self.report_path, sink.getvalue().to_pybytes())

    @property
    def report_path(self) -> Path:
        """What became of each prompt."""
        return self.path / "answers" / "report.csv"

    def write_links(self, index: int, links: NDArray[np.uint64], inputs: str) -> str:
        """Write the links of a tile to tiles of higher index; returns the digest of the file.

        Args:
            index: ordinal of the tile.
            links: (E, 2) provisional ids.
            inputs: digest of what they were computed from.
        """
        import pyarrow as pa

        data = _table_bytes(pa.table({"first": links[:, 0], "second": links[:, 1]}))
        files.write_atomic(self._file("seams", index, ".parquet"), data)
        marker = {"inputs": inputs, "sha256": files.sha256(data)}
        files.write_sealed(self._file("seams", index, ".json"), marker)
        return files.sha256(data)

    def links_digest(self, index: int, inputs: str) -> str | None:
        """Digest of a tile's links; None when they are missing, damaged, or of other inputs."""
        return self._current(self._file("seams", index, ".json"), inputs)

    def _current(self, marker_path: Path, inputs: str) -> str | None:
        marker = files.read_sealed(marker_path)
        if marker is None or marker["inputs"] != inputs:
            return None
        found = _digest(marker_path.with_suffix(".parquet"))
        return found if found == marker["sha256"] else None

    def read_links(self, index: int, digest: str) -> NDArray[np.uint64]:
        """(E, 2) provisional ids."""
        path = self._file("seams", index, ".parquet")
        table = _table_from(_checked(path, digest, f"the seams of tile {index}"))
        return np.stack([table["first"].to_numpy(), table["second"].to_numpy()], axis=1)

    def write_final(
        self, ids: NDArray[np.uint64], final: NDArray[np.uint32], objects: pa.Table, inputs: str
    ) -> str:
        """Write what every object is called in the end; returns the digest of that.

        Args:
            ids: (N,) provisional ids, ascending.
            final: (N,) final ids; 0 for dropped ones.
            objects: the table of objects.
            inputs: digest of what they were computed from.
        """
        import pyarrow as pa

        table, names = _table_bytes(objects), pa.table({"id": ids, "final": final})
        data = _table_bytes(names)
        files.write_atomic(self.path / "seams" / "table.parquet", table)
        files.write_atomic(self.path / "seams" / "final.parquet", data)
        marker = {"inputs": inputs, "sha256": files.sha256(data), "table": files.sha256(table)}
        files.write_sealed(self.path / "seams" / "final.json", marker)
        return files.sha256(data)

    def final_digest(self, inputs: str) -> str | None:
        """Digest of the final ids; None when they are missing, damaged, or of other inputs."""
        marker = files.read_sealed(self.path / "seams" / "final.json") or {}
        if _digest(self.path / "seams" / "table.parquet") != marker.get("table"):
            return None
        return self._current(self.path / "seams" / "final.json", inputs)

    def read_final(self, digest: str) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        """Provisional ids, ascending, and the final id of each."""
        path = self.path / "seams" / "final.parquet"
        table = _table_from(_checked(path, digest, "the final ids"))
        return table["id"].to_numpy(), table["final"].to_numpy()

    def read_table(self) -> pa.Table:
        """The table of objects."""
        marker = files.read_sealed(self.path / "seams" / "final.json") or {}
        path = self.path / "seams" / "table.parquet"
        return _table_from(_checked(path, marker.get("table"), "the table of objects"))

    def write_labels_header(self, grid: TileGrid) -> None:
        """Describe the label array, so that any zarr reader can open it."""
        files.write_atomic(self.labels_path / "zarr.json", labels_header(grid))

    def write_shard(
        self, grid: TileGrid, tile: Tile, labels: NDArray[np.uint32], inputs: str
    ) -> str:
        """Write the labels (z, y, x) of a tile's write window; returns the digest of the file."""
        data = encode_shard(labels, grid.tile_shape)
        path = self._shard_path(grid, tile)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, data)
        marker = {"inputs": inputs, "sha256": files.sha256(data)}
        files.write_sealed(self._file("painted", tile.index, ".json"), marker)
        return files.sha256(data)

    def _shard_path(self, grid: TileGrid, tile: Tile) -> Path:
        return self.labels_path.joinpath("c", *map(str, grid.position(tile.index)))

    def is_painted(self, grid: TileGrid, tile: Tile, inputs: str) -> bool:
        """Whether a shard is finished, whole, and painted from these inputs."""
        marker = files.read_sealed(self._file("painted", tile.index, ".json"))
        if marker is None or marker["inputs"] != inputs:
            return False
        return bool(_digest(self._shard_path(grid, tile)) == marker["sha256"])

    def read_shard(self, grid: TileGrid, tile: Tile) -> NDArray[np.uint32]:
        """The labels (z, y, x) of a tile's write window.

        Raises:
            JobError: the shard is missing or does not match the ledger.
        """
        marker = files.read_sealed(self._file("painted", tile.index, ".json")) or {}
        what = f"the labels of tile {tile.index}"
        data = _checked(self._shard_path(grid, tile), marker.get("sha256"), what)
        return decode_shard(data, tile.write, grid.tile_shape)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    dotted = f"{prefix}." if prefix else ""
    return {n: v for key, inner in value.items() for n, v in _flat(inner, f"{dotted}{key}").items()}


def _digest(path: Path) -> str | None:
    try:
        return files.sha256(path.read_bytes())
    except OSError:
        return None


def _checked(path: Path, digest: str | None, what: str) -> bytes:
    remedy = "run the same command again, it mends what is damaged"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JobError(f"{what} cannot be read: {path}: {error.strerror}; {remedy}") from error
    if digest is None or files.sha256(data) != digest:
        raise JobError(f"{what} do not match the ledger: {path} is damaged; {remedy}")
    return data


def _table_bytes(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _table_from(data: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # no threads: these files are small, and tiles run side by side already
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


def _objects_table(objects: TileObjects) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "local_id": pa.array(np.arange(len(objects)), pa.uint32()),
            **{n: objects.boxes[:, k] for k, n in enumerate(BOX_COLUMNS)},
            "area": objects.areas,
            **{f"owned_{n}": objects.owned_boxes[:, k] for k, n in enumerate(BOX_COLUMNS)},
            "owned_area": objects.owned_areas,
            "predicted_iou": objects.predicted_iou,
            "stability": objects.stability,
            "point_x": objects.points[:, 0],
            "point_y": objects.points[:, 1],
            "cut": objects.cut,
            "prompt": objects.prompts,
            "truncated": objects.truncated,
            "rle": pa.array(objects.rles, pa.binary()),
        }
    )


def _objects_from(table: pa.Table, tile: Tile) -> TileObjects:
    column = {name: table[name].to_numpy() for name in table.column_names if name != "rle"}
    return TileObjects(
        tile=tile,
        rles=tuple(table["rle"].to_pylist()),
        boxes=np.stack([column[n] for n in BOX_COLUMNS], axis=1),
        areas=column["area"],
        owned_boxes=np.stack([column[f"owned_{n}"] for n in BOX_COLUMNS], axis=1),
        owned_areas=column["owned_area"],
        predicted_iou=column["predicted_iou"],
        stability=column["stability"],
        points=np.stack([column["point_x"], column["point_y"]], axis=1),
        cut=column["cut"],
        prompts=column["prompt"],
    )
