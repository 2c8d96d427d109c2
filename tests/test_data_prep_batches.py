"""Batches: every row once an epoch, the same order on every run."""

import csv
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captune.data_prep.batches import Batches, Features
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData, prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """23 pictures of one colour each: picture i is (i, 0, 0), with i words in its caption."""
    folder = tmp_path_factory.mktemp("batches")
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageID", "Labels", "Caption"])
        for place in range(23):
            Image.new("RGB", (4, 4), (place, 0, 0)).save(folder / f"{place}.png")
            writer.writerow([f"{place}.png", "1" if place % 2 else "2 4", " ".join(["dog"] * place + ["cat"])])
    return prepare(folder / "train.csv", folder, folder / "data", side=4)


def order(batches: Batches, number: int) -> list[int]:
    return [int(row) for inputs, _ in batches.epoch(number) for row in inputs["image"][:, 0, 0, 0]]


def test_shapes_and_types_are_those_promised(data: PreparedData) -> None:
    batches = Batches(data, data.rows("train"), 5, modality="both", max_tokens=7, seed=1)
    inputs, labels = batches.batch(0, 0)
    assert (inputs["image"].shape, inputs["image"].dtype) == ((5, 4, 4, 3), np.uint8)
    assert (inputs["caption"].shape, inputs["caption"].dtype) == ((5, 7), np.int32)
    assert (labels.shape, labels.dtype) == ((5, 3), np.float32)


def test_rows_of_a_batch_belong_together(data: PreparedData) -> None:
    for inputs, labels in Batches(data, np.arange(23), 4, modality="both", seed=9).epoch(2):
        for image, caption, label in zip(inputs["image"], inputs["caption"], labels, strict=True):
            place = int(image[0, 0, 0])
            assert (data.tokens is not None) and (caption == data.tokens[place]).all()
            assert label.tolist() == ([1, 0, 0] if place % 2 else [0, 1, 1])


def test_every_row_comes_once_an_epoch_and_the_last_batch_is_smaller(data: PreparedData) -> None:
    batches = Batches(data, np.arange(23), 5, modality="both", seed=3)
    assert len(batches) == 5
    assert [len(labels) for _, labels in batches.epoch(0)] == [5, 5, 5, 5, 3]
    assert sorted(order(batches, 0)) == list(range(23))


def test_order_depends_on_seed_and_epoch_alone(data: PreparedData) -> None:
    one = Batches(data, np.arange(23), 5, modality="both", seed=3)
    two = Batches(data, np.arange(23), 5, modality="both", seed=3)
    two_first_asked_for_another = order(two, 8)
    assert order(one, 4) == order(two, 4)
    assert order(one, 8) == two_first_asked_for_another
    assert order(one, 4) != order(one, 5)
    assert order(one, 4) != order(Batches(data, np.arange(23), 5, modality="both", seed=4), 4)


@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=400),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_like_length_share_a_batch(lengths: list[int], batch_size: int, seed: int) -> None:
    """Every row comes once, the last batch is the rest, and within a pool of batches lengths do not overlap."""
    tokens = (np.arange(20) < np.array(lengths)[:, None]).astype(np.int32)
    data = SimpleNamespace(labels=np.zeros((len(lengths), 1)), tokens=tokens, has_captions=True)
    batches = Batches(data, np.arange(len(lengths)), batch_size, modality="caption", seed=seed, by_length=True)  # type: ignore[arg-type]
    epoch = [np.count_nonzero(inputs["caption"], axis=1) for inputs, _ in batches.epoch(1)]
    assert sorted(np.concatenate(epoch)) == sorted(lengths)
    assert {len(batch) for batch in epoch[:-1]} <= {batch_size}
    whole = [batch for batch in epoch if len(batch) == batch_size]
    if len(whole) <= 50:
        ranges = sorted((batch.min(), batch.max()) for batch in whole)
        assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(ranges))


def test_batches_by_length_come_in_an_order_of_their_own_each_epoch(data: PreparedData) -> None:
    one, two = (Batches(data, np.arange(23), 2, modality="both", seed=3, by_length=True) for _ in range(2))
    assert order(one, 4) == order(two, 4)
    assert order(one, 4) != order(one, 5)
    assert order(one, 4)[:22] != sorted(order(one, 4)[:22])


def test_without_seed_rows_keep_their_order(data: PreparedData) -> None:
    rows = np.array([7, 3, 3, 20])
    batches = Batches(data, rows, 3, modality="image")
    assert order(batches, 0) == order(batches, 1) == rows.tolist()


def test_any_batch_can_be_asked_for(data: PreparedData) -> None:
    batches = Batches(data, np.arange(23), 5, modality="both", seed=3)
    for index, (inputs, labels) in enumerate(batches.epoch(6)):
        again, labels_again = batches.batch(6, index)
        assert (again["image"] == inputs["image"]).all() and (labels == labels_again).all()
    for index in (-1, 5):
        with pytest.raises(IndexError):
            batches.batch(0, index)


def test_features_stand_in_for_pictures_and_every_other_row_is_mirrored_by_chance(data: PreparedData) -> None:
    rows, pictures = data.rows("train"), np.arange(23, dtype=np.float16)[:, None]
    both = Features(pictures, -pictures - 1)
    plain, shuffled = (Batches(data, rows, 5, modality="image", seed=seed, features=both) for seed in (None, 4))
    inputs, _ = plain.batch(1, 0)
    assert set(inputs) == {"features"} and inputs["features"].dtype == np.float16
    epochs = []
    for number in range(1, 40):
        read = np.concatenate([inputs["features"][:, 0] for inputs, _ in shuffled.epoch(number)])
        assert (np.concatenate([inputs["features"][:, 0] for inputs, _ in plain.epoch(number)]) >= 0).all()
        assert sorted(np.where(read < 0, -read - 1, read)) == sorted(data.picture_of[rows])
        assert (shuffled.batch(number, 1)[0]["features"][:, 0] == read[5:10]).all()
        epochs.append(read < 0)
    assert 0.4 < np.mean(epochs) < 0.6, "700 even chances: beyond one in 10 million seeds"
    assert len({tuple(epoch) for epoch in epochs}) > 30


def test_modality_chooses_the_inputs(data: PreparedData) -> None:
    for modality, names in (("both", {"image", "caption"}), ("image", {"image"}), ("caption", {"caption"})):
        batches = Batches(data, np.arange(3), 2, modality=modality)  # type: ignore[arg-type]
        assert batches.batch(0, 0)[0].keys() == names


def test_captions_are_cut_and_padded(data: PreparedData) -> None:
    assert data.tokens is not None
    stored = data.tokens.shape[1]
    cut = Batches(data, np.arange(23), 23, modality="caption", max_tokens=3).batch(0, 0)[0]["caption"]
    assert (cut == data.tokens[:, :3]).all()
    wide = Batches(data, np.arange(23), 23, modality="caption", max_tokens=40).batch(0, 0)[0]["caption"]
    assert wide.shape == (23, 40)
    assert (wide[:, :stored] == data.tokens).all() and not wide[:, stored:].any()


def test_ids_beyond_the_vocabulary_become_unknown(data: PreparedData) -> None:
    assert data.vocabulary is not None and data.vocabulary.words == ("dog", "cat")
    small = Batches(data, np.array([1]), 1, modality="caption", max_tokens=4, vocabulary_size=3)
    assert small.batch(0, 0)[0]["caption"].tolist() == [[2, 1, 0, 0]]
    whole = Batches(data, np.array([1]), 1, modality="caption", max_tokens=4, vocabulary_size=4)
    assert whole.batch(0, 0)[0]["caption"].tolist() == [[2, 3, 0, 0]]


def test_batches_can_be_changed_without_harm(data: PreparedData) -> None:
    batches = Batches(data, np.arange(4), 4, modality="both")
    inputs, labels = batches.batch(0, 0)
    for array in (*inputs.values(), labels):
        array[:] = 0
    fresh, fresh_labels = batches.batch(0, 0)
    assert fresh["image"].any() and fresh["caption"].any() and fresh_labels.any()


def test_no_rows_make_no_batches(data: PreparedData) -> None:
    batches = Batches(data, np.array([], np.int64), 4, modality="both", seed=1)
    assert len(batches) == 0
    assert list(batches.epoch(0)) == []


@pytest.mark.parametrize(
    "wrong",
    [{"modality": "sound"}, {"batch_size": 0}, {"max_tokens": 0}, {"vocabulary_size": 1}],
)
def test_wrong_settings_are_refused(data: PreparedData, wrong: dict[str, object]) -> None:
    settings: dict[str, object] = {"batch_size": 2, "modality": "both", **wrong}
    with pytest.raises(DataError, match=next(iter(wrong))):
        Batches(data, np.arange(3), **settings)  # type: ignore[arg-type]


def test_modality_that_the_set_lacks_is_refused(data: PreparedData, tmp_path: Path) -> None:
    captions = prepare(data.path.parent / "train.csv", None, tmp_path / "captions")
    with pytest.raises(DataError, match="no pictures"):
        Batches(captions, np.arange(3), 2, modality="both")
    (tmp_path / "train.csv").write_text("ImageID,Labels\n" + "".join(f"{k}.png,1\n" for k in range(5)))
    pictures = prepare(tmp_path / "train.csv", data.path.parent, tmp_path / "pictures", side=4)
    with pytest.raises(DataError, match="no captions"):
        Batches(pictures, np.arange(3), 2, modality="caption")
