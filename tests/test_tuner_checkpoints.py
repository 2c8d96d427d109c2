"""What is kept of trials on disk, and for how long."""

import errno
from pathlib import Path

import numpy as np
import pytest
from builders import epoch, record
from hypothesis import given
from hypothesis import strategies as st
from object_storage import Proxy, Requests

from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.files import written_aside
from captune.model.checkpoint import Checkpoint
from captune.tuner.training.checkpoints import (
    LAST,
    CheckpointCleaner,
    CheckpointPolicy,
    CheckpointWriter,
    checkpoints_at,
)


def keeper(
    folder: Path, *, seconds: float | None = None, epochs: int | None = None, floor: int = 0
) -> CheckpointWriter:
    return CheckpointWriter(CheckpointPolicy(str(folder), seconds, epochs, floor), 7, "mine")


def make(epoch: int, identity: str) -> Checkpoint:
    return Checkpoint(epoch, identity, {"state": np.full(3, epoch)})


def saved_at(folder: Path) -> int | None:
    found = Checkpoint.read(folder / "7" / LAST, "mine")
    return found.epoch if found else None


@pytest.mark.parametrize(("every", "written"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4])])
def test_checkpoint_is_written_once_in_so_many_epochs(tmp_path: Path, every: int, written: list[int]) -> None:
    writer, seen = keeper(tmp_path, epochs=every), []
    for number in range(1, 7):
        writer.checkpoint(epoch(number), make)
        if saved_at(tmp_path) == number:
            seen.append(number)
    assert seen == written


def test_checkpoint_is_written_once_in_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("captune.tuner.training.checkpoints.time.monotonic", lambda: now[0])
    writer, seen = keeper(tmp_path, seconds=60.0), []
    for number in range(1, 9):
        now[0] += 25
        writer.checkpoint(epoch(number), make)
        if saved_at(tmp_path) == number:
            seen.append(number)
    assert seen == [3, 6]


def test_trial_that_goes_on_counts_from_its_checkpoint(tmp_path: Path) -> None:
    keeper(tmp_path, epochs=3).checkpoint(epoch(3), make)
    again = keeper(tmp_path, epochs=3)
    found = again.resume()
    assert found is not None and found.epoch == 3
    for number, expected in ((4, 3), (5, 3), (6, 6)):
        again.checkpoint(epoch(number), make)
        assert saved_at(tmp_path) == expected


def test_damaged_checkpoint_is_told_for_as_long_as_the_trial_is_behind(tmp_path: Path) -> None:
    keeper(tmp_path, epochs=3).checkpoint(epoch(3), make)
    path = tmp_path / "7" / LAST
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = keeper(tmp_path, epochs=1)
    assert again.resume() is None
    for number in (1, 2):
        assert again.complaint is not None and again.complaint.startswith(f"from its first epoch on: {path} is damaged")
        again.best(number, save)
        again.checkpoint(epoch(number), make)
    assert saved_at(tmp_path) == 2
    assert keeper(tmp_path).resume() is not None


def test_nothing_is_written_below_the_floor_and_the_trial_is_told_why(tmp_path: Path) -> None:
    writer = keeper(tmp_path, epochs=1, floor=2**62)
    writer.checkpoint(epoch(1), make)
    writer.best(1, lambda path: pytest.fail("no room for it"))
    assert saved_at(tmp_path) is None
    assert writer.complaint is not None and "are to stay free" in writer.complaint


def test_full_disk_costs_a_checkpoint_and_never_raises(tmp_path: Path) -> None:
    writer = keeper(tmp_path, epochs=1)
    writer.checkpoint(epoch(1), make)

    def full(path: Path) -> None:
        with written_aside(path) as aside:
            aside.mkdir()
            raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "7" / ".captune-0123abcd.tmp").mkdir()  # what a killed attempt left
    writer.best(2, full)
    assert writer.complaint == "no checkpoint: No space left on device"
    assert [path.name for path in (tmp_path / "7").iterdir()] == [LAST]
    writer.checkpoint(epoch(2), make)
    assert writer.complaint is None and saved_at(tmp_path) == 2


def test_best_network_takes_the_place_of_the_one_before_and_of_half_of_itself(tmp_path: Path) -> None:
    writer = keeper(tmp_path, epochs=None)
    (tmp_path / "7" / "best-3").mkdir(parents=True)  # what an attempt that was killed had got to

    for number in (1, 3):
        writer.best(number, save)
        assert [path.name for path in (tmp_path / "7").iterdir()] == [f"best-{number}"]


def save(path: Path) -> None:
    path.mkdir()
    for name in ("bundle.json", "vocabulary.json", "weights.safetensors"):
        (path / name).write_text(name)


@pytest.mark.slow
def test_checkpoints_at_an_address_are_those_of_a_folder(url: str) -> None:
    policy = CheckpointPolicy(url, None, 1, 2**62)  # the floor is that of a disk
    writer = CheckpointWriter(policy, 7, "mine")
    assert writer.resume() is None
    for number in (1, 2):
        writer.best(number, save)
        writer.checkpoint(epoch(number), make)
    assert writer.complaint is None
    best = {f"7/best-2/{name}" for name in ("bundle.json", "vocabulary.json", "weights.safetensors")}
    assert set(RemoteFolder(url).list()) == best | {f"7/{LAST}"}
    found = CheckpointWriter(policy, 7, "mine").resume()
    assert found is not None and (found.epoch, found.reports) == (2, (epoch(1), epoch(2)))
    assert CheckpointWriter(policy, 7, "another").resume() is None
    shelf = CheckpointCleaner(checkpoints_at(url), 1, [])
    shelf.settle(7, 0.5)
    assert set(RemoteFolder(url).list()) == best
    shelf.settle(8, 0.6)
    assert RemoteFolder(url).list() == {}


def test_bundle_at_an_address_is_made_one_by_its_last_file(s3: str, requests: Requests) -> None:
    CheckpointWriter(CheckpointPolicy(s3, None, 1, 0), 7, "mine").best(1, save)
    written = [
        line.split()[1].partition("?")[0].rpartition("/")[2] for line in requests.lines if line.startswith("PUT")
    ]
    assert written == ["vocabulary.json", "weights.safetensors", "bundle.json"]


def test_storage_that_is_away_costs_checkpoints_and_never_raises(s3: str, server: str, proxy: Proxy) -> None:
    policy = CheckpointPolicy(s3.replace(server, proxy.address), None, 1, 0)
    writer = CheckpointWriter(policy, 7, "mine")
    writer.checkpoint(epoch(1), make)
    proxy.down = True
    writer.checkpoint(epoch(2), make)
    assert writer.complaint is not None and writer.complaint.startswith("no checkpoint: s3://bucket/")
    CheckpointCleaner(checkpoints_at(policy.folder), 0, []).settle(7, 0.5)
    lost = CheckpointWriter(policy, 7, "mine")
    assert lost.resume() is None
    assert lost.complaint is not None and lost.complaint.startswith("from its first epoch on: s3://bucket/")
    proxy.down = False
    again = CheckpointWriter(policy, 7, "mine").resume()
    assert again is not None and again.epoch == 1


# The driver's part


def files_of(folder: Path, origin: int) -> None:
    (folder / str(origin) / "best-1").mkdir(parents=True)
    (folder / str(origin) / LAST).touch()


def kept(folder: Path) -> dict[int, list[str]]:
    return {int(path.name): sorted(file.name for file in path.iterdir()) for path in folder.iterdir()}


@given(
    scores=st.lists(st.none() | st.floats(0, 1, width=16), min_size=1, max_size=8, unique=True), keep=st.integers(0, 4)
)
def test_the_best_keep_their_network_and_nobody_else_anything(
    tmp_path_factory: pytest.TempPathFactory, scores: list[float | None], keep: int
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    shelf = CheckpointCleaner(checkpoints_at(str(folder)), keep, [])
    for origin, score in enumerate(scores):
        files_of(folder, origin)
        shelf.settle(origin, score)
        best = sorted((n for n in range(origin + 1) if scores[n] is not None), key=lambda n: -(scores[n] or 0.0))
        assert kept(folder) == {n: ["best-1"] for n in best[:keep]}


def test_shelf_of_a_resumed_run_keeps_what_unfinished_trials_need_and_clears_what_a_crash_left(tmp_path: Path) -> None:
    for origin in range(6):
        files_of(tmp_path, origin)
    records = [
        record(0, 0.5, "complete"),
        record(1, 0.9, "lost"),
        record(2, 0.7, "stopped"),
        record(3, 0.8, "failed"),
        record(4, 0.6, "lost"),
        record(5, 0.9, "running"),
        record(6, 0.6, "complete", origin=4),
        record(7, None, "waiting", origin=1),
    ]
    CheckpointCleaner(checkpoints_at(str(tmp_path)), 2, records)
    assert kept(tmp_path) == {1: ["best-1", LAST], 2: ["best-1"], 4: ["best-1"], 5: ["best-1", LAST]}


def test_nothing_is_removed_before_it_is_on_record(tmp_path: Path) -> None:
    on_record = [False]
    shelf = CheckpointCleaner(checkpoints_at(str(tmp_path)), 0, [], lambda: on_record[0])
    for origin in range(3):
        files_of(tmp_path, origin)
    shelf.settle(0, 0.5)
    shelf.settle(1, None)
    assert sorted(kept(tmp_path)) == [0, 1, 2]
    on_record[0] = True
    shelf.settle(2, 0.7)
    assert kept(tmp_path) == {}
