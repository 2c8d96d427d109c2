"""Predicted milliseconds: prices that are found again, and limits that are kept to."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import random_config

from captune.model.config import ModelConfig
from captune.model.latency import FAR, Latency, Speed
from captune.model.operations import Operations, operations
from captune.model.presets import PRESETS

PRICES = {"layers": 3000.0, "convolution": 0.02, "pointwise": 0.01, "depthwise": 0.3, "recurrent": 0.2,
          "steps": 12_000.0, "weights": 0.25, "values": 0.5}  # fmt: skip
SPEED = Speed(runtime="onnx", machine="a processor", nanoseconds=PRICES, error=1.2)
PAPER, CAPTIONS = PRESETS["paper"].model, PRESETS["captions"].model


def networks(count: int) -> list[ModelConfig]:
    draw = random.Random(7)
    return [random_config(draw, draw.choice(["compact", "EfficientNetLite0"]), "float32") for _ in range(count)]


def test_every_kind_of_work_has_its_price() -> None:
    assert set(PRICES) == set(Operations._fields)


def test_prices_are_found_again_from_what_networks_took() -> None:
    measured = [(config, SPEED.milliseconds(config)) for config in networks(40)]
    fitted = Speed.fitted("onnx", "a processor", measured)
    assert fitted.error == pytest.approx(1, abs=1e-3)
    for config in networks(60):
        assert fitted.milliseconds(config) == pytest.approx(SPEED.milliseconds(config), rel=1e-3)


def test_storage_that_was_measured_has_its_own_prices_and_others_those_of_float32() -> None:
    fourfold = {kind: 4 * price for kind, price in PRICES.items()}
    slower = SPEED.model_copy(update={"stored": {"int8": fourfold}})
    measured = [(c, slower.milliseconds(c)) for config in networks(40) for c in (config, config.stored_as("int8"))]
    fitted = Speed.fitted("litert", "a processor", measured)
    assert fitted.error == pytest.approx(1, abs=1e-3)
    plain = SPEED.milliseconds(CAPTIONS)
    for storage, times in (("float32", 1), ("float16", 1), ("int8", 4)):
        assert fitted.milliseconds(CAPTIONS.stored_as(storage)) == pytest.approx(times * plain, rel=1e-3)  # type: ignore[arg-type]


def test_speed_of_a_run_that_knew_no_storage_is_read() -> None:
    old = SPEED.model_dump(exclude={"stored"})
    assert Speed.model_validate(old).milliseconds(CAPTIONS.stored_as("int8")) == SPEED.milliseconds(CAPTIONS)


@given(st.lists(st.floats(0.5, 2), min_size=14, max_size=14))
def test_no_price_is_below_zero_and_nothing_is_free_whatever_is_measured(noise: list[float]) -> None:
    measured = [(c, SPEED.milliseconds(c) * by) for c, by in zip(networks(14), noise, strict=True)]
    fitted = Speed.fitted("onnx", "a processor", measured)
    assert min(fitted.nanoseconds.values()) >= 0
    assert fitted.milliseconds(CAPTIONS) > 0 and fitted.error >= 1


def test_speed_is_the_same_after_it_was_written() -> None:
    stored = SPEED.model_copy(update={"stored": {"int8": PRICES}})
    for speed in (SPEED, stored):
        assert Speed.model_validate_json(speed.model_dump_json()) == speed


def test_what_is_far_over_the_limit_is_refused_in_one_line_with_rule_and_value() -> None:
    predicted = SPEED.milliseconds(PAPER)
    at, below = Latency(predicted / FAR, SPEED), Latency(predicted / FAR * 0.999, SPEED)
    assert at.refusal(PAPER) is None and at.share(PAPER) == pytest.approx(FAR)
    said = below.refusal(PAPER)
    assert said is not None and "\n" not in said
    assert f"about {predicted:.3g} ms a row as onnx" in said and "--latency" in said and "over 2 times" in said


@pytest.mark.parametrize("config", [PAPER, CAPTIONS], ids=["paper", "captions"])
def test_prediction_is_the_sum_over_kinds_of_work(config: Any) -> None:
    counts = operations(config)._asdict()
    assert SPEED.milliseconds(config) == pytest.approx(sum(PRICES[k] * counts[k] for k in PRICES) / 1e6)
