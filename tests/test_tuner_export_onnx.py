"""Weights of an ONNX file as float16 and int8: made by hand, answered by ONNX Runtime, no framework."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from captune.model.storage import through
from captune.tuner.winner.formats.onnx_file import integers_of, narrow, session

onnx = pytest.importorskip("onnx", reason="no onnx here; pip install 'captune[onnx]'")
pytest.importorskip("onnxruntime", reason="no onnxruntime here; pip install 'captune[onnx]'")

RANDOM = np.random.default_rng(5)


def model_of(kernel: np.ndarray) -> Any:
    """A model that multiplies `image` (rows, n) by a kernel (n, m), and adds a vector."""
    helper = onnx.helper
    weights = [onnx.numpy_helper.from_array(values, name) for name, values in (("kernel", kernel), ("bias", kernel[0]))]
    nodes = [
        helper.make_node("MatMul", ["image", "kernel"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["probabilities"]),
    ]
    shapes = (("image", kernel.shape[0]), ("probabilities", kernel.shape[1]))
    image, probabilities = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", width]) for name, width in shapes
    )
    graph = helper.make_graph(nodes, "product", [image], [probabilities], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("storage", "share"), [("float16", 0.51), ("int8", 0.27)])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_of_a_storage_comes_back_as_it_was_and_takes_its_bytes(
    tmp_path: Path, storage: Any, share: float, transposed: bool
) -> None:
    kernel = through(RANDOM.normal(size=(400, 300)).astype(np.float32), storage)
    if transposed:
        kernel = np.ascontiguousarray(kernel.T)
    model = model_of(kernel)
    whole = model.ByteSize()
    narrow(model.graph, storage)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(tmp_path / "x.onnx"))
    assert model.ByteSize() < share * whole
    image = RANDOM.normal(size=(3, len(kernel))).astype(np.float32)
    answer = session(tmp_path / "x.onnx", 1)({"image": image})
    assert np.abs(answer - (image @ kernel + kernel[0])).max() < 1e-4


def test_weights_off_every_grid_stay_as_they_are() -> None:
    model = model_of(RANDOM.normal(size=(40, 30)).astype(np.float32))
    before = model.SerializeToString()
    narrow(model.graph, "int8")
    assert model.SerializeToString() == before


def test_vectors_and_small_tensors_stay_as_they_are() -> None:
    for shape in ((300, 1), (1, 300), (3, 4)):
        model = model_of(np.ones(shape, np.float32))
        before = model.SerializeToString()
        narrow(model.graph, "float16")
        assert model.SerializeToString() == before


def test_weights_within_a_loop_are_narrowed_too() -> None:
    kernel = through(RANDOM.normal(size=(64, 64)).astype(np.float32), "int8")
    body = model_of(kernel).graph
    outer = onnx.helper.make_graph([onnx.helper.make_node("If", ["c"], ["y"], then_branch=body)], "outer", [], [])
    narrow(outer, "int8")
    inside = outer.node[0].attribute[0].g
    assert {tensor.data_type for tensor in inside.initializer if tensor.name == "kernel/int8"} == {
        onnx.TensorProto.INT8
    }


@given(
    arrays(np.float32, st.tuples(st.integers(4, 9), st.integers(2, 7)), elements=st.floats(-1e3, 1e3, width=32)),
    st.integers(0, 2**32 - 1),
)
def test_weights_that_int8_gave_back_are_found_again_when_channels_are_scaled(values: np.ndarray, seed: int) -> None:
    scale = np.random.default_rng(seed).uniform(0.1, 10, values.shape[1]).astype(np.float32)
    restored = through(values, "int8") * scale
    integers, scales = integers_of(restored)
    assert integers is not None and scales is not None
    assert np.abs(integers * scales - restored).max() <= 1e-4 * np.abs(restored).max()
