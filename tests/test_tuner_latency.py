"""Measured milliseconds: which trial may win by them, what is shipped, and what is kept of this machine's speed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import record as a_record
from builders import rest_in_soak

from captune.errors import UsageError
from captune.model.config import ModelConfig, TextConfig, TrialConfig
from captune.model.flat import flatten
from captune.model.latency import Speed
from captune.model.operations import Operations
from captune.results.records import Record
from captune.results.run_folder import RunError
from captune.tuner.space.config import SearchConfig, read_search
from captune.tuner.space.yaml_file import ConfigError
from captune.tuner.winner import latency as measuring
from captune.tuner.winner import speed as speeds
from captune.tuner.winner.formats.declarations import FORMATS
from captune.tuner.winner.latency import LatencyLimit, milliseconds_of, timed_format
from captune.tuner.winner.proof import ProofError

PRICES = dict.fromkeys(Operations._fields, 100.0)
SPEED = Speed(runtime="onnx", machine="m", nanoseconds=PRICES, error=1.2)


def network(units: int) -> TrialConfig:
    text = TextConfig(encoder="lstm", vocabulary_size=50, max_tokens=4, embedding=4, units=units, dense=0)
    return TrialConfig(model=ModelConfig(text=text, num_labels=3))


def record(number: int, units: int) -> Record:
    return a_record(number, 0.9 - number / 100, config=flatten(network(units)))


class Stopwatch:
    """In the place of writing and timing: a network takes as many milliseconds as it has units."""

    def __init__(self, disturbed: int = 0) -> None:
        self.measured: list[int] = []
        self.disturbed = disturbed

    def __call__(self, configs: Sequence[ModelConfig], *_: Any) -> list[float]:
        units = [config.text.units for config in configs if config.text is not None]
        self.measured += units
        by = 10 if len(self.measured) <= self.disturbed else 1
        return [float(by * count) for count in units]


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(measuring, "milliseconds_of", watch)
    return watch


def asked(**given: Any) -> SearchConfig:
    return read_search(None, preset=None, default_preset="compact", overrides={"trials": 1, "latency": "20ms", **given})


def limit(milliseconds: float, speed: Speed | None = SPEED) -> LatencyLimit:
    return LatencyLimit(milliseconds, FORMATS["onnx"], speed)


def test_best_trial_that_keeps_the_limit_wins_and_the_better_ones_are_named(stopwatch: Stopwatch) -> None:
    said: list[str] = []
    trials = [record(0, 50), record(1, 30), record(2, 30), record(3, 20), record(4, 10)]
    assert limit(20).first_within(trials, said.append).number == 3
    assert set(stopwatch.measured) == {50, 30, 20}, "what is behind the winner is not looked at"
    assert said == [
        "trial 0 takes 50 ms a row, over the 20 ms of --latency",
        "trial 1 takes 30 ms a row, over the 20 ms of --latency",
        "trial 2 takes 30 ms a row, over the 20 ms of --latency",
    ]


def test_network_of_two_trials_is_measured_for_one(stopwatch: Stopwatch) -> None:
    limit(30).first_within([record(0, 50), record(1, 50), record(2, 30)], lambda _: None)
    assert stopwatch.measured == [50, 50, 50, 30], "three times, as a disturbance only ever adds"


def test_disturbed_measurement_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch(disturbed=1)
    monkeypatch.setattr(measuring, "milliseconds_of", watch)
    assert limit(20).first_within([record(0, 15), record(1, 2)], pytest.fail).number == 0
    assert watch.measured == [15, 15]


def test_where_no_trial_keeps_the_limit_it_says_so_in_one_line(stopwatch: Stopwatch) -> None:
    with pytest.raises(RunError, match=r"no trial .* keeps the 5 ms of --latency, the fastest takes 8 ms;") as caught:
        limit(5).first_within([record(0, 50), record(1, 8)], lambda _: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("speed", "words"),
    [(SPEED, "predicted "), (None, "not predicted"), (SPEED.model_copy(update={"runtime": "litert"}), "not predicted")],
)
def test_proof_has_what_was_measured_beside_what_was_predicted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, speed: Speed | None, words: str
) -> None:
    monkeypatch.setattr(measuring, "in_own_process", lambda *_, **__: None)
    monkeypatch.setattr(measuring, "_timed", lambda files, configs, form: Stopwatch()(configs))
    config = network(20).model.model_copy(update={"storage": "int4"})
    proved = limit(20, speed).proof(tmp_path, config)
    assert (proved.milliseconds, proved.limit, proved.format, proved.storage) == (20, 20, "onnx", "float32")
    assert proved.machine and proved.prediction.startswith(words)
    with pytest.raises(ProofError, match=r"takes 20 ms a row as onnx, over the 19 ms of --latency; it was removed"):
        limit(19, speed).proof(tmp_path, config)


def test_without_a_runtime_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captune.tuner.winner.formats.declarations.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"needs ONNX Runtime or LiteRT .*captune\[onnx\].* or .*captune\[litert\]"):
        timed_format(asked())
    with pytest.raises(
        UsageError, match=r"needs LiteRT to measure with, not installed here; pip install 'captune\[litert\]'$"
    ):
        timed_format(asked(latency_format="litert"))


def test_format_is_the_first_that_is_installed_or_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captune.tuner.winner.formats.declarations.find_spec", lambda _: object())
    assert [timed_format(asked(**given)).name for given in ({}, {"latency_format": "litert"})] == ["onnx", "litert"]
    with pytest.raises(ConfigError, match="give one, as --latency 20ms"):
        asked(latency=None, latency_format="onnx")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(speeds, "version", lambda _: "1.0")
    return tmp_path / "captune" / "speed"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many networks were measured, each time."""
    measured: list[int] = []

    def measure(configs: Sequence[ModelConfig], *_: Any) -> list[float]:
        measured.append(len(configs))
        return [SPEED.milliseconds(config) for config in configs]

    monkeypatch.setattr(speeds, "milliseconds_of", measure)
    return measured


def test_speed_is_measured_once_for_a_machine_and_its_versions(
    cache: Path, fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    first = speeds.speed_of_this_machine(FORMATS["onnx"], said.append)
    assert speeds.speed_of_this_machine(FORMATS["onnx"], said.append) == first
    assert len(fits) == len(said) == len(list(cache.iterdir())) == 1
    assert fits[0] > len(Operations._fields), "fewer networks than prices cannot tell them apart"
    monkeypatch.setattr(speeds, "version", lambda _: "1.1")
    speeds.speed_of_this_machine(FORMATS["onnx"], said.append)
    monkeypatch.setattr(speeds, "processor", lambda: "another")
    speeds.speed_of_this_machine(FORMATS["onnx"], said.append)
    assert len(fits) == 3


def test_networks_are_measured_in_every_storage_in_which_a_runtime_computes(cache: Path, fits: list[int]) -> None:
    onnx, litert = (speeds.speed_of_this_machine(FORMATS[name], lambda _: None) for name in ("onnx", "litert"))
    assert (set(onnx.stored), set(litert.stored)) == (set(), {"int8"})
    assert fits[1] == 2 * fits[0]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"runtime": "onnx"}'])
def test_damaged_speed_is_measured_again(cache: Path, fits: list[int], damage: str) -> None:
    first = speeds.speed_of_this_machine(FORMATS["onnx"], lambda _: None)
    (kept,) = cache.iterdir()
    kept.write_text(damage)
    assert speeds.speed_of_this_machine(FORMATS["onnx"], lambda _: None) == first
    assert len(fits) == 2 and kept.read_text() == first.model_dump_json()


def test_speed_that_cannot_be_kept_is_used_and_told(cache: Path, fits: list[int]) -> None:
    cache.parent.mkdir()
    cache.write_text("a file in its place")
    said: list[str] = []
    assert speeds.speed_of_this_machine(FORMATS["onnx"], said.append).milliseconds(network(8).model) > 0
    assert said[-1].startswith("note: it is measured again the next time")


@pytest.mark.slow
@pytest.mark.parametrize("name", rest_in_soak(["onnx", "litert"], "onnx"))
def test_larger_network_takes_longer_and_is_left_nowhere(name: str) -> None:
    form = FORMATS[name]
    if not form.is_installed:
        pytest.skip(f"pip install 'captune[{form.extra}]'")
    small, large = milliseconds_of([network(8).model, network(512).model], form)
    assert 0 < small < large
