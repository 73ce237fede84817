"""VRTs: honest ones are read, hostile ones never reach a file that they should not (row 22)."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from raster.crafted import UTM, VRT_BOMB, VRT_SPY, write
from samplat import InputError, Window
from samplat_raster import vrt
from samplat_raster.source import RasterSource

SECRET = 77
BAND = '<VRTRasterBand dataType="Byte" band="1">{}</VRTRasterBand>'
SIMPLE = (
    "<SimpleSource><SourceFilename{}>{}</SourceFilename><SourceBand>1</SourceBand>"
    '<SrcRect xOff="0" yOff="0" xSize="20" ySize="10"/>'
    '<DstRect xOff="0" yOff="0" xSize="20" ySize="10"/></SimpleSource>'
)
HERE = ' relativeToVRT="1"'
GROUND = "<SRS>EPSG:32614</SRS><GeoTransform>500000, 0.5, 0, 4000000, 0, -0.5</GeoTransform>"


def document(content: str, attributes: str = "", width: int = 20, height: int = 10) -> str:
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"{attributes}>'
        f"{GROUND}{content}</VRTDataset>"
    )


def reading(name: str, how: str = HERE) -> str:
    return document(BAND.format(SIMPLE.format(how, name)))


def grey(value: int) -> NDArray[np.uint8]:
    return np.full((10, 20), value, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a raster in it, and a secret one beside it."""
    inside = tmp_path / "mosaic"
    (inside / "parts").mkdir(parents=True)
    write(inside / "parts" / "a.tif", grey(1), **UTM)
    write(tmp_path / "secret.tif", grey(SECRET), **UTM)
    (tmp_path / "secret.txt").write_text("x" * 400)
    return inside


def opened(folder: Path, text: str, name: str = "m.vrt") -> NDArray[np.uint8]:
    (folder / name).write_text(text)
    source = RasterSource(str(folder / name), allow_vrt=True)
    whole = Window(start=(0, 0, 0), stop=source.info.shape)
    pixels: NDArray[np.uint8] = source.read(whole)[0, ..., 0]
    source.close()
    return pixels


def test_a_mosaic_is_what_gdal_makes_of_it(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("b.tif", "c.tif"):
        write(folder / name, rng.integers(0, 4000, (2, 10, 20)).astype(np.uint16), **UTM)
    half = (
        '<SourceProperties RasterXSize="20" RasterYSize="10" DataType="UInt16" BlockXSize="20" '
        'BlockYSize="10"/><SrcRect xOff="0" yOff="0" xSize="20" ySize="10"/>'
    )
    sources = "".join(
        f'<ComplexSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
        f'<SourceBand>2</SourceBand>{half}<DstRect xOff="{x}" yOff="0" xSize="20" ySize="10"/>'
        "<NODATA>0</NODATA></ComplexSource>"
        for x, name in ((0, "b.tif"), (18, "c.tif"))
    )
    text = document(
        "<Metadata><MDI key='AREA_OR_POINT'>Area</MDI></Metadata>"
        '<VRTRasterBand dataType="UInt16" band="1"><Description>NIR</Description>'
        f"<NoDataValue>0</NoDataValue><ColorInterp>Gray</ColorInterp>{sources}</VRTRasterBand>",
        width=38,
    )
    (folder / "m.vrt").write_text(text)
    source = RasterSource(str(folder / "m.vrt"), allow_vrt=True, bidx=["nir"])
    whole = Window(start=(0, 0, 0), stop=(1, 10, 38))
    with rasterio.open(folder / "m.vrt") as plain:
        assert np.array_equal(source.read(whole)[0, ..., 0], plain.read(1))
        assert rasterio.crs.CRS.from_wkt(str(source.info.crs)) == plain.crs
        assert source.info.nodata == 0
    assert np.array_equal(source.valid(whole)[0], source.read(whole)[0, ..., 0] > 0)
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 our own
    assert np.array_equal(again.read(whole), source.read(whole))
    small = RasterSource(str(folder / "m.vrt"), allow_vrt=True, gsd=1.0)
    assert small.info.shape == (1, 5, 19)
    assert small.read(Window(start=(0, 0, 0), stop=(1, 5, 19))).any()
    # a change of a part changes what is read
    before = source.digest
    os.utime(folder / "c.tif", ns=(1, 1))
    assert RasterSource(str(folder / "m.vrt"), allow_vrt=True, bidx=["nir"]).digest != before


def test_vrts_need_consent(folder: Path) -> None:
    (folder / "m.vrt").write_text(reading("parts/a.tif"))
    with pytest.raises(InputError, match="--allow-vrt"):
        RasterSource(str(folder / "m.vrt"))
    assert (opened(folder, reading("parts/a.tif")) == 1).all()
    assert (opened(folder, reading(str(folder / "parts/a.tif"), "")) == 1).all()
    # whatever it is called, and in whatever folder the program runs
    assert (opened(folder, reading("parts/a.tif"), "m.tif") == 1).all()


def test_vrts_of_vrts_in_the_folder_are_read(folder: Path) -> None:
    (folder / "inner.vrt").write_text(reading("parts/a.tif"))
    assert (opened(folder, reading("inner.vrt")) == 1).all()


def test_a_vrt_behind_a_link_reads_beside_the_real_one(folder: Path, tmp_path: Path) -> None:
    (folder / "m.vrt").write_text(reading("parts/a.tif"))
    (tmp_path / "link.vrt").symlink_to(folder / "m.vrt")
    source = RasterSource(str(tmp_path / "link.vrt"), allow_vrt=True)
    assert (source.read(Window(start=(0, 0, 0), stop=(1, 10, 20))) == 1).all()


def linked(folder: Path) -> str:
    (folder / "link.tif").symlink_to(folder.parent / "secret.tif")
    return reading("link.tif")


def folder_linked(folder: Path) -> str:
    (folder / "up").symlink_to(folder.parent)
    return reading("up/secret.tif")


def nested(folder: Path) -> str:
    (folder / "inner.vrt").write_text(reading("../secret.tif"))
    return reading("inner.vrt")


def nested_spy(folder: Path) -> str:
    (folder / "inner.tif").write_text(VRT_SPY.format(path=folder.parent / "secret.txt"))
    return reading("inner.tif")


def nested_without_end(folder: Path) -> str:
    return reading("m.vrt")


def polyglot(folder: Path) -> str:
    """A picture to us, and a VRT to GDAL, which looks for its mark anywhere in a text."""
    spy = VRT_SPY.format(path=folder.parent / "secret.txt").encode()
    (folder / "p.jpg").write_bytes(b"\xff\xd8\xff" + spy + b"\xff\xd9")
    return reading("p.jpg")


def with_companion(folder: Path) -> str:
    spy = VRT_SPY.format(path=folder.parent / "secret.txt")
    (folder / "parts" / "a.tif.ovr").write_text(spy)
    return reading("parts/a.tif")


def with_linked_overviews(folder: Path) -> str:
    with rasterio.open(folder / "parts" / "a.tif", "r+") as dataset:
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(folder.parent / "secret.txt"))
    return reading("parts/a.tif")


def cut(folder: Path) -> str:
    path = folder / "parts" / "a.tif"
    path.write_bytes(path.read_bytes()[:300])
    return reading("parts/a.tif")


def derived(extra: str) -> str:
    band = '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">{}{}'
    return document(band.format(extra, SIMPLE.format(HERE, "parts/a.tif")) + "</VRTRasterBand>")


def repeated(folder: Path) -> str:
    """Each VRT reads the next a thousand times."""
    many = "".join(SIMPLE.format(HERE, "two.vrt") for _ in range(1000))
    (folder / "two.vrt").write_text(
        document(BAND.format("".join(SIMPLE.format(HERE, "parts/a.tif") for _ in range(1000))))
    )
    return document(BAND.format(many))


WARPED = (
    '<VRTRasterBand dataType="Byte" band="1" subClass="VRTWarpedRasterBand"/><GDALWarpOptions>'
    '<SourceDataset relativeToVRT="1">../secret.tif</SourceDataset></GDALWarpOptions>'
)
PYTHON = (
    "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
    "<PixelFunctionCode><![CDATA[import os]]></PixelFunctionCode>"
)

HOSTILE: dict[str, str | Callable[[Path], str]] = {
    "parent": reading("../secret.tif"),
    "parent by a detour": reading("parts/../../secret.tif"),
    "absolute": lambda folder: reading(str(folder.parent / "secret.tif"), ' relativeToVRT="0"'),
    "absolute, said to be relative": lambda folder: reading(str(folder.parent / "secret.tif")),
    "relative to who knows": reading("parts/a.tif", ""),
    "vsi": lambda folder: reading(f"/vsicached{folder.parent}/secret.tif"),
    "vsizip": reading("/vsizip/a.zip/a.tif"),
    "url": reading("http://127.0.0.1:9/a.tif"),
    "prefix of a driver": lambda folder: reading(f"GTIFF_DIR:1:{folder.parent}/secret.tif"),
    "document in a name": lambda folder: reading(
        VRT_SPY.format(path=folder.parent / "secret.txt").replace("<", "&lt;")
    ),
    "name in small letters": '<VRTDataset RASTERXSIZE="20" rasterysize="10"><VRTRASTERBAND '
    'datatype="Byte" band="1"><SimpleSource><SOURCEFILENAME RelativeToVrt="1">../secret.tif'
    "</SOURCEFILENAME><sourceband>1</sourceband></SimpleSource></VRTRASTERBAND></VRTDataset>",
    "no name": reading(""),
    "folder": reading("parts"),
    "missing": reading("parts/b.tif"),
    "text": lambda folder: reading((folder / "notes.txt").write_text("notes") and "notes.txt"),
    "link": linked,
    "link to a folder": folder_linked,
    "nested": nested,
    "nested raw band": nested_spy,
    "nested without end": nested_without_end,
    "repeated": repeated,
    "polyglot": polyglot,
    "companion": with_companion,
    "overviews elsewhere": with_linked_overviews,
    "cut off": cut,
    "raw band": lambda folder: VRT_SPY.format(path=folder.parent / "secret.txt"),
    "raw band inside": lambda folder: VRT_SPY.format(path=folder / "parts" / "a.tif"),
    "warped": document(WARPED, ' subClass="VRTWarpedDataset"'),
    "warped without saying so": document(WARPED),
    "pansharpened": document(
        "<PansharpeningOptions><PanchroBand><SourceFilename>../secret.tif</SourceFilename>"
        "</PanchroBand></PansharpeningOptions>",
        ' subClass="VRTPansharpenedDataset"',
    ),
    "python": derived(PYTHON),
    "pixel function": derived("<PixelFunctionType>sqrt</PixelFunctionType>"),
    "options": reading("parts/a.tif").replace(
        "<SourceBand>", "<OpenOptions><OOI key='GEOREF_SOURCES'>x</OOI></OpenOptions><SourceBand>"
    ),
    "mask": lambda folder: document(
        BAND.format(SIMPLE.format(HERE, "parts/a.tif"))
        + "<MaskBand>"
        + BAND.format(SIMPLE.format(HERE, "../secret.tif"))
        + "</MaskBand>"
    ),
    "group": "<VRTDataset><Group name='/'><Array name='a'/></Group></VRTDataset>",
    "entities": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + reading("&x;"),
    "laughs": '<!doctype a [<!ENTITY x "xxxx">]>' + reading("parts/a.tif"),
    "no xml": "<VRTDataset rasterXSize='20' rasterYSize='10'><VRTRasterBand",
    "another document": "<notes><VRTDataset/></notes>",
    "no bands": document(""),
    "no columns": document(BAND.format(""), width=0),
    "bomb": VRT_BOMB,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_row_22_a_hostile_vrt_is_refused_quickly(folder: Path, name: str) -> None:
    content = HOSTILE[name]
    text = content if isinstance(content, str) else content(folder)
    began = time.monotonic()
    with pytest.raises(InputError) as refused:
        opened(folder, text)
    assert time.monotonic() - began < 5
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    "name",
    ["parent", "raw band", "absolute", "name in small letters", "link", "nested", "polyglot"],
)
def test_the_spies_would_have_seen_the_secret(folder: Path, name: str) -> None:
    """GDAL itself reads through them: the refusals above are not of broken documents."""
    content = HOSTILE[name]
    (folder / "m.vrt").write_text(content if isinstance(content, str) else content(folder))
    with rasterio.open(folder / "m.vrt") as dataset:
        assert dataset.read(1).max() in (SECRET, ord("x"))


def test_overviews_that_a_vrt_names_are_left_out(folder: Path) -> None:
    spy = (
        "<Overview><SourceFilename relativeToVRT='1'>../secret.tif</SourceFilename>"
        "<SourceBand>1</SourceBand></Overview>"
    )
    elsewhere = (
        "<Metadata domain='OVERVIEWS'><MDI key='OVERVIEW_FILE'>../secret.tif</MDI></Metadata>"
    )
    text = document(elsewhere + BAND.format(spy + SIMPLE.format(HERE, "parts/a.tif")))
    (folder / "m.vrt").write_text(text)
    source = RasterSource(str(folder / "m.vrt"), allow_vrt=True)
    assert np.unique(source.thumbnail(4)[0]).tolist() == [1]
    assert source.info.shape == (1, 10, 20)


def test_a_long_document_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vrt, "MAX_BYTES", 300)
    with pytest.raises(InputError, match="longer than 300 bytes"):
        opened(folder, reading("parts/a.tif"))


def test_a_vrt_behind_a_url_is_not_opened(folder: Path) -> None:
    (folder / "m.vrt").write_text(reading("parts/a.tif"))
    with pytest.raises(InputError, match="cannot open"):
        RasterSource(f"/vsicached{folder}/m.vrt", allow_vrt=True)


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("name", ["parent", "absolute", "raw band", "raw band inside", "bomb"])
def test_row_22_a_zip_hides_no_vrt(folder: Path, name: str, allow: bool) -> None:
    content = HOSTILE[name]
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("m.tif", content if isinstance(content, str) else content(folder))
        archive.write(folder / "parts" / "a.tif", "honest.tif")
    with pytest.raises(InputError, match="cannot open"):
        RasterSource(f"/vsizip/{folder}/a.zip/m.tif", allow_vrt=allow)
    honest = RasterSource(f"/vsizip/{folder}/a.zip/honest.tif", allow_vrt=allow)
    assert (honest.read(Window(start=(0, 0, 0), stop=(1, 10, 20))) == 1).all()


def test_row_22_a_zip_does_not_reach_out_of_itself(folder: Path) -> None:
    """Neither by the names of its members, nor by dots in the path into it."""
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "parts" / "a.tif", "../secret.tif")
    for path in ("a.zip/../secret.tif", "a.zip/../../secret.tif", "a.zip/secret.tif"):
        pixels = np.zeros(1)
        with contextlib.suppress(InputError):
            source = RasterSource(f"/vsizip/{folder}/{path}")
            pixels = source.read(Window(start=(0, 0, 0), stop=(1, 10, 20)))
        assert pixels.max() <= 1
    assert (rasterio.open(folder.parent / "secret.tif").read(1) == SECRET).all()
