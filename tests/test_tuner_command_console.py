"""What the command says reaches a terminal as text alone, and a stream that is closed or full takes nothing with it."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import record
from conftest import Captune, refused
from rich.console import Console

from captune.results import table, terminal_table, trial_page
from captune.tuner.api.progress import say
from captune.tuner.command import console

EVIL = "\x1b[2J\x1b]0;title\x07[red]x[/red]\u202e\x9b"
SPELLED = r"\x1b[2J\x1b]0;title\x07[red]x[/red]\u202e\u009b"


def command(*arguments: str, shell: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """`captune ARGUMENTS`, with redirections as a shell has them."""
    words = f'exec "$0" -c "from captune.tuner.command.main import main; main()" "$@" {shell}'
    return subprocess.run(["bash", "-c", words, sys.executable, *arguments], capture_output=True, cwd=folder)


@pytest.mark.parametrize("fate", ["failed", EVIL])
def test_tables_show_control_characters_and_markup_as_text(fate: str) -> None:
    trial = record(1, 0.5, fate=fate, reason=EVIL, node=EVIL, config={EVIL: EVIL, "x": 1})
    other = record(2, 0.5, config={EVIL: "y", "x": 2})
    out = Console(width=1000, file=io.StringIO(), force_terminal=True, color_system=None)
    for part in (
        terminal_table.terminal([trial, other], columns=["reason", "node", "fate", EVIL]),
        *trial_page.trial(trial),
    ):
        out.print(part)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert not set("\x1b\x07\u202e\x9b") & set(text)
    assert text.count(SPELLED) >= 6


def test_files_keep_control_characters_and_a_terminal_does_not_get_them(
    captune: Captune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    content = table.render([record(1, reason=EVIL)], "csv")
    assert EVIL.encode() in content
    assert SPELLED in table.render([record(1, reason=EVIL)], "markdown").decode()
    console.print_file(content)
    assert capsysbinary.readouterr().out == content
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.print_file(content)
    shown = capsysbinary.readouterr().out
    assert SPELLED.encode() in shown and b"\x1b" not in shown


def test_messages_and_results_are_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"note: {EVIL}")
    console.tell(EVIL)
    console.print_json({EVIL: EVIL})
    with pytest.raises(SystemExit):
        console.fail(f"{EVIL}\n{'x' * 10_000}")
    out, err = capsys.readouterr()
    assert not set("\x1b\x07\u202e\x9b") & set(out + err)
    assert err.count(SPELLED) == 2 and out.count(SPELLED) == 1
    assert len(err.splitlines()) == 2 and max(map(len, err.splitlines())) < 1100


def test_name_with_control_characters_is_refused_as_text(captune: Captune, tmp_path: Path) -> None:
    refused(captune("trials", tmp_path / EVIL.replace("/", "_")), r"\x1b[2J")
    refused(captune("explain", EVIL), r"\x1b[2J")
    assert "\x1b" not in captune("search", EVIL, "--run", "r", "--trials", EVIL).err


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "> /dev/null", "| true"])
def test_stream_that_is_closed_leads_nowhere(closed: str) -> None:
    done = command("size", "--json", shell=closed)
    assert done.returncode == 0
    assert done.stderr == b""


@pytest.mark.slow
def test_error_does_not_come_out_as_a_result_where_errors_are_closed() -> None:
    done = command("size", "--preset", "none", shell="2>&-")
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["size"], ["--version"], ["space"]], ids=" ".join)
def test_result_that_cannot_be_written_is_a_failure_in_one_line(arguments: list[str]) -> None:
    done = command(*arguments, shell="> /dev/full")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"error: ")


def test_path_that_is_not_utf8_is_refused_before_anything_is_done(captune: Captune, tmp_path: Path) -> None:
    refused(captune("prepare", "train.csv", "--out", os.fsdecode(b"o\xff")), r"o\xff", "UTF-8")


@pytest.mark.slow
def test_letters_that_the_terminal_has_not_are_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = command("explain", "\u72ac")
    assert done.returncode == 2 and rb"\u72ac" in done.stderr
