"""All that a program in another language needs beside an exported file: NAME.portable, as FORMAT.md in it says.

It lies beside what is shipped and not in it: a budget counts what has to be loaded to answer.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.captions import UNKNOWN, Vocabulary, tokenize
from captune.data_prep.pieces import FIRST_PIECE, Pieces
from captune.data_prep.portable_text import specification, surface_ids
from captune.data_prep.store import PreparedData
from captune.files import written_aside
from captune.model.bundle import Bundle
from captune.results.run_folder import RunFolder
from captune.tuner.training.inference import vocabulary_of
from captune.tuner.winner.predict import labels, probabilities

FORMAT = 1
GOLDEN_ROWS = 200
_BATCH = 40  # golden rows at a time: a picture may have a side of 1024
_SOURCE = Path(__file__).parent
_DOCUMENTS = {"portable.md": "FORMAT.md", "captune.mjs": "captune.mjs"}
# What tells one tokenizer from another: contractions, quotes, marks, blanks, letters outside ASCII, nothing at all.
_ODD_CAPTIONS = (
    "",
    "   ",
    "?! ... --",
    "A man's dog isn't here, can't stay; they're gonna go.",
    '\'Tis "quoted" (and bracketed) [twice] {thrice} <so>',
    "No. 46 at 5:30, for $3.88 or 3,36\u2026 50% off",
    "red/blue t-shirt--worn, and mother-in-law",
    "Don\u2019t \u201cstop\u201d \u00abhere\u00bb \u2013 gimme more'n that",
    "Cafe\u0301 CAF\u00c9 na\u00efve Stra\u00dfe \u0130stanbul \u039f\u0394\u039f\u03a3",
    "\u200bzero\u00adwidth\ufeff and \u2060joined",
    "\U0001f415 \U0001f3c0 #tag @name a_b",
    "skies dying news innings exceedingly relationally hopefully geology",
    "line\nbreak\ttab\u00a0blank .",
    "\u0915\u093f\u0924\u093e\u092c \u0434\u043e\u043c \u732b\u304c\u5bfa",
)


def write_portable_of(run: RunFolder, data: PreparedData) -> None:
    """Of the bundle of a run that was refitted, beside it."""
    with written_aside(run.portable) as aside:
        write_portable(aside, Bundle.load(run.bundle), data)


def write_portable(folder: Path, bundle: Bundle, data: PreparedData) -> None:
    """Makes the folder and fills it.

    Args:
        bundle: as it is shipped, its weights as the storage gives them back.
        data: that it was trained on. Of its captions only words are written that the bundle knows.
    """
    folder.mkdir()
    for source, name in _DOCUMENTS.items():
        shutil.copyfile(_SOURCE / source, folder / name)
    vocabulary = vocabulary_of(bundle)
    words: dict[str, int] = {}
    if isinstance(vocabulary, Vocabulary):
        words = surface_ids(data.captions, vocabulary)
        _write(folder / "words.json", {"words": vocabulary.words, "ids": words})
    elif vocabulary is not None:
        words = {piece: place for place, piece in enumerate(vocabulary.pieces, FIRST_PIECE)}
        _write(folder / "words.json", {"pieces": vocabulary.pieces})
    _write(folder / "classifier.json", _contents(bundle, vocabulary), indent=1)
    _write(folder / "golden.json", {"rows": _golden(bundle, vocabulary, words)})


def _contents(bundle: Bundle, vocabulary: Vocabulary | Pieces | None) -> dict[str, Any]:
    image, text = bundle.config.image, bundle.config.text
    return {
        "format": FORMAT,
        "made_by": {"captune": version("captune"), "nltk": version("nltk")},
        "labels": [
            {"id": label, "name": name} for label, name in zip(bundle.label_ids, bundle.label_names, strict=True)
        ],
        "rule": bundle.rule.specification(len(bundle.label_ids)),
        "image": None if image is None else {"side": image.side},
        "text": None if text is None or vocabulary is None else specification(vocabulary, text.max_tokens),
    }


def golden_captions(words: Sequence[str], seed: int = 0) -> tuple[str, ...]:
    """GOLDEN_ROWS captions that nobody wrote: odd ones, then words in any order, known or not, with marks between."""
    draw = random.Random(seed)
    known = sorted(words) or ["word"]

    def caption() -> str:
        text = ""
        for _ in range(draw.choice((1, 3, 6, 9, 12, 40))):
            word = draw.choice(known) if draw.random() < 0.7 else draw.choice(("a", "the", "on", "with", "n't", "qzx"))
            changed = draw.choice((word, word, word, word.upper(), word.capitalize(), f"{word}s", f"{word}ing"))
            text += changed + draw.choice((" ", " ", " ", ", ", ". ", "'s ", "-", "  "))
        return text.strip() + draw.choice(("", ".", "!", " ."))

    return (*_ODD_CAPTIONS, *(caption() for _ in range(GOLDEN_ROWS - len(_ODD_CAPTIONS))))


def golden_picture(row: int, side: int) -> NDArray[np.uint8]:
    """(side, side, 3), other ones for each row, by a formula that any language has."""
    y, x, channel = np.ogrid[:side, :side, :3]
    return ((37 * row + (row % 5 + 1) * y + (row % 7 + 1) * x + 85 * channel) % 256).astype(np.uint8)


def _golden(bundle: Bundle, vocabulary: Vocabulary | Pieces | None, words: Mapping[str, int]) -> list[dict[str, Any]]:
    image, text = bundle.config.image, bundle.config.text
    captions = golden_captions(list(words)) if vocabulary is not None else None
    rows: list[dict[str, Any]] = [{} for _ in range(GOLDEN_ROWS)]
    if vocabulary is not None and text is not None and captions is not None:
        rows = [_caption_of_row(caption, vocabulary, words, text.max_tokens) for caption in captions]
    for start in range(0, GOLDEN_ROWS, _BATCH):
        part = range(start, min(start + _BATCH, GOLDEN_ROWS))
        pictures = None if image is None else [golden_picture(row, image.side) for row in part]
        raw = probabilities(bundle, captions and captions[part.start : part.stop], pictures)
        of_rows = zip(part, raw, bundle.rule.calibrated(raw), labels(bundle, raw), strict=True)
        for row, uncalibrated, calibrated, given in of_rows:
            rows[row] |= {"raw": _short(uncalibrated), "probabilities": _short(calibrated), "labels": given}
    return rows


def _caption_of_row(
    caption: str, vocabulary: Vocabulary | Pieces, words: Mapping[str, int], width: int
) -> dict[str, Any]:
    """stemmed: whether a word that is not in the table has an id by its stem; not of word pieces."""
    if isinstance(vocabulary, Pieces):
        return {"caption": caption, "ids": np.trim_zeros(vocabulary.encode([caption], width)[0], "b").tolist()}
    ids = np.trim_zeros(vocabulary.encode([caption])[0, :width], "b").tolist()
    tokens = tokenize(caption, replace(vocabulary.settings, stem=False))
    stemmed = any(words.get(word, UNKNOWN) != code for word, code in zip(tokens, ids, strict=False))
    return {"caption": caption, "ids": ids, "stemmed": stemmed}


def _short(values: NDArray[np.float32]) -> list[float]:
    """The shortest decimals that are these float32 numbers again."""
    return [float(str(value)) for value in values]


def _write(path: Path, content: dict[str, Any], indent: int | None = None) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
