"""Files as layers of napari: opened by the sources of samplat, read in windows when looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_sam.blocks import Window
from napari_sam.lazy import Lazy
from napari_sam.world import ground_origin, placed
from samplat import InputError

if TYPE_CHECKING:
    from samplat import ImageInfo, ImageSource, SourceFactory, Stretch

LayerData = tuple[Any, dict[str, Any], str]
Read = Callable[[list[str] | str], list[LayerData]]

MOST_LAYERS = 16
"""Bands that become a layer each; of more, one layer has them along its first axis."""
FIRST = {"volume": {"channel": 0}}
"""Options without which factories refuse files of several bands."""


def get_reader(path: str | list[str]) -> Read | None:
    """A function that opens what is at a path; None where nobody here can."""
    (single, *others) = [path] if isinstance(path, str) else path
    return None if others or factory_for(single) is None else read_layers


def factory_for(path: str) -> SourceFactory | None:
    """Who opens a file, folder or URL; None: nobody here."""
    from samplat import registry

    if _is_plain_array(Path(path)):
        return None
    name = "volume" if _has_pages(Path(path)) else None
    with suppress(InputError):
        factory = registry().source_for(path)
        return registry().found["sources"].get(name, factory) if name else factory
    return None


def _is_plain_array(path: Path) -> bool:
    """Whether this is a zarr array, which has no place in the world."""
    if (path / ".zarray").exists():
        return True
    try:
        return bool(json.loads((path / "zarr.json").read_bytes())["node_type"] == "array")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _has_pages(path: Path) -> bool:
    """Whether a TIFF is a stack of pages of one size."""
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return False
    from tifffile import TiffFile

    try:
        with TiffFile(path) as file:
            pages: list[Any] = [file.pages[n] for n in range(min(8, len(file.pages)))]
            alike = [page for page in pages if page.shape == pages[0].shape]
            return sum(not (page.is_reduced or page.is_mask) for page in alike) > 1
    except Exception:  # noqa: BLE001 what is damaged is told of by who opens it
        return False


def read_layers(path: str | list[str]) -> list[LayerData]:
    """The layers of a file; no pixels are read but for a look at the whole.

    Raises:
        InputError: damaged, or of a kind that cannot be shown.
    """
    name = path if isinstance(path, str) else path[0]
    factory = factory_for(name)
    if factory is None:
        raise InputError(f"nothing installed can open {name}; see `samplat plugins`")
    source = factory.open(name, **FIRST.get(factory.name, {}))
    place = str(Path(name).absolute()) if Path(name).exists() else name
    described = {"path": place, "factory": factory.name}
    return [_layer(each, band, described) for each, band in _banded(source)]


def _banded(source: Any) -> list[tuple[Any, str | None]]:
    """The source's bands: colours together, others one by one if they are few."""
    names: Sequence[str] = getattr(source, "band_names", ())
    count = source.info.bands
    coloured = getattr(source, "coloured", False)
    if len(names) <= 1 or (coloured and len(names) == count):
        return [(source, None)]
    if len(names) > MOST_LAYERS:
        return [(_Stacked([source.with_bands([n]) for n in range(len(names))]), None)]
    rest = range(count if coloured else 0, len(names))
    whole = [(source, None)] if coloured else []
    return [*whole, *((source.with_bands([n]), names[n]) for n in rest)]


class _Stacked:
    """Many bands of a source, along an axis of their own."""

    def __init__(self, bands: Sequence[Any]) -> None:
        self.bands, self.info = list(bands), bands[0].info

    def levels(self) -> list[_Stacked]:
        """The same at lower resolutions."""
        if not hasattr(self.bands[0], "levels"):
            return []
        return [_Stacked(bands) for bands in zip(*(b.levels() for b in self.bands), strict=True)]


def _layer(source: Any, band: str | None, described: dict[str, Any]) -> LayerData:
    from samplat import registry

    first = source.bands[0] if isinstance(source, _Stacked) else source
    stretch = registry().rescaler("percentile").fit(first)
    levels = [source, *(source.levels() if hasattr(source, "levels") else ())]
    arrays = [_array(each, stretch) for each in levels]
    stem = Path(described["path"]).name
    given: dict[str, Any] = {
        "name": stem if band is None else f"{stem} {band}",
        "metadata": _about(source.info, _is_volume(first), described),
        "multiscale": len(arrays) > 1,
        **placed(source.info, _is_volume(first), arrays[0].ndim - _is_rgb(first)),
    }
    if _is_rgb(first):
        given["rgb"] = True
    else:
        low, high = stretch.low[0], stretch.high[0]
        given["contrast_limits"] = (low, high if high > low else low + 1)
    return (arrays if len(arrays) > 1 else arrays[0]), given, "image"


def _about(info: ImageInfo, volume: bool, described: dict[str, Any]) -> dict[str, Any]:
    """What a layer tells of its file: for people, and for what is written of its labels."""
    told = {
        **described,
        "shape": list(info.shape),
        "index_to_world": [list(row) for row in info.index_to_world],
        "spacing": list(info.spacing),
        "crs": info.crs,
    }
    about = {"samplat": told, "crs": info.crs, "nodata": info.nodata}
    return about if volume else {**about, "origin": ground_origin(info)}


def _is_rgb(source: Any) -> bool:
    return bool(getattr(source, "coloured", False))


def _array(source: Any, stretch: Stretch) -> Lazy:
    """The pixels as napari shows them: planes without an axis z where there is one slice."""
    if isinstance(source, _Stacked):
        return _stacked([_array(band, stretch) for band in source.bands])
    info: ImageInfo = source.info
    flat, rgb = info.shape[0] == 1 and not _is_volume(source), _is_rgb(source)
    lead = () if flat else (info.shape[0],)
    tail = (4 if getattr(source, "masked", False) else 3,) if rgb else ()

    def read(window: Window) -> NDArray[Any]:
        space = window[: len(window) - len(tail)]
        if flat:
            space = (slice(0, 1), *space)
        pixels = _coloured(source, space, stretch) if rgb else _valued(source, space)
        pixels = pixels[..., window[-1]] if rgb else pixels[..., 0]
        return pixels[0] if flat else pixels

    dtype = np.uint8 if rgb else info.dtype
    return Lazy((*lead, *info.shape[1:], *tail), dtype, read)


def _stacked(bands: list[Lazy]) -> Lazy:
    def read(window: Window) -> NDArray[Any]:
        return np.stack([each[window[1:]] for each in bands[window[0]]])

    return Lazy((len(bands), *bands[0].shape), bands[0].dtype, read)


def _is_volume(source: Any) -> bool:
    return hasattr(source, "geometry")


def _window(space: Window) -> Any:
    from samplat import Window as Place

    return Place(start=tuple(s.start for s in space), stop=tuple(s.stop for s in space))


def _valued(source: ImageSource, space: Window) -> NDArray[Any]:
    """Values; NaN where there is none, if they are such that can say so."""
    place = _window(space)
    pixels = source.read(place)
    if pixels.dtype.kind != "f" or not getattr(source, "masked", False):
        return pixels
    return np.where(source.valid(place)[..., None], pixels, np.nan).astype(pixels.dtype)


def _coloured(source: ImageSource, space: Window, stretch: Stretch) -> NDArray[np.uint8]:
    """Colours, and how opaque they are if some are not."""
    place = _window(space)
    raw, valid = source.read(place), source.valid(place)
    colours = stretch(raw, valid)
    if not getattr(source, "masked", False):
        return colours
    alpha = np.where(valid, 255, 0).astype(np.uint8)[..., None]
    return np.concatenate([colours, alpha], axis=-1)
