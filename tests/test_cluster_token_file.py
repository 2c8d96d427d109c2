"""The token of a Ray that is started here: whole, of its owner alone, and one for all who start at once."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from captune.cluster.nodes.token_file import provide_token
from captune.environment import environment


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home folder of a user whose files all may read and write."""
    before = os.umask(0)
    with environment():
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            os.environ.pop(name, None)
        os.environ["HOME"] = str(tmp_path)
        yield tmp_path
    os.umask(before)


def modes(home: Path) -> tuple[int, int]:
    return (home / ".ray").stat().st_mode & 0o777, (home / ".ray" / "auth_token").stat().st_mode & 0o777


def test_token_is_made_for_its_owner_alone(home: Path) -> None:
    provide_token()
    assert modes(home) == (0o700, 0o600)
    assert len((home / ".ray" / "auth_token").read_text()) == 64
    assert [path.name for path in (home / ".ray").iterdir()] == ["auth_token"]


def test_token_that_is_there_stays_and_is_closed_to_others(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("mine")
    assert modes(home) == (0o777, 0o666)
    provide_token()
    assert modes(home) == (0o700, 0o600)
    assert (home / ".ray" / "auth_token").read_text() == "mine"


def test_searches_that_start_at_once_agree(home: Path) -> None:
    def token(_: int) -> str:
        provide_token()
        return (home / ".ray" / "auth_token").read_text()

    with ThreadPoolExecutor(8) as threads:
        (agreed,) = set(threads.map(token, range(32)))
    assert len(agreed) == 64


@pytest.mark.parametrize(
    "variables", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "mine"}, {"RAY_AUTH_TOKEN_PATH": "/mine"}]
)
def test_no_token_is_made_where_the_environment_says_otherwise(home: Path, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    provide_token()
    assert list(home.iterdir()) == []


def test_home_that_cannot_be_written_leaves_the_token_to_this_process(home: Path) -> None:
    os.environ["HOME"] = str(home / "gone")
    provide_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert list(home.iterdir()) == []
