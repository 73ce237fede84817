from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import samplat_volume
from samplat import Registry, SegmentJob, SourceSpec, Window, plan
from samplat.plugins import collect, load_plugins
from samplat_volume.source import VolumeSource
from volume.scans import image_of, noise, write, write_series
from volume.test_source import ome_zarr


@pytest.fixture(scope="module")
def tools() -> Registry:
    points = [
        EntryPoint(name=name, value=f"samplat_{name}", group="samplat.plugins")
        for name in ("raster", "volume")
    ]
    loaded = load_plugins(points)
    assert [info.status for info in loaded.infos] == ["ready", "ready"]
    return collect(loaded.manager)


def test_the_plugin_opens_volumes_beside_rasters(tools: Registry, tmp_path: Path) -> None:
    assert tools.source_for("scan.nii.gz").name == "volume"
    write_series(tmp_path, noise())
    assert tools.source_for(str(tmp_path)).name == "volume"
    assert tools.source_for("scene.tif").name == "raster"
    assert tools.rescaler("window").name == "window"
    assert samplat_volume.REQUIRES


def test_overrides_are_recorded_in_the_job(tools: Registry, tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.nii", image_of(noise())))

    def planned(**options: object) -> dict[str, object]:
        spec = SourceSpec(path=path, factory="volume", options=options)
        job = SegmentJob(
            source=spec,
            job_dir=str(tmp_path / "job"),
            rescaler="window",
            rescaler_options={"window": "400,40"},
        )
        return dict(plan(job, tools).identity)

    plain, stated = planned(), planned(spacing=[1, 2, 3])
    assert stated["image_options"] == {"spacing": [1, 2, 3]}
    assert plain["image"] != stated["image"]
    assert plain["stretch"] == {"low": (-160.0,), "high": (240.0,)}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 its name there
        pass


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_behind_a_url(tmp_path: Path, version: str) -> None:
    values = noise("uint16")
    ome_zarr(tmp_path / "a.zarr", values, version)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        source = VolumeSource(f"http://127.0.0.1:{server.server_port}/a.zarr")
        window = Window(start=(1, 3, 2), stop=(4, 18, 9))
        assert np.array_equal(source.read(window)[..., 0], values[window.slices])
    finally:
        server.shutdown()
        server.server_close()
