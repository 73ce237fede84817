"""The folder `nested` of a job directory: all masks, whole, and how they are nested.

::

    JOB/nested/000123.parquet        masks of a tile (`JobStore.write_whole`; the ledger's digest)
    JOB/nested/000123.links.json     which of them are masks of tiles of higher index
    JOB/nested/groups.arrow          the group of each mask, tile by tile
    JOB/nested/names.arrow           the id of each group in the labels, or 0
    JOB/nested/showing.arrow         which groups show where in the labels; groups.json marks all
    JOB/nested/000123.layers.parquet what the groups cover of a write window, and its marker
    JOB/nested/table.arrow           the table of masks, and table.json, the marker
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat import files
from samplat.errors import JobError
from samplat.masks import decode_labels
from samplat.merging import BOX_COLUMNS
from samplat.nesting import Layers, MaskLinks, Named
from samplat.store import (
    REMEDY,
    FinalNames,
    checked_bytes,
    mapped_batches,
    packed,
    table_bytes,
    table_from,
    unpacked,
    write_batches,
)
from samplat.tiles import Tile, Window

if TYPE_CHECKING:
    import pyarrow as pa

FLAT_FIELDS = ("groups", "areas", "owned_areas", "predicted_iou", "stability", "cut", "interrupted")
"""Of `Layers`, those that are columns as they are."""

GROUP_FILES = ("groups", "names", "showing")


@dataclass(frozen=True, kw_only=True)
class NestedStore:
    """That folder. Holds only the path of the job directory."""

    path: Path
    """The job directory."""

    def _file(self, name: str) -> Path:
        return self.path / "nested" / name

    def write_links(self, index: int, links: MaskLinks, inputs: str) -> str:
        """Write which masks of a tile are masks of others; returns the digest of that."""
        value = {name: packed(getattr(links, name)) for name in ("ids", "ious", "shared")}
        return files.write_sealed(
            self._file(f"{index:06d}.links.json"), {"inputs": inputs, **value}
        )

    def links_digest(self, index: int, inputs: str) -> str | None:
        """Digest of a tile's links; None when they are missing, damaged, or of other inputs."""
        value = files.read_sealed(self._file(f"{index:06d}.links.json"))
        return _digest_of(value, inputs)

    def read_links(self, index: int, digest: str) -> MaskLinks:
        """Which masks of a tile are masks of others.

        Raises:
            JobError: they are missing or do not match the digest.
        """
        path = self._file(f"{index:06d}.links.json")
        value = _sealed(path, digest, f"the links of the masks of tile {index}")
        return MaskLinks(
            ids=unpacked(value["ids"], np.uint64).reshape(-1, 2),
            ious=unpacked(value["ious"], np.float64),
            shared=unpacked(value["shared"], np.int64),
        )

    def write_groups(self, named: Named, inputs: str) -> str:
        """Write the groups of all masks; returns the digest of that."""
        import pyarrow as pa

        groups = named.groups
        each = (
            pa.record_batch({"final": groups.of_tile(index)})
            for index in range(len(groups.starts) - 1)
        )
        write_batches(self._file("groups.arrow"), each)
        write_batches(self._file("names.arrow"), [pa.record_batch({"final": named.names})])
        showing = pa.record_batch({"group": named.showing, "id": named.ids})
        write_batches(self._file("showing.arrow"), [showing])
        return files.write_sealed(self._file("groups.json"), {"inputs": inputs, **self._found()})

    def _found(self) -> dict[str, str | None]:
        return {name: files.digest(self._file(f"{name}.arrow")) for name in GROUP_FILES}

    def groups_digest(self, inputs: str) -> str | None:
        """Digest of the groups; None when they are missing, damaged, or of other inputs."""
        marker = files.read_sealed(self._file("groups.json"))
        return _digest_of(marker, inputs) if marker == {"inputs": inputs, **self._found()} else None

    def read_groups(self, digest: str) -> FinalNames:
        """The groups of every tile's masks.

        Raises:
            JobError: missing, or they do not match the digest.
        """
        return FinalNames(self._group_file("groups", digest))

    def read_names(self, digest: str) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]:
        """Of the groups, as in `Named`: names, showing and ids.

        Raises:
            JobError: missing, or they do not match the digest.
        """
        showing = self._group_file("showing", digest).get_batch(0)
        names = FinalNames(self._group_file("names", digest)).of_tile(0)
        return names, showing["group"].to_numpy(), showing["id"].to_numpy()

    def _group_file(self, name: str, digest: str) -> Any:
        marker = _sealed(self._file("groups.json"), digest, "the groups of masks")
        return mapped_batches(self._file(f"{name}.arrow"), marker[name], "the groups of masks")

    def write_layers(self, index: int, layers: Layers, inputs: str) -> str:
        """Write what masks cover of a tile; returns the digest of that."""
        data = table_bytes(_layers_table(layers))
        files.write_atomic(self._file(f"{index:06d}.layers.parquet"), data)
        marker = {
            "inputs": inputs,
            "sha256": files.sha256(data),
            "pairs": packed(layers.pairs),
            "shared": packed(layers.shared),
        }
        return files.write_sealed(self._file(f"{index:06d}.layers.json"), marker)

    def layers_digest(self, index: int, inputs: str) -> str | None:
        """Digest of a tile's layers; None when missing, damaged, or of other inputs."""
        marker = files.read_sealed(self._file(f"{index:06d}.layers.json"))
        data = files.digest(self._file(f"{index:06d}.layers.parquet"))
        whole = marker is not None and marker["sha256"] == data
        return _digest_of(marker, inputs) if whole else None

    def read_layers(self, index: int, digest: str | None = None) -> Layers:
        """What masks cover of a tile.

        Args:
            index: ordinal of the tile.
            digest: of what is expected; None for what the folder's own marker says.

        Raises:
            JobError: missing, or they do not match the digest.
        """
        what = f"the layers of tile {index}"
        marker = _sealed(self._file(f"{index:06d}.layers.json"), digest, what)
        path = self._file(f"{index:06d}.layers.parquet")
        table = table_from(checked_bytes(path, marker["sha256"], what))
        return _layers_from(table, marker)

    def write_table(self, rows: Iterable[pa.RecordBatch], inputs: str, final: str) -> None:
        """Write the table of masks, the last file of the folder."""
        write_batches(self._file("table.arrow"), rows)
        found = files.digest(self._file("table.arrow"))
        marker = {"inputs": inputs, "final": final, "table": found}
        files.write_sealed(self._file("table.json"), marker)

    def is_finished(self, final: str, inputs: str | None = None) -> bool:
        """Whether the table is there, of these final ids of objects, and of these inputs."""
        marker = files.read_sealed(self._file("table.json"))
        if marker is None or marker["final"] != final or inputs not in (None, marker["inputs"]):
            return False
        return bool(files.digest(self._file("table.arrow")) == marker["table"])

    def read_table(self) -> pa.Table:
        """The table of masks; its pages are read from disk as they are needed."""
        marker = files.read_sealed(self._file("table.json")) or {}
        path = self._file("table.arrow")
        return mapped_batches(path, marker.get("table"), "the table of masks").read_all()

    def masks_of(
        self, tile: Tile, kept: NDArray[np.int64]
    ) -> Iterator[tuple[int, Window, NDArray[np.bool_]]]:
        """See `JobResult.nested_masks`; `kept` are the groups of the table's rows."""
        layers, size = self.read_layers(tile.index), tile.write.shape[1:]
        rows = np.searchsorted(kept, layers.groups)
        there = kept[np.minimum(rows, len(kept) - 1)] == layers.groups if len(kept) else []
        for k in np.flatnonzero(there).tolist():
            z0, y0, x0, z1, y1, x1 = layers.boxes[k].tolist()
            box = Window(start=(z0, y0, x0), stop=(z1, y1, x1))
            _, *part = box.relative_to(tile.write).slices
            crop = decode_labels((layers.rles[k],), (size[0], size[1]), part=(part[0], part[1]))
            yield int(rows[k]), box, crop > 0


def _digest_of(value: dict[str, Any] | None, inputs: str) -> str | None:
    if value is None or value["inputs"] != inputs:
        return None
    return files.sha256(files.canonical(value))


def _sealed(path: Path, digest: str | None, what: str) -> dict[str, Any]:
    value = files.read_sealed(path)
    if value is None or digest not in (None, files.sha256(files.canonical(value))):
        raise JobError(f"{what} are missing or damaged: {path}; {REMEDY}")
    return value


def _layers_table(layers: Layers) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            **{name: getattr(layers, name) for name in FLAT_FIELDS},
            **{name: layers.boxes[:, k] for k, name in enumerate(BOX_COLUMNS)},
            "point_x": layers.points[:, 0],
            "point_y": layers.points[:, 1],
            "rle": pa.array(layers.rles, pa.binary()),
        }
    )


def _layers_from(table: pa.Table, marker: dict[str, Any]) -> Layers:
    column = {name: table[name].to_numpy() for name in table.column_names if name != "rle"}
    return Layers(
        **{f.name: column[f.name] for f in fields(Layers) if f.name in FLAT_FIELDS},
        rles=tuple(table["rle"].to_pylist()),
        boxes=np.stack([column[n] for n in BOX_COLUMNS], axis=1),
        points=np.stack([column["point_x"], column["point_y"]], axis=1),
        pairs=unpacked(marker["pairs"], np.int64).reshape(-1, 2),
        shared=unpacked(marker["shared"], np.int64),
    )
