"""How commands end when they are told to: real processes, a signal in each phase of their work, what is left after it.

Trials of searches are a formula (tests/formula.py); refits and exports are of the small run in tests/formats.
"""

import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from builders import rest_in_soak
from conftest import Captune

from captune.data_prep.store import PreparedData
from captune.results.records import load_records
from captune.results.run_folder import RunFolder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

FORMULA = Path(__file__).parent / "formula.py"
SEARCH_YAML = """\
preset: captions
modality: caption
trials: 4
checkpoint_every: 1epoch
min_free: 1MiB
halving: {grace: 9}
fixed: {train.epochs: 9}
space:
  text.embedding: {low: 8, high: 256}
  text.units: {low: 8, high: 512}
"""


@dataclass
class Desk:
    """Commands, each as somebody starts it in a terminal of its own; folders for their work and for their scratch."""

    folder: Path
    scratch: Path  # by a short name: Ray makes sockets in it
    mark: str = field(default_factory=lambda: f"CAPTUNE_ENDINGS={uuid.uuid4().hex}")
    hold: bool = True

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def start(self, *arguments: object, terminal: int | None = None) -> subprocess.Popen[str]:
        """`captune ARGUMENTS`. terminal: the end of one that is its controlling terminal; pipes if None."""
        formula = {"seconds": 0.05} | ({"hold": str(self.folder / "nothing")} if self.hold else {})
        settings = {"CAPTUNE_FORMULA": json.dumps(formula), "TMPDIR": str(self.scratch), "PYTHONUNBUFFERED": "1"}
        return subprocess.Popen(
            [sys.executable, str(FORMULA), "captune", *map(str, arguments)],
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.PIPE if terminal is None else terminal,
            text=True,
            start_new_session=True,
            preexec_fn=None if terminal is None else lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
            env={**os.environ, **settings, **dict([self.mark.split("=")])},
        )

    def processes(self) -> list[int]:
        """All that commands of this desk have started and that runs yet."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    scratch = Path(tempfile.mkdtemp(prefix="e", dir="/tmp"))
    desk = Desk(tmp_path, scratch)
    yield desk
    for process in desk.processes():
        os.kill(process, signal.SIGKILL)
    shutil.rmtree(scratch, ignore_errors=True)


def until(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def trains(desk: Desk) -> bool:
    journal = desk.run / "study.journal"
    return journal.exists() and '"epoch:1"' in journal.read_text()


def end(process: subprocess.Popen[str], how: str, terminal: int | None = None) -> tuple[int, str]:
    """Ends a command: by a signal to it alone, to its whole group as terminals and `timeout` send it, or by closing its
    terminal. Its status and what it said last."""
    if terminal is not None:
        os.close(terminal)
    elif how.startswith("group "):
        os.killpg(process.pid, signal.Signals[signal_of(how)])
    else:
        process.send_signal(signal.Signals[how])
    _, err = process.communicate(timeout=60)
    return process.returncode, err or ""


def signal_of(how: str) -> str:
    return "SIGHUP" if how == "closed terminal" else how.removeprefix("group ")


def fates(desk: Desk, captune: Captune) -> list[str]:
    return [row["fate"] for row in json.loads(captune("trials", desk.run, "--format", "json").out)]


def assert_gone(desk: Desk, *, scratch: bool = True) -> None:
    """No process of the commands runs on, and nothing lies in the folder for temporary files."""
    until(lambda: not desk.processes(), 120)
    assert not scratch or not list(desk.scratch.iterdir())


STATUS = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGKILL": -9}
SEARCHES = [
    ("search", "starting", "SIGTERM"),
    ("search", "training", "closed terminal"),
    ("resume", "training", "group SIGTERM"),
]  # Ctrl-C: tests/test_end_to_end.py


@pytest.mark.parametrize(("verb", "phase", "how"), rest_in_soak(SEARCHES, SEARCHES[0]))
def test_search_that_is_told_to_end_is_told_to_the_study_and_says_so_by_its_status(
    desk: Desk, captune: Captune, captions_data: PreparedData, verb: str, phase: str, how: str
) -> None:
    settings = desk.folder / "search.yaml"
    settings.write_text(SEARCH_YAML)
    arguments = ["search", captions_data.path, "--run", desk.run, "--config", settings]
    if verb == "resume":
        make_run(arguments)
        arguments = ["resume", desk.run]
    ours, theirs = pty.openpty() if how == "closed terminal" else (None, None)
    process = desk.start(*arguments, terminal=theirs)
    until(lambda: (desk.run / "lock").exists())
    if phase == "training":
        until(lambda: trains(desk))
    status, err = end(process, how, ours)
    name = signal_of(how)
    assert status == STATUS[name], err
    if ours is None:
        assert f"captune resume {desk.run}" in err.splitlines()[-1]
    summary = json.loads((desk.run / "summary.json").read_text())
    assert (summary["interrupted"], summary["signal"]) == (True, name)
    after = {"lost", "waiting"} if phase == "training" else {"waiting"}
    assert after >= set(fates(desk, captune)) and summary["epochs"] >= (phase == "training")
    assert_gone(desk)


def make_run(arguments: list[Any]) -> None:
    """The run folder of a search that has not begun."""
    from captune.tuner.api.plans import plan
    from captune.tuner.run.settings import create

    _, data, _, run, _, settings = arguments
    planned = plan(data, run, config=settings)
    create(RunFolder(run), planned.config, planned.data.prepared, source=str(data))


@pytest.mark.soak
def test_killed_search_runs_no_more_and_its_resume_clears_up_after_it_once(
    desk: Desk, captune: Captune, captions_data: PreparedData
) -> None:
    settings = desk.folder / "search.yaml"
    settings.write_text(SEARCH_YAML)
    process = desk.start("search", captions_data.path, "--run", desk.run, "--config", settings)
    until(lambda: (desk.run / "lock").exists())
    until(lambda: trains(desk))
    assert "running" in fates(desk, captune)
    status, _ = end(process, "SIGKILL")
    assert status == STATUS["SIGKILL"]
    assert {"lost"} <= set(fates(desk, captune)) <= {"lost", "waiting"}
    trained = sum(record.epochs for record in load_records(RunFolder(desk.run)))
    assert_gone(desk, scratch=False)
    left = own(desk.scratch)
    foreign = desk.scratch / "captune-12345678"
    foreign.mkdir()
    desk.hold = False
    resumed = desk.start("resume", desk.run)
    _, err = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, err
    assert left and own(desk.scratch) == {foreign.name}
    before = (desk.run / "summary.json").read_bytes()
    summary = json.loads(before)
    assert (summary["interrupted"], summary["session_epochs"]) == (False, summary["epochs"] - trained)
    assert summary["trials"]["complete"] == 4
    again = desk.start("resume", desk.run)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert (desk.run / "summary.json").read_bytes() == before


WINNERS = [
    ("refit", "begun", "closed terminal"),
    ("refit", "written aside", "SIGINT"),
    ("refit", "written aside", "SIGKILL"),
    ("export", "written aside", "SIGTERM"),
]


@pytest.mark.parametrize(("verb", "phase", "how"), rest_in_soak(WINNERS, *WINNERS[:2]))
def test_winner_is_there_whole_or_not_at_all_and_the_status_says_what_ended_it(
    desk: Desk, old: Path, verb: str, phase: str, how: str
) -> None:
    run = old / "run"
    if verb == "refit":
        shutil.rmtree(run / "winner")
    before = names(run)
    ours, theirs = pty.openpty() if how == "closed terminal" else (None, None)
    arguments = [verb, run, *(("--to", run / "copy.keras", "--format", "keras") if verb == "export" else ())]
    process = desk.start(*arguments, terminal=theirs)
    if phase == "begun":
        until(lambda: len(desk.processes()) > 1)
    else:
        until(lambda: any(run.glob(f".captune-*.tmp/{'winner' if verb == 'refit' else 'copy.keras'}")))
    status, said = end(process, how, ours)
    assert status == STATUS[signal_of(how)]
    assert ("interrupted; no winner was written" in said) == ((verb, how) == ("refit", "SIGINT"))
    assert_gone(desk, scratch=how != "SIGKILL")
    assert names(run) - {"lock", "refit.lock", "baselines.json"} == before


@pytest.mark.soak
def test_refit_that_is_killed_while_it_confirms_trains_no_finalist_twice(desk: Desk, old: Path) -> None:
    run = RunFolder(old / "run")
    shutil.rmtree(run.winner)
    command = ("refit", run, "--confirm", "10m")

    def kept() -> dict[str, tuple[bytes, int]]:
        files = run.finalists.glob("*.answers")
        return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}

    process = desk.start(*command)
    until(kept)
    end(process, "SIGKILL")
    until(lambda: not desk.processes())
    before = kept()
    assert not run.winner.exists()

    again = desk.start(*command)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "was expected before test was read" in out
    assert before.items() <= kept().items()
    assert err.count("is trained again on train") == len(kept()) - len(before)


def own(scratch: Path) -> set[str]:
    """Ours: W&B, which Ray imports where it is there, leaves folders behind when it is killed."""
    return {name for name in names(scratch) if not name.endswith(("wandb-media", "wandb-artifacts"))}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
