"""ONNX: written by tf2onnx, answered by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captune.model.config import Storage
from captune.tuner.winner.formats.declarations import PROBABILITIES

if TYPE_CHECKING:
    import keras

    from captune.tuner.winner.formats.answer import Answer

_OPSET = 17
_LEAST_VALUES = 256  # of a tensor that the two or three entries which restore it are worth
_LARGEST_INT8 = 127
_OFF_GRID = 0.01  # of a step between two integers: by so much folded constants may move a weight of int8


def write(network: keras.Model, path: Path, storage: Storage) -> None:
    """See Format."""
    import onnx
    import tf2onnx

    from captune.tuner.winner.formats import graph

    with graph.inlined():
        model, _ = tf2onnx.convert.from_function(
            graph.function(network),
            input_signature=graph.signature(network, None),
            opset=_OPSET,
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    model.producer_name = "captune"
    if storage != "float32":
        narrow(model.graph, storage)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def session(path: Path, threads: int) -> Answer:
    """See Format."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    runtime = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: runtime.run([PROBABILITIES], dict(inputs))[0]


def _erfc(context: Any, node: Any, name: str, _: Any) -> None:
    """One less the error function, which ONNX has not, as one more than that of the negative."""
    node.type, node.domain = "Erf", ""
    context.insert_new_node_on_input(node, "Neg", node.input[0])
    one = context.make_const(f"{name}_one", np.ones((), np.float32)).output[0]
    context.insert_new_node_on_output("Add", node.output[0], name=f"{name}_add").input.append(one)


def narrow(graph: Any, storage: Storage) -> None:
    """Puts matrices into the file as `storage` has them, each with the nodes that restore it when it is loaded."""
    from onnx import TensorProto, helper, numpy_helper

    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                narrow(attribute.g, storage)
    restoring = []
    for tensor in graph.initializer:
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _LEAST_VALUES or sum(n > 1 for n in values.shape) < 2:
            continue
        stored, scale = (values.astype(np.float16), None) if storage == "float16" else integers_of(values)
        if stored is None:
            continue
        tensor.CopyFrom(numpy_helper.from_array(stored, f"{name}/{storage}"))
        if scale is None:
            restoring.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
            continue
        scales = numpy_helper.from_array(scale, f"{name}/scale")
        graph.initializer.append(scales)
        restoring.append(helper.make_node("Cast", [tensor.name], [f"{name}/cast"], to=TensorProto.FLOAT))
        restoring.append(helper.make_node("Mul", [f"{name}/cast", scales.name], [name]))
    nodes = [*restoring, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def integers_of(values: NDArray[np.float32]) -> tuple[NDArray[np.int8] | None, NDArray[np.float32] | None]:
    """int8 and scales, (1, .., channels, .., 1), of weights that int8 gave back; None where no axis is of channels.

    What the conversion made of a matrix may have its channels on another axis, and scaled.
    """
    for scale in _scales(values):
        steps = values / scale
        integers = np.rint(steps)
        if np.abs(steps - integers).max() <= _OFF_GRID:
            return integers.astype(np.int8), scale
    return None, None


def _scales(values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for axis in reversed(range(values.ndim)):
        if values.shape[axis] > 1:
            others = tuple(place for place in range(values.ndim) if place != axis)
            scale = np.abs(values).max(axis=others, keepdims=True) / np.float32(_LARGEST_INT8)
            yield np.where(scale == 0, np.float32(1), scale)
