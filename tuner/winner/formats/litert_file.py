"""LiteRT, once TensorFlow Lite: written by TensorFlow's converter, answered by ai-edge-litert, one row a call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captune.files import scratch
from captune.model.config import Storage
from captune.tuner.winner.formats.declarations import PROBABILITIES

if TYPE_CHECKING:
    import keras

    from captune.tuner.winner.formats.answer import Answer, Inputs


def write(network: keras.Model, path: Path, storage: Storage) -> None:
    """One row at a time is what the file answers.

    With any number of rows a recurrent encoder would need operations that the runtime alone has not.
    """
    import tensorflow as tf

    from captune.tuner.winner.formats import graph

    with scratch() as folder:
        graph.save(network, str(folder / "saved"), rows=1)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
        if storage != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if storage == "float16":
            converter.target_spec.supported_types = [tf.float16]
        path.write_bytes(converter.convert())


def session(path: Path, threads: int) -> Answer:
    """See Format."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    run = interpreter.get_signature_runner()

    def answer(inputs: Inputs) -> NDArray[np.float32]:
        count = len(next(iter(inputs.values())))
        rows = ({name: values[row : row + 1] for name, values in inputs.items()} for row in range(count))
        return np.concatenate([run(**row)[PROBABILITIES] for row in rows])

    return answer
