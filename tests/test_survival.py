"""Searches whose processes are killed at random moments, whose trials go wrong, whose disk is full.

Trials are a formula (tests/formula.py); processes, kills and disks are real. CAPTUNE_SOAK sets how many times each
kind of kill is tried (`make soak`), CAPTUNE_SEED the moments at which they come; pytest prints it first.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from formula import EPOCHS

from captune.data_prep.store import PreparedData
from captune.results.records import Record, load_records
from captune.results.run_folder import RunFolder
from captune.tuner.decisions.halving import Rungs
from captune.tuner.space.config import HalvingConfig

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("CAPTUNE_SOAK", "2"))
SEED = int(os.environ["CAPTUNE_SEED"])  # drawn in conftest.py where none was given
SLOTS = 2
FINISHED = ("complete", "stopped", "diverged", "failed")


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    """A test that fails leaves no search behind."""
    yield
    for process in _started:
        if process.poll() is None:
            kill(process)
    _started.clear()


class Search:
    """A run folder, and the processes that search in it one after another."""

    def __init__(self, folder: Path, data: PreparedData, trials: int, **formula: Any) -> None:
        self.run = RunFolder(folder / "run")
        self.log = folder / "trained.txt"
        self.data = data.path
        self.trials = trials
        self.formula = {"log": str(self.log), **formula}

    def start(self, address: str | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).parent / "formula.py"), str(self.data), str(self.run.path)]
        process = subprocess.Popen(
            [*command, str(self.trials), *([address] if address else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"CAPTUNE_FORMULA": json.dumps(self.formula)},
        )
        _started.append(process)
        return process

    def finish(self, process: subprocess.Popen[str] | None = None, within: float = 300) -> dict[str, Any]:
        """The summary of a search that comes to its end."""
        out, err = (process or self.start()).communicate(timeout=within)
        assert out.strip(), f"seed {SEED}: {err[-3000:]}"
        return dict(json.loads(out.strip().splitlines()[-1]))

    def starts(self) -> list[str]:
        """Ids of the nodes on which workers have begun to start."""
        return Path(f"{self.log}.starts").read_text().split()

    @property
    def records(self) -> list[Record]:
        return load_records(self.run)

    def trained_twice(self) -> int:
        """Epochs that were trained to their end more than once, over all trials."""
        lines = self.log.read_text().split("\n") if self.log.exists() else []
        return sum(count - 1 for count in Counter(filter(None, lines)).values())


def assert_whole(search: Search) -> None:
    """What must be true of the record of a search that has ended, whatever happened on the way."""
    records = search.records
    told = f"seed {SEED}: {[(r.number, r.origin, r.fate, r.epochs) for r in records]}"
    assert {r.fate for r in records} <= {*FINISHED, "lost", "over_budget"}, told  # none runs or waits
    ends = Counter(r.origin for r in records if r.fate in FINISHED)
    assert set(ends.values()) == {1} and len(ends) == search.trials, told
    assert {r.origin for r in records} == set(ends), told  # what was lost went on
    curves: dict[int, dict[int, float]] = {}
    for record in records:
        assert [e.epoch for e in record.curve] == list(range(1, record.epochs + 1)), (
            told
        )  # no gap, counted from the start
        for epoch in record.curve:  # the same value in every attempt
            assert curves.setdefault(record.origin, {}).setdefault(epoch.epoch, epoch.mean_f1) == epoch.mean_f1, told
    assert decisions(records) == {
        r.origin: r.fate == "stopped" for r in records if r.fate in ("complete", "stopped")
    }, told


def decisions(records: list[Record]) -> dict[int, bool]:
    """Whether halving stops each trial, had the same results come in the same order without interruption."""
    reports = sorted((r.order[e.epoch], r.origin, e.epoch, e.mean_f1) for r in records for e in r.curve)
    rungs, seen, stopped = Rungs(HalvingConfig(), EPOCHS), set(), {}
    for _, origin, epoch, score in reports:
        if (origin, epoch) not in seen:
            seen.add((origin, epoch))
            stopped[origin] = not rungs.goes_on(origin, epoch, score, epochs=EPOCHS) and epoch < EPOCHS
    return {
        origin: stopped[origin]
        for origin in stopped
        if any(r.origin == origin and r.fate in ("complete", "stopped") for r in records)
    }


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_driver_killed_at_random_moments_loses_and_repeats_nothing(tmp_path: Path, captions_data: PreparedData) -> None:
    moments = random.Random(SEED)
    search = Search(tmp_path, captions_data, trials=8 + 2 * ROUNDS, seconds=0.15)
    before: dict[int, Record] = {}
    for _ in range(ROUNDS):
        process = search.start()
        time.sleep(moments.uniform(2.0, 9.0))
        kill(process)
        if search.run.journal.exists():
            now = {r.number: r for r in search.records if r.fate in FINISHED}
            assert before.items() <= now.items(), f"seed {SEED}: a finished trial changed"
            before = now
    summary = search.finish()
    assert before.items() <= {r.number: r for r in search.records}.items(), f"seed {SEED}"
    assert_whole(search)
    assert sum(summary["trials"][fate] for fate in FINISHED if fate in summary["trials"]) == search.trials
    assert search.trained_twice() <= ROUNDS * SLOTS, f"seed {SEED}"  # one epoch is the interval of checkpoints


class Cluster:
    """Ray nodes of our own on loopback, each with its own processes, that can be killed one by one."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster as Nodes

        self._nodes = Nodes()
        self.head = self._nodes.add_node(num_cpus=0, include_dashboard=False, object_store_memory=10**8)
        self.address = self._nodes.address
        self.others = [self.add(), self.add()]

    def add(self) -> Any:
        return self._nodes.add_node(num_cpus=1, object_store_memory=10**8)

    def replace(self, place: int) -> None:
        """Kills every process of a node, its trial's worker with it, and gives the cluster a new one."""
        self._nodes.remove_node(self.others[place], allow_graceful=False)
        self.others[place] = self.add()

    def close(self) -> None:
        self._nodes.shutdown()


def workers_of(search: Search) -> list[int]:
    """Processes in which trials run, of whatever search of ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            # Ray names its workers after what they run.
            if (
                title.startswith(b"ray::")
                and (b"Worker" in title or b"Trainable" in title)
                and str(search.log).encode() in environment
            ):
                found.append(int(entry.name))
    return found


@pytest.mark.soak
def test_killed_workers_are_lost_and_their_trials_go_on(tmp_path: Path, captions_data: PreparedData) -> None:
    moments = random.Random(SEED)
    search = Search(tmp_path, captions_data, trials=4 + 2 * ROUNDS, seconds=0.4)
    process, kills = search.start(), 0
    while kills < ROUNDS and process.poll() is None:
        time.sleep(moments.uniform(0.5, 2.5))
        running = workers_of(search)
        if running:
            victim = moments.choice(sorted(running))
            try:
                os.kill(victim, signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
    search.finish(process)
    assert_whole(search)
    lost = [record for record in search.records if record.fate == "lost"]
    assert kills == ROUNDS
    assert 0 < len(lost) <= kills, f"seed {SEED}"
    assert search.trained_twice() <= kills, f"seed {SEED}"


@pytest.mark.soak
def test_killed_nodes_lose_no_finished_trial(tmp_path: Path, captions_data: PreparedData) -> None:
    moments = random.Random(SEED)
    cluster = Cluster(tmp_path)
    try:
        kills = max(1, ROUNDS // 6)
        search = Search(tmp_path, captions_data, trials=12 + 6 * kills, seconds=1.0)
        process = search.start(cluster.address)
        # One that meets a node between two trials costs nothing, so a few more may be needed until a trial is lost.
        for turn in range(kills + 5):
            if turn >= kills and any(record.fate == "lost" for record in search.records):
                break
            done = _epochs(search)
            while _epochs(search) < done + 3 and process.poll() is None:
                time.sleep(0.2)
            time.sleep(moments.uniform(0, 2))
            cluster.replace(turn % 2)
        search.finish(process)
    finally:
        cluster.close()
    assert_whole(search)
    assert any(record.fate == "lost" for record in search.records), f"seed {SEED}: no kill met a running trial"


def _epochs(search: Search) -> int:
    return sum(record.epochs for record in search.records) if search.run.journal.exists() else 0


FAULTS = {
    "nan": "diverged",
    "inf": "diverged",
    "nan loss": "diverged",
    "raise": "failed",
    "memory": "failed",
    "hang": "stopped",  # its first epoch left a score
    "die": "lost",
}


@pytest.mark.soak
def test_each_kind_of_fault_has_its_fate_within_one_report_and_the_search_goes_on(
    tmp_path: Path, captions_data: PreparedData
) -> None:
    faults = dict(enumerate(FAULTS, start=1))
    search = Search(
        tmp_path,
        captions_data,
        trials=len(FAULTS) + 3,
        seconds=0.1,
        faults={str(number): fault for number, fault in faults.items()},
        settings={"trial_timeout": 20.0, "retries": 1, "halving": {"grace": 9}},
    )
    summary = search.finish()
    last = {record.origin: record for record in search.records}
    for number, fault in faults.items():
        assert last[number].fate == FAULTS[fault], f"{fault}: {last[number]}"
        assert last[number].epochs <= 2, fault
        assert last[number].reason, fault
    of = {fault: number for number, fault in faults.items()}
    assert "out of memory" in (last[of["memory"]].reason or "")
    assert "--trial-timeout" in (last[of["hang"]].reason or "")
    assert sum(record.origin == of["die"] for record in search.records) == 2  # tried again once, from its checkpoint
    assert {last[number].fate for number in last if number not in faults} == {"complete"}
    assert summary["trials"] == Counter(record.fate for record in search.records)


@pytest.mark.soak
def test_trial_that_exhausts_the_memory_of_its_machine_fails_as_such_and_the_others_go_on(
    tmp_path: Path, captions_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(memory[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    room = 4 * 2**30  # for Ray and two workers, and then for the one that takes it all
    if free < 2 * room:
        pytest.skip("too little memory here")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(total - free + room) / total:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    search = Search(tmp_path, captions_data, trials=5, faults={"1": "hog"}, settings={"halving": {"grace": 9}})
    search.finish()
    fates = {record.number: record.fate for record in search.records}
    assert fates == {0: "complete", 1: "failed", 2: "complete", 3: "complete", 4: "complete"}, search.records
    assert search.records[1].reason is not None and search.records[1].reason.startswith("out of memory")


@pytest.mark.soak
def test_worn_worker_is_replaced_and_no_trial_notices(tmp_path: Path, captions_data: PreparedData) -> None:
    search = Search(
        tmp_path, captions_data, trials=9, seconds=0.02, settings={"worker_trials": 2, "halving": {"grace": 9}}
    )
    search.finish()
    assert {record.fate for record in search.records} == {"complete"}
    first_of_a_worker = sum(record.spent["start"] > 0 for record in search.records)
    assert 4 <= first_of_a_worker <= 6  # of nine trials; without, the first two alone


@pytest.mark.soak
def test_trial_that_lost_its_worker_goes_on_from_its_checkpoint(tmp_path: Path, captions_data: PreparedData) -> None:
    search = Search(tmp_path, captions_data, trials=1, faults={"0": "once"})
    search.finish()
    lost, again = search.records
    assert (lost.fate, lost.epochs, again.fate, again.origin, again.epochs) == ("lost", 1, "complete", 0, 9)
    assert search.trained_twice() == 0


@pytest.mark.soak
def test_search_whose_trials_all_fail_stops_after_a_few_and_says_why(
    tmp_path: Path, captions_data: PreparedData
) -> None:
    faults = {str(number): "raise" for number in range(500)}
    search = Search(tmp_path, captions_data, trials=500, faults=faults, settings={"halving": {"grace": 9}})
    process = search.start()
    _, err = process.communicate(timeout=120)
    # Each trial scores its first epoch before it raises, so this is not caught as a search that never had a score.
    assert process.returncode == 1
    assert "the trials cannot work: ValueError: what was asked for cannot be done" in err
    assert sum(record.fate == "failed" for record in search.records) < 30


@pytest.mark.soak
def test_search_on_nodes_that_cannot_work_stops_and_says_why(tmp_path: Path, captions_data: PreparedData) -> None:
    search = Search(tmp_path, captions_data, trials=500, broken=True)
    process = search.start()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no node can run trials: node" in err and "no driver for this device" in err
    assert {record.fate for record in search.records if record.reason} == {"lost"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("no right to mount a small disk here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(ballast: Path) -> None:
    """Takes the room of a disk to the last byte."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass


@pytest.mark.soak
def test_full_disk_loses_nothing_and_the_search_goes_on_once_there_is_room(
    small_disk: Path, captions_data: PreparedData
) -> None:
    search = Search(small_disk, captions_data, trials=12, seconds=0.1, checkpoint_bytes=20_000)
    process = search.start()
    ballast = small_disk / "ballast"
    deadline = time.monotonic() + 60
    while len(search.records if search.run.journal.exists() else []) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    fill(ballast)
    time.sleep(6)
    assert process.poll() is None, process.communicate()
    finished = {r.number: r for r in search.records if r.fate in FINISHED}
    ballast.unlink()
    search.finish(process)
    assert_whole(search)
    assert finished.items() <= {r.number: r for r in search.records}.items()


@pytest.mark.soak
def test_disk_of_rays_scratch_that_is_full_costs_nothing(
    small_disk: Path, captions_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # for Ray's sockets; what Ray Tune writes goes to the small disk
    monkeypatch.setenv("TMPDIR", str(small_disk))
    search = Search(tmp_path, captions_data, trials=4, seconds=0.3, faults={"1": "once"})
    process = search.start()
    ballast = small_disk / "ballast"
    while not any(small_disk.glob("captune-*/experiment/tuner.pkl")):  # which Ray must be able to write
        time.sleep(0.05)
    fill(ballast)
    search.finish(process)
    assert_whole(search)
    assert "lost" in {record.fate for record in search.records}


@pytest.mark.soak
def test_no_trial_starts_below_the_floor_and_the_search_says_so(small_disk: Path, captions_data: PreparedData) -> None:
    search = Search(small_disk, captions_data, trials=3, settings={"min_free": 2 * 2**20})
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 2 * 10**6)
    process = search.start()
    assert process.stderr is not None
    next(line for line in process.stderr if "--min-free" in line)
    assert search.records == [] or {r.fate for r in search.records} == {"waiting"}
    ballast.unlink()
    process.communicate(timeout=60)
    assert_whole(search)


@pytest.mark.soak
def test_disk_holds_the_best_and_the_running_alone(tmp_path: Path, captions_data: PreparedData) -> None:
    size = 2 * 10**6
    search = Search(
        tmp_path, captions_data, trials=max(20, 100 * (ROUNDS >= 30)), seconds=0.05, checkpoint_bytes=size,
        settings={"keep": 2},
    )  # fmt: skip
    process, most = search.start(), 0
    while process.poll() is None:
        most = max(most, _bytes_below(search.run.path))
        time.sleep(0.2)
    search.finish(process)
    assert_whole(search)
    assert size < most <= (2 + SLOTS) * size + 20 * 10**6
    assert _bytes_below(search.run.checkpoints) <= 2 * size  # no unfinished trial is left
    assert not list(search.run.checkpoints.rglob("last*"))


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # removed meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


@pytest.mark.soak
def test_second_driver_on_a_run_is_refused_and_the_first_goes_on(tmp_path: Path, captions_data: PreparedData) -> None:
    search = Search(tmp_path, captions_data, trials=4, seconds=0.4)
    first = search.start()
    while not search.run.journal.exists():
        time.sleep(0.1)
    second = search.start()
    _, err = second.communicate(timeout=60)
    assert second.returncode == 2 and f"process {first.pid}" in err
    search.finish(first)
    assert_whole(search)


@pytest.mark.soak
def test_interrupted_search_ends_within_fifteen_seconds_and_goes_on_where_it_was(
    tmp_path: Path, captions_data: PreparedData
) -> None:
    search = Search(tmp_path, captions_data, trials=4, seconds=1.0)
    process = search.start()
    while not (search.run.journal.exists() and any(record.epochs >= 2 for record in search.records)):
        time.sleep(0.1)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    summary = search.finish(process)
    assert time.monotonic() - asked < 15
    assert summary["interrupted"]
    assert {r.fate for r in search.records} <= {*FINISHED, "lost"}
    moved = tmp_path / "elsewhere"
    search.run.path.rename(moved)
    search.run = RunFolder(moved)
    search.finish()
    assert_whole(search)
    assert search.trained_twice() <= SLOTS


@pytest.mark.soak
def test_second_interrupt_ends_a_search_at_once(tmp_path: Path, captions_data: PreparedData) -> None:
    search = Search(tmp_path, captions_data, trials=4, seconds=60)
    process = search.start()
    while not (search.run.journal.exists() and any(record.seed is not None for record in search.records)):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - asked < 5


@pytest.mark.soak
def test_record_is_read_a_thousand_times_while_the_search_writes_it(
    tmp_path: Path, captions_data: PreparedData
) -> None:
    search = Search(tmp_path, captions_data, trials=20, seconds=0.02)
    process, reads, slowest = search.start(), 0, 0.0
    while not search.run.journal.exists():
        time.sleep(0.05)
    while reads < (1000 if ROUNDS >= 30 else 150) and process.poll() is None:
        started = time.monotonic()
        search.records  # noqa: B018 - whether it can be read is the test
        slowest = max(slowest, time.monotonic() - started)
        reads += 1
    search.finish(process)
    assert_whole(search)
    assert reads > 20 and slowest < 2, (reads, slowest)
