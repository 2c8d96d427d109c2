"""A checkpoint is whole or it is none."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import epoch as a_report
from builders import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from captune.model.checkpoint import Checkpoint, CheckpointError, numbered
from captune.model.rule import DecisionRule

ARRAYS = {"00000": np.arange(6, dtype=np.float32).reshape(2, 3), "00001": np.array(7, np.uint32)}


def same(checkpoint: Checkpoint | None, expected: Checkpoint) -> bool:
    return (
        checkpoint is not None
        and (checkpoint.epoch, checkpoint.identity, checkpoint.reports)
        == (expected.epoch, expected.identity, expected.reports)
        and {n: (a.dtype, a.shape, a.tobytes()) for n, a in checkpoint.arrays.items()}
        == {n: (a.dtype, a.shape, a.tobytes()) for n, a in expected.arrays.items()}
    )


def test_what_was_written_is_read_and_the_newer_takes_the_place_of_the_older(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "last.safetensors"
    for epoch in (1, 2):
        reports = tuple(
            a_report(number, 0.1 * number, loss=1 / 3, rule=DecisionRule(0.1 * number, "relative", 1.5, -0.25))
            for number in range(1, epoch + 1)
        )
        written = Checkpoint(epoch, "mine", {**ARRAYS, "nan": np.array([np.nan, np.inf])}, reports)
        written.write(path)
        assert same(Checkpoint.read(path, "mine"), written)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_checkpoint_of_another_trial_is_none(tmp_path: Path) -> None:
    Checkpoint(1, "mine", ARRAYS).write(tmp_path / "last")
    assert Checkpoint.read(tmp_path / "last", "another") is None
    assert Checkpoint.read(tmp_path / "absent", "mine") is None


def test_file_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "last"
    Checkpoint(1, "mine", ARRAYS).write(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(lambda: Checkpoint.read(path, "mine"), str(path), error=CheckpointError)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
def test_anything_else_in_its_place_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("anything") / "last"
    path.write_bytes(content)
    refused(lambda: Checkpoint.read(path, "mine"), str(path), error=CheckpointError)


def test_checkpoint_of_an_earlier_captune_has_no_sum_and_is_read(tmp_path: Path) -> None:
    state = {"epoch": 2, "identity": "mine", "reports": []}
    (tmp_path / "last").write_bytes(save(ARRAYS, metadata={"captune": json.dumps(state)}))
    assert same(Checkpoint.read(tmp_path / "last", "mine"), Checkpoint(2, "mine", ARRAYS))


def test_failure_to_write_leaves_the_one_before_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last"
    before = Checkpoint(1, "mine", ARRAYS)
    before.write(path)

    def full(_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Checkpoint(2, "mine", ARRAYS).write(path)
    assert same(Checkpoint.read(path, "mine"), before)
    assert [file.name for file in tmp_path.iterdir()] == ["last"]


def test_arrays_keep_their_order_beyond_nine(tmp_path: Path) -> None:
    values: list[Any] = [np.full((2, 2), place).T for place in range(12)]
    Checkpoint(1, "mine", numbered(values)).write(tmp_path / "last")
    checkpoint = Checkpoint.read(tmp_path / "last", "mine")
    assert checkpoint is not None
    assert [checkpoint.arrays[name][0, 0] for name in sorted(checkpoint.arrays)] == list(range(12))
