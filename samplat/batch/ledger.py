"""What became of every item, and whether that still holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from samplat import files
from samplat.batch.items import Item
from samplat.places import Place

Outcome = Literal["done", "holes", "failed"]


@dataclass(frozen=True, kw_only=True)
class ItemRecord:
    """The ledger's entry for one item."""

    name: str
    """Of the item."""
    kind: str
    """Its kind."""
    input: str
    """What was segmented."""
    outputs: tuple[str, ...]
    """What was to be written."""
    options: Mapping[str, str]
    """What its command was told."""
    facts: str
    """Digest of sizes and dates of the input and of prompts; empty for a URL."""
    outcome: Outcome
    """done; holes: written, but tiles or prompts failed; failed: nothing was written."""
    error: str = ""
    """What failed."""
    objects: int = 0
    """Number of objects."""
    tiles: int = 0
    """Number of tiles."""
    skipped: int = 0
    """Those without data."""
    quarantined: int = 0
    """Those that failed."""
    seconds: float = 0.0
    """From opening the image to its last output, with other items in between."""
    warnings: tuple[str, ...] = field(default=())
    """What a person should know of it."""


@dataclass(frozen=True, kw_only=True)
class BatchLedger:
    """One record for each item, sealed."""

    folder: Place
    """Where they lie."""

    def _file(self, name: str) -> Place:
        return self.folder / f"{quote(name, safe=' ')}.json"

    def enter(self, record: ItemRecord) -> None:
        """Write a record, over an older one of the item."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_sealed(self._file(record.name), asdict(record))

    def read(self, item: Item) -> ItemRecord | None:
        """The record of an item; None where there is none, or it is damaged."""
        entry = files.read_sealed(self._file(item.name))
        names = {each.name for each in fields(ItemRecord)}
        if entry is None or not {"facts", "outcome"} <= entry.keys() <= names:
            return None
        lists = {name: tuple(entry[name]) for name in ("outputs", "warnings")}
        return ItemRecord(**{**entry, **lists})


def request_of(item: Item) -> dict[str, Any]:
    """What an item is: that of a record which holds for it is equal."""
    outputs = [str(output) for output in item.outputs]
    told = {name: value for name, value in item.options.items() if name != "cache"}
    return {"kind": item.kind, "input": item.input, "outputs": outputs, **told}


def request_in(record: ItemRecord) -> dict[str, Any]:
    """The same of a record."""
    told = {name: value for name, value in record.options.items() if name != "cache"}
    outputs = list(record.outputs)
    return {"kind": record.kind, "input": record.input, "outputs": outputs, **told}


def facts_of(item: Item) -> str:
    """Digest of what can be known of an input and of prompts without opening them."""
    paths = [item.input, *([item.options["prompts"]] if "prompts" in item.options else [])]
    found = {path: _facts(Path(path)) for path in paths if "://" not in path}
    return files.sha256(files.canonical(found)) if found else ""


def _facts(path: Path) -> list[list[Any]]:
    """Size and date of a file, or of all that a folder holds."""
    try:
        if not path.is_dir():
            return [_fact(path)]
        walked = ((Path(place), names) for place, _, names in os.walk(path))
        return sorted(_fact(place / name) for place, names in walked for name in names)
    except OSError:
        return []  # it is gone meanwhile: that is said where it is opened


def _fact(path: Path) -> list[Any]:
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]
