"""Draws a small labelled, captioned data set from nothing: shapes on noisy grounds, told in plain English."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from captune.data_prep.records import DataError


@dataclass(frozen=True, slots=True)
class _Shape:
    """weight: how often it is drawn, relative to the others; words: what captions call it."""

    label: int
    weight: float
    words: tuple[str, ...]


# The numbers have gaps on purpose, as COCO's do.
_SHAPES = (
    _Shape(1, 0.34, ("circle", "disc", "ball", "round spot")),
    _Shape(2, 0.20, ("square", "box", "block", "cube")),
    _Shape(3, 0.16, ("triangle", "wedge", "pyramid")),
    _Shape(5, 0.12, ("star", "five-pointed star", "starfish")),
    _Shape(6, 0.10, ("stripe", "band", "long bar")),
    _Shape(8, 0.08, ("ring", "hoop", "loop")),
)
_COLOURS = {
    "red": (200, 45, 40),
    "green": (50, 150, 60),
    "blue": (45, 80, 190),
    "yellow": (225, 200, 50),
    "white": (240, 240, 235),
    "black": (25, 25, 30),
    "orange": (230, 130, 40),
    "purple": (125, 60, 160),
}
_ONE = (
    "{A0} {0} in the picture.",
    "There is {a0} {0} here, seen from the front.",
    "Someone painted {a0} {0} on the wall.",
    'A poster that reads "look" above {a0} {0}.',
    "{A0} {0} lies on the ground, quite alone",
    "a close up of {a0} {0}",
)
_TWO = (
    "{A0} {0} next to {a1} {1}.",
    "{A0} {0}, with {a1} {1} behind it.",
    "Somebody left {a0} {0} and {a1} {1} there, side by side.",
    'A sign saying "no entry" between {a0} {0} and {a1} {1}.',
    "you can see {a0} {0} over {a1} {1}",
)
_THREE = (
    "{A0} {0}, {a1} {1} and {a2} {2} together.",
    "{A0} {0} beside {a1} {1}, and {a2} {2} in the corner.",
    'The "three of us": {a0} {0}, {a1} {1}, {a2} {2}.',
)
_NONE = (
    "A busy picture without much order.",
    "Things lie about, nobody knows why.",
    "an odd view of something",
)

MENTIONED = 0.8  # chance that a caption names a shape which is in the picture
HIDDEN = 0.25  # chance that a shape is small and pale, so that the picture hardly shows it


def draw(out: str | Path, *, count: int = 600, unlabelled: int = 60, seed: int = 0) -> None:
    """Write out/train.csv (count rows), out/test.csv (unlabelled rows, no Labels) and out/images/*.jpg.

    A scene of about 96 x 96 pixels shows one to three of six shapes. Its caption names most of them by one of
    several words, so neither the picture nor the caption tells everything. Same seed, same files. Raises
    DataError for negative numbers, fewer than 1 row, and where out holds anything.
    """
    out = Path(out)
    if count < 1 or unlabelled < 0 or seed < 0:
        raise DataError(f"count must be 1 or more, unlabelled and seed 0 or more, got {count}, {unlabelled} and {seed}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not an empty folder: choose another")
    (out / "images").mkdir(parents=True)
    labelled, unseen = [], []
    for place in range(count + unlabelled):
        rng = np.random.default_rng((seed, place))
        name = f"scene_{place:05d}.jpg"
        shapes = _choose(rng)
        _scene(rng, shapes).save(out / "images" / name, quality=88)
        labels = " ".join(str(label) for label in sorted(shape.label for shape in shapes))
        caption = _caption(rng, shapes)
        if place < count:
            labelled.append((name, labels, caption))
        else:
            unseen.append((name, caption))
    _write(out / "train.csv", ("ImageID", "Labels", "Caption"), labelled)
    _write(out / "test.csv", ("ImageID", "Caption"), unseen)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _choose(rng: np.random.Generator) -> list[_Shape]:
    number = rng.choice(3, p=(0.45, 0.37, 0.18)) + 1
    weights = [shape.weight for shape in _SHAPES]
    return [_SHAPES[place] for place in rng.choice(len(_SHAPES), number, replace=False, p=weights)]


def _caption(rng: np.random.Generator, shapes: Sequence[_Shape]) -> str:
    words = []
    for shape in shapes:
        if rng.random() < MENTIONED:
            word = str(rng.choice(shape.words))
            words.append(f"{rng.choice(list(_COLOURS))} {word}" if rng.random() < 0.3 else word)
    template = str(rng.choice((_NONE, _ONE, _TWO, _THREE)[len(words)]))
    articles = ["an" if word[0] in "aeiou" else "a" for word in words]
    named = {f"a{place}": article for place, article in enumerate(articles)}
    capital = {f"A{place}": article.capitalize() for place, article in enumerate(articles)}
    return template.format(*words, **named, **capital)


def _scene(rng: np.random.Generator, shapes: Sequence[_Shape]) -> Image.Image:
    width, height = (int(side) for side in rng.integers(88, 105, 2))
    ground = rng.integers(70, 190, 3) + np.linspace(-30, 30, height)[:, None, None] * rng.choice((-1, 1))
    noisy = ground + rng.normal(0, rng.uniform(4, 18), (height, width, 3))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for shape in shapes:
        hidden = rng.random() < HIDDEN
        radius = rng.uniform(5, 8) if hidden else rng.uniform(10, 24)
        colour = np.array(list(_COLOURS.values())[rng.integers(len(_COLOURS))]) + rng.integers(-20, 21, 3)
        if hidden:
            colour = 0.4 * colour + 0.6 * ground[height // 2, 0]
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        ink = tuple(int(part) for part in np.clip(colour, 0, 255))
        _put(pen, shape.label, x, y, radius, rng.uniform(0, 2 * math.pi), ink)
    for _ in range(rng.integers(0, 3)):  # twigs across the scene, which belong to no label
        ends = rng.uniform(0, 1, (2, 2)) * (width, height)
        grey = int(rng.integers(30, 220))
        pen.line([(float(x), float(y)) for x, y in ends], fill=(grey, grey, grey), width=2)
    return image


def _put(
    pen: ImageDraw.ImageDraw, label: int, x: float, y: float, radius: float, turn: float, ink: tuple[int, ...]
) -> None:
    """Draw one shape round (x, y), turned by turn radians."""
    box = (x - radius, y - radius, x + radius, y + radius)
    if label == 1:
        pen.ellipse(box, fill=ink)
    elif label == 8:
        pen.ellipse(box, outline=ink, width=max(2, int(radius / 4)))
    elif label == 6:
        reach = 4 * radius
        ends = [(x + sign * reach * math.cos(turn), y + sign * reach * math.sin(turn)) for sign in (-1, 1)]
        pen.line(ends, fill=ink, width=max(3, int(radius / 2)))
    else:
        radii = {2: (1.0,) * 4, 3: (1.0,) * 3, 5: (1.0, 0.4) * 5}[label]
        step = 2 * math.pi / len(radii)
        pen.polygon(
            [
                (x + part * radius * math.cos(turn + k * step), y + part * radius * math.sin(turn + k * step))
                for k, part in enumerate(radii)
            ],
            fill=ink,
        )
