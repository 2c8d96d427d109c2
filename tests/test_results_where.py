"""A filter compares columns and computes with them; it calls nothing, and every other text is one line of refusal."""

from pathlib import Path

import pandas as pd
import pytest
from builders import refused
from hypothesis import given
from hypothesis import strategies as st

from captune.errors import ArgumentError
from captune.results.where import LONGEST, selected

TABLE = pd.DataFrame(
    {
        "number": [0, 1, 2, 3],
        "mean_f1": [0.5, None, 0.9, 0.7],
        "fate": ["complete", "failed", "stopped", "complete"],
        "reason": [None, "ValueError: a & b | 'c'", "halving at epoch 1", None],
        "train.learning_rate": [1e-3, 1e-3, 2e-3, 1e-2],
        "image.frozen": [True, False, None, None],
        "mixed": [1, "auto", None, 2],
    }
)


def rows(where: str) -> list[int]:
    return selected(TABLE, where)["number"].tolist()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("train.learning_rate > 1.5e-3", [2, 3]),
        ("`train.learning_rate` > 1.5e-3", [2, 3]),
        ("`train.learning_rate`.notna() and number<2", [0, 1]),
        ("0.5 <= mean_f1 < 0.9", [0, 3]),
        ("(mean_f1 > 0.6) & (fate == 'complete') | number == 1", [1, 3]),
        ("mean_f1 > 0.6 & fate == 'complete'", [3]),
        ("~(number > 1)", [0, 1]),
        ("not number > 1 or fate == 'stopped'", [0, 1, 2]),
        ("fate in ('failed', 'stopped')", [1, 2]),
        ("number not in [-1, 1, 2.0]", [0, 3]),
        ("number in [True]", [1]),
        ("number % 2 == 1", [1, 3]),
        ("2 * number - 1 >= +mean_f1 * 2 ** 2", [3]),
        ("-number // 2 < -1", [3]),
        ("number / 0 > 1e308", [1, 2, 3]),
        ("mean_f1.isna()", [1]),
        ("mean_f1 != mean_f1", [1]),
        ("reason.notna() and not reason.startswith('halving')", [1]),
        ("reason.str.contains('epoch')", [2]),
        ("'epoch' in reason", [2]),
        ("'epoch' not in reason", [0, 1, 3]),
        ("reason.contains('a & b | ')", [1]),
        ("reason.endswith(\"'c'\")", [1]),
        ("reason.contains('.*')", []),
        ("reason == 'a `b` c'", []),
        ("image.frozen == True", [0]),
        ("mixed == 'auto'", [1]),
        ("  number == 0  ", [0]),
    ],
)
def test_condition_keeps_the_rows_for_which_it_holds(where: str, expected: list[int]) -> None:
    assert rows(where) == expected


REFUSED = [
    "number.to_csv('x')", "number.to_csv('x').isna()", "__import__('os').system('true')", "fate.__class__ == 1",
    "@x > 1", "().__class__", "(lambda: number)()", "[n for n in number]", "f'{number}' == fate", "(x := 1) > number",
    "number if True else number", "number[0] > 1", "{1: 2}", "print(number)", "reason.contains(fate)",
    "reason.contains('a', regex=True)", "reason.startswith()", "mean_f1.isna(1)", "number is 1", "number in fate",
    "1 in number in [1]", "fate == ['complete']", "b'x' == fate", "1j == number", "... == number", "None == number",
    "1 < 2", "'a' < fate < 3", "mixed > 1", "mixed + 1 > 1", "fate + 'a' == 'b'", "'float' * number > 1",
    "'a' * 9**9 == fate", "image.frozen + 1 > 1", "number and mean_f1", "not number", "not 1", "number > 0 or 1",
    "9**9**9 > number", "number > 1/0", f"number > {'9' * 900}",
    f"number > 0x{'f' * 900}", "(" * 300, "-" * 900 + "1 > number", "not " * 240 + "number",
    "number" + "+1" * 490 + " > 1", "number > 1" + " " * LONGEST, "`number > 1", "`a b` > 1", "``", "number > '",
    "number >\n1", "\udcff == number", "'\\N{x}' == fate", "", " ", "\x00",
]  # fmt: skip


@pytest.mark.parametrize("where", REFUSED)
def test_anything_else_is_refused_in_one_line_that_names_it(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(lambda: selected(TABLE, where), "where: ", error=ArgumentError)
    assert len(message) < 1000
    assert not list(tmp_path.iterdir())


def test_unknown_column_is_told_with_the_closest() -> None:
    refused(lambda: rows("mean_f2 > 1"), "no column mean_f2", "mean_f1", error=ArgumentError)
    refused(lambda: rows("learning_rat > 1"), "train.learning_rate", error=ArgumentError)


NAMES = [*TABLE.columns, *(f"`{name}`" for name in TABLE.columns), "nothing", "os", "pd", "x.y", "__doc__"]
ATOMS = (
    st.sampled_from(NAMES) | st.integers(-99, 10**12).map(str) | st.floats().map(repr) | st.text(max_size=6).map(repr)
)
JOINTS = [
    "{} and {}", "{} or {}", "{} & {}", "{} | {}", "({}) < ({})", "{} == {}", "{} != {}", "{} >= {}", "{} in {}",
    "{} in [{}]", "{} not in ({},)", "{} + {}", "{} * {}", "{} ** {}", "{} % {}", "{} // {}", "{} - {}", "{}.{}",
    "{}.contains({})", "{}.startswith({})", "{}[{}]", "{}({})", "{} if {} else 1", "{} is {}", "lambda: {} {}",
    "{}={}", "{};{}",
]  # fmt: skip
AROUND = ["not {}", "-{}", "~{}", "({})", "{}.isna()", "{}.str"]


def joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.builds(lambda joint, left, right: joint.format(left, right), st.sampled_from(JOINTS), parts, parts)
    return pairs | st.builds(lambda form, part: form.format(part), st.sampled_from(AROUND), parts)


@pytest.mark.fuzz
@given(st.recursive(ATOMS, joined, max_leaves=12) | st.text(max_size=40))
def test_drawn_expression_selects_rows_or_is_refused_in_one_line(where: str) -> None:
    before = TABLE.copy()
    try:
        kept = selected(TABLE, where)
    except ArgumentError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        assert set(kept.index) <= set(TABLE.index)
    pd.testing.assert_frame_equal(TABLE, before)


@pytest.mark.parametrize(
    ("where", "word"),
    [
        ("fate.startswith(reason)", "takes one text in quotes"),
        ("number == '0'", "another kind"),
        ("reason > 3", "another kind"),
        ("fate == 3", "another kind"),
        ("fate > True", "another kind"),
        ("fate.upper()", "upper"),
    ],
)
def test_refusal_says_what_is_taken(where: str, word: str) -> None:
    refused(lambda: rows(where), word, error=ArgumentError)
