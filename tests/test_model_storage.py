"""Storage: near enough, the same after a second time, and never a broken value passed off as a sound one."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors.numpy import load, save

from captune.model.layout import GROUP, int4_bytes
from captune.model.storage import restore, store, through

Array = NDArray[Any]
REDUCED: list[Any] = ["float16", "int8", "int4"]
STORAGES: list[Any] = ["float32", *REDUCED]
TINIEST_STORED = 127e-30  # int8: channels that stay below are zeros
LARGEST_INT4 = 7 * 65_504.0

# Shapes of matrices, four values a channel or more, and of what is none.
_MATRICES = st.one_of(
    st.tuples(st.integers(4, 12), st.integers(2, 6)),
    st.tuples(st.integers(1, 3), st.integers(4, 6), st.integers(2, 5)),
    st.tuples(st.integers(1, 3), st.just(4), st.integers(1, 3), st.integers(2, 5)),
    st.tuples(st.just(3), st.just(3), st.integers(1, 6), st.just(1)),  # depthwise
    st.tuples(st.integers(4, 12), st.just(1), st.just(1)),  # one channel
)
# Those that int4 packs: no convolution of pixels, no depthwise one. Of one group a channel and of more, the last whole
# or not; of odd and of even numbers of values.
PACKED = st.one_of(
    st.tuples(st.sampled_from([4, 5, 63, 64, 65, 127, 128, 129, 200]), st.integers(2, 6)),
    st.tuples(st.integers(1, 3), st.sampled_from([4, 22, 64]), st.integers(2, 5)),
    st.tuples(st.integers(1, 3), st.just(3), st.integers(4, 9), st.integers(2, 5)),
    st.tuples(st.sampled_from([5, 65]), st.just(1), st.just(1)),
)
MATRICES = st.one_of(_MATRICES, PACKED)
OTHERS = st.one_of(
    st.just(()),
    st.tuples(st.integers(1, 20)),
    st.tuples(st.integers(1, 3), st.integers(2, 8)),
    st.tuples(st.integers(1, 20), st.just(1)),
    st.tuples(st.just(1), st.just(3), st.integers(1, 6), st.just(1)),
)
HUGE = float(np.float32(3e38))
FINITE = st.one_of(
    st.floats(-2, 2, width=32),
    st.floats(-HUGE, HUGE, width=32),
    st.sampled_from([0.0, -0.0, 1e-38, -1e-38, 1e-45, 1e-28, 65_504.0, 65_520.0, 6e-8, HUGE, -HUGE]).map(
        lambda value: float(np.float32(value))
    ),
)


def arrays(shapes: st.SearchStrategy[Any], elements: st.SearchStrategy[float] = FINITE) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.float32, shapes, elements=elements)


def by_channel(values: Array) -> Array:
    """(values a channel, channels): the last axis, of depthwise kernels the one before."""
    if values.shape[-1] == 1:
        values = values[..., 0]
    return values.reshape(-1, values.shape[-1])


def bits(values: Array) -> bytes:
    return str((values.shape, values.dtype)).encode() + values.tobytes()


def same(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return {name: bits(values) for name, values in one.items()} == {
        name: bits(values) for name, values in other.items()
    }


@given(arrays(MATRICES))
@example(np.full((3, 3, 2, 1), HUGE, np.float32))
@example(np.array([[127.0, 1e-30], [63.5, -1e-30], [0.5, 0.0], [-1.5, -0.0]], np.float32))
def test_int8_is_within_half_a_step_and_a_step_is_a_127th_of_the_largest_value(values: Array) -> None:
    scale = store("x", values, "int8")["x.scale"].astype(np.float64)
    before, after = by_channel(values).astype(np.float64), by_channel(through(values, "int8")).astype(np.float64)
    largest = np.abs(before).max(axis=0)
    stored = largest > TINIEST_STORED
    assert (after[:, ~stored] == 0).all() or (largest[~stored] > 0.999 * TINIEST_STORED).all()
    # Beside the half step: one rounding of the quotient, of 127 at most.
    assert (np.abs(before - after) <= (0.5 + 1e-5) * scale)[:, stored].all()
    ratio = scale[stored] * 127 / largest[stored]
    assert ((ratio > 1 - 1e-6) & (ratio < (1 + 2**-15) * (1 + 1e-6))).all()


@given(arrays(MATRICES))
def test_float16_is_within_its_rounding_and_beyond_its_range_the_largest_number_of_the_same_sign(values: Array) -> None:
    back = through(values, "float16").astype(np.float64)
    there = values.astype(np.float64)
    inside = np.abs(there) <= 65_504
    assert (np.abs(back - there) <= np.maximum(np.abs(there) * 2**-11, 2**-25))[inside].all()
    assert (back[~inside] == np.sign(there[~inside]) * 65_504).all()


@pytest.mark.parametrize("storage", REDUCED)
@given(values=arrays(MATRICES))
def test_what_went_through_once_is_not_changed_by_going_again(storage: Any, values: Array) -> None:
    once = through(values, storage)
    assert once.dtype == np.float32 and once.shape == values.shape
    assert bits(through(once, storage)) == bits(once)
    assert same(store("x", once, storage), store("x", through(once, storage), storage))


@pytest.mark.parametrize("storage", REDUCED)
def test_a_million_values_of_common_spread_are_not_changed_by_going_again(storage: Any) -> None:
    rng = np.random.default_rng(3)
    for spread in (1e-6, 0.05, 1.0, 1e6):
        values = (spread * rng.standard_normal((250, 1000))).astype(np.float32)
        once = store("x", values, storage)
        assert same(once, store("x", restore(once, "x", values.shape), storage))


@given(values=arrays(MATRICES))
def test_int8_keeps_the_largest_value_of_a_channel_at_the_end_of_its_range(values: Array) -> None:
    stored = store("x", values, "int8")
    assert stored["x"].dtype == np.int8 and stored["x.scale"].dtype == np.float32
    largest = np.abs(by_channel(stored["x"]).astype(int)).max(axis=0)
    there = np.abs(by_channel(values).astype(np.float64)).max(axis=0)
    assert set(largest) <= {0, 127}
    assert (largest[there > TINIEST_STORED * 1.001] == 127).all()


@given(values=arrays(MATRICES, st.sampled_from([0.0, -0.0])))
@pytest.mark.parametrize("storage", STORAGES)
def test_zeros_come_back_as_zeros(storage: Any, values: Array) -> None:
    assert (through(values, storage) == 0).all()


# Four bits


def by_group(values: Array, place: int) -> Array:
    """(values of a group, channels) of the group that the value at a place, by channel, is in."""
    start = place // by_channel(values).shape[1] // GROUP * GROUP
    return by_channel(values)[start : start + GROUP]


@given(arrays(PACKED), st.integers(0, 10**6))
@example(np.full((65, 3), HUGE, np.float32), 0)
@example(np.array([[7.0], [3.5], [-2.5], [0.5]] * 17, np.float32).repeat(2, axis=1), 3)
def test_int4_is_within_half_a_step_and_a_step_is_a_seventh_of_the_largest_value_of_its_group(
    values: Array, place: int
) -> None:
    place %= values.size
    before, after = (by_group(x, place).astype(np.float64) for x in (values, through(values, "int4")))
    largest = np.abs(before).max(axis=0)
    step = np.minimum(largest / 7, 65_504)
    lost = np.maximum(np.abs(before) - LARGEST_INT4, 0)  # of values beyond what the largest scale reaches
    # Beside the half step: the scale is a float16, in its smallest numbers a coarse one.
    assert (np.abs(before - after) <= 0.5001 * step + 7 * np.maximum(step * 2**-10, 2**-24) + lost).all()
    assert (np.abs(after) <= largest).all()


@given(arrays(PACKED))
def test_int4_keeps_the_largest_value_of_a_group_at_the_end_of_its_range(values: Array) -> None:
    stored = store("x", values, "int4")
    assert stored["x"].dtype == np.uint8 and stored["x.scale"].dtype == np.float16
    integers = np.stack([stored["x"] & 15, stored["x"] >> 4], axis=-1).ravel()[: values.size].astype(int) - 8
    rows = integers.reshape(by_channel(values).shape)
    for group, start in enumerate(range(0, len(rows), GROUP)):
        there = np.abs(by_channel(values)[start : start + GROUP]).max(axis=0)
        largest = np.abs(rows[start : start + GROUP]).max(axis=0)
        assert (largest == np.where(stored["x.scale"][group] > 0, 7, 0)).all()
        assert (stored["x.scale"][group][there >= 7 * 2**-23] > 0).all()


def test_two_values_lie_in_a_byte_the_first_in_its_lower_half_with_eight_for_zero() -> None:
    values = np.array([[7.0, -7.0], [1.0, 0.0], [-3.0, 2.0], [0.0, 7.0]], np.float32)
    stored = store("x", values, "int4")
    assert stored["x"].tolist() == [15 | 1 << 4, 9 | 8 << 4, 5 | 10 << 4, 8 | 15 << 4]
    assert stored["x.scale"].tolist() == [[1.0, 1.0]]
    odd = store("x", np.full((5, 3), 7, np.float32), "int4")
    assert odd["x"].tolist() == [15 | 15 << 4] * 7 + [15 | 8 << 4], "zero stands behind the last of fifteen values"


@pytest.mark.parametrize("shape", [(3, 3, 3, 8), (7, 7, 3, 2), (3, 3, 8, 1), (7, 7, 1, 8)])
def test_convolutions_of_pixels_and_depthwise_ones_are_int8_under_int4(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert same(store("x", values, "int4"), store("x", values, "int8"))


@given(arrays(PACKED), st.integers(0, 10**6), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_int4_keeps_groups_beside_one_that_is_not_finite(values: Array, place: int, bad: float) -> None:
    place %= values.size
    whole = through(values, "int4")
    values.reshape(-1)[place] = bad
    back = through(values, "int4")
    row, column = divmod(place, by_channel(values).shape[1])
    start = row // GROUP * GROUP
    broken = np.zeros(by_channel(values).shape, bool)
    broken[start : start + GROUP, column] = True
    assert not np.isfinite(by_channel(back)[broken]).any()
    assert bits(by_channel(back)[~broken]) == bits(by_channel(whole)[~broken])


@given(arrays(PACKED), st.sampled_from(["longer", "shorter", "scales", "no scales", "type", "vector", "pixels"]))
def test_int4_of_another_tensor_is_refused(values: Array, change: str) -> None:
    stored, shape = store("x", values, "int4"), values.shape
    match change:
        case "longer":
            stored["x"] = np.append(stored["x"], np.uint8(0))
        case "shorter":
            stored["x"] = stored["x"][:-1]
        case "scales":
            stored["x.scale"] = stored["x.scale"].T if values.shape[0] > GROUP else stored["x.scale"][:, :-1]
        case "no scales":
            del stored["x.scale"]
        case "type":
            stored["x.scale"] = stored["x.scale"].astype(np.float32)
        case "vector":
            shape = (values.size,)
        case _:
            shape = (3, 3, 3, 4)
    if change == "scales" and stored["x.scale"].shape == store("x", values, "int4")["x.scale"].shape:
        return
    with pytest.raises(ValueError, match="x is no int4 tensor of"):
        restore(stored, "x", shape)


# What is not finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("storage", STORAGES)
@given(values=arrays(MATRICES), place=st.integers(0, 10**6))
def test_channel_with_a_value_that_is_not_finite_stays_broken_and_the_others_are_as_before(
    storage: Any, bad: float, values: Array, place: int
) -> None:
    place %= values.size
    whole = by_channel(through(values, storage))
    values.reshape(-1)[place] = bad
    channel = int(np.argwhere(~np.isfinite(by_channel(values)))[0][1])
    back = by_channel(through(values, storage))
    assert not np.isfinite(back[:, channel]).all()
    others = np.arange(back.shape[1]) != channel
    assert bits(back[:, others]) == bits(whole[:, others])
    assert not np.isfinite(through(through(values, storage), storage)).all()


# What is kept as it is


@pytest.mark.parametrize("storage", STORAGES)
@given(values=arrays(OTHERS, st.one_of(FINITE, st.sampled_from([math.nan, math.inf]))))
def test_vectors_and_matrices_of_few_values_a_channel_are_kept_to_the_bit(storage: Any, values: Array) -> None:
    stored = store("x", values, storage)
    assert list(stored) == ["x"]
    assert bits(stored["x"]) == bits(values) == bits(through(values, storage))


@given(values=arrays(MATRICES, st.one_of(FINITE, st.sampled_from([math.nan, math.inf]))))
def test_float32_keeps_every_bit(values: Array) -> None:
    assert same(store("x", values, "float32"), {"x": values})
    assert bits(through(values, "float32")) == bits(values)


@pytest.mark.parametrize("storage", STORAGES)
def test_counter_of_eight_bytes_is_kept(storage: Any) -> None:
    count = np.array(2**40, np.int64)
    assert same(store("x", count, storage), {"x": count})
    assert through(count, storage) == 2**40


@pytest.mark.parametrize("storage", STORAGES)
@given(values=arrays(MATRICES))
def test_storing_leaves_the_weights_it_is_given_alone(storage: Any, values: Array) -> None:
    before = bits(values)
    restore(store("x", values, storage), "x", values.shape)
    assert bits(values) == before


# Bytes and files


@given(values=arrays(MATRICES))
def test_a_matrix_takes_two_bytes_a_value_or_one_and_four_a_channel(values: Array) -> None:
    channels = by_channel(values).shape[1]
    sizes = {name: sum(t.nbytes for t in store("x", values, name).values()) for name in ("float32", "float16", "int8")}
    assert sizes == {"float32": 4 * values.size, "float16": 2 * values.size, "int8": values.size + 4 * channels}


@given(values=arrays(PACKED))
def test_a_packed_matrix_takes_half_a_byte_a_value_and_two_for_each_sixty_four_of_a_channel(values: Array) -> None:
    rows, channels = by_channel(values).shape
    stored = store("x", values, "int4")
    assert stored["x"].nbytes == math.ceil(values.size / 2)
    assert stored["x.scale"].nbytes == 2 * math.ceil(rows / 64) * channels
    assert sum(t.nbytes for t in stored.values()) == int4_bytes(values.shape)


@pytest.mark.parametrize("storage", STORAGES)
@given(values=arrays(st.one_of(MATRICES, OTHERS)), turned=st.booleans())
def test_what_a_file_holds_comes_back_in_whatever_order_it_lay_in_memory(
    storage: Any, values: Array, turned: bool
) -> None:
    lying = np.asfortranarray(values) if turned else values[..., ::-1] if values.ndim else values
    written = load(save({"y": np.ones(3, np.float32), **store("x", lying, storage)}))
    assert bits(restore(written, "x", lying.shape)) == bits(through(np.array(lying, order="C"), storage))
    assert (restore(written, "y", (3,)) == 1).all()


@pytest.mark.parametrize("storage", ["float16", "int8", "int4"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0), (3, 3, 0, 4)])
def test_tensor_without_values_is_kept_as_it_is(shape: tuple[int, ...], storage: Any) -> None:
    assert through(np.zeros(shape, np.float32), storage).shape == shape
