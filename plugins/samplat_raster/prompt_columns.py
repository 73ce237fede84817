"""What a file of prompts says of its objects, as columns of the files that are written."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, count
from typing import Any

PREFIX = "prompt."
"""Of such columns in a job's table of objects."""
RESERVED = ("fid", "ogc_fid", "geometry", "geom", "bbox")
"""Names that formats keep for themselves."""
RENAMED = "prompt_"
"""Put before a name that is taken."""


def prompt_columns(table: Any, taken: Iterable[str]) -> dict[str, Any]:
    """`prompt_id` and the attributes of each object's prompt, under names that are free.

    Args:
        table: a job's table of objects; without columns from prompts there is nothing to add.
        taken: names of columns that the file has anyway.
    """
    used = {name.lower() for name in (*taken, *RESERVED)}
    columns = {}
    for stored in table.column_names:
        if stored.startswith(PREFIX):
            name = _free(stored.removeprefix(PREFIX), used)
            used.add(name.lower())
            columns[name] = table[stored].to_pandas()
    return columns


def _free(name: str, used: set[str]) -> str:
    numbered = (f"{RENAMED}{name}_{number}" for number in count(2))
    return next(n for n in chain((name, f"{RENAMED}{name}"), numbered) if n.lower() not in used)
