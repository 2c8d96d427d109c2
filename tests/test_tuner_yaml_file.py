"""Drawn search.yaml: settings, or one line that names the file; soon, whatever stands in it."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.model.presets import PRESETS
from captune.tuner.space.config import SearchConfig, read_search, search_settings, shipped_space
from captune.tuner.space.declarations import configuration_settings
from captune.tuner.space.yaml_file import MOST_BYTES, ConfigError, YamlFile

LONGEST = 1100  # characters of a message
SECONDS = 10


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn") / "search.yaml"


def read(path: Path, content: bytes) -> SearchConfig | None:
    """The settings; None where they are refused as they should be."""
    path.write_bytes(content)
    before = time.monotonic()
    try:
        return read_search(path, preset=None, default_preset="compact", overrides={})
    except ConfigError as error:
        message = str(error)
        assert "\n" not in message and len(message) < LONGEST, message[:LONGEST]
        assert str(path) in message or "a search needs an end" in message
        return None
    finally:
        assert time.monotonic() - before < SECONDS


SCALARS = [
    "2001-02-30", "2001-01-01", "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "0o17", "017", "09", "0x1F", "0b11",
    "0x" + "f" * 4000, "9" * 6000, "-" + "9" * 400, "1:30", "190:20:30", ".inf", "-.inf", ".nan", "1e400", "1e-400",
    "1_000", "1e3", "128.0", "1.5", "-1", "~", "null", "", "true", "no", "on", "'8'", '"8"', '"\\e[2J"',
    '"\\U00110000"', "=", "<<", "!!int 3", "!!bool 3", "!!float ''", "!local x", "! 3", "&a 3", "*a", "? 3", "[1, 2]",
    "[[1], {a: b}]",
    "{low: 1, high: 2}", "{low: 1, high: 3, step: 0.5}", "{low: 1e0, high: 1e1, log: yes}", "{choices: [1]}",
    "{choices: {a: 1}, when: []}", "{low: 1, high: 3, when: {text.encoder: gru}}", "1h30m", "1e400h", "90s", "100MiB",
    "9" * 3000 + "h", "9" * 3000 + "MiB", "2epochs", "auto", "mean_f1,bytes", "compact", "captions", "both", "int8",
    "|\n  text", ">-\n  folded", "'open", "{a: b", "- 1", "\t3", "@x", "`x`", "%x", "x" * 3000, "犬", "\u202e", "a: b",
]  # fmt: skip
NAMES = [*search_settings(), *configuration_settings(), "halving", "fixed", "space", "storage", "trails", "text"]
NAMES += ["<<", "? [a]", "3", "~", "true", "2001-01-01", "=", "k" * 2000, "'text.units'", '"\\e"', "!!str trials"]
PAIRS = st.tuples(st.sampled_from(NAMES), st.sampled_from(SCALARS))


@st.composite
def written(draw: st.DrawFn) -> str:
    """Keys and values of every kind, most of them where they belong."""
    lines = [f"preset: {draw(st.sampled_from(sorted(PRESETS)))}"] if draw(st.booleans()) else []
    lines += [f"{name}: {value}" for name, value in draw(st.lists(PAIRS, max_size=3))]
    for group in draw(st.lists(st.sampled_from(["fixed", "space", "halving"]), unique=True)):
        lines += [f"{group}:", *(f"  {name}: {value}" for name, value in draw(st.lists(PAIRS, max_size=3)))]
    return "\n".join([*lines, "trials: 3", ""])


@pytest.mark.fuzz
@given(written())
def test_drawn_settings_are_read_or_refused_in_one_line(path: Path, text: str) -> None:
    read(path, text.encode())


PIECES = [b"\n", b"  ", b": ", b"[", b"}", b"&a ", b"*a", b"\t"]


@pytest.mark.fuzz
@given(st.sampled_from(sorted(PRESETS)), st.data())
def test_shipped_settings_that_were_damaged_are_read_or_refused_in_one_line(
    path: Path, preset: str, data: st.DataObject
) -> None:
    content = bytearray((shipped_space(preset) + "trials: 3\n").encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        end = min(len(content), place + data.draw(st.integers(0, 20)))
        inserted = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"\n", b"  ", b": ", b"[", b"}", b"&a ", b"*a", b"\t"])
        )
        content[place:end] = inserted
    read(path, bytes(content))


DEEP: dict[str, str] = {
    "lists": "fixed: " + "[" * 20_000,
    "maps": "fixed: " + "{a: " * 20_000,
    "dashes": "- " * 20_000,
    "questions": "? " * 20_000,
    "lines": "".join(f"{' ' * depth}a:\n" for depth in range(500)),
    "values": f"fixed: [{'1, ' * 50_000}]",
    "keys": "".join(f"a{place}: 1\n" for place in range(20_000)),
    "anchors": "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)),
    "maps of maps": "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{p: *a{i - 1}, q: *a{i - 1}}}\n" for i in range(1, 40)),
    "merges": "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)),
    "itself": "fixed: &a {x: *a}",
    "a long word": "preset: " + "x" * (MOST_BYTES - 20),
    "a long name": f"? {'x' * (MOST_BYTES - 20)}\n: 1",
    "more than a file of settings": "# " + "x" * MOST_BYTES,
}


@pytest.mark.parametrize("case", DEEP)
@pytest.mark.timeout(30)
def test_file_that_nobody_means_is_refused_soon(path: Path, case: str) -> None:
    assert read(path, DEEP[case].encode()) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("%YAML 1.1\n---\ntrials: 1:30\n", 2),
        ("trials: !!int 3\n", 1),
        ("trials: &a 3\nseed: &a 4\n", 2),
        ("trials: 3\nseed: ! 3\n", 2),
        ("trials: 3\nseed: 99999999999999999999\n", 2),
        ("trials: 3\nfixed: {text.units: 0x10000000000000000}\n", 2),
    ],
)
def test_tags_other_versions_and_numbers_without_end_are_refused_with_their_line(
    path: Path, text: str, line: int
) -> None:
    with pytest.raises(ConfigError, match=f"^s.yaml line {line}: "):
        YamlFile(text, "s.yaml")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2001-02-30", "2001-02-30"),
        ("1:30", "1:30"),
        ("=", "="),
        ("0o17", 15),
        ("017", 17),
        ("1_000", 1000),
        ("1e3", 1e3),
    ],
)
def test_scalar_is_that_of_yaml_1_2(written: str, value: Any) -> None:
    assert YamlFile(f"key: {written}", "s.yaml").content == {"key": value}
