"""The job directory: the ledger, the objects of each tile, the seams, the labels.

::

    JOB/run.json               what the job is, and with what it was run
    JOB/tiles/000123.json      one marker per finished tile
    JOB/objects/000123.arrow   the tile's objects
    JOB/seams/000123.json      its objects' links to tiles of higher index, its claims on theirs
    JOB/seams/000012.joined.json   what those of 256 tiles say together; of large jobs afar
    JOB/seams/final.arrow      final id of every provisional one, tile by tile
    JOB/seams/table.arrow      the table of objects, and final.json, the marker of both
    JOB/regions/000123.json    connected regions of what it paints; only if holes or islands matter
    JOB/seams/patches.arrow    those of them that change hands, tile by tile; likewise
    JOB/labels/                zarr v3, one shard per write window, zstd + crc32c
    JOB/painted/000123.json    one marker per finished shard
    JOB/nested/                all masks, whole, and how they are nested; only on request
    JOB/answers/000123.arrow   masks of the prompts of one window, and its marker; only with prompts

Every file appears under its final name whole, and its marker after it. What has no marker, or does
not match it, was never done. A marker also names the digest of what it was computed from, so that
a result whose inputs changed is stale, not wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat import files
from samplat.claims import Claims
from samplat.errors import JobError
from samplat.final_names import FinalNames
from samplat.job_directory import JobDirectory
from samplat.ledger import Ledger, TileRecord
from samplat.merging import Parts
from samplat.object_tables import (
    PART_COLUMNS,
    objects_from,
    objects_table,
    parts_from,
    whole_from,
    whole_table,
)
from samplat.objects import TileObjects, WholeMasks
from samplat.places import Place
from samplat.regions import Regions
from samplat.seam_values import (
    Joined,
    joined_from,
    joined_value,
    regions_from,
    regions_value,
    seams_from,
    seams_value,
)
from samplat.shards import HOLE, Labels, decode_shard, encode_shard, labels_header
from samplat.tiles import Tile, TileGrid, Window
from samplat.vouched import REMEDY, Bundle, Markers, Tables, checked_bytes

if TYPE_CHECKING:
    import pyarrow as pa

FINAL = {"table": "the table of objects", "final": "the final ids", "patches": "the patches"}
"""Files of record batches in the folder `seams`, and what they are called."""


@dataclass(frozen=True, kw_only=True)
class JobStore(JobDirectory):
    """What a job directory holds. Holds only its path, so that workers can be handed one."""

    @functools.cached_property
    def tiles(self) -> Ledger:
        """The records of tiles."""
        return Ledger(folder=self.path / "tiles", what="tile")

    @functools.cached_property
    def units(self) -> Ledger:
        """The records of units of prompts; an index is the unit's."""
        return Ledger(folder=self.path / "answers", what="window")

    @functools.cached_property
    def _objects(self) -> Tables:
        return Tables(folder=self.path / "objects", what="the objects of tile")

    @functools.cached_property
    def _whole(self) -> Tables:
        return Tables(folder=self.path / "nested", what="the masks of tile")

    @functools.cached_property
    def _answers(self) -> Tables:
        return Tables(folder=self.path / "answers", what="the answers of window")

    @functools.cached_property
    def _seams(self) -> Markers:
        return Markers(folder=self.path / "seams", what="the seams of tile")

    @functools.cached_property
    def _joined(self) -> Markers:
        what = "the joined seams of part"
        return Markers(folder=self.path / "seams", what=what, suffix=".joined.json")

    @functools.cached_property
    def _regions(self) -> Markers:
        return Markers(folder=self.path / "regions", what="the regions of tile")

    @functools.cached_property
    def _painted(self) -> Markers:
        return Markers(folder=self.path / "painted", what="the marker of the labels of tile")

    @functools.cached_property
    def _final(self) -> Bundle:
        return Bundle(folder=self.path / "seams", marker="final", what=FINAL)

    def is_finished(self, index: int, inputs: str | None = None) -> bool:
        """Whether a tile need not be computed again: it is in the ledger, and its objects match.

        Args:
            index: ordinal of the tile.
            inputs: digest of what it is to be made from.
        """
        record = self.tiles.finished(index, inputs)
        return (
            record is not None
            and self._whole.match(index, record.whole_sha256)
            and self._objects.match(index, record.objects_sha256)
        )

    def write_objects(self, objects: TileObjects) -> str:
        """Write the objects of a tile; it is not finished until its record is. Returns SHA-256."""
        return self._objects.write(objects.tile.index, objects_table(objects))

    def read_objects(self, tile: Tile, record: TileRecord) -> TileObjects:
        """The objects of a finished tile.

        Raises:
            JobError: the file is missing or does not match the ledger.
        """
        return objects_from(self._objects.read(tile.index, record.objects_sha256), tile)

    def read_parts(self, record: TileRecord) -> Parts:
        """The objects of a finished tile, without their masks.

        Raises:
            JobError: the file is missing or does not match the ledger.
        """
        table = self._objects.read(record.index, record.objects_sha256, PART_COLUMNS)
        return parts_from(table, record.index)

    def write_whole(self, whole: WholeMasks) -> str:
        """Write the masks of a tile, whole; returns SHA-256."""
        return self._whole.write(whole.masks.tile.index, whole_table(whole))

    def read_whole(self, tile: Tile, record: TileRecord) -> WholeMasks:
        """The masks of a finished tile, whole.

        Raises:
            JobError: the file is missing or does not match the ledger.
        """
        return whole_from(self._whole.read(tile.index, record.whole_sha256), tile)

    def is_answered(self, index: int) -> bool:
        """Whether a unit need not be computed again."""
        record = self.units.finished(index)
        return record is not None and self._answers.match(index, record.objects_sha256)

    def write_answers(self, index: int, answers: pa.Table) -> str:
        """Write the answers of a unit; it is not finished until its record is. Returns SHA-256."""
        return self._answers.write(index, answers)

    def read_answers(self, record: TileRecord) -> pa.Table:
        """The answers of a finished unit.

        Raises:
            JobError: the file is missing or does not match the ledger.
        """
        return self._answers.read(record.index, record.objects_sha256)

    def write_report(self, report: pa.Table) -> None:
        """Write what became of each prompt, as CSV for people."""
        import pyarrow as pa
        import pyarrow.csv

        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(report, sink)
        files.write_atomic(self.report_path, sink.getvalue().to_pybytes())

    @property
    def report_path(self) -> Place:
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
        return self._seams.write(index, inputs, seams_value(links, claims))

    def has_seams(self, index: int) -> bool:
        """Whether there are any of a tile, damaged or not."""
        return self._seams.file(index).exists()

    def seams_digest(self, index: int, inputs: str) -> str | None:
        """Digest of a tile's seams; None when they are missing, damaged, or of other inputs."""
        return self._seams.digest(index, inputs)

    def read_seams(self, index: int, digest: str | None) -> tuple[NDArray[np.uint64], Claims]:
        """Links and claims of a tile; without a digest those that are there.

        Raises:
            JobError: they are missing or do not match the digest.
        """
        return seams_from(self._seams.read(index, digest))

    def present_seams_digest(self, index: int) -> str | None:
        """Digest of those seams of a tile that are there; None when missing or damaged."""
        return self._seams.digest(index)

    def write_joined(self, part: int, joined: Joined, inputs: str) -> str:
        """Write what the seams of a part of the tiles say together; returns the digest of that."""
        return self._joined.write(part, inputs, joined_value(joined))

    def joined_digest(self, part: int, inputs: str) -> str | None:
        """Digest of that; None when missing, damaged, or of other inputs."""
        return self._joined.digest(part, inputs)

    def read_joined(self, part: int, digest: str, inputs: str) -> Joined:
        """What the seams of a part of the tiles say together.

        Raises:
            JobError: missing, damaged, or of other seams than those that are known here.
        """
        value = self._joined.read(part, digest)
        if value["inputs"] != inputs:
            raise JobError(f"the seams in {self.path} changed meanwhile; {REMEDY}")
        return joined_from(value)

    def write_regions(self, index: int, regions: Regions, inputs: str) -> str:
        """Write the regions of what a tile paints; returns the digest of that.

        Args:
            index: ordinal of the tile.
            regions: of its write window.
            inputs: digest of what they were found in.
        """
        return self._regions.write(index, inputs, regions_value(regions))

    def regions_digest(self, index: int, inputs: str) -> str | None:
        """Digest of a tile's regions; None when they are missing, damaged, or of other inputs."""
        return self._regions.digest(index, inputs)

    def read_regions(self, index: int, digest: str) -> Regions:
        """The regions of what a tile paints.

        Raises:
            JobError: they are missing or do not match the digest.
        """
        return regions_from(self._regions.read(index, digest))

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

        parts = {"table": objects, "final": (pa.record_batch({"final": n}) for n in names)}
        if patches is not None:
            parts["patches"] = (pa.record_batch({"seed": s, "final": n}) for s, n in patches)
        return self._final.write(inputs, parts)

    def final_digest(self, inputs: str | None = None) -> str | None:
        """Digest of the final ids; None when missing, damaged, or of other inputs than those given.

        Args:
            inputs: digest of what they are to be computed from; None where that does not matter.
        """
        return self._final.digest(inputs)

    def read_final(self, digest: str) -> FinalNames:
        """What the objects are called in the end.

        Raises:
            JobError: missing, or it does not match the digest.
        """
        return FinalNames(self._final.open("final", digest), self._final.open("patches", digest))

    def read_table(self) -> pa.Table:
        """The table of objects; its pages are read from disk as they are needed.

        Raises:
            JobError: it is missing or damaged.
        """
        return self._final.open("table").read_all()

    @property
    def labels_path(self) -> Place:
        """The zarr array of final labels."""
        return self.path / "labels"

    def write_labels_header(self, grid: TileGrid, dtype: Any) -> None:
        """Describe the label array, so that any zarr reader can open it."""
        files.write_atomic(self.labels_path / "zarr.json", labels_header(grid, dtype))

    def write_shard(self, grid: TileGrid, tile: Tile, labels: Labels, inputs: str) -> str:
        """Write the labels (z, y, x) of a tile's write window; returns the digest of the file."""
        data = encode_shard(_from_corner(grid, tile, labels), grid.tile_shape)
        path, digest = self._shard_path(grid, tile), files.sha256(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, data)
        self._painted.write(tile.index, inputs, {"sha256": digest, "dtype": labels.dtype.name})
        return digest

    def _shard_path(self, grid: TileGrid, tile: Tile) -> Place:
        return self.labels_path.joinpath("c", *map(str, grid.position(tile.index)))

    def is_marked_painted(self, index: int, inputs: str) -> bool:
        """Whether the ledger says that a tile's shard was painted from these inputs."""
        return self._painted.find(index, inputs) is not None

    def is_painted(self, grid: TileGrid, tile: Tile, inputs: str) -> bool:
        """Whether a shard is finished, whole, and painted from these inputs."""
        marker = self._painted.find(tile.index, inputs)
        return marker is not None and files.digest(self._shard_path(grid, tile)) == marker["sha256"]

    def read_shard(self, grid: TileGrid, tile: Tile) -> Labels:
        """The labels (z, y, x) of a tile's write window.

        Raises:
            JobError: the shard is missing or does not match the ledger.
        """
        marker = self._painted.find(tile.index) or {}
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
