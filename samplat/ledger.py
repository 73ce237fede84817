"""The ledger: what became of every tile, and of every window of prompts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from samplat import files
from samplat.errors import JobError
from samplat.vouched import Numbered

Outcome = Literal["done", "skipped", "quarantined"]


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

    def __hash__(self) -> int:
        # caches ask for it some ten times a tile
        return self.index


@dataclass(frozen=True, kw_only=True)
class Ledger(Numbered):
    """One record for each index, sealed; called like the thing recorded."""

    def enter(self, record: TileRecord) -> None:
        """Write a record, which says that what it vouches for is there."""
        files.write_sealed(self.file(record.index), asdict(record))

    def read(self, index: int) -> TileRecord | None:
        """A record; None where there is none, or it is damaged."""
        entry = files.read_sealed(self.file(index))
        return None if entry is None else TileRecord(**entry)

    def finished(self, index: int, inputs: str | None = None) -> TileRecord | None:
        """A record of what did not fail, and was made from these inputs; None otherwise."""
        record = self.read(index)
        if record is None or record.outcome == "quarantined" or record.inputs != inputs:
            return None
        return record

    def known(self, index: int) -> TileRecord:
        """A record that must be there.

        Raises:
            JobError: it is not.
        """
        record = self.read(index)
        if record is None:
            raise JobError(
                f"{self.called(index)} is not in the ledger of {self.folder.parent}, although it "
                "was computed; is the directory shared with the workers?"
            )
        return record
