from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from samplat import cli
from samplat.errors import InputError
from samplat.progress import JsonLines, PlainLines, RichProgress, Silent, choose_progress


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit status, stdout, stderr of one command in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from samplat.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'rasterio', 'scipy', 'zarr', 'pyarrow', 'geopandas'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    for command in ("predict", "models", "plugins", "bench"):
        assert command in done.stdout


def test_the_module_runs_as_a_process() -> None:
    command = [sys.executable, "-c", "from samplat.cli import main; main()", "no-such-command"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run("--version", capsys=capsys)
    assert (status, out.split()[0]) == (0, "samplat")


def test_plugins_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run("plugins", capsys=capsys)
    assert status == 0
    assert "train" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "a.png", "-o", "b.png"),
        ("predict", "a.png", "-o", "b.png", "--point", "1"),
        ("predict", "a.png", "-o", "b.png", "--point", "a,b"),
        ("predict", "a.png", "-o", "b.png", "--box", "1,2,3"),
        ("predict", "a.png", "--point", "1,2"),
        ("predict", "a.png", "-o", "b.png", "--point", "1,2", "--colour", "red"),
    ],
)
def test_wrong_usage_is_status_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(*arguments, capsys=capsys)
    assert status == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("image", "point", "output", "model", "status", "told"),
    [
        ("picture.png", "99,3", "mask.png", "vit_b", 1, "point (99, 3) lies outside of the image"),
        ("missing.png", "3,3", "mask.png", "vit_b", 1, "missing.png is not a file"),
        (".", "3,3", "mask.png", "vit_b", 1, "expected a picture file"),
        ("notes.txt", "3,3", "mask.png", "vit_b", 1, "cannot read notes.txt as a picture"),
        ("picture.png", "3,3", "mask.png", "vit-b", 1, "did you mean vit_b"),
        ("picture.png", "3,3", "mask.png", "notes.txt", 1, "notes.txt is not a file of weights"),
        ("picture.png", "3,3", "mask.png", "vit_b", 1, "downloads are switched off"),
        ("picture.png", "3,3", "no/mask.png", "vit_b", 1, "cannot write no/mask.png: there is no"),
        ("picture.png", "3,3", "/proc/mask.png", "vit_b", 1, "cannot write /proc/mask.png"),
        ("picture.png", "3,3", "folder.png", "vit_b", 1, "folder.png: it is a directory"),
        ("picture.png", "3,3", "mask.xyz", "vit_b", 2, "end its name in .png, got 'mask.xyz'"),
        ("picture.png", "3,3", "mask.jpg", "vit_b", 2, "end its name in .png, got 'mask.jpg'"),
    ],
)
def test_what_predict_refuses(
    image: str,
    point: str,
    output: str,
    model: str,
    status: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SAMPLAT_OFFLINE", "0")
    Image.new("RGB", (20, 10)).save("picture.png")
    Path("notes.txt").write_text("hello")
    Path("folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    arguments = ("predict", image, "--point", point, "-o", output, "--model", model, "--offline")
    ended, out, err = run(*arguments, capsys=capsys)
    assert (ended, out) == (status, "")
    assert told in " ".join(err.split())
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1 or status == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_predict_encodes_a_picture_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMPLAT_HOME", str(tmp_path / "home"))
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[15:45, 20:60] = (220, 90, 30)
    Image.fromarray(picture).save("picture.png")
    arguments = ("predict", "picture.png", "--box", "18,13,62,47", "-o")
    assert run(*arguments, "plain.png", "--no-cache", capsys=capsys)[0] == 0
    assert not (tmp_path / "home").exists()
    assert run(*arguments, "first.png", capsys=capsys)[0] == 0

    def fail(*_: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr("samplat.cache.embed", fail)
    assert run(*arguments, "second.png", capsys=capsys)[0] == 0
    plain, first, second = (
        np.asarray(Image.open(f"{n}.png")) for n in ("plain", "first", "second")
    )
    assert np.array_equal(plain, first)
    assert (first != second).mean() < 0.001  # float16 on disk, where a model runs in fp32


def test_ctrl_c_is_a_line_and_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "check_file", stop)
    status, out, err = run("predict", "a.png", "--point", "1,2", "-o", "b.png", capsys=capsys)
    assert (status, out) == (130, "")
    assert err == "error: stopped; a job resumes with the same command\n"


def test_unexpected_errors_are_one_line_unless_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> typer.Typer:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(cli, "build_app", fail)
    status, _, err = run("plugins", capsys=capsys)
    assert status == 1
    assert err == "error: unexpected RuntimeError: two lines (SAMPLAT_DEBUG=1 shows where)\n"
    monkeypatch.setenv("SAMPLAT_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli.main(["plugins"])


def test_a_point_that_starts_with_a_minus_is_on_the_background() -> None:
    assert cli.parse_points(["3,4", "-5,6.5"]) == ([(3.0, 4.0), (5.0, 6.5)], [1, 0])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16", "CMYK"])
def test_pictures_of_any_mode_are_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.tif"
    Image.new(mode, (7, 5)).save(path)
    assert cli.read_picture(path).shape[:2] == (5, 7)


def test_what_is_not_a_picture_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.png"
    text.write_text("hello")
    cut = tmp_path / "b.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:900])
    for path in (text, cut, tmp_path, tmp_path / "none.png"):
        with pytest.raises(InputError, match="picture"):
            cli.read_picture(path)


def test_a_mask_is_written_whole(tmp_path: Path) -> None:
    mask = np.array([[True, False]])
    cli.write_mask(tmp_path / "mask.png", mask)
    with Image.open(tmp_path / "mask.png") as picture:
        assert np.asarray(picture).tolist() == [[255, 0]]
    assert len(list(tmp_path.iterdir())) == 1


def test_plain_lines_tell_start_and_end() -> None:
    stream = io.StringIO()
    progress = PlainLines(stream)
    progress.start("tiles", 3)
    progress.advance("tiles", 3)
    progress.message("tile 2 failed")
    progress.finish("tiles")
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["tiles: 3 to do", "tile 2 failed"]
    assert lines[2].startswith("tiles: 3/3 in ")


def test_json_lines_are_json() -> None:
    stream = io.StringIO()
    progress = JsonLines(stream)
    progress.interval = 0.0
    progress.start("tiles", 2)
    progress.advance("tiles")
    progress.finish("tiles")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(e["event"], e["done"], e["total"]) for e in events] == [
        ("start", 0, 2),
        ("progress", 1, 2),
        ("finish", 1, 2),
    ]


def test_the_stream_chooses_the_progress() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(choose_progress(io.StringIO()), PlainLines)
    assert isinstance(choose_progress(Terminal()), RichProgress)
    assert isinstance(choose_progress(Terminal(), log_json=True), JsonLines)
    assert isinstance(choose_progress(Terminal(), quiet=True), Silent)


def test_a_bar_survives_several_stages(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RichProgress()
    for stage in ("tiles", "seams"):
        progress.start(stage, 2)
        progress.advance(stage, 2)
        progress.message(f"{stage} [done]")
        progress.finish(stage)
    assert "tiles [done]" in capsys.readouterr().err


def test_bench_tells_the_machine_and_every_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "speed.json"
    arguments = ("--size", "64", "--points-per-side", "1", "--runs", "1", "--precision", "bf16")
    status, out, _ = run("bench", *arguments, "--json", str(output), capsys=capsys)
    assert status == 0
    assert "samplat-tiny" in out
    figures = json.loads(output.read_text())
    assert set(figures["machine"]["teraflops"]) == {"fp32", "bf16"}
    assert set(figures["rows"]) == {"encode", "prompt", "automatic", "tile"}
    for row in figures["rows"].values():
        assert row["seconds"] > 0
        assert row["pixels_per_second"] == pytest.approx(64 * 64 / row["seconds"])


@pytest.mark.parametrize(
    "arguments", [("--precision", "fp8"), ("--model", "no-such"), ("--json", "/no/such/folder/x")]
)
def test_bench_refuses_before_it_works(
    arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run("bench", *arguments, capsys=capsys)
    assert status == 1
    assert arguments[1].split("/")[-1] in err or "folder" in err
    assert not out
