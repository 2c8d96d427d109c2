"""Who sees how work goes on: a terminal after two seconds, a log each minute, results never."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from captune.data_prep.store import PreparedData
from captune.tuner.api import progress
from captune.tuner.winner.step import Step

FORMULA = Path(__file__).parent / "formula.py"
SEARCH_YAML = """\
preset: captions
modality: caption
trials: 6
min_free: 1MiB
budget: 400kB
fixed: {train.epochs: 9}
space:
  text.embedding: {low: 8, high: 256}
  text.units: {low: 8, high: 512}
"""
BAR = """
import sys, time
from captune.tuner.api import progress
progress._QUIET_SECONDS = 0.3
with progress.bar("reading \\x1b[31m", "rows") as show:
    for done in range(int(sys.argv[1])):
        show(done, 10)
        time.sleep(0.1)
print("a result")
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the time by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", None, ["one two three"]),
        ("one two three", 7, ["one two", "three"]),
        ("sizes      smallest one, largest two", 24, ["sizes      smallest one,", "           largest two"]),
        ("runs 1.    a, b\nnext       c", 13, ["runs 1.    a,", "           b", "next       c"]),
        ("a/path/that/is/longer than", 9, ["a/path/that/is/longer", "than"]),
        ("  indented text", 10, ["  indented", "  text"]),
        ("", 10, [""]),
        ("a\n\nb", 10, ["a", "", "b"]),
    ],
)
def test_lines_break_between_words_below_what_follows_a_heading(text: str, width: int | None, lines: list[str]) -> None:
    assert progress.in_lines(text, width).split("\n") == lines


def test_sentences_are_broken_for_a_terminal_alone() -> None:
    said = "note       " + "word " * 30
    imported = "from captune.tuner.api.progress import say; from captune.tuner.command.console import tell_lines"
    saying = f"{imported}; say({said!r}); tell_lines({said!r})"
    screen, out = in_terminal("-c", saying, width=40)
    assert [len(line) <= 40 for line in screen.splitlines()] == [True] * len(screen.splitlines())
    assert screen.split() == said.split() and len(screen.splitlines()) > 4
    assert out == f"{said}\n"


def in_terminal(*arguments: object, width: int = 80, **variables: str) -> tuple[str, str]:
    """What a command of Python's left on a terminal of that width by its errors, and on stdout, which is a pipe."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**kept, "TERM": "xterm-256color", "PYTHONUTF8": "1", **variables},
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(ours, 65536)
        except OSError:  # nobody holds the other end any more
            break
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said.decode()
    return said.decode(), out.decode()


def lines(said: str) -> list[str]:
    """All lines that were ever drawn, without colours and moves of the cursor."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)) if line.strip()]


def test_log_has_a_line_a_minute(clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("preparing", "pictures") as show:
        for done in range(1, 1001):
            clock(0.25)
            show(done, 1000)
    assert capsys.readouterr() == (
        "",
        "".join(f"preparing: {n} of 1000 pictures\n" for n in (240, 480, 720, 960, 1000)),
    )


def test_work_of_less_than_a_minute_says_nothing_in_a_log(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.bar("preparing", "pictures") as show:
        clock(59.0)
        show(10, 10)
    assert capsys.readouterr() == ("", "")


def test_bar_of_work_that_lets_no_thread_draw_is_there_before_it_begins() -> None:
    said, _ = in_terminal("-c", BAR.replace('"rows"', '"rows", at_once=True').replace("0.3", "60"), 1)
    assert "reading" in said


def test_sentences_of_work_on_a_winner_are_said_and_its_epochs_now_and_then(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for shown in (False, True):
        with progress.steps("opening the run", shown=shown) as tell:
            tell("note: \x1b[2J")
            tell(Step("refit 1 of 2", 1, 20, "loss 0.5"))
            clock(60.0)
            tell(Step("refit 1 of 2", 2, 20, "loss 0.4"))
    assert capsys.readouterr().err == "note: \\x1b[2J\nrefit 1 of 2: 2 of 20 epochs, loss 0.4\n"


@pytest.mark.slow
def test_bar_is_drawn_in_a_terminal_after_a_while_and_taken_back() -> None:
    said, out = in_terminal("-c", BAR, 10)
    assert out == "a result\n"
    drawn = lines(said)
    assert drawn and "of 10 rows" in drawn[-1] and r"\x1b[31m" in drawn[-1]
    assert not any(f" {early} of 10 rows" in line for line in drawn for early in range(2))
    assert said.endswith("\x1b[2K"), "nothing of it stays"


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "variables"), [(1, {}), (10, {"TERM": "dumb"})], ids=["quick", "dumb"])
def test_nothing_is_drawn_of_quick_work_or_in_a_terminal_that_cannot_take_it_back(
    rounds: int, variables: dict[str, str]
) -> None:
    assert in_terminal("-c", BAR, rounds, **variables) == ("", "a result\n")


@pytest.mark.soak
@pytest.mark.cluster
def test_search_in_a_terminal_shows_its_trials_and_leaves_results_alone(
    captions_data: PreparedData, tmp_path: Path
) -> None:
    (tmp_path / "search.yaml").write_text(SEARCH_YAML)
    arguments = ["search", captions_data.path, "--run", tmp_path / "run", "--config", tmp_path / "search.yaml"]
    said, out = in_terminal(FORMULA, "captune", *arguments, width=60, CAPTUNE_FORMULA='{"seconds": 0.1}', NO_COLOR="1")
    drawn = lines(said)[next(n for n, line in enumerate(lines(said)) if "starting Ray" in line) :]
    for what in (
        r"\d of 6 trials  about \d:\d\d left", r"\d:\d\d elapsed, .*epochs/min", r"trial +\d+  epoch \d/9  0\.\d{4}  ▁",
        r"best mean F1 0\.\d{4}, 0\.\d\d MiB, trial \d", r"\d of \d slots", "trial +\\d+  starting a worker",
    ):  # fmt: skip
        assert any(re.match(f"[━╸╺ ]*{what}", line) for line in drawn), (what, drawn)
    assert max(map(cell_len, drawn)) <= 60
    assert "\x1b[32m" not in said, "NO_COLOR"
    assert out.splitlines()[-1].startswith("next: ") and "elapsed" not in out
