"""`captune report`: of old runs, of running ones, and never at a winner's cost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Captune, refused

import captune as door
from captune.files import locked
from captune.results.run_folder import RunFolder
from captune.tuner.winner.report_page import write_page


@pytest.mark.slow
def test_run_of_an_earlier_captune_becomes_a_page(captune: Captune, old: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    ran = captune("report", old / "run", "--out", out)
    assert ran.code == 0 and str(out) in ran.out, ran
    text = out.read_text()
    assert "The winner is trial" in text and "kept no answers to single rows" in text and "which is running" not in text
    assert door.open_run(old / "run").report(out) == out and out.read_text() == text


def test_run_that_is_searched_says_so(old: Path, tmp_path: Path) -> None:
    shutil.rmtree(old / "run" / "winner", ignore_errors=True)
    with locked(old / "run" / "lock"):
        text = door.open_run(old / "run").report(tmp_path / "page.html").read_text()
    assert "which is running" in text and "not proved yet" in text


def test_search_that_has_made_no_study_is_a_page(old: Path, tmp_path: Path) -> None:
    for name in ("study.journal", "summary.json", "winner"):
        path = old / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with RunFolder(old / "run").writing():
        assert "There is no answer" in door.open_run(old / "run").report(tmp_path / "page.html").read_text()


def test_what_is_no_run_and_what_cannot_be_written_are_told_in_one_line(
    captune: Captune, old: Path, tmp_path: Path
) -> None:
    refused(captune("report", tmp_path, "--out", tmp_path / "page.html"), "holds no run")
    refused(captune("report", old / "run", "--out", tmp_path / "none" / "page.html"), "a folder that exists")
    refused(captune("report", old / "run", "--out", tmp_path), "name it *.html")
    assert not (tmp_path / "page.html").exists()


def test_page_that_fails_is_told_and_leaves_the_winner_alone(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(old / "run")
    before = sorted(path.name for path in run.winner.iterdir())
    run.journal.write_text("damaged\n")
    trouble = write_page(run, run.winner)
    assert trouble is not None and "no report was written" in trouble and "\n" not in trouble
    assert sorted(path.name for path in run.winner.iterdir()) == before
