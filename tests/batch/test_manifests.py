"""Manifests, and everything about a batch that is found wrong before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch.inputs import QUICK, write_manifest, write_plate
from samplat.batch.manifest import read_manifest
from samplat.errors import InputError

Samplat = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_each_row_has_options_of_its_own(suffix: str, folder: Path, samplat: Samplat) -> None:
    (folder / "lists").mkdir()
    rows: list[dict[str, Any]] = [
        {"input": "../one.nii.gz", "name": "first", "tile-size": None, "min_volume": 2.5},
        {"input": "../scene.tif", "output": "a/scene.gpkg", "tile-size": 32, "nested": True},
        {"input": "../scene.tif", "name": "again", "kind": "raster", "nested": False},
    ]
    manifest = write_manifest(folder / f"lists/items{suffix}", rows)
    quick = ("--set", "segmenter=threshold", "--set", "raster.halo=8", "--set", "tile-size=40")
    code, told, err = samplat("batch", "--manifest", manifest, *quick)
    assert code == 0, told + err
    written = {
        str(p.relative_to("segmented")) for p in Path("segmented").rglob("*.*") if p.is_file()
    }
    assert {"first.nii.gz", "a/scene.gpkg", "again.tif"} <= written
    jobs = Path("segmented/samplat-batch/jobs")
    done = {p.name: json.loads((p / "run.json").read_text())["identity"] for p in jobs.iterdir()}
    assert done["scene"]["tile_size"] == 32
    assert done["scene"]["nested"] is True
    assert done["again"]["tile_size"] == 40
    assert "nested" not in done["again"]
    assert done["first"]["min_area"] == 2.5


def test_prompts_of_a_row_start_from_the_folder_of_the_manifest(
    folder: Path, samplat: Samplat
) -> None:
    (folder / "lists").mkdir()
    (folder / "lists/points.csv").write_text("x,y\n500010,4999990\n")
    manifest = folder / "lists/items.csv"
    manifest.write_text("input,prompts\n../scene.tif,points.csv\n../one.nii.gz,\n")
    code, told, err = samplat("batch", "--manifest", manifest, "--dry-run")
    assert code == 0, err
    assert f"prompts={folder / 'lists/points.csv'}" in told
    assert "one: volume" in told


WRONG = [
    ("image\none.nii.gz\n", "has no column 'input'; expected one with the path of each image"),
    ("input,input\na,b\n", "has the column 'input' twice"),
    ("input,tile_sise\nscene.tif,3\n", "column 'tile_sise', which is no option of tile-segment or"),
    ("input,tile_sise\nscene.tif,3\n", "did you mean tile_size?"),
    ("input\n", "has no rows"),
    ("", "has no column 'input'"),
    ("input,halo\nscene.tif\n", "row 1 has 1 cells, the header 2"),
    ("input,halo\n,3\n", "row 1, column input is empty"),
    ("input\nscene.tif\nthere.tif\n", "row 2, column input: there is no file or folder"),
    ("input,halo\nscene.tif,1\none.nii.gz,x\n", "row 2: "),
    ("input,halo\nscene.tif,x\n", "'--halo'"),
    ("input,halo\nscene.tif,-1\n", "row 1: "),
    ("input,stretch\nscene.tif,9:1\n", "row 1: --stretch takes values low:high"),
    ("input,plane\nscene.tif,z\n", "row 1, column plane: tile-segment has no such option"),
    ("input,nested\nscene.tif,perhaps\n", "row 1: expected true or false, got 'perhaps'"),
    ("input,kind\nscene.tif,picture\n", "row 1, column kind is 'picture'; expected one of raster"),
    ("input,output\nscene.tif,x.doc\n", "row 1: cannot tell the format of"),
    ("input,output\nscene.tif,../x.tif\n", "row 1: ../x.tif lies outside of the output folder"),
    ("input,output\nscene.tif,x.tif\none.nii.gz,x.tif\n", "row 2: "),
    ("input,output\nscene.tif,x.tif\none.nii.gz,x.tif\n", "x.tif is also the output of items.csv"),
    ("input\nscene.tif\nscene.tif\n", "row 2: items.csv row 1 is called 'scene' too"),
    ("input,prompts\nscene.tif,none.csv\n", "row 1, column prompts: there is no file none.csv"),
    ("input,prompts\nscene.tif,one.nii.gz\n", "one.nii.gz is of no use to a raster; expected one"),
    ("input,prompts\none.nii.gz,scene.gpkg\n", "scene.gpkg is of no use to a volume"),
    ("input,name\nplate.zarr,x\n", "row 1 is a folder of 4 images, which cannot all be called"),
    ("input,job_dir\nscene.tif,x\n", "column 'job_dir', which is no option"),
    ("input\nempty\n", "row 1, column input: empty is nothing for tile-segment or volume-segment"),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_what_is_wrong_with_a_manifest_is_said_before_any_work(
    text: str, told: str, folder: Path, samplat: Samplat
) -> None:
    (folder / "items.csv").write_text(text)
    (folder / "scene.gpkg").write_text("")
    (folder / "empty").mkdir()
    write_plate(folder / "plate.zarr")
    code, out, err = samplat("batch", "--manifest", "items.csv", *QUICK[:2])
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
    assert not Path("segmented").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", None, "cannot read the manifest a.csv: No such file"),
        ("a.csv", b"input\n\xff\xfe\n", "cannot read the manifest a.csv"),
        ("a.txt", b"input\n", "a.txt is no manifest; expected one of .csv"),
        ("a.json", b'{"input": "x"}', "it holds dict, no list"),
        ("a.json", b'["x"]', 'row 1 is "x", no object'),
        ("a.json", b"[", "cannot read the manifest a.json"),
        ("a.jsonl", b'{"input": 1}\n{', "cannot read the manifest a.jsonl"),
        ("a.parquet", b"PAR1", "cannot read the manifest a.parquet"),
    ],
)
def test_a_manifest_that_cannot_be_read(
    name: str, content: bytes | None, told: str, folder: Path
) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read_manifest(Path(name))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "there is nothing to do: name inputs, or give --manifest"),
        (("*.png",), "no file matches *.png"),
        (("none.tif",), "none.tif: there is no file or folder none.tif"),
        (("scene.tif", "--kind", "picture"), "there is no kind 'picture'"),
        (("scene.tif", "--set", "halo"), "--set takes NAME=VALUE"),
        (("scene.tif", "--set", "hallo=3"), "has no such option; did you mean halo?"),
        (("scene.tif", "--set", "map.halo=3"), "--set map.halo: there is no kind 'map'"),
        (("scene.tif", "--set", "raster.plane=z"), "tile-segment has no such option"),
        (("scene.tif", "--to", ".doc"), "cannot tell the format"),
        (("scene.tif", "one.nii.gz", "-o", "."), "is the input of"),
        (("scene.tif", "-o", "one.nii.gz"), "choose another"),
        (("scene.tif", "--executor", "steam"), "--executor must be one of"),
    ],
)
def test_wrong_usage_ends_with_2(
    arguments: tuple[str, ...], told: str, folder: Path, samplat: Samplat
) -> None:
    code, _, err = samplat("batch", *arguments)
    assert (code, told in err) == (2, True), err


@pytest.mark.parametrize("kind", ["raster", "volume"])
def test_a_kind_is_chosen_where_a_name_may_be_either(
    kind: str, folder: Path, samplat: Samplat
) -> None:
    code, told, _ = samplat("batch", "scene.tif", "--kind", kind, "--dry-run")
    assert code == 0
    assert f"scene: {kind}" in told
