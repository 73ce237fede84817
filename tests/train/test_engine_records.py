"""Records are only added, replay to one state, and survive crashes, full disks and flipped bits."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samplat import InputError, Prompts, SamplatError
from samplat_train.engine import STAGES, EventRecord, MaskRecord, PromptRecord, durable, records
from train import engine_oracle

SIZES = (7, 9)
numbers = st.floats(0, 1e6, allow_nan=False)
prompts = st.builds(
    PromptRecord,
    points=st.just(((1.5, 2.0), (3.0, 0.25))),
    labels=st.just((1, 0)),
    box=st.none() | st.just((0.0, 1.0, 5.0, 6.5)),
)


@st.composite
def mask_records(draw):
    seed = draw(st.integers(0, 2**32 - 1))
    mask = np.random.default_rng(seed).random(SIZES) < 0.4
    return MaskRecord(
        id=draw(st.sampled_from(["a", "b", "c", "d"])),
        action=draw(st.sampled_from(records.ACTIONS)),
        source=draw(st.sampled_from(["person", "model", "corrected"])),
        stage=draw(st.sampled_from(STAGES)),
        model=draw(st.text(max_size=8)),
        model_sha256="0" * 64,
        predicted_iou=draw(st.none() | numbers),
        stability=draw(st.none() | numbers),
        prompts=draw(st.none() | prompts),
        crop=draw(st.none() | st.just((0.0, 0.0, 4.0, 5.0))),
        prefilled=draw(st.booleans()),
        seconds=draw(numbers),
        time="2026-01-02T03:04:05.678+00:00",
        annotator=draw(st.text(max_size=8)),
        **records.described(mask),
    )


events = st.builds(
    EventRecord,
    event=st.sampled_from(["started", "finished"]),
    stage=st.sampled_from(STAGES),
    key=st.text(max_size=4),
    seconds=numbers,
)
histories = st.lists(mask_records() | events, max_size=12)
in_files = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def fresh(tmp_path):
    path = tmp_path / "000000.jsonl"
    path.unlink(missing_ok=True)
    return path


@given(st.one_of(mask_records(), events))
@settings(deadline=None, max_examples=100)
def test_a_record_survives_its_line(record):
    line = records.dump(record)
    assert b"\n" not in line
    assert records.parse(line) == record


@given(histories)
@settings(deadline=None, max_examples=100)
def test_replay_equals_the_plain_rules(history):
    """The last line of an id counts, unless it is a rejection or an automatic run began since."""
    state = records.replay(history)
    for name in ("a", "b", "c", "d"):
        lines = [(k, r) for k, r in enumerate(history) if getattr(r, "id", None) == name]
        assert state.seconds.get(name, 0) == pytest.approx(sum(r.seconds for _, r in lines))
        last = lines[-1] if lines else None
        replaced = last and any(
            getattr(r, "event", "") == "started" and r.stage == last[1].stage
            for r in history[last[0] :]
        )
        there = last and last[1].action != "rejected" and not replaced
        assert state.masks.get(name) == (last[1] if there else None)
    for stage in STAGES:
        told = [r for r in history if isinstance(r, EventRecord) and r.stage == stage]
        done = bool(told) and told[-1].event == "finished"
        assert state.finished.get(stage) == (told[-1].key if done else None)


@given(history=histories, data=st.data())
@in_files
def test_any_cut_loses_at_most_the_line_it_falls_in(tmp_path, history, data):
    path = fresh(tmp_path)
    records.append(path, history)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = history[: whole[:cut].count(b"\n")]
    state = records.read(path)
    assert replace(state, notes=()) == records.replay(kept)
    assert bool(state.notes) == (cut > 0 and whole[cut - 1 : cut] != b"\n")
    records.append(path, history)
    assert records.read(path) == records.replay([*kept, *history])
    assert path.read_bytes().startswith(whole[:cut][: whole[:cut].rfind(b"\n") + 1])


@given(history=st.lists(mask_records() | events, min_size=1, max_size=3), data=st.data())
@in_files
def test_no_flipped_bit_goes_unnoticed(tmp_path, history, data):
    path = fresh(tmp_path)
    records.append(path, history)
    damaged = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    state, refusal = _read(path)
    if state is None:
        assert refusal.startswith(f"{path}, line ")
    else:
        assert state.notes or state == records.replay(history)


def _read(path):
    try:
        return records.read(path), ""
    except InputError as error:
        return None, str(error)


@pytest.mark.parametrize("allowed", [0, 1, 50, 250, 400])
def test_a_full_disk_keeps_what_was_recorded(tmp_path, monkeypatch, allowed):
    path, lines = tmp_path / "r.jsonl", [_line("a"), _line("b")]
    records.append(path, lines)
    before = path.read_bytes()
    real, room = os.pwrite, allowed

    def crowded(handle, data, offset):
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(handle, data[:room], offset)
        room -= written
        return written

    monkeypatch.setattr(durable.os, "pwrite", crowded)
    with pytest.raises(SamplatError, match="No space left.*recorded before is kept"):
        records.append(path, [_line("c"), _line("d")])
    assert path.read_bytes() == before


def test_a_file_that_may_not_grow_keeps_what_was_recorded(tmp_path):
    """A real limit of the operating system instead of a replaced function."""
    path = tmp_path / "r.jsonl"
    records.append(path, [_line("a")])
    before = path.read_bytes()
    program = (
        "import resource, sys; from pathlib import Path; from samplat import SamplatError\n"
        "from samplat_train.engine.durable import append_lines\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 20},) * 2)\n"
        "try: append_lines(Path(sys.argv[1]), [b'x' * 500])\n"
        "except SamplatError as error: sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"cannot write {path}" in done.stderr
    assert path.read_bytes() == before


def test_damage_names_file_and_line(tmp_path):
    path = tmp_path / "r.jsonl"
    records.append(path, [_line("a"), _line("b")])
    lines = path.read_bytes().splitlines(keepends=True)
    facts = {**json.loads(lines[1]), "area": 5}
    path.write_bytes(lines[0] + json.dumps(facts).encode() + b"\n")
    with pytest.raises(InputError, match=r"r\.jsonl, line 2: damaged .*checksum"):
        records.read(path)


def test_prompts_are_recorded_without_padding():
    given = Prompts(points=[[(1, 2), (3, 4), (0, 0)]], labels=[[1, 0, -1]], boxes=[[0, 0, 9, 8]])
    record = PromptRecord.of(given)
    assert record.points == ((1.0, 2.0), (3.0, 4.0))
    assert record.labels == (1, 0)
    assert record.clicks == 4
    with pytest.raises(InputError, match="those of 2"):
        PromptRecord.of(Prompts(points=[[(1, 2)], [(3, 4)]]))


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_masks_and_overlaps_equal_plain_arrays(seed):
    rng = np.random.default_rng(seed)
    ours, theirs = rng.random((2, 3, *SIZES)) < 0.5
    rles = [[records.described(m)["rle"].encode() for m in part] for part in (ours, theirs)]
    assert all((records.decoded(r, SIZES) == m).all() for r, m in zip(rles[0], ours, strict=True))
    expected = [max(engine_oracle.iou(a, b) for b in theirs) for a in ours]
    assert records.highest_iou(*rles, SIZES) == pytest.approx(expected)


def _line(name: str) -> MaskRecord:
    mask = np.zeros(SIZES, bool)
    mask[2:4, 3:6] = True
    shape = records.described(mask)
    assert (shape["box"], shape["area"]) == ((3.0, 2.0, 6.0, 4.0), 6)
    return MaskRecord(
        id=name, action="added", source="person", stage="assisted", model="m", model_sha256="0",
        **shape,
    )  # fmt: skip


def test_what_a_process_imports_stays_light():
    program = "import sys, samplat_train.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
