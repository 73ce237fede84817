"""Logs of a run: lines and curves, once for every step, however often it was interrupted."""

import csv
import struct
from dataclasses import dataclass

import pytest
from tensorboardX.proto.event_pb2 import Event

from samplat import SamplatError
from samplat_train.logs import RunLog


@dataclass
class Report:
    step: int
    loss: float


def lines(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def curves(folder):
    """All scalars in the event files: TFRecords of length, checksum, data, checksum."""
    found = []
    for path in sorted((folder / "tensorboard").glob("events*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            data = data[16 + length :]
    return found


def write(folder, steps, start=0):
    with RunLog(folder, start) as log:
        for step in steps:
            log.add(Report(step=step, loss=1 / step))
        log.figure("validation/score", 0.5, steps[-1])


def test_lines_and_curves_say_the_same(tmp_path):
    write(tmp_path, range(1, 6))
    assert [step for step, _ in lines(tmp_path)] == [1, 2, 3, 4, 5]
    drawn = [(step, value) for tag, step, value in curves(tmp_path) if tag == "train/loss"]
    assert drawn == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in lines(tmp_path)]
    assert ("validation/score", 5, 0.5) in curves(tmp_path)


def test_repeated_steps_are_written_once(tmp_path):
    write(tmp_path, range(1, 8))
    write(tmp_path, range(5, 10), start=4)
    assert [step for step, _ in lines(tmp_path)] == list(range(1, 10))


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    write(tmp_path, range(1, 4))
    path = tmp_path / "log.csv"
    path.write_text(path.read_text() + "4")
    write(tmp_path, [4], start=3)
    assert [step for step, _ in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_log_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(SamplatError, match="cannot write .*log.csv: .*; the last checkpoint"):
        RunLog(tmp_path / "run")
