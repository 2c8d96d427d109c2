"""All that is private of Keras, each under a name of ours; tests/test_private_keras.py names every attribute."""

from __future__ import annotations

import keras


def layers_within(network: keras.Model) -> list[keras.layers.Layer]:
    """All layers of a network, those inside of others too."""
    return list(network._flatten_layers())


def place_of(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> int:
    """Of a variable among those that the optimizer was built for."""
    return int(optimizer._get_variable_index(variable))


def moments(optimizer: keras.optimizers.Adam, variable: keras.Variable) -> tuple[keras.Variable, keras.Variable]:
    """The first and the second moment that Adam keeps of a variable."""
    place = place_of(optimizer, variable)
    return optimizer._momentums[place], optimizer._velocities[place]
