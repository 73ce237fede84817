"""`samplat export`: more files of a job that has run, without its image and its model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio

from raster.crafted import POISON, UTM, blobs, painted, write
from samplat import JobError, open_result
from samplat.files import read_sealed, write_sealed

Cli = Callable[..., tuple[int, str, str]]
QUICK = ("--segmenter", "colours", "--tile-size", "64", "--halo", "32")


@pytest.fixture
def job(samplat: Cli, tmp_path: Path) -> Path:
    """The directory of a finished job, whose image is gone; it wrote `first.parquet`."""
    scene = write(tmp_path / "scene.tif", painted(blobs((150, 200), 30)), **UTM)
    code, _, err = samplat(
        "tile-segment", scene, tmp_path / "first.parquet", *QUICK, "--job-dir", tmp_path / "job"
    )
    assert code == 0, err
    scene.unlink()
    return tmp_path / "job"


def refused(answer: tuple[int, str, str], told: str, status: int = 1) -> None:
    code, out, err = answer
    assert (code, out) == (status, "")
    assert err.splitlines()[-1].startswith("error: ")
    assert told in err
    assert "Traceback" not in err


def test_what_is_exported_later_is_what_the_run_would_have_written(
    samplat: Cli, job: Path, tmp_path: Path
) -> None:
    names = ["later.parquet", "later.fgb", "later.geojson", "later.tif", "later.zarr"]
    outputs = [tmp_path / name for name in names]
    code, out, err = samplat("export", job, *outputs)
    assert code == 0, err
    assert out.splitlines() == [f"wrote {output}" for output in outputs]
    assert "export: 5/5" in err
    assert outputs[0].read_bytes() == (tmp_path / "first.parquet").read_bytes()
    ids = sorted(geopandas.read_parquet(outputs[0])["id"])
    assert sorted(geopandas.read_file(outputs[1])["id"]) == ids
    assert sorted(geopandas.read_file(outputs[2])["id"]) == ids
    with rasterio.open(outputs[3]) as cog:
        assert np.unique(cog.read(1))[1:].tolist() == ids
        assert cog.crs == UTM["crs"]
        assert cog.transform == UTM["transform"]


def test_the_directory_may_have_moved(samplat: Cli, job: Path, tmp_path: Path) -> None:
    moved = job.rename(tmp_path / "moved")
    code, _, err = samplat("export", moved, tmp_path / "later.parquet")
    assert code == 0, err
    assert (tmp_path / "later.parquet").read_bytes() == (tmp_path / "first.parquet").read_bytes()


def test_a_result_is_the_same_from_its_directory(job: Path) -> None:
    with open_result(job) as result:
        assert result.info.shape == (1, 150, 200)
        assert rasterio.crs.CRS.from_wkt(result.info.crs).to_epsg() == 32614
        assert (result.job.tile_size, result.job.segmenter) == (64, "colours")
        assert len(result.grid) == len(result.tiles) == 12
        assert result.run.found_by == "colours"


def test_summaries_as_json(samplat: Cli, job: Path, tmp_path: Path) -> None:
    _, out, _ = samplat("export", job, tmp_path / "out.gpkg", "--log-json")
    told = json.loads(out)
    assert told["event"] == "summary"
    assert told["files"] == [str(tmp_path / "out.gpkg")]
    assert told["objects"] == len(geopandas.read_file(tmp_path / "out.gpkg"))


def test_failed_tiles_are_told_again(samplat: Cli, tmp_path: Path) -> None:
    truth = blobs((128, 128), 30)
    truth[100:110, 100:110] = POISON
    scene = write(tmp_path / "scene.tif", painted(truth), **UTM)
    job = tmp_path / "job"
    code, _, _ = samplat(
        "tile-segment", scene, tmp_path / "a.fgb", *QUICK[:-1], 0, "--job-dir", job
    )
    assert code == 3
    code, _, err = samplat("export", job, tmp_path / "out.tif")
    assert code == 3
    assert "1 of 4 tiles failed and are holes: 3" in err
    with rasterio.open(tmp_path / "out.tif") as cog:
        assert (cog.read(1)[64:, 64:] == cog.nodata).all()


def test_simplified_polygons_later(samplat: Cli, job: Path, tmp_path: Path) -> None:
    code, _, err = samplat("export", job, tmp_path / "out.parquet", "--simplify", "1")
    assert code == 0, err
    simple = geopandas.read_parquet(tmp_path / "out.parquet")
    exact = geopandas.read_parquet(tmp_path / "first.parquet")
    assert simple["id"].tolist() == exact["id"].tolist()
    assert simple.count_coordinates().sum() < 0.6 * exact.count_coordinates().sum()


def test_no_job_at_all(samplat: Cli, tmp_path: Path) -> None:
    refused(samplat("export", tmp_path, tmp_path / "out.fgb"), "is no job directory")
    refused(samplat("export", tmp_path / "none", tmp_path / "out.fgb"), "is no job directory")
    assert not (tmp_path / "none").exists()


def test_wrong_outputs_are_refused_first(samplat: Cli, job: Path, tmp_path: Path) -> None:
    refused(samplat("export", job, tmp_path / "out.doc"), "cannot tell the format", 2)
    refused(samplat("export", job, tmp_path / "none" / "out.fgb"), "there is no directory")


def last(folder: Path) -> Path:
    return sorted(p for p in folder.rglob("*") if p.is_file())[-1]


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("tiles", "not finished: 11 of 12 tiles are; run its command again"),
        ("painted", "not finished: the labels of 1 of 12 tiles are missing; run its command again"),
        ("seams", "not finished, no object has a name; run its command again"),
        ("labels", "run the job's command again, it mends what is damaged"),
    ],
)
def test_an_unfinished_job_is_refused_with_what_to_do(
    samplat: Cli, job: Path, tmp_path: Path, folder: str, told: str
) -> None:
    last(job / folder if folder != "labels" else job / "labels" / "c").unlink()
    before = sorted(p.name for p in tmp_path.iterdir())
    refused(samplat("export", job, tmp_path / "out.fgb"), told)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_damaged_run_json_is_refused(samplat: Cli, job: Path, tmp_path: Path) -> None:
    run = job / "run.json"
    run.write_bytes(run.read_bytes().replace(b"colours", b"colored"))
    refused(samplat("export", job, tmp_path / "out.fgb"), "run.json is damaged")


def test_a_job_of_an_older_version_is_refused_until_it_runs_again(
    samplat: Cli, tmp_path: Path
) -> None:
    scene = write(tmp_path / "scene.tif", painted(blobs((100, 90), 9)), **UTM)
    job = tmp_path / "job"
    command = ("tile-segment", scene, tmp_path / "a.fgb", *QUICK, "--job-dir", job)
    samplat(*command)
    run = read_sealed(job / "run.json")
    assert run is not None
    created = run["provenance"]["created"]
    del run["provenance"]["result"]
    write_sealed(job / "run.json", run)
    refused(samplat("export", job, tmp_path / "b.fgb"), "written by another version")
    assert samplat(*command)[0] == 0
    assert samplat("export", job, tmp_path / "b.fgb")[0] == 0
    assert (read_sealed(job / "run.json") or {})["provenance"]["created"] == created


def test_a_job_that_is_running_is_refused(samplat: Cli, job: Path, tmp_path: Path) -> None:
    with open_result(job):
        refused(samplat("export", job, tmp_path / "out.fgb"), "in use by process")
        with pytest.raises(JobError, match="in use"), open_result(job):
            pass
