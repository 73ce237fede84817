"""Links, claims and regions as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat.claims import Claims
from samplat.regions import Regions
from samplat.vouched import packed, packed_array, unpacked

REGION_FIELDS = tuple(f.name for f in fields(Regions))
REGION_WIDTHS = {"boxes": 4, "sides": 2, "corners": 2}
REGION_TYPES = {"owners": np.uint64, "open": np.bool_}


def seams_value(links: NDArray[np.uint64], claims: Claims) -> dict[str, Any]:
    """Links and claims of a tile as the job directory keeps them."""
    arrays = packed(claims, ("ids", "areas", "boxes", "refused"))
    rles = [rle.decode("ascii") for rle in claims.rles]
    return {"links": packed_array(links), "claims": {**arrays, "rles": rles}}


def seams_from(value: Mapping[str, Any]) -> tuple[NDArray[np.uint64], Claims]:
    """The links and claims of `seams_value`."""
    told = value["claims"]
    claims = Claims(
        ids=unpacked(told["ids"], np.uint64),
        areas=unpacked(told["areas"], np.int64),
        boxes=unpacked(told["boxes"], np.int64).reshape(-1, 6),
        rles=tuple(rle.encode("ascii") for rle in told["rles"]),
        refused=unpacked(told["refused"], np.uint64),
    )
    return unpacked(value["links"], np.uint64).reshape(-1, 2), claims


def regions_value(regions: Regions) -> dict[str, str]:
    """The regions of a tile as the job directory keeps them."""
    return packed(regions, REGION_FIELDS)


def regions_from(value: Mapping[str, Any]) -> Regions:
    """The regions of `regions_value`."""
    found = {n: unpacked(value[n], REGION_TYPES.get(n, np.int64)) for n in REGION_FIELDS}
    return Regions(**found | {n: found[n].reshape(-1, k) for n, k in REGION_WIDTHS.items()})
