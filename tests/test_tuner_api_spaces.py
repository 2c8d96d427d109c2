"""A space said in Python is the space that a search.yaml says."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import captune
from captune.model.presets import PRESETS
from captune.tuner.space.config import read_search

WHEN = "{text.encoder: convolution}"
Said = tuple[captune.Float | captune.Int | captune.Choice | Sequence[Any], str]


def rate(low: float, ratio: float, log: bool) -> Said:
    high = low * ratio
    return captune.Float(low, high, log=log), f"{{low: {low!r}, high: {high!r}, log: {str(log).lower()}}}"


def dropout(steps: int) -> Said:
    return captune.Float(0, 0.1 * steps, step=0.1), f"{{low: 0, high: {0.1 * steps!r}, step: 0.1}}"


def kernel(low: int, more: int, conditional: bool) -> Said:
    when = {"text.encoder": "convolution"} if conditional else None
    text = f"{{low: {low}, high: {low + more}{f', when: {WHEN}' if conditional else ''}}}"
    return captune.Int(low, low + more, when=when), text


def units(options: list[int], as_list: bool) -> Said:
    return options if as_list else captune.Choice(options), str(options)


DIMENSIONS = {
    "train.learning_rate": st.builds(rate, st.floats(1e-6, 1e-2), st.floats(1.5, 50), st.booleans()),
    "text.dropout": st.builds(dropout, st.integers(1, 8)),
    "text.kernel": st.builds(kernel, st.integers(1, 4), st.integers(1, 3), st.booleans()),
    "head_units": st.builds(units, st.lists(st.integers(1, 64), min_size=2, max_size=4, unique=True), st.booleans()),
}


@pytest.mark.slow
@given(
    st.sampled_from(sorted(PRESETS)), st.fixed_dictionaries({}, optional=DIMENSIONS), st.none() | st.integers(1, 100)
)
def test_space_in_python_is_the_space_of_the_file(preset: str, drawn: dict[str, Said], epochs: int | None) -> None:
    encoders: Said = (captune.Choice(["average", "convolution"]), "[average, convolution]")
    dimensions = {"text.encoder": encoders, **drawn}
    lines = [f"preset: {preset}", "trials: 3", "space:", *(f"  {name}: {said[1]}" for name, said in dimensions.items())]
    lines += [] if epochs is None else [f"fixed: {{train.epochs: {epochs}}}"]
    fixed = None if epochs is None else {"train.epochs": epochs}
    said = captune.space(preset, {name: said[0] for name, said in dimensions.items()}, fixed=fixed)  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search.yaml"
        path.write_text("\n".join(lines))
        by_file = read_search(path, preset=None, default_preset="compact", overrides={})
    overrides = {"space": dict(said.dimensions), "fixed": dict(said.fixed), "trials": 3}
    by_python = read_search(None, preset=said.preset, default_preset="compact", overrides=overrides)
    assert by_python.build_space() == by_file.build_space()


@pytest.mark.parametrize("preset", PRESETS)
def test_space_of_a_preset_is_the_one_that_ships(preset: str) -> None:
    shipped = read_search(None, preset=preset, default_preset=preset, overrides={"trials": 1})
    said = captune.space(preset)
    assert (dict(said.dimensions), dict(said.fixed)) == (shipped.space, shipped.fixed)


def test_dimensions_alone_leave_the_rest_as_in_the_preset() -> None:
    assert captune.space("captions", {"text.units": [16, 32]}).fixed == {}
    assert list(captune.space("captions", {"text.units": [16, 32]}).dimensions) == ["text.units"]
    assert captune.space("captions", fixed={"text.units": 16}).dimensions == {}


def test_listing_of_settings_names_each_and_each_is_explained() -> None:
    names = [line.split()[0] for line in captune.explain().splitlines() if line.startswith("  ")]
    assert len(names) > 40 and {"trials", "budget", "halving.grace", "train.learning_rate"} <= set(names)
    for name in names:
        assert captune.explain(name).startswith(f"{name}: ")
