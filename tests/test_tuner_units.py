"""Sizes, durations, intervals and GPUs: what people write is read, what a run wrote comes back as it was."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from captune.tuner.space.units import (
    Bytes,
    Duration,
    Gpus,
    Interval,
    Milliseconds,
    parse_duration,
    parse_interval,
    show_duration,
    show_size,
)


class Values(BaseModel):
    size: Bytes = 0
    duration: Duration | None = None
    interval: Interval = "60s"
    gpus: Gpus | None = None


def read(kind: Any, value: object) -> Any:
    return TypeAdapter(kind).validate_python(value)


@given(st.integers(1, 2**60 - 1))
def test_size_that_is_shown_is_read_as_it_was(count: int) -> None:
    assert read(Bytes, show_size(count)) == count


@given(st.integers(1, 10**9))
def test_duration_that_is_shown_is_read_as_it_was(seconds: int) -> None:
    assert read(Duration, show_duration(seconds)) == seconds


@given(
    st.builds(
        Values,
        size=st.integers(0, 2**60 - 1),
        duration=st.none() | st.floats(1e-3, 1e9),
        interval=st.sampled_from(["60s", "1h", "1epoch", "5 epochs"]),
        gpus=st.none() | st.just("auto") | st.floats(0, 1e3),
    )
)
def test_values_survive_json(values: Values) -> None:
    assert Values.model_validate_json(values.model_dump_json()) == values
    assert Values.model_validate(values.model_dump()) == values


@given(st.text())
def test_any_text_is_read_or_refused_in_one_short_line(text: str) -> None:
    for kind in (Bytes, Duration, Interval, Gpus):
        try:
            read(kind, text)
        except ValidationError as error:
            assert "\n" not in error.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2h", 7200), (" 1h1m1s ", 3661)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "90", "0s", "-5m", "1.5h", "30m1h", "5 minutes", "1d", "9" * 5000 + "s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 30m or 1h30m") as caught:
        parse_duration(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("text", "milliseconds"), [("20ms", 20), ("1.5ms", 1.5), (" 0.5 s ", 500)])
def test_latencies_are_read(text: str, milliseconds: float) -> None:
    assert read(Milliseconds, text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "20", "0ms", "-1ms", "0.0s", "1e3ms", "20 MS", "2m", ".5s", "nanms", "9" * 20 + "ms"]
)
def test_other_latencies_are_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"20ms, 1\.5ms or 0\.5s") as caught:
        read(Milliseconds, text)
    assert "\n" not in caught.value.errors()[0]["msg"]


def test_interval_is_of_time_or_of_epochs() -> None:
    assert parse_interval("10m") == (600.0, None)
    assert parse_interval("1epoch") == (None, 1)
    assert parse_interval("5 epochs") == (None, 5)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Bytes, -1),
        (Bytes, "100"),
        (Bytes, 2**60),
        (Duration, 0.0),
        (Duration, "30"),
        (Interval, 60),
        (Interval, "0epochs"),
        (Gpus, -0.5),
        (Gpus, "many"),
        (Gpus, "nan"),
        (Gpus, float("inf")),
        (Gpus, True),
    ],
)
def test_value_outside_its_range_is_refused(kind: Any, value: object) -> None:
    with pytest.raises(ValidationError):
        read(kind, value)


def test_sizes_and_durations_are_shown_in_the_largest_unit_without_fraction() -> None:
    assert [show_size(count) for count in (0, 1, 1024, 100 * 2**20, 10**6)] == [
        "0B",
        "1B",
        "1KiB",
        "100MiB",
        "1000000B",
    ]
    assert [show_duration(seconds) for seconds in (0.5, 90, 5400, 3600)] == ["0.5s", "1m30s", "1h30m", "1h"]
