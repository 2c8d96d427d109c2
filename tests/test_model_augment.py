"""Augmentation: what is asked for happens, to each picture by itself, and nothing else."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from captune.model.config import AugmentConfig

pytestmark = pytest.mark.slow

SIDE = 16
ALL = {"rotation": 30, "shift": 0.2, "shear": 10, "zoom": 0.3, "flip": True}


def changed(images: NDArray[Any], *, seed: int = 0, training: bool = True, **settings: Any) -> NDArray[np.float32]:
    import keras

    from captune.model.augment import RandomAffine

    layer = RandomAffine(AugmentConfig(**settings), seed=seed)
    return np.asarray(keras.ops.convert_to_numpy(layer(images, training=training)))


def noise(count: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def test_no_change_asked_for_changes_nothing() -> None:
    images = noise()
    assert (changed(images) == images).all()


def test_pictures_are_untouched_outside_training() -> None:
    images = noise()
    pictures = changed(images, training=False, **ALL)
    assert (pictures == images).all()
    assert pictures.dtype == np.float32


def test_flip_mirrors_left_and_right_exactly_and_about_every_other_picture() -> None:
    images = noise(200)
    pictures = changed(images, flip=True)
    same = (pictures == images).all(axis=(1, 2, 3))
    mirrored = (np.abs(pictures - images[:, :, ::-1].astype(np.float32)) < 1e-2).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    # Outside 60 to 140 of 200 fair draws: less than one seed in ten million.
    assert 60 < mirrored.sum() < 140


@pytest.mark.parametrize("name", ALL)
def test_every_setting_changes_pictures_by_itself(name: str) -> None:
    images = noise(20)
    assert (changed(images, **{name: ALL[name]}) != images).any()


def test_same_seed_gives_the_same_pictures_and_another_seed_others() -> None:
    images = noise()
    assert (changed(images, seed=3, **ALL) == changed(images, seed=3, **ALL)).all()
    assert (changed(images, seed=3, **ALL) != changed(images, seed=4, **ALL)).any()


def test_each_call_draws_anew() -> None:
    import keras

    from captune.model.augment import RandomAffine

    layer = RandomAffine(AugmentConfig(**ALL), seed=0)
    first, second = (keras.ops.convert_to_numpy(layer(noise(), training=True)) for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize("name", ["rotation", "shift", "shear", "zoom"])
def test_each_picture_of_a_batch_is_changed_in_its_own_way(name: str) -> None:
    images = np.repeat(noise(1), 6, axis=0)
    pictures = changed(images, **{name: ALL[name]})
    assert len(np.unique(pictures.reshape(6, -1), axis=0)) == 6


def test_values_stay_from_0_to_255() -> None:
    images = np.where(noise(32) > 127, 255, 0).astype(np.uint8)
    pictures = changed(images, **ALL)
    assert pictures.min() >= -1e-3 and pictures.max() <= 255 + 1e-3


@pytest.mark.parametrize("value", [0, 7, 255])
def test_picture_of_one_colour_keeps_it_to_the_border(value: int) -> None:
    images = np.full((8, SIDE, SIDE, 3), value, np.uint8)
    assert changed(images, rotation=180, shift=0.9, shear=45, zoom=0.9, flip=True) == pytest.approx(value, abs=1e-2)


def centres(images: NDArray[Any]) -> NDArray[np.float64]:
    """(n, 2): centre of mass of each picture's brightness, along x and y."""
    light = images[..., 0].astype(np.float64)
    places = np.arange(light.shape[1])
    total = light.sum(axis=(1, 2))
    return np.stack([(light.sum(axis=1) @ places) / total, (light.sum(axis=2) @ places) / total], axis=1)


def blob(x: int, y: int, side: int = 40) -> NDArray[np.uint8]:
    image = np.zeros((1, side, side, 3), np.uint8)
    image[:, y - 1 : y + 2, x - 1 : x + 2] = 200
    return image


def test_shift_moves_by_at_most_its_share_of_the_side_along_each_axis() -> None:
    images = np.repeat(blob(20, 20), 100, axis=0)
    moved = np.abs(centres(changed(images, shift=0.25)) - 20)
    assert moved.max() <= 10 + 0.01
    assert (moved.max(axis=0) > 8).all()  # of 100 uniform draws none above 0.8 of the limit: 2 in 10 ** 10


def test_rotation_leaves_the_distance_to_the_centre() -> None:
    images = np.repeat(blob(30, 19, 39), 50, axis=0)
    pictures = centres(changed(images, rotation=180)) - 19
    assert np.linalg.norm(pictures, axis=1) == pytest.approx(11, abs=0.3)
    assert pictures[:, 0].min() < 0 < pictures[:, 0].max()


def test_rotation_stays_within_its_degrees() -> None:
    images = np.repeat(blob(30, 19, 39), 100, axis=0)
    offset = centres(changed(images, rotation=20)) - 19
    degrees = np.degrees(np.arctan2(offset[:, 1], offset[:, 0]))
    assert np.abs(degrees).max() <= 21
    assert degrees.min() < -10 and degrees.max() > 10


def test_zoom_scales_each_axis_about_the_centre_within_its_limits() -> None:
    images = np.repeat(blob(30, 30, 39), 100, axis=0)
    # An output pixel reads the input at `scale` times its distance: the blob moves to 11 / scale.
    scale = 11 / (centres(changed(images, zoom=0.2)) - 19)
    assert scale.min() >= 0.8 - 0.02 and scale.max() <= 1.2 + 0.02
    assert (scale.min(axis=0) < 0.9).all() and (scale.max(axis=0) > 1.1).all()


def test_shape_is_kept_and_values_become_floats() -> None:
    pictures = changed(noise(3), **ALL)
    assert pictures.shape == (3, SIDE, SIDE, 3)
    assert pictures.dtype == np.float32


@pytest.mark.parametrize("name", [*ALL, "all"])
def test_sampling_of_our_own_is_that_of_keras(name: str) -> None:
    from keras import ops

    from captune.model.augment import RandomAffine, sampled

    images = noise(20)[:, :, :-3]
    layer = RandomAffine(AugmentConfig(**(ALL if name == "all" else {name: ALL[name]})), seed=0)
    transforms = layer._transforms(len(images), SIDE)
    theirs = ops.image.affine_transform(images.astype(np.float32), transforms, fill_mode="nearest")
    assert np.asarray(sampled(images, transforms)) == pytest.approx(np.asarray(theirs), abs=2e-2)
