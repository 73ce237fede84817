from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from samplat import places
from samplat.errors import InputError, JobError
from samplat.files import atomic_file, digest, local_file, read_sealed, sha256, write_sealed
from samplat.places import RemotePath, place


def test_a_text_names_a_place(tmp_path: Path) -> None:
    assert place("a/b") == Path("a/b")
    assert place(tmp_path) == tmp_path
    assert place(f"file://{tmp_path}/with%20space") == tmp_path / "with space"
    assert place("s3://bucket/job/") == RemotePath("s3://bucket/job")
    assert str(place("s3://bucket/job") / "a" / "b.json") == "s3://bucket/job/a/b.json"
    assert place("s3://bucket/a/b").parent == RemotePath("s3://bucket/a")
    assert place("s3://bucket/a").with_name("c") == RemotePath("s3://bucket/c")
    with pytest.raises(InputError, match="this machine"):
        place("file://elsewhere/a")


@pytest.fixture(params=["memory", "s3"])
def folder(request: pytest.FixtureRequest) -> RemotePath:
    found: RemotePath = request.getfixturevalue(request.param)
    return found / "job"


def test_what_is_written_is_read(folder: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "CHUNK", 4)
    file = folder / "a" / "b.bin"
    for data in (b"", b"123", b"1234", b"123456789"):
        file.write_bytes(data)
        assert file.read_bytes() == data
        assert digest(file) == sha256(data)
        with local_file(file) as copy:
            assert Path(copy.name).read_bytes() == data
    with atomic_file(file) as written:
        written.write(b"long")
    assert file.read_bytes() == b"long"
    assert file.exists()
    assert (folder / "a").is_dir()
    assert [p.name for p in folder.iterdir()] == ["a"]
    assert list((folder / "a").iterdir()) == [file]


def test_of_several_that_create_a_file_one_does(folder: RemotePath) -> None:
    file = folder / "one"
    assert file.create(b"mine")
    assert not file.create(b"yours")
    assert file.create(b"mine")  # as after an answer that was lost
    assert file.read_bytes() == b"mine"


def test_what_is_removed_is_gone(folder: RemotePath) -> None:
    for name in ("a/1", "a/b/2", "3"):
        (folder / name).write_bytes(b"x")
    (folder / "a").remove_tree()
    (folder / "a").remove_tree()
    assert [p.name for p in folder.iterdir()] == ["3"]
    (folder / "3").unlink()
    (folder / "3").unlink(missing_ok=True)
    assert list(folder.iterdir()) == []
    assert not (folder / "3").exists()
    with pytest.raises(FileNotFoundError):
        (folder / "3").read_bytes()
    assert digest(folder / "3") is None


def test_folders_are_uploaded_with_what_describes_them_last(
    folder: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("zarr.json", "c/0/0", "c/zarr.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    sent: list[str] = []
    real = RemotePath._try

    def noted(self: RemotePath, verb: str, work: Callable[..., Any]) -> Any:
        sent.append(str(self).removeprefix(f"{folder}/"))
        return real(self, verb, work)

    monkeypatch.setattr(RemotePath, "_try", noted)
    folder.upload(tmp_path)
    assert sent == ["c/0/0", "c/zarr.json", "zarr.json"]
    assert (folder / "c/0/0").read_bytes() == b"c/0/0"


def test_seals_hold_in_stores(folder: RemotePath) -> None:
    file = folder / "x.json"
    assert read_sealed(file) is None
    write_sealed(file, {"a": [1, 2]})
    assert read_sealed(file) == {"a": [1, 2]}
    file.write_bytes(file.read_bytes()[:-5])
    assert read_sealed(file) is None


class Flaky:
    """Fails some times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error, self.calls = times, error, 0

    def __call__(self, *_: Any, **__: Any) -> bytes:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return b"data"


def test_a_store_that_does_not_answer_is_asked_again(
    memory: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PAUSES", (0, 0, 0))
    flaky = Flaky(3, ConnectionResetError("reset"))
    monkeypatch.setattr(MemoryFileSystem, "cat_file", flaky)
    assert (memory / "x").read_bytes() == b"data"
    assert flaky.calls == 4
    lost = Flaky(99, TimeoutError("no answer"))
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lost)
    with pytest.raises(JobError, match=r"cannot read memory://.*no answer.*it resumes"):
        read_sealed(memory / "x")  # and does not say that there is nothing
    assert lost.calls == 4


@pytest.mark.parametrize(
    ("error", "said"),
    [(PermissionError("denied"), "credentials"), (FileNotFoundError("no bucket"), "make the buc")],
)
def test_what_another_try_does_not_mend_is_said_at_once(
    error: Exception, said: str, memory: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Flaky(99, error)
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refused)
    with pytest.raises(JobError, match=said):
        (memory / "x").write_bytes(b"1")
    assert refused.calls == 1


def test_a_missing_bucket_is_not_made(s3: RemotePath) -> None:
    missing = RemotePath("s3://nobody-made-this")
    with pytest.raises(JobError, match="make the bucket"):
        (missing / "x").write_bytes(b"1")
    (missing / "folder").mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match="make the bucket"):
        (missing / "x").check_writable()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.core

    def missing(*_: Any, **__: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    with pytest.raises(InputError, match=r"knows nix://"):
        RemotePath("nix://a/b").exists()
    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(InputError, match=r"pip install 'samplat\[remote\]'"):
        RemotePath("s3://a/b").exists()
    with pytest.raises(InputError, match=r"install gcsfs"):
        RemotePath("gs://a/b").exists()
