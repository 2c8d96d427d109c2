"""Four bits within a training step: what storage then leaves alone, and as near to the weights as storage comes."""

from typing import Any

import numpy as np
import pytest

from captune.model.storage import through

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shape", [(4, 3), (63, 2), (64, 2), (65, 2), (1000, 33), (3, 3, 8, 5), (3, 70, 4), (65, 1, 1)])
@pytest.mark.parametrize("spread", [1e-4, 0.05, 10.0, 1e30])
def test_storage_leaves_weights_alone_that_are_int4_in_training(shape: Any, spread: float) -> None:
    from keras import ops

    from captune.model.straight_through import as_int4

    values = (spread * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    given = ops.convert_to_numpy(as_int4(ops.convert_to_tensor(values)))
    assert given.shape == values.shape and given.dtype == np.float32
    assert (through(given, "int4") == given).all()
    error, least = (float(np.square((x - values).astype(np.float64)).mean()) for x in (given, through(values, "int4")))
    assert error <= 1.05 * least


def test_zeros_stay_zeros_in_training() -> None:
    from keras import ops

    from captune.model.straight_through import as_int4

    assert (ops.convert_to_numpy(as_int4(ops.zeros((70, 3)))) == 0).all()
