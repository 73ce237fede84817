"""The cache of embeddings in a store."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from model.test_cache import made, same
from samplat.cache import EmbeddingCache
from samplat.places import RemotePath


def test_embeddings_are_kept_in_a_store(memory: RemotePath) -> None:
    folder, one, other = str(memory / "cache"), made(1), made(2)
    cache = EmbeddingCache(folder, storage="full", memory=0, quota=1)  # which it does not mind
    for each in (one, other):
        cache.put(each)
    again = EmbeddingCache(folder, storage="full", memory=0)
    assert same(again.get(one.key), one)
    assert again.get(made(3).key) is None
    info = again.info()
    assert (info.entries, info.foreign) == (2, ())
    assert info.bytes > 2 * 4 * (8 * 16**2 + 3 * 32**2)
    spoiled = cache.file_of(one.key)
    spoiled.write_bytes(spoiled.read_bytes()[:-100])
    assert again.verify() == [spoiled]
    assert again.clear() == 1
    assert again.info().entries == 0


def test_a_store_that_does_not_answer_costs_the_cache_and_not_the_work(
    memory: RemotePath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError("no")

    for name in ("cat_file", "pipe_file", "makedirs"):
        monkeypatch.setattr(MemoryFileSystem, name, refused)
    cache, one = EmbeddingCache(str(memory), storage="full", memory=0), made(1)
    with caplog.at_level(logging.WARNING, "samplat.cache"):
        assert same(cache.get_or_compute(one.key, lambda: one), one)
    assert len(caplog.records) == 1
