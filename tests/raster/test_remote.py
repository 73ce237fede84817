"""Rasters behind URLs and in buckets, over the loopback of this computer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.shutil import copy

from raster.crafted import UTM, write
from samplat import InputError, Window
from samplat_raster.source import RasterSource

SIDE = 3072


@dataclass(frozen=True)
class Server:
    port: int
    log: Path

    @property
    def sent(self) -> int:
        """Bytes that were sent so far."""
        return sum(int(line.split()[2]) for line in self.log.read_text().splitlines())

    @property
    def statuses(self) -> set[str]:
        return {line.split()[0] for line in self.log.read_text().splitlines()}


@contextmanager
def served(path: Path, log: Path, *secret: str) -> Iterator[Server]:
    # in a process of its own: GDAL waits for an answer without letting other threads run
    log.touch()
    program = str(Path(__file__).with_name("serve.py"))
    command = [sys.executable, program, str(path), str(log), *secret]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(port=int(process.stdout.readline()), log=log)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COG of 19 MB of noise, which no compression makes smaller, with overviews."""
    folder = tmp_path_factory.mktemp("cog")
    pixels = np.random.default_rng(0).integers(1, 4000, (1, SIDE, SIDE)).astype(np.uint16)
    plain = write(folder / "plain.tif", pixels, tiled=True, **UTM)
    copy(str(plain), str(folder / "a.tif"), driver="COG", BLOCKSIZE=256, OVERVIEWS="AUTO")
    return folder / "a.tif"


def corner(source: RasterSource) -> Any:
    return source.read(Window(start=(0, 1000, 2000), stop=(1, 1300, 2200)))


def test_only_the_ranges_that_are_needed_are_read_of_a_cog(cog: Path, tmp_path: Path) -> None:
    with served(cog, tmp_path / "log") as server:
        source, local = (
            RasterSource(f"http://127.0.0.1:{server.port}/a.tif"),
            RasterSource(str(cog)),
        )
        assert source.info == local.info
        assert server.sent < 0.01 * cog.stat().st_size
        assert np.array_equal(corner(source), corner(local))
        # six blocks of 256, of 144: 4 %
        assert server.sent < 0.08 * cog.stat().st_size
        before = server.sent
        for ours, theirs in zip(source.thumbnail(400), local.thumbnail(400), strict=True):
            assert np.array_equal(ours, theirs)
        # an eighth of the resolution: 1.6 %
        assert server.sent - before < 0.05 * cog.stat().st_size
        source.close()
        assert server.statuses == {"200", "206"}


def test_a_coarse_distance_needs_few_bytes_of_a_cog(cog: Path, tmp_path: Path) -> None:
    with served(cog, tmp_path / "log") as server:
        url = f"http://127.0.0.1:{server.port}/a.tif"
        source, local = RasterSource(url, gsd=4.0), RasterSource(str(cog), gsd=4.0)
        whole = Window(start=(0, 0, 0), stop=source.info.shape)
        assert source.info.shape == (1, SIDE // 8, SIDE // 8)
        assert np.array_equal(source.read(whole), local.read(whole))
        assert server.sent < 0.05 * cog.stat().st_size
        source.close()


def test_a_part_of_a_url_is_a_job_of_few_bytes(
    cog: Path, tmp_path: Path, samplat: Callable[..., tuple[int, str, str]]
) -> None:
    with served(cog, tmp_path / "log") as server:
        url = f"http://127.0.0.1:{server.port}/a.tif"
        part = ("--window", "1000,500,300,200", "--tile-size", "256", "--halo", "32")
        arguments = (*part, "--segmenter", "bright", "--job-dir", tmp_path / "job")
        code, _, err = samplat("tile-segment", url, tmp_path / "out.tif", *arguments)
        assert code == 0, err
        # a quarter is the overview that the stretch is fitted to
        assert server.sent < 0.35 * cog.stat().st_size
    with rasterio.open(tmp_path / "out.tif") as labels, rasterio.open(cog) as given:
        assert labels.shape == (200, 300)
        assert labels.transform @ (0, 0) == given.transform @ (1000, 500)
        assert labels.crs == given.crs
    run = json.loads((tmp_path / "job" / "run.json").read_bytes())
    assert run["identity"]["window"] == {"start": [0, 500, 1000], "stop": [1, 700, 1300]}


def store(monkeypatch: pytest.MonkeyPatch, port: int, **options: str) -> None:
    given = {"AWS_S3_ENDPOINT": f"127.0.0.1:{port}", "AWS_HTTPS": "NO"}
    for name, value in {**given, "AWS_VIRTUAL_HOSTING": "FALSE", **options}.items():
        monkeypatch.setenv(name, value)


def test_a_public_bucket_is_read_in_place(
    cog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(cog, tmp_path / "log") as server:
        store(monkeypatch, server.port, AWS_NO_SIGN_REQUEST="YES")
        source = RasterSource("s3://bucket/a.tif")
        assert np.array_equal(corner(source), corner(RasterSource(str(cog))))
        assert server.sent < 0.08 * cog.stat().st_size
        source.close()
        with pytest.raises(InputError, match="cannot open s3://bucket/b.tif"):
            RasterSource("s3://bucket/b.tif")


def test_a_private_bucket_is_read_with_its_keys(
    cog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = {"AWS_ACCESS_KEY_ID": "someone", "AWS_REGION": "eu-north-1"}
    right, wrong = ({"AWS_SECRET_ACCESS_KEY": f"{how} horse"} for how in ("correct", "wrong"))
    moved = tmp_path / "private.tif"
    moved.hardlink_to(cog)
    with served(moved, tmp_path / "log", "correct horse") as server:
        store(monkeypatch, server.port, **region, **right)
        source = RasterSource("s3://bucket/private.tif")
        assert np.array_equal(corner(source), corner(RasterSource(str(cog))))
        source.close()
        assert server.statuses <= {"200", "206"}
    with served(moved, tmp_path / "log2", "correct horse") as server:
        store(monkeypatch, server.port, **region, **wrong)
        with pytest.raises(InputError, match="cannot open s3://bucket/private.tif"):
            RasterSource("s3://bucket/private.tif")
        assert server.statuses == {"403"}
