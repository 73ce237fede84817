"""What objects are called in the end, tile by tile, on disk."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.shards import Labels


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
