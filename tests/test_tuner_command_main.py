"""What the command does with an argument before any verb sees it."""

from pathlib import Path

import pytest
from conftest import Captune, refused

ROWS = "ImageID,Labels,Caption\n" + "".join(f"{n}.jpg,{1 + n % 2},a box {n}\n" for n in range(30))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with train.csv in it; the current folder is another."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "home" / "train.csv").write_text(ROWS)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.mark.parametrize("out", [["--out=~/d"], ["--out", "~/d"], ["--out=~/d/"]])
def test_path_that_begins_with_a_tilde_is_in_the_home_folder(captune: Captune, home: Path, out: list[str]) -> None:
    ran = captune("prepare", "~/train.csv", *out)
    assert ran.code == 0, ran.err
    assert (home / "d" / "manifest.json").is_file() and not list(Path().iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("trials", "~/run"), "run"),
        (("resume", "~"), ""),
        (("search", "~/data", "--run=~/run"), "data"),
        (("size", "--config=~/size.yaml"), "size.yaml"),
        (("predict", "~/bundle", "x.csv", "--out=~/train.csv"), "train.csv"),
    ],
)
def test_every_verb_names_the_path_in_the_home_folder(
    captune: Captune, home: Path, arguments: tuple[str, ...], named: str
) -> None:
    refused(captune(*arguments), str(home / named))
    assert not list(Path().iterdir())


def test_home_folder_that_is_not_there_is_refused_and_nothing_made(captune: Captune, home: Path) -> None:
    refused(captune("prepare", home / "train.csv", "--out=~nobody-of-this-name/d"), "~nobody-of-this-name/d", "home")
    assert not list(Path().iterdir())


def test_current_folder_that_is_gone_is_named(captune: Captune, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "gone").mkdir()
    monkeypatch.chdir(home / "gone")
    (home / "gone").rmdir()
    ran = captune("prepare", home / "train.csv", "--out", "data")
    monkeypatch.chdir(home)
    assert (ran.code, "current folder is no longer there" in ran.err) == (1, True), ran.err


@pytest.mark.parametrize(("says", "ends"), [("x.so: failed to map segment from shared object", True), ("no x", False)])
def test_module_that_memory_has_no_room_for_is_told_in_one_line(
    captune: Captune, home: Path, monkeypatch: pytest.MonkeyPatch, says: str, ends: bool
) -> None:
    def loads(*_: object, **__: object) -> None:
        raise ImportError(says)

    monkeypatch.setattr("captune.data_prep.store.prepare", loads)
    command = ("prepare", home / "train.csv", "--out", "data")
    ran = captune(*command)
    assert ran.code == 1 and says in ran.err
    assert ("memory ran out" in ran.err and len(ran.err.splitlines()) == 1) == ends, ran.err


def test_tilde_that_begins_no_path_stays(captune: Captune, home: Path) -> None:
    ran = captune("prepare", "../home/train.csv", "--out", "d~")
    assert ran.code == 0, ran.err
    assert [path.name for path in Path().iterdir()] == ["d~"]
    refused(captune("explain", "~learning_rate"), "~learning_rate")
