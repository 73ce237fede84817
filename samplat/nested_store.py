"""The folder `nested` of a job directory: all masks, whole, and how they are nested.

::

    JOB/nested/000123.arrow          masks of a tile (`JobStore.write_whole`; the ledger's digest)
    JOB/nested/000123.links.json     which of them are masks of tiles of higher index
    JOB/nested/groups.arrow          the group of each mask, tile by tile
    JOB/nested/names.arrow           the id of each group in the labels, or 0
    JOB/nested/showing.arrow         which groups show where in the labels; groups.json marks all
    JOB/nested/000123.layers.arrow   what the groups cover of a write window, and its marker
    JOB/nested/table.arrow           the table of masks, and table.json, the marker
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samplat.final_names import FinalNames
from samplat.masks import decode_labels
from samplat.merging import BOX_COLUMNS
from samplat.nesting import Layers, MaskLinks, Named
from samplat.object_tables import POINT_COLUMNS
from samplat.places import Place
from samplat.tiles import Tile, Window
from samplat.vouched import Bundle, Markers, Tables, arrays_of, digest_of, packed, stacked, unpacked

if TYPE_CHECKING:
    import pyarrow as pa

FLAT_FIELDS = ("groups", "areas", "owned_areas", "predicted_iou", "stability", "cut", "interrupted")
"""Of `Layers`, those that are columns as they are."""

GROUPS = dict.fromkeys(("groups", "names", "showing"), "the groups of masks")
TABLE = {"table": "the table of masks"}
"""Files of record batches, and what they are called."""
LAYERS = "the layers of tile"


@dataclass(frozen=True, kw_only=True)
class NestedStore:
    """That folder. Holds only the path of the job directory."""

    path: Place
    """The job directory."""

    @property
    def _folder(self) -> Place:
        return self.path / "nested"

    @functools.cached_property
    def _links(self) -> Markers:
        what = "the links of the masks of tile"
        return Markers(folder=self._folder, what=what, suffix=".links.json")

    @functools.cached_property
    def _groups(self) -> Bundle:
        return Bundle(folder=self._folder, marker="groups", what=GROUPS)

    @functools.cached_property
    def _layers(self) -> Tables:
        return Tables(folder=self._folder, what=LAYERS, suffix=".layers.arrow")

    @functools.cached_property
    def _layer_markers(self) -> Markers:
        return Markers(folder=self._folder, what=LAYERS, suffix=".layers.json")

    @functools.cached_property
    def _table(self) -> Bundle:
        return Bundle(folder=self._folder, marker="table", what=TABLE)

    def write_links(self, index: int, links: MaskLinks, inputs: str) -> str:
        """Write which masks of a tile are masks of others; returns the digest of that."""
        return self._links.write(index, inputs, packed(links, ("ids", "ious", "shared")))

    def links_digest(self, index: int, inputs: str) -> str | None:
        """Digest of a tile's links; None when they are missing, damaged, or of other inputs."""
        return self._links.digest(index, inputs)

    def read_links(self, index: int, digest: str) -> MaskLinks:
        """Which masks of a tile are masks of others.

        Raises:
            JobError: they are missing or do not match the digest.
        """
        value = self._links.read(index, digest)
        return MaskLinks(
            ids=unpacked(value["ids"], np.uint64).reshape(-1, 2),
            ious=unpacked(value["ious"], np.float64),
            shared=unpacked(value["shared"], np.int64),
        )

    def write_groups(self, named: Named, inputs: str) -> str:
        """Write the groups of all masks; returns the digest of that."""
        import pyarrow as pa

        groups = named.groups
        each = map(groups.of_tile, range(len(groups.starts) - 1))
        parts: dict[str, Iterable[pa.RecordBatch]] = {
            "groups": (pa.record_batch({"final": found}) for found in each),
            "names": [pa.record_batch({"final": named.names})],
            "showing": [pa.record_batch({"group": named.showing, "id": named.ids})],
        }
        return self._groups.write(inputs, parts)

    def groups_digest(self, inputs: str) -> str | None:
        """Digest of the groups; None when they are missing, damaged, or of other inputs."""
        return self._groups.digest(inputs)

    def read_groups(self, digest: str) -> FinalNames:
        """The groups of every tile's masks.

        Raises:
            JobError: missing, or they do not match the digest.
        """
        return FinalNames(self._groups.open("groups", digest))

    def read_names(self, digest: str) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]:
        """Of the groups, as in `Named`: names, showing and ids.

        Raises:
            JobError: missing, or they do not match the digest.
        """
        showing = self._groups.open("showing", digest).get_batch(0)
        names = FinalNames(self._groups.open("names", digest)).of_tile(0)
        return names, showing["group"].to_numpy(), showing["id"].to_numpy()

    def write_layers(self, index: int, layers: Layers, inputs: str) -> str:
        """Write what masks cover of a tile; returns the digest of that."""
        written = self._layers.write(index, _layers_table(layers))
        value = {"sha256": written, **packed(layers, ("pairs", "shared"))}
        return self._layer_markers.write(index, inputs, value)

    def layers_digest(self, index: int, inputs: str) -> str | None:
        """Digest of a tile's layers; None when missing, damaged, or of other inputs."""
        marker = self._layer_markers.find(index, inputs)
        if marker is None or not self._layers.match(index, marker["sha256"]):
            return None
        return digest_of(marker)

    def read_layers(self, index: int, digest: str | None = None) -> Layers:
        """What masks cover of a tile.

        Args:
            index: ordinal of the tile.
            digest: of what is expected; None for what the folder's own marker says.

        Raises:
            JobError: missing, or they do not match the digest.
        """
        marker = self._layer_markers.read(index, digest)
        return _layers_from(self._layers.read(index, marker["sha256"]), marker)

    def write_table(self, rows: Iterable[pa.RecordBatch], inputs: str, final: str) -> None:
        """Write the table of masks, the last file of the folder."""
        self._table.write(inputs, {"table": rows}, final=final)

    def is_finished(self, final: str, inputs: str | None = None) -> bool:
        """Whether the table is there, of these final ids of objects, and of these inputs."""
        marker = self._table.find(inputs)
        return marker is not None and marker["final"] == final

    def read_table(self) -> pa.Table:
        """The table of masks; its pages are read from disk as they are needed."""
        return self._table.open("table").read_all()

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


def _layers_table(layers: Layers) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            **{name: getattr(layers, name) for name in FLAT_FIELDS},
            **{name: layers.boxes[:, k] for k, name in enumerate(BOX_COLUMNS)},
            **{name: layers.points[:, k] for k, name in enumerate(POINT_COLUMNS)},
            "rle": pa.array(layers.rles, pa.binary()),
        }
    )


def _layers_from(table: pa.Table, marker: dict[str, Any]) -> Layers:
    column = arrays_of(table)
    return Layers(
        **{f.name: column[f.name] for f in fields(Layers) if f.name in FLAT_FIELDS},
        rles=tuple(table["rle"].to_pylist()),
        boxes=stacked(column, BOX_COLUMNS),
        points=stacked(column, POINT_COLUMNS),
        pairs=unpacked(marker["pairs"], np.int64).reshape(-1, 2),
        shared=unpacked(marker["shared"], np.int64),
    )
