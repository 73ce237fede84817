"""Links, claims and regions as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.claims import Claims
from samplat.regions import Regions
from samplat.vouched import packed, packed_array, unpacked

CLAIMED = ("ids", "areas", "boxes", "refused")
REGION_FIELDS = tuple(f.name for f in fields(Regions))
REGION_WIDTHS = {"boxes": 4, "sides": 2, "corners": 2}
REGION_TYPES = {"owners": np.uint64, "open": np.bool_}


def seams_value(links: NDArray[np.uint64], claims: Claims) -> dict[str, Any]:
    """Links and claims of a tile as the job directory keeps them."""
    arrays = packed(claims, CLAIMED)
    rles = [rle.decode("ascii") for rle in claims.rles]
    return {"links": packed_array(links), "claims": {**arrays, "rles": rles}}


def seams_from(value: Mapping[str, Any]) -> tuple[NDArray[np.uint64], Claims]:
    """The links and claims of `seams_value`."""
    return unpacked(value["links"], np.uint64).reshape(-1, 2), _claims(value["claims"])


def _claims(told: Mapping[str, Any]) -> Claims:
    return Claims(
        ids=unpacked(told["ids"], np.uint64),
        areas=unpacked(told["areas"], np.int64),
        boxes=unpacked(told["boxes"], np.int64).reshape(-1, 6),
        rles=tuple(rle.encode("ascii") for rle in told["rles"]),
        refused=unpacked(told["refused"], np.uint64),
    )


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What the seams of some tiles say, put together."""

    links: NDArray[np.uint64]
    """(E, 2) provisional ids of objects that are one."""
    claims: Mapping[int, Claims]
    """By tile, without their masks; only of tiles that have some."""


def joined_value(joined: Joined) -> dict[str, Any]:
    """Joined seams as the job directory keeps them."""
    claims = {str(index): packed(each, CLAIMED) for index, each in joined.claims.items()}
    return {"links": packed_array(joined.links), "claims": claims}


def joined_from(value: Mapping[str, Any]) -> Joined:
    """The joined seams of `joined_value`."""
    claims = {int(index): _claims({**told, "rles": ()}) for index, told in value["claims"].items()}
    return Joined(links=unpacked(value["links"], np.uint64).reshape(-1, 2), claims=claims)


def regions_value(regions: Regions) -> dict[str, str]:
    """The regions of a tile as the job directory keeps them."""
    return packed(regions, REGION_FIELDS)


def regions_from(value: Mapping[str, Any]) -> Regions:
    """The regions of `regions_value`."""
    found = {n: unpacked(value[n], REGION_TYPES.get(n, np.int64)) for n in REGION_FIELDS}
    return Regions(**found | {n: found[n].reshape(-1, k) for n, k in REGION_WIDTHS.items()})
