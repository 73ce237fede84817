"""Large compressed volumes are decompressed once, into chunks that any process reads."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samplat import InputError, JobError, Window
from samplat_volume import ingest, stacks
from samplat_volume.source import VolumeSource
from volume.scans import image_of, noise, write, write_series

SHAPE = (70, 140, 30)
WINDOW = Window(start=(3, 100, 2), stop=(68, 140, 9))


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stacks, "IN_MEMORY", 0)
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path / "home"))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write(tmp_path / "a.nii.gz", image_of(noise(shape=SHAPE)), compress=True)


def entries() -> list[Path]:
    return sorted(ingest.folder().glob("*.zarr"))


def check(source: VolumeSource) -> None:
    assert np.array_equal(source.read(WINDOW)[..., 0], noise(shape=SHAPE)[WINDOW.slices])


def test_once_for_all_copies_of_a_file(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(VolumeSource(str(scan)))
    shutil.copyfile(scan, tmp_path / "b.nii.gz")
    monkeypatch.setattr(ingest, "_write", None)  # nothing may be written again
    check(VolumeSource(str(scan)))
    check(VolumeSource(str(tmp_path / "b.nii.gz")))
    assert len(entries()) == 1
    assert not list(ingest.folder().glob(".*"))


def test_another_content_is_another_entry(scan: Path) -> None:
    VolumeSource(str(scan))
    write(scan, image_of(noise(shape=SHAPE, seed=1)), compress=True)
    source = VolumeSource(str(scan))
    assert np.array_equal(source.read(WINDOW)[..., 0], noise(shape=SHAPE, seed=1)[WINDOW.slices])
    assert len(entries()) == 2


def test_channels_first_and_last(tmp_path: Path) -> None:
    import SimpleITK as sitk

    values = noise("uint8", (3, 40, 9, 8))
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=False), str(tmp_path / "a.nrrd"), True)
    source = VolumeSource(str(tmp_path / "a.nrrd"), channel=[2, 0])
    whole = Window(start=(0, 0, 0), stop=source.info.shape)
    assert np.array_equal(source.read(whole), values[[2, 0]].transpose(1, 2, 3, 0))
    image = sitk.GetImageFromArray(values.transpose(1, 2, 3, 0).copy(), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "b.mha"), True)
    source = VolumeSource(str(tmp_path / "b.mha"), channel=1)
    assert np.array_equal(source.read(whole)[..., 0], values[1])


def test_a_series_becomes_chunks_when_it_is_read_across(tmp_path: Path) -> None:
    write_series(tmp_path / "series", noise(shape=SHAPE))
    source = VolumeSource(str(tmp_path / "series"))
    source.read(Window(start=(3, 0, 0), stop=(4, 140, 30)))
    assert not entries()
    check(source)
    assert len(entries()) == 1


def test_damaged_and_missing_chunks_are_made_again(
    scan: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = VolumeSource(str(scan))
    rng = np.random.default_rng(0)
    for fault in ("flip", "cut", "empty", "gone", "all gone"):
        (entry,) = entries()
        chunk = entry / "c/0/1/1/0"
        data = bytearray(chunk.read_bytes())
        if fault == "flip":
            data[int(rng.integers(len(data)))] ^= 4
            chunk.write_bytes(data)
        elif fault in ("cut", "empty"):
            chunk.write_bytes(data[: len(data) // 2 if fault == "cut" else 0])
        elif fault == "gone":
            chunk.unlink()
        else:
            shutil.rmtree(entry)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check(source)
        assert "is made again" in caplog.text, fault


def test_every_single_bit_flip_is_noticed(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = VolumeSource(str(scan))
    (entry,) = entries()
    chunk = entry / "c/0/1/1/0"
    data = chunk.read_bytes()
    whole = source._opened.voxels.block().array  # type: ignore[attr-defined]
    for at in np.random.default_rng(1).integers(0, len(data) * 8, 60):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << int(at % 8)
        chunk.write_bytes(flipped)
        with pytest.raises((ValueError, RuntimeError, OSError)):
            whole._read((0, slice(3, 68), slice(100, 140), slice(2, 9)))


def test_a_killed_ingestion_leaves_nothing_that_is_used(
    scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_flush", killed)
        patch.setattr(ingest.shutil, "rmtree", lambda *a, **k: None)  # nobody tidies up after -9
        with pytest.raises(KeyboardInterrupt):
            VolumeSource(str(scan))
    assert not entries()
    assert list(ingest.folder().glob(".*"))
    check(VolumeSource(str(scan)))
    assert not list(ingest.folder().glob(".*"))


PROCESS = """
import sys
from samplat_volume import ingest, stacks
from samplat_volume.source import VolumeSource
from samplat import Window

stacks.IN_MEMORY = 0
write = ingest._write
ingest._write = lambda stack, path: (print("made"), write(stack, path))
source = VolumeSource(sys.argv[1])
print(source.read(Window(start=(3, 100, 2), stop=(68, 140, 9))).sum())
"""


def test_of_several_processes_one_ingests(scan: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(scan)]
    crowd = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate(timeout=120)[0].split() for process in crowd]
    expected = str(noise(shape=SHAPE)[WINDOW.slices].sum(dtype=int))
    assert [words[-1] for words in told] == [expected] * 3
    assert sum("made" in words for words in told) == 1


def test_old_entries_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for seed in range(3):
        image = image_of(noise(shape=SHAPE, seed=seed))
        paths.append(write(tmp_path / f"{seed}.nii.gz", image, compress=True))
    VolumeSource(str(paths[0]))
    size = sum(f.stat().st_size for f in entries()[0].rglob("*") if f.is_file())
    os.utime(entries()[0], (1, 1))
    monkeypatch.setattr(ingest, "QUOTA", int(2.5 * size))
    first = entries()[0]
    VolumeSource(str(paths[1]))
    assert first.is_dir()
    VolumeSource(str(paths[2]))
    assert not first.exists()
    assert len(entries()) == 2


def test_a_full_or_unwritable_disk_is_told(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_write", full)
        with pytest.raises(JobError, match="cannot keep .*No space left.*SAMPLAT_HOME"):
            VolumeSource(str(scan))
    with monkeypatch.context() as patch:
        patch.setattr(ingest.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 9))
        with pytest.raises(JobError, match="where 9 are free; make room"):
            VolumeSource(str(scan))
    assert not entries()


def test_a_cut_file_is_not_ingested(scan: Path) -> None:
    scan.write_bytes(scan.read_bytes()[:-4000])
    with pytest.raises(InputError, match="cut off"):
        VolumeSource(str(scan))
    assert not entries()
    assert not list(ingest.folder().glob(".*"))


def test_samples_are_kept_with_the_voxels_and_made_again_when_damaged(
    scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samplat_volume.source.STRIDED", 0)
    pixels, _ = VolumeSource(str(scan)).thumbnail(64)
    (entry,) = entries()
    kept = entry / "sample-64-0.npz"
    reads: list[object] = []
    read = ingest.Ingested._read
    monkeypatch.setattr(
        ingest.Ingested, "_read", lambda self, index: reads.append(index) or read(self, index)
    )
    assert np.array_equal(VolumeSource(str(scan)).thumbnail(64)[0], pixels)
    assert not reads
    data = bytearray(kept.read_bytes())
    for damaged in (data[: len(data) // 2], data[:-40], b"", b"nothing", bytes(len(data))):
        kept.write_bytes(damaged)
        assert np.array_equal(VolumeSource(str(scan)).thumbnail(64)[0], pixels)
        assert kept.read_bytes() == data
    for at in np.random.default_rng(0).integers(200, len(data) - 200, 6):
        flipped = bytearray(data)
        flipped[at] ^= 16
        kept.write_bytes(flipped)
        assert np.array_equal(VolumeSource(str(scan)).thumbnail(64)[0], pixels)


def test_a_file_is_hashed_once_and_again_when_it_changed(
    scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "SETTLED", -1.0)
    hashed: list[object] = []
    once = ingest.content_key
    monkeypatch.setattr(
        ingest, "content_key", lambda files, how: hashed.append(files) or once(files, how)
    )
    for _ in range(3):
        check(VolumeSource(str(scan)))
    assert len(hashed) == 1
    (kept,) = (ingest.folder() / "keys").iterdir()
    kept.write_text(kept.read_text().replace("a", "b"))
    check(VolumeSource(str(scan)))
    assert len(hashed) == 2
    values = noise(shape=SHAPE)
    values[0, 0, 0] ^= 1
    stat = scan.stat()
    write(scan, image_of(values), compress=True)
    os.utime(scan, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as `touch -r` would
    source = VolumeSource(str(scan))
    assert len(hashed) == 3
    assert source.read(Window(start=(0, 0, 0), stop=(1, 1, 1))).item() == values[0, 0, 0]


def test_a_file_written_just_now_is_hashed_each_time(
    scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(VolumeSource(str(scan)))
    assert not (ingest.folder() / "keys").exists()
