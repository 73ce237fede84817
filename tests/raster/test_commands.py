from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray

from model.small import small_model
from raster.crafted import POISON, UTM, VRT_BOMB, blobs, painted, write
from samplat import fitting_tiles, save_model

Cli = Callable[..., tuple[int, str, str]]
QUICK = ("--segmenter", "colours", "--tile-size", "64", "--halo", "32")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write(tmp_path / "scene.tif", painted(blobs((150, 200), 30)), **UTM)


def outputs_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if "out" in p.name and "job" not in p.name)


def refused(answer: tuple[int, str, str], status: int, told: str) -> None:
    """One line on stderr, nothing on stdout, no traceback."""
    code, out, err = answer
    assert (code, out) == (status, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1, err
    assert told in err
    assert "Traceback" not in err


def test_a_scene_becomes_four_files(samplat: Cli, scene: Path, tmp_path: Path) -> None:
    names = ["out.tif", "out.zarr", "out.parquet", "out.gpkg"]
    outputs = [tmp_path / name for name in names]
    code, out, err = samplat("tile-segment", scene, *outputs, *QUICK)
    assert code == 0
    assert out.splitlines()[1:] == [f"wrote {output}" for output in outputs]
    assert " objects, 12 tiles" in out.splitlines()[0]
    assert "tiles: 12/12" in err
    assert outputs_in(tmp_path) == sorted(names)
    assert (tmp_path / "out.tif.samplat-job" / "run.json").exists()
    with rasterio.open(outputs[0]) as cog:
        ids = np.unique(cog.read(1))
    assert sorted(geopandas.read_parquet(outputs[2])["id"]) == ids[ids > 0].tolist()


def test_the_same_command_again_resumes(samplat: Cli, scene: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.tif"
    samplat("tile-segment", scene, output, *QUICK)
    first = output.read_bytes()
    records = sorted((tmp_path / "out.tif.samplat-job" / "tiles").iterdir())
    dates = [record.stat().st_mtime_ns for record in records]
    code, _, _ = samplat("tile-segment", scene, output, *QUICK, "--executor", "threads")
    assert code == 0
    assert output.read_bytes() == first
    assert [record.stat().st_mtime_ns for record in records] == dates
    refused(samplat("tile-segment", scene, output, *QUICK, "--min-area", 9), 1, "another job")
    assert samplat("tile-segment", scene, output, *QUICK, "--min-area", 9, "--overwrite")[0] == 0


def test_a_dry_run_writes_nothing(samplat: Cli, scene: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = samplat("tile-segment", scene, tmp_path / "out.tif", *QUICK, "--dry-run")
    assert code == 0
    assert "image: 200 x 150 pixels, 3 bands of uint8" in out
    assert "CRS: WGS 84 / UTM zone 14N" in out
    assert f"would write {tmp_path / 'out.tif'} (cog)" in out
    assert sorted(tmp_path.rglob("*")) == before
    gib = re.search(r"about [0-9.]+ min, ([0-9.]+) GiB of memory at most", out)
    assert gib is not None
    assert 0.05 < float(gib[1]) < 64
    assert re.search(r"one tile: [0-9.]+ s, [1-9][0-9]* objects\n", out)


def test_failed_tiles_are_named_and_the_rest_is_written(samplat: Cli, tmp_path: Path) -> None:
    truth = blobs((128, 128), 20)
    truth[100:110, 100:110] = POISON
    scene = write(tmp_path / "scene.tif", painted(truth), **UTM)
    options = ("--segmenter", "colours", "--tile-size", 64, "--halo", 0)
    code, out, err = samplat("tile-segment", scene, tmp_path / "out.tif", *options)
    assert code == 3
    assert "1 of 4 tiles failed and are holes: 3" in err
    assert "4 tiles (1 failed)" in out
    assert outputs_in(tmp_path) == ["out.tif"]


def test_log_json_is_json(samplat: Cli, scene: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.tif"
    code, out, err = samplat("tile-segment", scene, output, *QUICK, "--log-json")
    assert code == 0
    summary = json.loads(out)
    assert summary["files"] == [str(output)]
    assert summary["tiles"] == 12
    stages = {json.loads(line)["stage"] for line in err.splitlines()}
    assert {"tiles", "seams", "labels", "export"} <= stages


def test_options_reach_the_job(samplat: Cli, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(100, 4000, (5, 70, 90)).astype(np.uint16)
    scene = write(tmp_path / "scene.tif", pixels, **UTM)
    chosen = ("--bidx", "5,2,1", "--stretch", "5,95", "--nodata", "100", "--job-dir")
    arguments = (*chosen, tmp_path / "job", "--scale", 2, "--overlaps", "small", "--segmenter")
    code, _, _ = samplat("tile-segment", scene, tmp_path / "out.tif", *arguments, "bright")
    assert code == 0
    run = json.loads((tmp_path / "job" / "run.json").read_bytes())["identity"]
    assert run["image_options"] == {"bidx": [5, 2, 1], "nodata": 100.0}
    assert run["stretch"]["low"][0] == pytest.approx(np.percentile(pixels[4], 5), abs=5)
    assert (run["scales"], run["overlaps"]) == ([2], "small")


# -- what is wrong with the input --------------------------------------------------------------


def cut_off(path: Path) -> Path:
    write(path, np.random.default_rng(0).integers(0, 255, (3, 300, 300)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:100_000])
    return path


def bad_inputs(folder: Path) -> dict[str, tuple[Path, str]]:
    (folder / "notes.txt").write_text("These are my notes.")
    (folder / "notes.tif").write_text("These are my notes.")
    (folder / "bomb.tif").write_text(VRT_BOMB)
    (folder / "zero.tif").write_bytes(
        b"II*\0\x08\0\0\0\x02\0\0\1\3\0\1\0\0\0\0\0\0\0\1\1\3\0\1\0\0\0\5\0\0\0\0\0\0\0"
    )
    radar = write(folder / "radar.tif", np.ones((8, 8), np.complex64))
    return {
        "missing": (folder / "missing.tif", "there is no file"),
        "directory": (folder, "got the directory"),
        "text": (folder / "notes.txt", "is not a raster"),
        "text called tif": (folder / "notes.tif", "is not a raster"),
        "no columns": (folder / "zero.tif", "zero.tif"),
        "complex": (radar, "complex64"),
        "cut off": (cut_off(folder / "cut.tif"), "is cut off at 100000 bytes"),
        "vrt": (folder / "bomb.tif", "is a VRT"),
    }


@pytest.mark.parametrize(
    "fault",
    [
        "missing",
        "directory",
        "text",
        "text called tif",
        "no columns",
        "complex",
        "cut off",
        "vrt",
    ],
)
def test_a_bad_input_is_a_line_and_status_1(samplat: Cli, tmp_path: Path, fault: str) -> None:
    path, told = bad_inputs(tmp_path)[fault]
    outputs = [tmp_path / "out.tif", tmp_path / "out.parquet"]
    refused(samplat("tile-segment", path, *outputs, *QUICK), 1, told)
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


@pytest.mark.parametrize("fault", ["vrt", "cut off", "text"])
def test_the_same_in_a_process_of_its_own(
    tmp_path: Path, environment: dict[str, str], fault: str
) -> None:
    path, told = bad_inputs(tmp_path)[fault]
    command = [sys.executable, "-m", "samplat", "tile-segment", path, tmp_path / "out.tif", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    refused((done.returncode, done.stdout, done.stderr), 1, told)
    assert outputs_in(tmp_path) == []


def test_a_whole_run_in_a_process_of_its_own(
    eval_data: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    scene = eval_data / "geo_nogt_naip_landsat" / "naip_20140720.tif"
    options = ["--segmenter", "bright", "--tile-size", "512", "--halo", "64"]
    command = [sys.executable, "-m", "samplat", "tile-segment", scene, tmp_path / "out.tif"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    with rasterio.open(tmp_path / "out.tif") as cog, rasterio.open(scene) as given:
        assert (cog.crs, cog.transform, cog.shape) == (given.crs, given.transform, given.shape)


def test_all_nodata_is_a_warning_and_an_empty_result(samplat: Cli, tmp_path: Path) -> None:
    zeros = np.zeros((3, 100, 100), np.uint8)
    scene = write(tmp_path / "scene.tif", zeros, nodata=0, **UTM)
    code, out, err = samplat("tile-segment", scene, tmp_path / "out.tif", *QUICK)
    assert code == 0
    assert "warning: the image has no valid pixel" in err
    assert out.startswith("0 objects, 4 tiles (4 skipped)")


def test_no_crs_is_a_warning(samplat: Cli, tmp_path: Path) -> None:
    scene = write(tmp_path / "scene.tif", painted(blobs((60, 60), 5)))
    code, _, err = samplat("tile-segment", scene, tmp_path / "out.parquet", *QUICK)
    assert code == 0
    assert sum("warning: the CRS" in line for line in err.splitlines()) == 1
    assert "NotGeoreferenced" not in err


# -- what is wrong with the model --------------------------------------------------------------


def good_model(path: Path) -> Path:
    save_model(small_model("conv").sam, path, name="small", architecture="conv")
    return path


def bad_model(folder: Path, fault: str) -> tuple[Path, str]:
    path = folder / "model.pth"
    if fault == "text":
        path.write_text("These are not weights.")
        return path, "is not a file of weights"
    if fault == "cut off":
        torch.save({"image_encoder.pos_embed": torch.ones(1, 64, 64, 8)}, path)
        path.write_bytes(path.read_bytes()[:9000])
        return path, "is cut off or damaged"
    if fault == "its defaults":
        facts = {"grid_defaults": '{"box_nms_thresh": 7}'}
        save_model(small_model("conv").sam, path, name="m", architecture="conv", metadata=facts)
        return path, "box_nms_thresh must be in 0..1, got 7"
    torch.save({"image_encoder.patch_embed.proj.weight": torch.ones(384, 3, 16, 16)}, path)
    return path, "a ViT encoder of width 384"


FAULTS = ["another architecture", "text", "cut off", "its defaults"]
ONE_TILE = ("--tile-size", 64, "--halo", 0, "--points-per-side", 1)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_a_bad_model_is_refused_before_anything_is_made(
    samplat: Cli, tmp_path: Path, fault: str, dry: tuple[str, ...]
) -> None:
    scene = write(tmp_path / "scene.tif", painted(blobs((64, 64), 9)), **UTM)
    path, told = bad_model(tmp_path, fault)
    before = sorted(tmp_path.rglob("*"))
    answer = samplat("tile-segment", scene, tmp_path / "out.tif", *ONE_TILE, "--model", path, *dry)
    refused(answer, 1, told)
    assert sorted(tmp_path.rglob("*")) == before


def test_other_thresholds_need_no_encoding(
    samplat: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And labels are the same with a cache and without one, as the job is."""
    scene = write(tmp_path / "scene.tif", painted(blobs((64, 100), 9)), **UTM)
    model = good_model(tmp_path / "good.safetensors")
    loose = ("--tile-size", 64, "--halo", 0, "--points-per-side", 2, "--stability-thresh", 0.1)

    def run(name: str, least: float, *more: Any) -> NDArray[Any]:
        options = (*loose, "--model", model, "--pred-iou-thresh", least, *more)
        code, _, err = samplat("tile-segment", scene, tmp_path / name, *options)
        assert code == 0, err
        with rasterio.open(tmp_path / name) as labels:
            return labels.read(1)

    before = sorted(tmp_path.rglob("*"))
    dry = (*loose, "--model", model, "--cache", tmp_path / "cache", "--dry-run")
    assert samplat("tile-segment", scene, tmp_path / "b.tif", *dry)[0] == 0
    assert sorted(tmp_path.rglob("*")) == before

    plain, first = run("a.tif", -9), run("b.tif", -9, "--cache", tmp_path / "cache")
    assert (plain > 0).any()
    assert np.array_equal(plain, first)
    monkeypatch.setattr("samplat.cache.embed", lambda *_: pytest.fail("encoded again"))
    run("c.tif", 0.5, "--cache", tmp_path / "cache")
    again = run("b.tif", -9, "--cache", tmp_path / "cache", "--overwrite")
    assert np.array_equal(plain, again)


def test_a_segmenter_that_keeps_no_embeddings_is_told_apart(
    samplat: Cli, scene: Path, tmp_path: Path
) -> None:
    answer = samplat("tile-segment", scene, tmp_path / "out.tif", *QUICK, "--cache", tmp_path)
    refused(answer, 1, "keeps no embeddings")


def test_the_job_directory_of_a_refused_model_is_free_for_the_right_one(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    scene = write(tmp_path / "scene.tif", painted(blobs((64, 64), 9)), **UTM)
    options = [*map(str, ONE_TILE), "--job-dir", tmp_path / "job", "--model"]
    command = [sys.executable, "-m", "samplat", "tile-segment", scene, tmp_path / "out.tif"]

    def run(model: Path) -> tuple[int, str, str]:
        given = [*command, *options, model]
        done = subprocess.run(given, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stdout, done.stderr

    for fault in FAULTS:
        path, told = bad_model(tmp_path, fault)
        refused(run(path), 1, told)
    code, _, err = run(good_model(tmp_path / "good.safetensors"))
    assert code == 0, err
    assert outputs_in(tmp_path) == ["out.tif"]


def test_a_bad_model_leaves_the_job_that_it_was_to_replace(
    samplat: Cli, scene: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.tif"
    samplat("tile-segment", scene, output, *QUICK)
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    path, told = bad_model(tmp_path, "text")
    refused(samplat("tile-segment", scene, output, "--model", path, "--overwrite"), 1, told)
    assert {p: p.read_bytes() for p in kept} == kept


def test_offline_never_downloads(
    samplat: Cli, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAMPLAT_OFFLINE", "0")
    arguments = (scene, tmp_path / "out.tif", "--model", "vit_b", "--offline")
    refused(samplat("tile-segment", *arguments), 1, "downloads are switched off")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene.tif"]


# -- Ctrl-C ------------------------------------------------------------------------------------


SLOW_PLUGIN = """
import time
from raster.crafted import Colours, ModelFree
from samplat import hookimpl

class Slow(Colours):
    def __call__(self, pixels, valid):
        time.sleep({seconds})
        return super().__call__(pixels, valid)

@hookimpl
def register_segmenters(register):
    register(ModelFree("slow", Slow()))
"""


def slow_plugin(site: Path, seconds: float) -> None:
    """Installs a segmenter that takes its time."""
    info = site / "samplat_slow-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: samplat-slow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[samplat.plugins]\nslow = slow_segmenter\n")
    (site / "slow_segmenter.py").write_text(SLOW_PLUGIN.format(seconds=seconds))


def first_tile(job_dir: Path) -> None:
    """Waits until a tile is in the ledger."""
    for _ in range(6000):
        if list(job_dir.glob("tiles/*.json")):
            return
        time.sleep(0.01)
    raise TimeoutError(f"no tile in {job_dir}")


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_ctrl_c_stops_with_a_line_and_the_job_resumes(
    scene: Path, tmp_path: Path, environment: dict[str, str], executor: str
) -> None:
    slow_plugin(tmp_path / "site", seconds=0.5)
    job = tmp_path / "job"
    command = [sys.executable, "-B", "-m", "samplat", "tile-segment", scene, tmp_path / "out.tif"]
    command += ["--segmenter", "slow", "--tile-size", "64", "--halo", "0", "--job-dir", job]
    process = subprocess.Popen(
        [*command, "--executor", executor],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a parent that ignores the signal would pass that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    first_tile(job)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "error: stopped; a job resumes with the same command"
    assert "Traceback" not in err
    kept = {p: p.stat().st_mtime_ns for p in job.glob("tiles/*.json")}
    assert 0 < len(kept) < 12
    slow_plugin(tmp_path / "site", seconds=0)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


# -- what is wrong with the rest ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["out.xyz"], 2, "cannot tell the format of"),
        (["out"], 2, "cannot tell the format of"),
        (["nowhere/out.tif"], 1, "there is no directory"),
        (["/proc/out.tif"], 1, "cannot write /proc/out.tif"),
        (["out.tif", "out.tif"], 2, "given twice"),
        (["scene.tif"], 2, "is the input"),
        (["out.tif", "--bidx", "1,,2"], 2, "--bidx takes"),
        (["out.tif", "--bidx", "1,x"], 1, "no band called 'x'; there are: 1 red, 2 green, 3 blue"),
        (["out.tif", "--stretch", "0:9,5"], 2, "--stretch takes values"),
        (["out.tif", "--stretch", "9:0"], 2, "--stretch takes values"),
        (["out.tif", "--stretch", "0:9,0:9"], 1, "expected one range or 3"),
        (["out.tif", "--scales", "1,0"], 2, "--scales takes"),
        (["out.tif", "--scales", "2,2"], 2, "--scales takes"),
        (["out.tif", "--window", "1,2,3"], 2, "--window takes x,y,width,height"),
        (["out.tif", "--window", "1,2,0,3"], 2, "--window takes whole pixels"),
        (["out.tif", "--window", "900,2,9,9"], 1, "outside of the image of 200 x 150 pixels"),
        (["out.tif", "--window", "1,2,3,4", "--bbox", "1,2,3,4"], 2, "give one of them"),
        (["out.tif", "--bbox", "1,2,3"], 2, "--bbox takes x0,y0,x1,y1"),
        (["out.tif", "--bbox", "1,2,3,4"], 1, "outside of the image of 200 x 150 pixels"),
        (["out.tif", "--bbox", "1,2,3,4", "--bbox-crs", "EPSG:x"], 1, "unknown CRS 'EPSG:x'"),
        (["out.tif", "--bbox-crs", "EPSG:4326"], 2, "give that too"),
        (["out.tif", "--gsd", "0"], 1, "in metres above 0, got 0"),
        (["out.tif", "--bidx", "1,2,3,4"], 2, "--bidx takes"),
        (["out.tif", "--bidx", "7"], 1, "there is no band 7"),
        (["out.tif", "--stretch", "98,2"], 2, "--stretch takes"),
        (["out.tif", "--stretch", "contrast"], 2, "--stretch takes"),
        (["out.tif", "--overlaps", "worst"], 2, "--overlaps must be one of best, small, large"),
        (["out.tif", "--executor", "steam"], 2, "--executor must be one of"),
        (["out.tif", "--segmenter", "magic"], 2, "--segmenter must be one of"),
        (["out.tif", "--segmenter", "automatic", "--model", "sam9"], 1, "sam9"),
    ],
)
def test_wrong_usage_is_told_before_any_work(
    samplat: Cli,
    scene: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[Any],
    status: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = scene.read_bytes()
    quick = QUICK if "--segmenter" not in arguments else ()
    refused(samplat("tile-segment", "scene.tif", *arguments, *quick), status, told)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scene.tif"]
    assert scene.read_bytes() == before


def test_a_number_that_is_none_is_wrong_usage(samplat: Cli, scene: Path, tmp_path: Path) -> None:
    code, _, err = samplat("tile-segment", scene, tmp_path / "out.tif", "--tile-size", "0")
    assert code == 2
    assert "--tile-size" in err
    assert "Traceback" not in err


def test_help_is_light() -> None:
    program = (
        "import sys\nfrom samplat import cli\n"
        "try:\n    cli.main(['tile-segment', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'rasterio', 'numpy', 'geopandas', 'shapely', 'zarr'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--points-per-side" in done.stdout


@pytest.mark.parametrize(
    ("seen", "tile_size", "halo", "expected"),
    [
        (1024, None, None, (768, 128)),
        (512, None, None, (384, 64)),
        (512, 1024, None, (1024, 64)),
        (512, None, 100, (312, 100)),
        (512, None, 500, (128, 500)),
        (2, None, None, (1, 1)),
    ],
)
def test_tiles_fill_what_the_model_sees(seen, tile_size, halo, expected):
    assert fitting_tiles(seen, tile_size, halo) == expected
