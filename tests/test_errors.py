"""What is said to a person: in one line, as it is meant, and nothing that a terminal would obey."""

import os
import subprocess
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.errors import among, in_words, one_line, shell_word, visible

PATHS = st.binary(min_size=1, max_size=12).map(os.fsdecode) | st.text(min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("caf\xe9 犬 🚦 \u0915\u093f a\tb\nc", "caf\xe9 犬 🚦 \u0915\u093f a\tb\nc"),
        ("\x1b[2J\x07\r\x00\x7f", r"\x1b[2J\x07\x0d\x00\x7f"),
        ("\x85\x9b31m", r"\u0085\u009b31m"),
        ("\u202egpj.exe\u2066\u2069\u2028\u2029", r"\u202egpj.exe\u2066\u2069\u2028\u2029"),
        (os.fsdecode(b"o\xff"), r"o\xff"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, expected: str) -> None:
    assert visible(text) == expected


@pytest.mark.fuzz
@given(st.text(st.characters(), max_size=30))
def test_visible_text_holds_no_control_and_can_be_encoded(text: str) -> None:
    shown = visible(text)
    shown.encode()
    controls = [c for c in shown if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") and c not in "\n\t"]
    assert not controls
    assert visible(shown) == shown


@pytest.mark.slow
@given(st.lists(PATHS.filter(lambda text: "\x00" not in text and not _half(text)), min_size=20, max_size=20))
def test_word_pasted_into_a_shell_is_the_path_itself(paths: list[str]) -> None:
    command = f"printf '%s\\0' {' '.join(map(shell_word, paths))}"
    assert "\n" not in command and visible(command) == command
    done = subprocess.run(["bash", "-c", command], capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True)
    assert done.stdout.split(b"\x00")[:-1] == [os.fsencode(path) for path in paths]


def _half(text: str) -> bool:
    """Of a character: no path has one but those that stand for a byte."""
    return any("\ud800" <= letter < "\udc80" or "\udcff" < letter <= "\udfff" for letter in text)


def test_plain_word_is_not_quoted() -> None:
    assert shell_word("runs/first-1") == "runs/first-1"
    assert shell_word("my run") == "'my run'"


def test_unknown_name_is_answered_with_the_closest_and_all_where_these_are_few() -> None:
    assert among("trails", ["trials", "budget"]) == "closest: trials; there are: trials, budget"
    assert among("x", ["trials", "budget"]) == "there are: trials, budget"
    assert among("train.lr", ["train.loss", "train.learning_rate"]).startswith(
        "closest: train.learning_rate, train.loss"
    )
    many = [f"setting.number_{place}" for place in range(100)]
    assert among("setting.number_99x", many).startswith("closest: setting.number_99")
    assert len(among("?", many)) <= 500
    assert len(among("x" * 10**6, many)) <= 500


def test_one_line_is_one_line_without_colours() -> None:
    assert one_line("a\n \x1b[31mb\x1b[0m\tc") == "a b c"
    assert len(one_line("x" * 1000, 50)) == 50


def test_complaint_of_pydantic_is_a_rule_that_knows_no_python() -> None:
    from pydantic import BaseModel, Field, ValidationError

    class Settings(BaseModel, extra="forbid"):
        count: int = Field(1, ge=1)
        share: float = 0.5
        name: str = ""
        on: bool = False
        inner: dict[str, int] = {}

    for values, words in (
        ({"count": "x"}, "must be a whole number"),
        ({"count": "1.5"}, "must be a whole number"),
        ({"count": "9" * 5000}, "must be a whole number of fewer digits"),
        ({"count": 0}, "must be greater than or equal to 1"),
        ({"share": "x"}, "must be a number"),
        ({"name": 5}, "must be a text"),
        ({"on": "x"}, "must be true or false"),
        ({"inner": 5}, "must be an object"),
        ({"other": 5}, "is not known"),
    ):
        with pytest.raises(ValidationError) as refused:
            Settings(**values)
        assert in_words(refused.value.errors()[0]["msg"]) == words
