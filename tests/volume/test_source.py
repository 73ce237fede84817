from __future__ import annotations

import locale
import pickle
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import zarr

from samplat import ImageSource, InputError, Window
from samplat.pixels import PercentileRescaler
from samplat_volume import dicom_pixels
from samplat_volume import source as source_module
from samplat_volume.geometry import Geometry
from samplat_volume.source import VolumeFactory, VolumeSource
from samplat_volume.stacks import ArrayVoxels
from volume.scans import SHAPE, SPACING, image_of, noise, oblique, write, write_series

FORMATS = {
    "a.nii": False,
    "a.nii.gz": True,
    "a.nrrd": False,
    "b.nrrd": True,
    "a.nhdr": False,
    "b.nhdr": True,
    "a.mha": False,
    "b.mha": True,
    "a.mhd": False,
    "b.mhd": True,
}
PLAIN = ("a.vtk", "a.gipl", "a.gipl.gz")  # no directions
WINDOW = Window(start=(1, 3, 2), stop=(4, 18, 9))


def everything(source: ImageSource) -> Any:
    return source.read(Window(start=(0, 0, 0), stop=source.info.shape))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_reads_as_simpleitk_reads_it(tmp_path: Path, name: str, dtype: str) -> None:
    path = write(tmp_path / name, image_of(noise(dtype), oblique()), compress=FORMATS[name])
    source, image = VolumeSource(str(path)), sitk.ReadImage(str(path))
    values = sitk.GetArrayFromImage(image)
    assert source.info.shape == SHAPE
    assert np.dtype(source.info.dtype) == values.dtype
    assert np.array_equal(everything(source)[..., 0], values)
    assert np.array_equal(source.read(WINDOW)[..., 0], values[WINDOW.slices])
    assert source.geometry == Geometry.of_image(image)
    assert Geometry.of_info(source.info).to_physical(np.ones((1, 3))) == pytest.approx(
        np.array([image.TransformIndexToPhysicalPoint((1, 1, 1))]), abs=1e-9
    )


@pytest.mark.parametrize("name", PLAIN)
def test_vtk_and_gipl_read_as_simpleitk_reads_them(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, image_of(noise("int16")))
    source, image = VolumeSource(str(path)), sitk.ReadImage(str(path))
    assert np.array_equal(everything(source)[..., 0], sitk.GetArrayFromImage(image))
    assert source.geometry == Geometry.of_image(image)


@pytest.mark.parametrize("name", PLAIN)
def test_opening_leaves_the_locale_alone(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, image_of(noise()))
    before = locale.setlocale(locale.LC_ALL)
    VolumeSource(str(path))
    assert locale.setlocale(locale.LC_ALL) == before


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti_of_either_version_as_nibabel_reads_it(tmp_path: Path, kind: Any) -> None:
    affine = np.eye(4)
    affine[:3, :3] = oblique() * (0.5, 0.75, 2.5)
    affine[:3, 3] = 1, 2, 3
    nibabel.save(kind(noise().T, affine), tmp_path / "a.nii.gz")
    source = VolumeSource(str(tmp_path / "a.nii.gz"))
    assert np.array_equal(
        everything(source)[..., 0].T, np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj)
    )
    turn = np.diag([-1.0, -1, 1, 1])  # RAS to LPS
    assert np.allclose(source.info.index_to_world, turn @ affine, atol=1e-5)


def test_big_endian_files(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nibabel.Nifti1Image(noise().T, np.eye(4), header)
    nibabel.save(image, tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == b"\0\0\1\x5c"
    path = write(tmp_path / "a.nhdr", image_of(noise()))
    path.write_text(path.read_text().replace("little", "big"))
    noise().astype(">i2").tofile(tmp_path / "a.raw")
    for name in ("a.nii", "a.nhdr"):
        source = VolumeSource(str(tmp_path / name))
        assert source.info.dtype == "int16"
        assert np.array_equal(everything(source)[..., 0], noise())


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, -1024.0), (0.25, 3.0)])
def test_slopes_of_nifti(tmp_path: Path, slope: float, intercept: float) -> None:
    image = nibabel.Nifti1Image(noise().T, np.eye(4))
    image.header.set_slope_inter(slope, intercept)
    path = tmp_path / "a.nii"
    nibabel.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([slope, intercept], "<f4").tobytes()  # nibabel rescales while it writes
    path.write_bytes(raw)
    source = VolumeSource(str(path))
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert source.info.dtype == str(expected.dtype) == "float32"
    assert np.array_equal(everything(source)[..., 0], expected)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_one_channel_of_four_dimensions(tmp_path: Path, name: str) -> None:
    values = noise(shape=(3, *SHAPE))
    if name.endswith("gz"):
        nibabel.save(nibabel.Nifti1Image(values.T, np.eye(4)), tmp_path / name)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values, isVector=False), str(tmp_path / name))
    with pytest.raises(InputError, match="3 numbers per voxel.*channel=0 to 2"):
        VolumeSource(str(tmp_path / name))
    source = VolumeSource(str(tmp_path / name), channel=1)
    assert np.array_equal(everything(source)[..., 0], values[1])
    with pytest.raises(InputError, match="channels 0 to 2; there is no channel 3"):
        VolumeSource(str(tmp_path / name), channel=3)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "b.mha", "a.mhd"])
def test_colours_are_refused_until_chosen(tmp_path: Path, name: str) -> None:
    values = noise("uint8", (*SHAPE, 3))
    write(tmp_path / name, image_of(values, vector=True), compress=FORMATS[name])
    with pytest.raises(InputError, match=r"channel=\[0, 1, 2\] for colours"):
        VolumeSource(str(tmp_path / name))
    source = VolumeSource(str(tmp_path / name), channel=[0, 1, 2])
    assert source.info.bands == 3
    assert np.array_equal(everything(source), values)
    assert np.array_equal(source.read(WINDOW), values[WINDOW.slices])


TIFFS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pages": {"contiguous": False, "compression": "zlib"},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 2.5, "unit": "um"}},
    "ome": {
        "ome": True,
        "compression": "zlib",
        "metadata": {"axes": "ZYX"}
        | {f"PhysicalSize{a}": s for a, s in zip("ZYX", SPACING, strict=True)},
    },
    "big": {"bigtiff": True, "byteorder": ">"},
}


@pytest.mark.parametrize("kind", TIFFS)
def test_tiff_stacks(tmp_path: Path, kind: str) -> None:
    values, options = noise("uint16"), dict(TIFFS[kind])
    if kind == "imagej":
        options["resolution"] = (1 / SPACING[2], 1 / SPACING[1])
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", **options)
    source = VolumeSource(str(tmp_path / "a.tif"))
    assert np.array_equal(source.read(WINDOW)[..., 0], values[WINDOW.slices])
    assert np.array_equal(everything(source)[..., 0], values)
    expected = np.multiply(SPACING, 1e-3) if kind in ("imagej", "ome") else (1, 1, 1)
    assert source.info.spacing == pytest.approx(expected, rel=1e-6)


def test_channels_of_a_tiff(tmp_path: Path) -> None:
    values = noise("uint8", (SHAPE[0], 2, *SHAPE[1:]))
    metadata = {"axes": "ZCYX"}
    for name, options in (
        ("a.tif", {"imagej": True}),
        ("b.tif", {"ome": True, "compression": "zlib"}),
    ):
        tifffile.imwrite(
            tmp_path / name, values, metadata=metadata, photometric="minisblack", **options
        )
        with pytest.raises(InputError, match="channel=0 to 1"):
            VolumeSource(str(tmp_path / name))
        source = VolumeSource(str(tmp_path / name), channel=1)
        assert np.array_equal(everything(source)[..., 0], values[:, 1])


def test_colour_pages(tmp_path: Path) -> None:
    values = noise("uint8", (*SHAPE, 3))
    for compression in (None, "zlib"):
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", compression=compression)
        with pytest.raises(InputError, match="for colours"):
            VolumeSource(str(tmp_path / "a.tif"))
        assert np.array_equal(
            everything(VolumeSource(str(tmp_path / "a.tif"), channel=[0, 1, 2])), values
        )


def ome_zarr(path: Path, values: Any, version: str, axes: str = "zyx") -> Path:
    """An image of two resolutions, in micrometres."""
    v3 = version == "0.5"
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if v3 else 2)
    datasets = []
    for level in (0, 1):
        step = 2**level
        index = tuple(slice(None, None, step) if a in "zyx" else slice(None) for a in axes)
        data = np.ascontiguousarray(values[index])
        array = group.create_array(
            str(level),
            shape=data.shape,
            chunks=(1,) * (len(axes) - 3) + (2, 8, 8),
            dtype=data.dtype,
        )
        array[...] = data
        sizes = dict(zip("zyx", SPACING, strict=True))
        scale = [sizes.get(a, 1.0) * (step if a in "zyx" else 1) for a in axes]
        shift = [3.0 if a == "x" else 0.0 for a in axes]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": shift},
                ],
            }
        )
    kinds = {"t": "time", "c": "channel"}
    told = [
        {"name": a, "type": kinds.get(a, "space")} | ({"unit": "micrometer"} if a in "zyx" else {})
        for a in axes
    ]
    image = {"axes": told, "datasets": datasets, "name": "test"}
    if v3:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [image | {"version": "0.4"}]
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(tmp_path: Path, version: str) -> None:
    values = noise("uint16")
    path = ome_zarr(tmp_path / "a.zarr", values, version)
    source = VolumeSource(str(path))
    assert np.array_equal(source.read(WINDOW)[..., 0], values[WINDOW.slices])
    assert source.info.spacing == pytest.approx(np.multiply(SPACING, 1e-3))
    assert source.geometry.origin == pytest.approx((0.003, 0, 0))
    coarse, _ = source.thumbnail(10)
    assert np.array_equal(coarse[..., 0], values[::2, ::2, ::2])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_times_and_channels_of_ome_zarr(tmp_path: Path, version: str) -> None:
    values = noise("uint8", (3, 2, *SHAPE))
    path = str(ome_zarr(tmp_path / "a.zarr", values, version, "tczyx"))
    with pytest.raises(InputError, match="3 times; choose one with time=0 to 2"):
        VolumeSource(path, channel=0)
    with pytest.raises(InputError, match="channel=0 to 1"):
        VolumeSource(path, time=0)
    source = VolumeSource(path, time=2, channel=1)
    assert np.array_equal(everything(source)[..., 0], values[2, 1])


def test_a_damaged_chunk_of_ome_zarr_is_named(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", noise("uint16"), "0.5")
    chunk = next(p for p in (path / "0" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:9])
    with pytest.raises(InputError, match=f"{chunk.relative_to(path)} cannot be read"):
        everything(VolumeSource(str(path)))
    chunk.write_bytes(b"")
    with pytest.raises(InputError, match=f"{chunk.relative_to(path)} is empty, it was cut off"):
        VolumeSource(str(path))


def test_zarrs_that_are_no_image(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    with pytest.raises(InputError, match="no multiscales"):
        VolumeSource(str(tmp_path / "a.zarr"))
    ome_zarr(tmp_path / "a.zarr" / "0", noise(), "0.5")
    with pytest.raises(InputError, match="open .*a.zarr/0"):
        VolumeSource(str(tmp_path / "a.zarr"))
    group.attrs["ome"] = {"version": "0.9", "multiscales": [{"axes": ["z"]}]}
    with pytest.raises(InputError, match="OME-Zarr 0.9; expected 0.4 or 0.5"):
        VolumeSource(str(tmp_path / "a.zarr"))


def test_infinite_and_missing_numbers_are_not_valid(tmp_path: Path) -> None:
    values = noise("float32")
    values[2, 3, 4], values[1, 1, 1] = np.nan, np.inf
    source = VolumeSource(str(write(tmp_path / "a.nii", image_of(values))))
    valid = source.valid(Window(start=(0, 0, 0), stop=SHAPE))
    assert np.array_equal(valid, np.isfinite(values))
    stretch = PercentileRescaler().fit(source)
    assert np.isfinite([*stretch.low, *stretch.high]).all()


def test_a_thumbnail_is_a_fixed_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = noise("int16", (30, 40, 50))
    path = write(tmp_path / "a.nii.gz", image_of(values), compress=True)
    sample, valid = VolumeSource(str(path)).thumbnail(20)
    assert np.array_equal(sample[..., 0], values[::2, ::2, ::3])
    assert valid.all()
    monkeypatch.setattr(source_module, "SAMPLE", 1000)
    small, _ = VolumeSource(str(path)).thumbnail(2048)
    assert small[..., 0].size <= 1000
    assert set(small.ravel()) <= set(values.ravel())


def test_large_ones_in_chunks_are_sampled_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(32**3, dtype="uint16").reshape(32, 32, 32)
    array = zarr.create_array(str(tmp_path / "a"), shape=values.shape, chunks=(8,) * 3, dtype="u2")
    array[...] = values
    voxels = ArrayVoxels(array=array, axes="zyx", dtype=values.dtype)
    sample = source_module._blocks(voxels, [0], 16)[..., 0]
    index = np.concatenate([np.arange(s.start, s.stop) for s in source_module._runs(32, 16)])
    assert len(index) == len(set(index)) == 16
    assert np.array_equal(sample, values[np.ix_(index, index, index)])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 31, 32, 33, 200, 4096])
@pytest.mark.parametrize("max_size", [4, 64, 2048])
def test_runs_are_apart_and_inside(size: int, max_size: int) -> None:
    index = [i for run in source_module._runs(size, max_size) for i in range(run.start, run.stop)]
    assert sorted(set(index)) == index
    assert 0 <= index[0] <= index[-1] < size
    assert len(index) <= max_size


def test_sources_are_picklable_protocols(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", image_of(noise(), oblique()), compress=True)
    source = VolumeFactory().open(str(path), spacing=[3, 2, 1])
    assert isinstance(source, ImageSource)
    again = pickle.loads(pickle.dumps(source))  # noqa: S301 our own
    assert again.info == source.info
    assert again.info.spacing == (3, 2, 1)
    assert again.digest == source.digest
    assert again.digest != VolumeSource(str(path)).digest


def test_the_digest_changes_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", image_of(noise()))
    before = VolumeSource(str(path)).digest
    assert VolumeSource(str(path)).digest == before
    write(path, image_of(noise(seed=1)))
    assert VolumeSource(str(path)).digest != before


def test_paths_that_are_claimed(tmp_path: Path) -> None:
    factory = VolumeFactory()
    for name in ("a.nii", "A.NII.GZ", "a.mha", "a.mhd", "a.nrrd", "a.zarr", "a.zarr/", "a.tif"):
        assert factory.accepts(name), name
    assert factory.accepts("https://example.org/a.zarr/0")
    assert not factory.accepts(str(tmp_path))
    (tmp_path / "a.tif").touch()
    assert not factory.accepts(str(tmp_path))
    (tmp_path / "1.2.840.7").touch()
    assert factory.accepts(str(tmp_path))
    for name in ("a.jpg", "a.txt", "https://example.org/a.tif"):
        assert not factory.accepts(name), name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.nii", "there is no file or folder"),
        ("a.jpg", "no volume that can be read here"),
        ("empty.nii", "is empty"),
        ("text.mha", "ends before ElementDataFile"),
        ("text.nrrd", "is no NRRD file"),
        ("text.vtk", "cut off"),
        ("text.tif", "no TIFF"),
        ("folder", "no DICOM images"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.nii").touch()
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" * 100)
    for kind in ("mha", "nrrd", "vtk", "tif"):
        (tmp_path / f"text.{kind}").write_text("nothing of the kind\n" * 40)
    with pytest.raises(InputError, match=reason):
        VolumeSource(str(tmp_path / name))


@pytest.mark.parametrize("name", [*FORMATS, "a.vtk", "a.tif"])
def test_pictures_are_refused(tmp_path: Path, name: str) -> None:
    flat = sitk.GetImageFromArray(noise("uint16", (20, 17)))
    sitk.WriteImage(flat, str(tmp_path / name))
    with pytest.raises(InputError, match="is a picture of 17 x 20 pixels; expected a volume"):
        VolumeSource(str(tmp_path / name))


def test_unknown_options_are_named(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.nii", image_of(noise())))
    with pytest.raises(InputError, match="volumes take the options channel, .*'bidx'"):
        VolumeFactory().open(path, bidx=[1])
    with pytest.raises(InputError, match="takes no option series"):
        VolumeSource(path, series=1)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(noise().T.astype("complex64"), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match="complex numbers; expected real ones"):
        VolumeSource(str(tmp_path / "a.nii"))


def test_a_dicom_series_reads_as_gdcm_reads_it(tmp_path: Path) -> None:
    values = noise()
    write_series(tmp_path, values, RescaleSlope=2, RescaleIntercept=-1024)
    source = VolumeSource(str(tmp_path))
    assert np.array_equal(source.read(WINDOW)[..., 0], values[WINDOW.slices] * 2 - 1024)
    assert np.array_equal(everything(source)[..., 0], values * 2 - 1024)
    assert source.geometry.spacing == SPACING


def test_slices_of_different_slopes_share_a_type(tmp_path: Path) -> None:
    """PET: each slice has its own."""
    values = noise("uint16") // 4
    write_series(tmp_path, values, RescaleSlope=lambda z: 1 if z < 3 else 0.5, RescaleIntercept=0)
    source = VolumeSource(str(tmp_path))
    slopes = np.where(np.arange(SHAPE[0]) < 3, 1, 0.5)[:, None, None]
    assert np.array_equal(everything(source)[..., 0], values * slopes)
    assert np.dtype(source.info.dtype).kind == "f"


def test_reading_few_slices_opens_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, noise(shape=(40, 12, 12)))
    source, opened = VolumeSource(str(tmp_path)), []
    real = dicom_pixels.read_pixels
    monkeypatch.setattr(dicom_pixels, "read_pixels", lambda s: (opened.append(s), real(s))[1])
    source.read(Window(start=(5, 0, 0), stop=(6, 12, 12)))
    source.read(Window(start=(5, 3, 3), stop=(6, 9, 9)))
    assert len(opened) == 1
    source.thumbnail(2048)
    assert len(opened) <= 17
    source.read(Window(start=(0, 4, 0), stop=(40, 5, 12)))
    source.read(Window(start=(0, 7, 0), stop=(40, 8, 12)))
    assert len(opened) <= 17 + 40
