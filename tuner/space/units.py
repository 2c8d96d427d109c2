"""Sizes, durations, intervals and GPUs as people write them: 100MiB, 1h30m, 5epochs, auto."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from captune.model.size import parse_bytes

_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")
_MILLISECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s)")
_EPOCHS = re.compile(r"(\d{1,9})\s*epochs?")
_SIZES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


@dataclass(frozen=True)
class Unit:
    """How the values of a type are written: in the help of an option, in words, by a person.

    `bare_refused`: a number alone is what run.json holds, but not what a person may write.
    """

    metavar: str
    form: str
    show: Callable[[Any], str] = str
    bare_refused: bool = False


def parse_duration(text: str) -> float:
    """Seconds of '90s', '30m', '1h30m'.

    Raises:
        ValueError: anything else.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if seconds <= 0:
        raise ValueError(f"a duration is written like 90s, 30m or 1h30m, got {shortened(text)}")
    return float(seconds)


def parse_milliseconds(text: str) -> float:
    """Milliseconds of '20ms', '1.5ms', '0.5s'.

    Raises:
        ValueError: anything else.
    """
    match = _MILLISECONDS.fullmatch(text.strip())
    milliseconds = float(match[1]) * {"ms": 1, "s": 1000}[match[2]] if match else 0.0
    if milliseconds <= 0:
        raise ValueError(f"a latency is written like 20ms, 1.5ms or 0.5s, got {shortened(text)}")
    return milliseconds


def parse_interval(text: str) -> tuple[float | None, int | None]:
    """Seconds, or epochs, of '60s', '10m', '1epoch', '5epochs'.

    Raises:
        ValueError: anything else.
    """
    match = _EPOCHS.fullmatch(text.strip())
    if match is not None and int(match[1]) > 0:
        return None, int(match[1])
    try:
        return parse_duration(text), None
    except ValueError:
        raise ValueError(f"an interval is written like 60s, 10m, 1epoch or 5epochs, got {shortened(text)}") from None


def show_size(count: int) -> str:
    """Bytes in the largest unit that leaves no fraction: '100MiB'."""
    name, unit = next((name, unit) for name, unit in _SIZES if count % unit == 0 and (count or unit == 1))
    return f"{count // unit}{name}"


def show_duration(seconds: float) -> str:
    """'1h30m'; fractions of a second are shown as they are."""
    if seconds != int(seconds):
        return f"{seconds:g}s"
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return "".join(f"{count}{unit}" for count, unit in ((hour, "h"), (minute, "m"), (second, "s")) if count) or "0s"


def shortened(value: object) -> str:
    """A value in a message: in full where it is of a readable length."""
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return f"a {type(value).__name__} of very many digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _from_text(parse: Callable[[str], float]) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


def _interval(value: Any) -> str:
    parse_interval(str(value))
    return str(value).strip()


def _gpus(value: Any) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    try:
        count = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        count = math.nan
    if not 0 <= count < math.inf:
        raise ValueError(f"GPUs are a number from 0, as 0.5 or 1, or auto, got {shortened(value)}")
    return count


def _objectives(value: Any) -> Any:
    names = tuple(value.split(",")) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or tuple(names) not in (("mean_f1",), ("mean_f1", "bytes")):
        raise ValueError(f"objectives must be mean_f1, or mean_f1,bytes, got {shortened(value)}")
    return tuple(names)


Bytes = Annotated[
    int,
    Field(ge=0, lt=2**60),
    _from_text(parse_bytes),
    Unit("SIZE", "size below 1 EiB, as 100MiB (2**20 bytes each) or 100MB (10**6)", show_size, bare_refused=True),
]
Duration = Annotated[
    float,
    Field(gt=0),
    _from_text(parse_duration),
    Unit("DURATION", "duration above 0s, as 90s, 30m or 1h30m", show_duration, bare_refused=True),
]
Milliseconds = Annotated[
    float,
    Field(gt=0),
    _from_text(parse_milliseconds),
    Unit("LATENCY", "time above 0ms, as 20ms or 0.5s", lambda milliseconds: f"{milliseconds:g}ms", bare_refused=True),
]
Interval = Annotated[
    str, BeforeValidator(_interval), Unit("INTERVAL", "time or epochs, as 60s, 10m, 1epoch or 5epochs")
]
Gpus = Annotated[float | Literal["auto"], BeforeValidator(_gpus), Unit("GPUS", "number from 0, as 0.5 or 1, or auto")]
Objectives = Annotated[
    tuple[str, ...], BeforeValidator(_objectives), Unit("NAMES", "mean_f1, or mean_f1,bytes", ",".join)
]


def clock(seconds: float) -> str:
    """As 0:07, 12:30 or 1:05:30."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
