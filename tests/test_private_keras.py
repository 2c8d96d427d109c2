"""What captune uses that Keras does not promise: an upgrade that takes one away fails here, by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def trained() -> tuple[Any, Any]:
    import keras

    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="inner")], name="stage")
    network = keras.Sequential([keras.Input((2,)), inner, keras.layers.Dense(1, name="outer")])
    network.compile(optimizer=keras.optimizers.Adam(), loss="mse")
    network.train_on_batch(np.ones((4, 2)), np.ones((4, 1)))
    return network, network.optimizer


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("network", "_flatten_layers"),
        ("optimizer", "_get_variable_index"),
        ("optimizer", "_momentums"),
        ("optimizer", "_velocities"),
    ],
)
def test_private_attribute_is_there(owner: str, name: str) -> None:
    owners: dict[str, Any] = dict(zip(("network", "optimizer"), trained(), strict=True))
    assert hasattr(owners[owner], name), f"Keras has no {owner}.{name}: see model/keras_private.py"


def test_layers_inside_of_others_are_among_all() -> None:
    from captune.model.keras_private import layers_within

    network, _ = trained()
    assert {"stage", "inner", "outer"} <= {layer.name for layer in layers_within(network)}


def test_moments_are_those_of_the_variable() -> None:
    from captune.model.keras_private import moments

    network, adam = trained()
    for variable in network.trainable_variables:
        first, second = moments(adam, variable)
        assert first.shape == second.shape == variable.shape
        assert variable.path.split("/")[-1] in first.path and "momentum" in first.path and "velocity" in second.path
