"""DICOM series: which slices make a volume, in which order, and whether one is missing.

GDCM stretches the spacing over a missing slice and drops a slice that was cut off. Here all slices
are known from their headers (`dicom_slices`), and anything that is not one regular stack is an
error that names the slice.
"""

from __future__ import annotations

import itertools
import logging
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samplat import InputError
from samplat_volume.dicom_slices import PHASES, Slice
from samplat_volume.geometry import Geometry
from samplat_volume.integrity import check_geometry, check_spacing, checked_override

log = logging.getLogger(__name__)

EVEN = 0.02
"""Share of the distance between slices by which one may deviate; positions are told as decimals."""
TILT = 1e-3
"""Difference between direction cosines that decimals may explain."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """The files of one or several volumes of one place, from first to last slice."""

    volumes: tuple[tuple[Slice, ...], ...]
    """Slices by volume (time, echo, ...), then by place."""
    geometry: Geometry
    """Their common place."""
    warnings: tuple[str, ...] = ()
    """What a person should know: overridden faults."""


def choose_series(slices: Sequence[Slice], series: str | int | None, path: Path) -> list[Slice]:
    """The slices of one series of a folder.

    A series of which no image can be a slice, as of sheets of doses or of outlines, is left aside.

    Args:
        slices: of the whole folder.
        series: UID, or a number from 1 in the list that the error shows; may be left out where
            there is one series only.
        path: the folder, for messages.

    Raises:
        InputError: several series and none chosen, or one that is not there.
    """
    found: dict[str, list[Slice]] = defaultdict(list)
    for one in slices:
        found[one.series].append(one)
    uids = sorted(uid for uid, ones in found.items() if not all(s.fault for s in ones))
    aside = [one for uid in found.keys() - set(uids) for one in found[uid]]
    if not uids:
        raise InputError(slices[0].fault)
    told = "; ".join(
        f"{i}: {found[uid][0].description}, {len(found[uid])} images, {uid}"
        for i, uid in enumerate(uids, 1)
    )
    if series is None and len(uids) > 1:
        raise InputError(f"{path} holds {len(uids)} series; choose one with series=: {told}")
    if series is None:
        for one in sorted(aside, key=lambda s: s.path):
            log.warning("left aside: %s", one.fault)
        return found[uids[0]]
    wanted = str(series)
    if wanted.isdigit() and 1 <= int(wanted) <= len(uids):
        return found[uids[int(wanted) - 1]]
    if wanted not in found:
        raise InputError(f"{path} has no series {wanted}; it holds {told}")
    return found[wanted]


def assemble(
    slices: Iterable[Slice],
    *,
    path: Path,
    count: int | None = None,
    spacing: Sequence[float] | None = None,
    allow_gaps: bool = False,
    allow_duplicates: bool = False,
    allow_truncated: bool = False,
) -> Series:
    """Order the slices of one series and make sure that they are one regular stack.

    Args:
        slices: in any order.
        path: their folder, for messages.
        count: how many slices a volume must have. Only so is a slice noticed that is missing at
            either end.
        spacing: millimetres (z, y, x) instead of what the headers say.
        allow_gaps: take the slices there are as neighbours.
        allow_duplicates: of slices of one place, keep the first by number and name.
        allow_truncated: leave out slices whose pixels are cut off; with `allow_gaps` inside.

    Raises:
        InputError: a slice is missing, there twice, or cut off; slices differ in size, spacing or
            orientation; the stack is oblique to its slices; an image is no slice.
    """
    warnings, given = list[str](), list(slices)
    if fault := next((s.fault for s in given if s.fault), ""):
        raise InputError(fault)
    whole = _without_truncated(given, path, allow_truncated, warnings)
    if spacing is not None:
        _, rows, columns = checked_override(spacing)
        whole = [replace(s, spacing=(rows, columns)) for s in whole]
    for one in whole:
        check_spacing(one.spacing, one.path)
    _check_alike(whole, path)
    volumes = _volumes(whole, path, allow_duplicates, warnings)
    first = volumes[0]
    _check_count(first, count, path)
    distance = _distance(volumes, path, count, allow_gaps, warnings)
    geometry = _geometry(first, distance)
    if spacing is not None:
        geometry = replace(geometry, spacing=checked_override(spacing))
    check_geometry(geometry, path)
    for warning in warnings:
        log.warning("%s", warning)
    return Series(volumes=volumes, geometry=geometry, warnings=tuple(warnings))


def _without_truncated(
    slices: list[Slice], path: Path, allowed: bool, warnings: list[str]
) -> list[Slice]:
    cut = [s for s in slices if s.missing]
    if not cut:
        return slices
    names = _listed([s.name for s in cut])
    if not allowed:
        raise InputError(
            f"{path}: {names} cut off, {cut[0].missing} bytes of pixels are missing; copy or "
            "export again, or leave out with allow_truncated"
        )
    warnings.append(f"{path}: {names} cut off and left out")
    return [s for s in slices if not s.missing]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


def _check_alike(slices: Sequence[Slice], path: Path) -> None:
    """Every slice against what most of them have."""
    if len(slices) < 2:
        raise InputError(f"{path} holds {len(slices)} whole slice; expected a series of at least 2")
    checks = (
        ("size", lambda s: s.size, 0.0, "rows x columns"),
        ("samples", lambda s: (s.encoding.samples,), 0.0, "numbers per pixel"),
        ("interpretation", _interpretation, None, "as what its numbers mean"),
        ("spacing", lambda s: s.spacing, EVEN / 2, "mm"),
        ("orientation", lambda s: s.orientation, TILT, "direction cosines"),
    )
    for what, value, tolerance, unit in checks:
        usual = Counter(map(value, slices)).most_common(1)[0][0]
        for one in slices:
            if value(one) != usual and not _near(value(one), usual, tolerance):
                raise InputError(
                    f"{path}: {one.name} has another {what} than the others, {value(one)} instead "
                    f"of {usual} {unit}; move it elsewhere"
                )


def _interpretation(one: Slice) -> str:
    """Whether small numbers are dark or bright; colours are told by `samples`."""
    return one.encoding.photometric if one.encoding.samples == 1 else "colours"


def _near(one: Any, other: Any, tolerance: float | None) -> bool:
    if tolerance is None or len(one) != len(other):
        return False
    return all(abs(a - b) <= tolerance for a, b in zip(one, other, strict=True))


def _normal(one: Slice) -> NDArray[np.float64]:
    if len(one.orientation) != 6 or len(one.position) != 3:
        raise InputError(f"{one.path} has an incomplete position or orientation; export it again")
    return np.cross(one.orientation[:3], one.orientation[3:])


def _depth(one: Slice, normal: NDArray[np.float64]) -> float:
    return float(np.dot(one.position, normal))


def _volumes(
    slices: Sequence[Slice], path: Path, allow_duplicates: bool, warnings: list[str]
) -> tuple[tuple[Slice, ...], ...]:
    """Slices by place; where all places occur several times, by what tells the times apart."""
    normal = _normal(slices[0])
    ordered = sorted(slices, key=lambda s: (_depth(s, normal), s.number or 0, s.path.name))
    places = _places(ordered, normal)
    if all(len(place) == 1 for place in places):
        return (tuple(ordered),)
    if (phases := _phases(places)) is not None:
        return phases
    twice = next(place for place in places if len(place) > 1)
    if not allow_duplicates:
        raise InputError(
            f"{path}: {twice[1].name} lies at the same place as {twice[0].name}; remove one of "
            "them, or keep the first with allow_duplicates"
        )
    warnings.append(f"{path}: {twice[1].name} lies where {twice[0].name} does, and is left out")
    return (tuple(place[0] for place in places),)


def _places(ordered: Sequence[Slice], normal: NDArray[np.float64]) -> list[list[Slice]]:
    depths = [_depth(s, normal) for s in ordered]
    steps = [b - a for a, b in itertools.pairwise(depths)]
    apart = [s for s in steps if s > 1e-3]
    limit = EVEN * statistics.median_low(apart) if apart else 0.0
    places = [[ordered[0]]]
    for one, step in zip(ordered[1:], steps, strict=True):
        if step <= limit:
            places[-1].append(one)
        else:
            places.append([one])
    return places


def _phases(places: Sequence[Sequence[Slice]]) -> tuple[tuple[Slice, ...], ...] | None:
    """The volumes of a series in time, echo, ...; None where one tag does not tell them apart."""
    count = len(places[0])
    if count < 2 or any(len(place) != count for place in places):
        return None
    for tag in range(len(PHASES)):
        values = {s.phase[tag] for place in places for s in place}
        if len(values) == count and all(len({s.phase[tag] for s in p}) == count for p in places):
            ranked = sorted(values, key=_by_number)
            return tuple(
                tuple(next(s for s in place if s.phase[tag] == value) for place in places)
                for value in ranked
            )
    return None


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


def _check_count(slices: Sequence[Slice], count: int | None, path: Path) -> None:
    if count is not None and len(slices) > count:
        raise InputError(f"{path} has {len(slices)} slices, expected {count}")


def _distance(
    volumes: Sequence[Sequence[Slice]],
    path: Path,
    count: int | None,
    lenient: bool,
    warnings: list[str],
) -> float:
    """Millimetres between slices, if all are as far apart."""
    first, normal = volumes[0], _normal(volumes[0][0])
    depths = [_depth(s, normal) for s in first]
    if len(depths) < 2:
        raise InputError(f"{path}: all images lie at one place; expected a series of slices")
    steps = [b - a for a, b in itertools.pairwise(depths)]
    usual = statistics.median_low(steps)
    uneven = [i for i, step in enumerate(steps) if abs(step - usual) > EVEN * usual]
    if uneven:
        told = _gap(first, steps, uneven[0], usual)
        if not lenient:
            raise InputError(
                f"{path}: {told}; export the series again, or take its slices as neighbours with "
                "allow_gaps"
            )
        warnings.append(f"{path}: {told}; taken as neighbours")
    elif count is not None and len(first) < count:
        raise InputError(_at_an_end(first, count, path))
    _check_straight(first, usual, path, bool(uneven))
    return usual


def _gap(slices: Sequence[Slice], steps: Sequence[float], at: int, usual: float) -> str:
    before, after = slices[at], slices[at + 1]
    lost = round(steps[at] / usual) - 1
    even = abs(steps[at] - (lost + 1) * usual) <= EVEN * usual * (lost + 1)
    between = f"between {before.name} and {after.name}, which are {steps[at]:.3g} mm apart"
    if lost < 1 or not even:
        return f"slices are not evenly spaced: usually {usual:.3g} mm, but not {between}"
    numbers = _numbers_between(before, after, lost)
    return f"{lost} slice{'s are' if lost > 1 else ' is'} missing{numbers} {between}"


def _numbers_between(before: Slice, after: Slice, lost: int) -> str:
    if before.number is None or after.number is None:
        return ""
    low, high = sorted((before.number, after.number))
    if high - low != lost + 1:
        return ""
    return f" (image {low + 1})" if lost == 1 else f" (images {low + 1} to {high - 1})"


def _at_an_end(slices: Sequence[Slice], count: int, path: Path) -> str:
    lost = count - len(slices)
    which = "a slice is" if lost == 1 else f"{lost} slices are"
    return (
        f"{path} has {len(slices)} slices, expected {count}, and none is missing in between: "
        f"{which} missing before {slices[0].name} or after {slices[-1].name}; export it again"
    )


def _check_straight(slices: Sequence[Slice], distance: float, path: Path, gaps: bool) -> None:
    """Refuse a stack whose slices are shifted against each other: the gantry was tilted."""
    normal = _normal(slices[0])
    for one in slices[1:]:
        offset = np.subtract(one.position, slices[0].position)
        aside = float(np.linalg.norm(offset - np.dot(offset, normal) * normal))
        if aside > 0.5 * min(one.spacing) or (not gaps and aside > 0.5 * distance):
            raise InputError(
                f"{path}: {one.name} is shifted by {aside:.3g} mm against {slices[0].name}, the "
                "gantry was tilted; expected slices exactly above each other: resample first"
            )


def _geometry(slices: Sequence[Slice], distance: float) -> Geometry:
    first = slices[0]
    rows, columns = first.size
    x, y, z = first.position
    frame = np.column_stack([first.orientation[:3], first.orientation[3:], _normal(first)])
    return Geometry(
        shape=(len(slices), rows, columns),
        spacing=(distance, *first.spacing),
        origin=(x, y, z),
        direction=frame.astype(np.float64),
    )
