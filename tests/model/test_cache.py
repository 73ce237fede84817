"""The cache of embeddings: what is kept, what is never believed, and who may use it together."""

import logging
import multiprocessing
import os
import threading
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from zarr.storage import ZipStore

import samplat
from model.small import small_model
from samplat import files
from samplat.cache import KEEP, VERSION, EmbeddingCache
from samplat.cli import build_app
from samplat.embedding import Embedding, EmbeddingKey
from samplat.errors import InputError, JobError

PICTURE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def made(seed=0, precision="fp32", side=16):
    """An embedding of two features, of random numbers."""
    rng = torch.Generator().manual_seed(seed)
    features = tuple(torch.randn(1, c, n, n, generator=rng) for c, n in ((8, side), (3, 2 * side)))
    if precision == "bf16":
        features = tuple(f.bfloat16().float() for f in features)
    key = EmbeddingKey(weights_sha256="w", pixels_sha256=f"p{seed}", precision=precision)
    return Embedding(features=features, input_size=(40, 64), original_size=(50, 80), key=key)


def on_disk(path, **options):
    return EmbeddingCache(path, memory=0, **options)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.features, other.features, strict=True))


@pytest.mark.parametrize(
    ("storage", "precision", "most"),
    [
        ("full", "fp32", 0),
        ("half", "fp32", 1.2e-3),
        ("half", "bf16", 0),
        ("int8", "fp32", 2e-2),
        ("int8", "bf16", 2e-2),
    ],
)
def test_what_is_put_comes_back(tmp_path, storage, precision, most):
    embedding = made(precision=precision)
    on_disk(tmp_path, storage=storage).put(embedding)
    back = on_disk(tmp_path, storage=storage).get(embedding.key)
    assert (back.input_size, back.original_size, back.key) == ((40, 64), (50, 80), embedding.key)
    for a, b in zip(embedding.features, back.features, strict=True):
        assert b.dtype == torch.float32
        assert float((a - b).norm() / a.norm()) <= most


def test_half_and_int8_are_small(tmp_path):
    """Of an embedding of the paper's size, 4 MiB in fp32."""
    rng = torch.Generator().manual_seed(0)
    features = (torch.randn(1, 256, 64, 64, generator=rng).bfloat16().float(),)
    sizes = {}
    for precision in ("bf16", "fp32"):
        embedding = replace(made(precision=precision), features=features)
        for storage in ("half", "int8"):
            cache = on_disk(tmp_path, storage=storage)
            cache.put(embedding)
            size = cache.file_of(embedding.key).stat().st_size / 2**20
            sizes[storage, precision] = size
    assert sizes["half", "bf16"] < 1.6
    assert sizes["half", "fp32"] < 1.7
    assert sizes["int8", "fp32"] < 1.0


def test_values_beyond_half_precision_are_kept_whole(tmp_path):
    embedding = made()
    embedding = replace(embedding, features=(embedding.features[0] * 1e6,))
    on_disk(tmp_path).put(embedding)
    assert same(on_disk(tmp_path).get(embedding.key), embedding)


def test_each_field_of_the_key_and_the_storage_tell_entries_apart(tmp_path):
    embedding = made()
    on_disk(tmp_path).put(embedding)
    for field in fields(EmbeddingKey):
        other = replace(embedding.key, **{field.name: "other"})
        assert on_disk(tmp_path).get(other) is None
    assert on_disk(tmp_path, storage="full").get(embedding.key) is None


def test_an_entry_under_a_foreign_name_is_a_miss_and_found(tmp_path, caplog):
    cache, one, other = on_disk(tmp_path), made(1), made(2)
    cache.put(one)
    target = cache.file_of(other.key)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(cache.file_of(one.key).read_bytes())
    assert cache.get(other.key) is None
    assert "holds another embedding" in caplog.text
    assert cache.verify() == [target]
    assert not target.exists()
    assert cache.get(one.key) is not None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_is_silent(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cache")
    cache, embedding = on_disk(folder, storage="full"), made(side=4)
    cache.put(embedding)
    path = cache.file_of(embedding.key)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, 8 * len(content) - 1))
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)
    found = cache.get(embedding.key)
    assert found is None or same(found, embedding)
    fresh = cache.get_or_compute(embedding.key, lambda: embedding)
    assert same(fresh, embedding)
    assert same(on_disk(folder, storage="full").get(embedding.key), embedding)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_file_is_a_miss_that_is_reported_and_mended(tmp_path, caplog, share):
    cache, embedding = on_disk(tmp_path), made()
    cache.put(embedding)
    path = cache.file_of(embedding.key)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    calls = []
    cache.get_or_compute(embedding.key, lambda: calls.append(1) or embedding)
    assert calls == [1]
    assert "is damaged and will be computed again" in caplog.text
    assert on_disk(tmp_path).get(embedding.key) is not None


def test_the_least_recently_used_make_room(tmp_path):
    cache = on_disk(tmp_path)
    cache.put(made(0))
    size = cache.info().bytes
    cache = on_disk(tmp_path, quota=int(4.5 * size))
    for seed in range(4):
        cache.put(made(seed))
        path = cache.file_of(made(seed).key)
        os.utime(path, (1000 + seed, 1000 + seed))
    assert cache.get(made(0).key) is not None  # used now: the oldest no longer
    cache.put(made(4))
    kept = [seed for seed in range(5) if cache.file_of(made(seed).key).exists()]
    assert kept == [0, 3, 4] if 4 * size > KEEP * 4.5 * size else [0, 2, 3, 4]
    assert cache.info().bytes <= cache.info().quota


def test_no_quota_keeps_nothing_on_disk_but_memory_does(tmp_path):
    cache = EmbeddingCache(tmp_path, quota=0)
    cache.put(made())
    assert not any(tmp_path.rglob("*.zip"))
    assert cache.get(made().key) is not None


def test_memory_keeps_what_fits(tmp_path):
    size = sum(4 * f.numel() for f in made().features)
    cache = EmbeddingCache(tmp_path, quota=0, memory=int(2.5 * size))
    for seed in range(3):
        cache.put(made(seed))
    assert [cache.get(made(seed).key) is not None for seed in range(3)] == [False, True, True]
    cache.put(made(2))
    assert cache.get(made(1).key) is not None, "the same again takes no more room"


def test_a_full_disk_is_reported_once_and_the_work_goes_on(tmp_path, caplog, monkeypatch):
    def full(path, data):
        raise JobError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("samplat.cache.write_atomic", full)
    cache = on_disk(tmp_path)
    for seed in range(3):
        assert same(cache.get_or_compute(made(seed).key, lambda seed=seed: made(seed)), made(seed))
    assert [r.message for r in caplog.records if "No space left" in r.message].__len__() == 1


def test_an_interrupted_write_leaves_nothing_that_counts(tmp_path):
    cache = on_disk(tmp_path)
    cache.put(made())
    orphan = cache.file_of(made().key).with_name(f".x{files.TEMPORARY}")
    orphan.write_bytes(b"half of it")
    assert cache.info().entries == 1
    assert cache.clear() == 1
    assert not orphan.exists()
    assert cache.info().entries == 0


def test_other_versions_are_named_and_left_alone(tmp_path):
    (tmp_path / "v0").mkdir()
    (tmp_path / "v0" / "old.zip").write_bytes(b"")
    cache = on_disk(tmp_path)
    cache.put(made())
    assert cache.info().foreign == ("v0",)
    cache.clear()
    assert (tmp_path / "v0" / "old.zip").exists()


def test_an_entry_is_an_ordinary_zarr_group(tmp_path):
    cache, embedding = on_disk(tmp_path, storage="full"), made()
    cache.put(embedding)
    group = zarr.open_group(ZipStore(cache.file_of(embedding.key), mode="r"), mode="r")
    assert np.array_equal(group["feature0"][...], embedding.features[0].numpy())
    assert group["feature0"].metadata.zarr_format == 3


def fill(path, seeds):
    cache = EmbeddingCache(path, memory=0, quota=60_000)
    for seed in seeds:
        assert cache.get_or_compute(made(seed).key, lambda seed=seed: made(seed)) is not None


def test_many_processes_fill_one_cache(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    orders = (range(12), range(11, -1, -1))
    workers = [spawn.Process(target=fill, args=(tmp_path, list(order))) for order in orders]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    cache = on_disk(tmp_path, quota=60_000)
    cache.trim()
    assert 0 < cache.info().bytes <= 60_000
    assert cache.verify() == []
    assert not list((tmp_path / VERSION).rglob(f"*{files.TEMPORARY}"))


def test_many_threads_share_one_cache(tmp_path):
    cache = EmbeddingCache(tmp_path, memory=50_000)
    wrong = []

    def work():
        for seed in list(range(8)) * 3:
            found = cache.get_or_compute(made(seed).key, lambda seed=seed: made(seed))
            if float((found.features[0] - made(seed).features[0]).abs().max()) > 0.01:
                wrong.append(seed)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_image_is_encoded_once_and_answers_alike(tmp_path, monkeypatch):
    model = small_model("conv")
    cache = EmbeddingCache(tmp_path, storage="full")
    first = cache.embed(model, PICTURE)
    monkeypatch.setattr("samplat.cache.embed", lambda *_: pytest.fail("encoded again"))
    for again in (cache, on_disk(tmp_path, storage="full")):
        second = again.embed(model, PICTURE)
        prompts = samplat.Prompts(points=[(30, 20)])
        one, other = (samplat.predict(model, e, prompts) for e in (first, second))
        assert np.array_equal(one.logits, other.logits)
        assert np.array_equal(one.predicted_iou, other.predicted_iou)


def test_the_commands_tell_mend_and_empty(tmp_path):
    def run(name):
        return CliRunner().invoke(build_app(), ["cache", name, "--cache", str(tmp_path)])

    cache = on_disk(tmp_path)
    for seed in range(3):
        cache.put(made(seed))
    (tmp_path / "v0").mkdir()
    told = run("info").output
    assert "embeddings: 3" in told
    assert "also there: v0" in told
    assert run("verify").output == "all embeddings are sound\n"
    damaged = cache.file_of(made(1).key)
    damaged.write_bytes(b"nothing")
    found = run("verify")
    assert (found.exit_code, found.output) == (1, f"damaged, removed: {damaged}\n")
    assert run("clear").output == "removed 2 embeddings\n"
    assert run("clear").output == "removed 0 embeddings\n"


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(InputError, match="storage must be one of half, int8, full, got 'tiny'"):
        EmbeddingCache(tmp_path, storage="tiny")
    with pytest.raises(InputError, match="must be >= 0 bytes, got -1"):
        EmbeddingCache(tmp_path, quota=-1)


@pytest.fixture(autouse=True)
def warnings(caplog):
    caplog.set_level(logging.WARNING)
