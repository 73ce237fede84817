"""The job directory: the ledger, the objects of each tile, the seams, the labels.

::

    JOB/run.json               what the job is, and with what it was run
    JOB/tiles/000123.json      one marker per finished tile
    JOB/objects/000123.parquet the tile's objects
    JOB/seams/000123.json      its objects' links to tiles of higher index, its claims on theirs
    JOB/seams/final.arrow      final id of every provisional one, tile by tile
    JOB/seams/table.arrow      the table of objects, and final.json, the marker of both
    JOB/regions/000123.json    connected regions of what it paints; only if holes or islands matter
    JOB/seams/patches.arrow    those of them that change hands, tile by tile; likewise
    JOB/labels/                zarr v3, one shard per write window, zstd + crc32c
    JOB/painted/000123.json    one marker per finished shard
    JOB/nested/                all masks, whole, and how they are nested; only on request
    JOB/answers/000123.parquet masks of the prompts of one window, and its marker; only with prompts

Every file appears under its final name whole, and its marker after it. What has no marker, or does
not match it, was never done. A marker also names the digest of what it was computed from, so that
a result whose inputs changed is stale, not wrong.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from samplat import files
from samplat.claims import Claims
from samplat.errors import JobError
from samplat.merging import BOX_COLUMNS, Parts
from samplat.objects import TileObjects, WholeMasks
from samplat.regions import Regions
from samplat.shards import HOLE, Labels, decode_shard, encode_shard, labels_header
from samplat.tiles import Tile, TileGrid, Window

if TYPE_CHECKING:
    import pyarrow as pa

Outcome = Literal["done", "skipped", "quarantined"]
__all__ = ["HOLE", "JobStore", "RunRecord", "TileRecord"]

FOLDERS = ("tiles", "objects", "seams", "regions", "labels", "painted", "answers", "nested")
PART_COLUMNS = [
    *(f"owned_{name}" for name in BOX_COLUMNS),
    *("owned_area", "predicted_iou", "stability", "point_x", "point_y", "cut", "prompt"),
]
SHORT_DIGEST = 12
"""Digits of a SHA-256 that people are shown."""
REMEDY = "run the job's command again, it mends what is damaged"


@dataclass(frozen=True, kw_only=True, slots=True)
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
    whole_sha256: str | None = None
    """Digest of the file of its masks, whole; None where they were not asked for."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `run.json` holds."""

    identity: Mapping[str, Any]
    """What decides the labels."""
    provenance: Mapping[str, Any]
    """With what and when they were made."""

    @property
    def short(self) -> str:
        """A name for the run: equal for runs that give equal labels."""
        return files.sha256(files.canonical(self.identity))[:SHORT_DIGEST]

    @property
    def found_by(self) -> str:
        """The model, or the segmenter that needs none."""
        return str(self.provenance.get("model") or self.identity["segmenter"]["name"])

    @property
    def weights_short(self) -> str | None:
        """First digits of the weights' SHA-256; None without a model."""
        weights = self.identity["segmenter"].get("weights")
        return None if weights is None else str(weights)[:SHORT_DIGEST]


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
        elif missing := set(provenance) - set(self.read_run().provenance):
            # an older version did not record as much
            added = {name: provenance[name] for name in missing}
            provenance = {**self.read_run().provenance, **added}
            files.write_sealed(run, {"identity": identity, "provenance": provenance})
        files.remove_orphans(self.path)
        for folder in FOLDERS:
            (self.path / folder).mkdir(exist_ok=True)
        files.sync_directory(self.path)

    def read_run(self) -> RunRecord:
        """What the directory says of its job.

        Raises:
            JobError: it holds none, or that is damaged.
        """
        path = self.path / "run.json"
        if not path.exists():
            raise JobError(f"{self.path} is no job directory: there is no run.json in it")
        run = files.read_sealed(path)
        if run is None:
            raise JobError(f"{path} is damaged; run the job again with --overwrite")
        return RunRecord(identity=run["identity"], provenance=run["provenance"])

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
        data = table_bytes(_objects_table(objects))
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
        path, whole = (self._file(folder, index, ".parquet") for folder in ("objects", "nested"))
        if record.whole_sha256 is not None and files.digest(whole) != record.whole_sha256:
            return False
        return record.outcome == "skipped" or files.digest(path) == record.objects_sha256

    def write_whole(self, whole: WholeMasks) -> str:
        """Write the masks of a tile, whole; returns SHA-256."""
        table = _objects_table(whole.masks).append_column("flat", [whole.flat])
        data = table_bytes(table)
        files.write_atomic(self._file("nested", whole.masks.tile.index, ".parquet"), data)
        return files.sha256(data)

    def read_whole(self, tile: Tile, record: TileRecord) -> WholeMasks:
        """The masks of a finished tile, whole.

        Raises:
            JobError: the file is missing or does not match the ledger.
        """
        path = self._file("nested", tile.index, ".parquet")
        what = f"the masks of tile {tile.index}"
        table = table_from(checked_bytes(path, record.whole_sha256, what))
        return WholeMasks(masks=_objects_from(table, tile), flat=table["flat"].to_numpy())

    def read_objects(self, tile: Tile, record: TileRecord) -> TileObjects:
        """The objects of a finished tile.

        Raises:
            JobError: the file is missing or does not match the ledger.
        """
        path = self._file("objects", tile.index, ".parquet")
        data = checked_bytes(path, record.objects_sha256, f"the objects of tile {tile.index}")
        return _objects_from(table_from(data), tile)

    def read_parts(self, tile: Tile, record: TileRecord) -> Parts:
        """The objects of a finished tile, without their masks."""
        path = self._file("objects", tile.index, ".parquet")
        data = checked_bytes(path, record.objects_sha256, f"the objects of tile {tile.index}")
        return _parts_from(table_from(data, columns=PART_COLUMNS), tile)

    def write_answers(self, index: int, answers: pa.Table) -> str:
        """Write the answers of a unit; it is not finished until its record is. Returns SHA-256."""
        data = table_bytes(answers)
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
        return files.digest(self._file("answers", index, ".parquet")) == record.objects_sha256

    def read_answers(self, record: TileRecord) -> pa.Table:
        """The answers of a finished unit.

        Raises:
            JobError: the file is missing or does not match the ledger.
        """
        path = self._file("answers", record.index, ".parquet")
        what = f"the answers of window {record.index}"
        return table_from(checked_bytes(path, record.objects_sha256, what))

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

    def write_seams(
        self, index: int, links: NDArray[np.uint64], claims: Claims, inputs: str
    ) -> str:
        """Write what a tile has to do with its neighbours; returns the digest of that.

        Args:
            index: ordinal of the tile.
            links: (E, 2) provisional ids of objects that are one, of this and of higher tiles.
            claims: what it paints of the neighbours' objects.
            inputs: digest of what they were computed from.
        """
        value = {"inputs": inputs, "links": packed(links), "claims": _packed_claims(claims)}
        return files.write_sealed(self._file("seams", index, ".json"), value)

    def seams_digest(self, index: int, inputs: str) -> str | None:
        """Digest of a tile's seams; None when they are missing, damaged, or of other inputs."""
        value = files.read_sealed(self._file("seams", index, ".json"))
        if value is None or value["inputs"] != inputs:
            return None
        return files.sha256(files.canonical(value))

    def read_seams(self, index: int, digest: str) -> tuple[NDArray[np.uint64], Claims]:
        """Links and claims of a tile.

        Raises:
            JobError: they are missing or do not match the digest.
        """
        path = self._file("seams", index, ".json")
        value = files.read_sealed(path)
        if value is None or files.sha256(files.canonical(value)) != digest:
            raise JobError(f"the seams of tile {index} are missing or damaged: {path}; {REMEDY}")
        return unpacked(value["links"], np.uint64).reshape(-1, 2), _claims_from(value["claims"])

    def write_regions(self, index: int, regions: Regions, inputs: str) -> str:
        """Write the regions of what a tile paints; returns the digest of that.

        Args:
            index: ordinal of the tile.
            regions: of its write window.
            inputs: digest of what they were found in.
        """
        value = {"inputs": inputs, **{f.name: packed(getattr(regions, f.name)) for f in _REGIONS}}
        return files.write_sealed(self._file("regions", index, ".json"), value)

    def regions_digest(self, index: int, inputs: str) -> str | None:
        """Digest of a tile's regions; None when they are missing, damaged, or of other inputs."""
        value = files.read_sealed(self._file("regions", index, ".json"))
        if value is None or value["inputs"] != inputs:
            return None
        return files.sha256(files.canonical(value))

    def read_regions(self, index: int, digest: str) -> Regions:
        """The regions of what a tile paints.

        Raises:
            JobError: they are missing or do not match the digest.
        """
        path = self._file("regions", index, ".json")
        value = files.read_sealed(path)
        if value is None or files.sha256(files.canonical(value)) != digest:
            raise JobError(f"the regions of tile {index} are missing or damaged: {path}; {REMEDY}")
        return _regions_from(value)

    def write_final(
        self,
        names: Iterable[NDArray[Any]],
        objects: Iterable[pa.RecordBatch],
        inputs: str,
        patches: Iterable[tuple[NDArray[np.int64], NDArray[Any]]] | None = None,
    ) -> str:
        """Write what every object is called in the end; returns the digest of that.

        Args:
            names: of every tile, in order, the final ids of its objects; 0 for dropped ones.
            objects: the table of objects, in parts.
            inputs: digest of what they were computed from.
            patches: of every tile, in order, pixels of regions that change hands, and final ids of
                whose they become; None where holes and islands stay as they are.
        """
        import pyarrow as pa

        folder, written = self.path / "seams", ["table", "final"]
        write_batches(folder / "table.arrow", objects)
        write_batches(folder / "final.arrow", (pa.record_batch({"final": n}) for n in names))
        if patches is not None:
            batches = (pa.record_batch({"seed": s, "final": n}) for s, n in patches)
            write_batches(folder / "patches.arrow", batches)
            written.append("patches")
        found = {n: files.digest(folder / f"{n}.arrow") for n in written}
        return files.write_sealed(folder / "final.json", {"inputs": inputs, **found})

    def final_digest(self, inputs: str) -> str | None:
        """Digest of the final ids; None when they are missing, damaged, or of other inputs."""
        marker = self._final_marker()
        if marker is None or marker["inputs"] != inputs:
            return None
        written = [n for n in marker if n != "inputs"]
        found = {n: files.digest(self.path / "seams" / f"{n}.arrow") for n in written}
        same = {"inputs": inputs, **found} == marker
        return files.sha256(files.canonical(marker)) if same else None

    def current_final(self) -> str | None:
        """Digest of the final ids, whatever their inputs were; None: missing or damaged."""
        marker = self._final_marker()
        return None if marker is None else self.final_digest(marker["inputs"])

    def _final_marker(self) -> dict[str, Any] | None:
        return files.read_sealed(self.path / "seams" / "final.json")

    def read_final(self, digest: str) -> FinalNames:
        """What the objects are called in the end.

        Raises:
            JobError: missing, or it does not match the digest.
        """
        marker = self._final_marker()
        if marker is None or files.sha256(files.canonical(marker)) != digest:
            raise JobError(f"the final ids of {self.path} changed or are damaged; {REMEDY}")
        folder, patches = self.path / "seams", None
        names = mapped_batches(folder / "final.arrow", marker["final"], "the final ids")
        if "patches" in marker:
            patches = mapped_batches(folder / "patches.arrow", marker["patches"], "the patches")
        return FinalNames(names, patches)

    def read_table(self) -> pa.Table:
        """The table of objects; its pages are read from disk as they are needed."""
        marker = self._final_marker() or {}
        path = self.path / "seams" / "table.arrow"
        return mapped_batches(path, marker.get("table"), "the table of objects").read_all()

    def write_labels_header(self, grid: TileGrid, dtype: Any) -> None:
        """Describe the label array, so that any zarr reader can open it."""
        files.write_atomic(self.labels_path / "zarr.json", labels_header(grid, dtype))

    def write_shard(self, grid: TileGrid, tile: Tile, labels: Labels, inputs: str) -> str:
        """Write the labels (z, y, x) of a tile's write window; returns the digest of the file."""
        data = encode_shard(_from_corner(grid, tile, labels), grid.tile_shape)
        path = self._shard_path(grid, tile)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, data)
        marker = {
            "inputs": inputs,
            "sha256": files.sha256(data),
            "dtype": labels.dtype.name,
        }
        files.write_sealed(self._file("painted", tile.index, ".json"), marker)
        return files.sha256(data)

    def _shard_path(self, grid: TileGrid, tile: Tile) -> Path:
        return self.labels_path.joinpath("c", *map(str, grid.position(tile.index)))

    def is_marked_painted(self, index: int, inputs: str) -> bool:
        """Whether the ledger says that a tile's shard was painted from these inputs."""
        marker = files.read_sealed(self._file("painted", index, ".json"))
        return marker is not None and marker["inputs"] == inputs

    def is_painted(self, grid: TileGrid, tile: Tile, inputs: str) -> bool:
        """Whether a shard is finished, whole, and painted from these inputs."""
        marker = files.read_sealed(self._file("painted", tile.index, ".json"))
        if marker is None or marker["inputs"] != inputs:
            return False
        return bool(files.digest(self._shard_path(grid, tile)) == marker["sha256"])

    def read_shard(self, grid: TileGrid, tile: Tile) -> Labels:
        """The labels (z, y, x) of a tile's write window.

        Raises:
            JobError: the shard is missing or does not match the ledger.
        """
        marker = files.read_sealed(self._file("painted", tile.index, ".json")) or {}
        what = f"the labels of tile {tile.index}"
        data = checked_bytes(self._shard_path(grid, tile), marker.get("sha256"), what)
        cell = grid.cell(tile.index)
        stored = Window(start=cell.start, stop=tile.write.stop)
        whole = decode_shard(data, stored, grid.tile_shape, marker["dtype"])
        return whole[tile.write.relative_to(cell).slices]


def _from_corner(grid: TileGrid, tile: Tile, labels: Labels) -> Labels:
    """Labels from the corner of the tile's cell on, which may lie before the image."""
    corner = grid.cell(tile.index).start
    before = [(a - c, 0) for a, c in zip(tile.write.start, corner, strict=True)]
    if not any(map(any, before)):
        return labels
    return np.pad(labels, before, constant_values=HOLE)  # type: ignore[return-value]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    dotted = f"{prefix}." if prefix else ""
    return {n: v for key, inner in value.items() for n, v in _flat(inner, f"{dotted}{key}").items()}


class FinalNames:
    """What the objects of every tile are called in the end; read from disk as it is needed."""

    def __init__(self, reader: Any, patches: Any = None) -> None:
        self._reader, self._patches, self._lock = reader, patches, threading.Lock()
        self.dtype = np.dtype(str(reader.schema.field("final").type))

    def of_tile(self, index: int) -> Labels:
        """(N,) final ids of a tile's objects, in order; 0 for dropped ones."""
        with self._lock:
            names: Labels = self._reader.get_batch(index).column(0).to_numpy()
        return names

    def of(self, ids: NDArray[np.uint64]) -> Labels:
        """Final ids of some provisional ones."""
        tiles, ranks = (ids >> np.uint64(32)).astype(int), ids & np.uint64(0xFFFFFFFF)
        names = np.zeros(len(ids), self.dtype)
        for tile in np.unique(tiles).tolist():
            names[tiles == tile] = self.of_tile(tile)[ranks[tiles == tile].astype(int)]
        return names

    def patches(self, index: int) -> tuple[NDArray[np.int64], Labels]:
        """Regions of a tile that change hands, and whose they become.

        Returns:
            (K,) a pixel of each, y * width + x in the write window; (K,) final ids, 0: background.
        """
        if self._patches is None:
            return np.zeros(0, np.int64), np.zeros(0, self.dtype)
        with self._lock:
            batch = self._patches.get_batch(index)
        return batch.column(0).to_numpy(), batch.column(1).to_numpy()


def checked_bytes(path: Path, digest: str | None, what: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JobError(f"{what} cannot be read: {path}: {error.strerror}; {REMEDY}") from error
    if digest is None or files.sha256(data) != digest:
        raise JobError(f"{what} do not match the ledger: {path} is damaged; {REMEDY}")
    return data


def mapped_batches(path: Path, digest: str | None, what: str) -> Any:
    """A reader of a file of record batches that stays on disk."""
    import pyarrow as pa

    if digest is None or (found := files.digest(path)) is None:
        raise JobError(f"{what} cannot be read: {path}; {REMEDY}")
    if found != digest:
        raise JobError(f"{what} do not match the ledger: {path} is damaged; {REMEDY}")
    return pa.ipc.open_file(pa.memory_map(str(path)))


def write_batches(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """A file of record batches, uncompressed so that it can be mapped into memory."""
    import pyarrow as pa

    given = iter(batches)
    first = next(given)
    with files.atomic_file(path) as file, pa.ipc.new_file(file, first.schema) as writer:
        writer.write_batch(first)
        for batch in given:
            writer.write_batch(batch)


def packed(array: NDArray[Any]) -> str:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode()


def unpacked(text: str, dtype: Any) -> NDArray[Any]:
    stored = np.frombuffer(base64.b64decode(text), np.dtype(dtype).newbyteorder("<"))
    return stored.astype(dtype)


def _packed_claims(claims: Claims) -> dict[str, Any]:
    return {
        **{n: packed(getattr(claims, n)) for n in ("ids", "areas", "boxes", "refused")},
        "rles": [rle.decode("ascii") for rle in claims.rles],
    }


def _claims_from(value: Mapping[str, Any]) -> Claims:
    return Claims(
        ids=unpacked(value["ids"], np.uint64),
        areas=unpacked(value["areas"], np.int64),
        boxes=unpacked(value["boxes"], np.int64).reshape(-1, 6),
        rles=tuple(rle.encode("ascii") for rle in value["rles"]),
        refused=unpacked(value["refused"], np.uint64),
    )


_REGIONS = fields(Regions)
_REGION_WIDTHS = {"boxes": 4, "sides": 2, "corners": 2}
_REGION_TYPES = {"owners": np.uint64, "open": np.bool_}


def _regions_from(value: Mapping[str, Any]) -> Regions:
    found = {f.name: unpacked(value[f.name], _REGION_TYPES.get(f.name, np.int64)) for f in _REGIONS}
    return Regions(**found | {n: found[n].reshape(-1, k) for n, k in _REGION_WIDTHS.items()})


def table_bytes(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    # a file is of one tile: dictionaries and statistics take three times as long as the columns
    pq.write_table(
        table,
        buffer,
        compression={n: "zstd" if n == "rle" else "none" for n in table.column_names},
        use_dictionary=False,
        write_statistics=False,
    )
    return buffer.getvalue()


def table_from(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # no threads: these files are small, and tiles run side by side already
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    return file.read(columns=columns, use_threads=False)


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


def _parts_from(table: pa.Table, tile: Tile) -> Parts:
    column = {name: table[name].to_numpy() for name in table.column_names}
    return Parts(
        index=tile.index,
        owned_boxes=np.stack([column[f"owned_{n}"] for n in BOX_COLUMNS], axis=1),
        owned_areas=column["owned_area"],
        predicted_iou=column["predicted_iou"],
        stability=column["stability"],
        points=np.stack([column["point_x"], column["point_y"]], axis=1),
        cut=column["cut"],
        prompts=column["prompt"],
    )
