"""What a file of prompts says of its objects, as columns of the files that are written."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, count

PREFIX = "prompt."
"""Of such columns in a job's table of objects."""
RESERVED = ("fid", "ogc_fid", "geometry", "geom", "bbox")
"""Names that formats keep for themselves."""
RENAMED = "prompt_"
"""Put before a name that is taken."""


def prompt_columns(names: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """What `prompt_id` and the attributes of prompts are called in files, by stored name.

    Args:
        names: of the columns of a job's table of objects; without prompts there is nothing to add.
        taken: names of columns that the file has anyway.
    """
    used = {name.lower() for name in (*taken, *RESERVED)}
    columns = {}
    for stored in names:
        if stored.startswith(PREFIX):
            columns[stored] = _free(stored.removeprefix(PREFIX), used)
            used.add(columns[stored].lower())
    return columns


def _free(name: str, used: set[str]) -> str:
    numbered = (f"{RENAMED}{name}_{number}" for number in count(2))
    return next(n for n in chain((name, f"{RENAMED}{name}"), numbered) if n.lower() not in used)
