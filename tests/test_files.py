"""Files appear whole or not at all, and nothing of anybody else's is touched."""

from __future__ import annotations

import fcntl
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.errors import one_line
from captune.files import LockedError, is_held, is_leftover, keep, locked, remove_leftovers, scratch, written_aside


def make(path: Path, *, folder: bool, text: str = "new") -> None:
    if folder:
        path.mkdir()
    (path / "inside" if folder else path).write_text(text)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def content(path: Path) -> str:
    return (path / "inside" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("folder", [False, True])
def test_it_appears_at_the_end_and_alone(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "out.keras"
    with written_aside(path) as aside:
        assert aside.name == path.name  # an ending may say what kind of file it is
        make(aside, folder=folder)
        assert not path.exists()
    assert content(path) == "new"
    assert names(tmp_path) == {"out.keras"}


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_what_failed(tmp_path: Path, folder: bool, error: type[BaseException]) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(error), written_aside(path) as aside:
        make(aside, folder=folder)
        raise error
    assert names(tmp_path) == {"out"} and content(path) == "old"


def test_file_gives_way_where_it_may(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with written_aside(path) as aside:
        make(aside, folder=False)
    assert content(path) == "new"


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("there", ["file", "folder", "link to nothing"])
def test_what_stands_there_is_never_replaced_unasked(tmp_path: Path, folder: bool, there: str) -> None:
    path = tmp_path / "out"
    with pytest.raises(OSError), written_aside(path, replace=False) as aside:
        make(aside, folder=folder)
        # While the block runs: a look beforehand would not have seen it.
        if there == "link to nothing":
            path.symlink_to(tmp_path / "nowhere")
        else:
            make(path, folder=there == "folder", text="old")
    assert path.is_symlink() or content(path) == "old"
    assert names(tmp_path) == {"out"}


def test_folder_with_something_in_it_stays_even_where_files_give_way(tmp_path: Path) -> None:
    make(tmp_path / "out", folder=True, text="old")
    with pytest.raises(OSError), written_aside(tmp_path / "out") as aside:
        make(aside, folder=True)
    assert content(tmp_path / "out") == "old"


def test_link_at_the_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("old")
    (tmp_path / "out").symlink_to(tmp_path / "mine")
    with written_aside(tmp_path / "out") as aside:
        make(aside, folder=False)
    assert content(tmp_path / "mine") == "old" and content(tmp_path / "out") == "new"


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_only_our_own_names_are_leftovers(name: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if name not in (".", ".."):
            (folder / name).mkdir()
        (folder / ".captune-00000000.tmp").write_text("a file is none")
        (folder / ".captune-11111111.tmp").symlink_to(folder / name)
        (folder / ".captune-22222222.tmp").mkdir()
        before = names(folder)
        remove_leftovers(folder)
        assert before - names(folder) == {".captune-22222222.tmp"}


def test_killed_process_leaves_what_can_be_told_and_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    code = (
        "import sys, time; from pathlib import Path; from captune.files import written_aside\n"
        "with written_aside(Path(sys.argv[1])) as aside: aside.write_text('half'); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert content(path) == "old"
    assert [is_leftover(found) for found in sorted(tmp_path.iterdir())] == [True, False]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == {"out"}


def hold(path: Path, ready: object, seconds: float) -> None:
    with locked(path):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(seconds)


def test_lock_of_another_process_is_refused_with_its_holder_or_waited_for(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=hold, args=(tmp_path / "lock", ready, 1.0))
    other.start()
    assert ready.wait(20)
    with pytest.raises(LockedError, match=f"process {other.pid} on ") as error, locked(tmp_path / "lock"):
        pass
    assert error.value.holder.startswith("process ")
    with locked(tmp_path / "lock", wait=True):
        other.join(20)
        assert other.exitcode == 0


def test_shared_lock_is_shared_and_keeps_others_out_until_the_last_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, shared=True):
        with locked(path, shared=True), pytest.raises(LockedError), locked(path):
            pass
        with pytest.raises(LockedError), locked(path):
            pass
    with locked(path), pytest.raises(LockedError), locked(path, shared=True):
        pass


def test_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("old")
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError), locked(tmp_path / "lock"):
        pass
    assert content(tmp_path / "mine") == "old"


@given(st.text(), st.integers(1, 400))
def test_one_line_is_one_line_and_short(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit and len(line.splitlines()) <= 1


def test_one_line_has_no_colours_and_says_where_it_was_cut() -> None:
    assert one_line("\x1b[31mno\x1b[0m\n  module") == "no module"
    assert one_line("abcdef", 4) == "abc…"


# Scratch

KILLED = """\
import os, sys
from pathlib import Path
from captune.files import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_scratch_is_gone_at_the_end_and_stays_where_it_is_to_be_kept(tmp_path: Path) -> None:
    with scratch(tmp_path) as folder:
        (folder / "deep").mkdir()
        (folder / "link").symlink_to(tmp_path)
    assert names(tmp_path) == set()
    with pytest.raises(KeyboardInterrupt), scratch(tmp_path) as folder:
        (folder / "file").write_text("kept")
        keep(folder)
        raise KeyboardInterrupt
    with scratch(tmp_path):
        pass
    assert names(tmp_path) == {folder.name} and names(folder) == {"file"}


@pytest.mark.parametrize("place", [lambda folder: scratch(folder), lambda folder: written_aside(folder / "file")])
def test_interrupt_between_any_two_lines_leaves_nothing(tmp_path: Path, place: Callable[[Path], Any]) -> None:
    def interrupt_at(number: int) -> None:
        """Goes into the block, where a signal's handler raises before a line of what makes the folder."""
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if frame.f_code.co_name not in {"scratch", "written_aside", "locked"}:
                return None
            lines += event == "line"
            if lines == number and event == "line":
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with place(tmp_path):
                sys.settrace(before)
                raise ZeroDivisionError  # no line raised before the block
        finally:
            sys.settrace(before)

    number = 0
    while True:
        number += 1
        try:
            interrupt_at(number)
        except KeyboardInterrupt:
            assert names(tmp_path) == set(), number
        except ZeroDivisionError:
            break
    assert number > 3


def test_scratch_of_a_killed_process_is_removed_with_the_next_and_nothing_else(tmp_path: Path) -> None:
    foreign = tmp_path / "captune-abcdefgh"
    foreign.mkdir()
    (tmp_path / "captune-12345678").symlink_to(foreign)
    before = names(tmp_path)
    with scratch(tmp_path) as in_use:
        subprocess.run([sys.executable, "-c", KILLED, tmp_path])
        (left,) = names(tmp_path) - before - {in_use.name}
        with scratch(tmp_path) as other:
            assert names(tmp_path) == before | {in_use.name, other.name, left}
        assert names(tmp_path) == before | {in_use.name}
    assert names(tmp_path) == before


def test_lock_is_held_while_a_process_has_it_and_looking_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path) and names(tmp_path) == set()
    with locked(path):
        assert is_held(path)
    before = path.read_bytes()
    assert not is_held(path) and path.read_bytes() == before
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert is_held(path), "nobody can tell"


def test_reader_that_looks_at_a_lock_for_a_moment_keeps_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    reader = path.open()
    fcntl.flock(reader, fcntl.LOCK_SH)
    moment = threading.Timer(0.01, reader.close)
    moment.start()
    with locked(path):
        moment.join()
