"""A bundle at work on rows of a prepared data set, captions through its own vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.captions import Vocabulary
from captune.data_prep.pieces import Pieces
from captune.data_prep.store import PreparedData
from captune.model.config import ImageConfig

if TYPE_CHECKING:
    from captune.model.bundle import Bundle

_MOST_AT_ONCE = 256  # rows that are answered together
_PIXELS_AT_ONCE = 32 * 224 * 224  # of pictures: 256 of 224 pixels a side take 4 GiB in a tower, and no less time


def rows_at_once(image: ImageConfig | None) -> int:
    """Rows that a network answers together. image: how it reads pictures; None where it reads none."""
    return _MOST_AT_ONCE if image is None else max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // image.seen_side**2))


def usual_batch(bundle: Bundle) -> int:
    """Rows that go through the network together unless said."""
    return rows_at_once(bundle.config.image)


def untold(done: int, total: int) -> None:
    """Where nobody asks how far it is."""


@dataclass(frozen=True)
class Examples:
    """Captions and pictures turned into batches one at a time: any number of rows fits."""

    count: int
    tokens: NDArray[np.int32] | None  # (count, max_tokens)
    pixels: Callable[[slice], NDArray[np.uint8]] | None  # pictures of a range of rows
    progress: Callable[[int, int], None]  # told before each batch of (done, all) rows
    size: int

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def batch(self, number: int, index: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """Inputs of batch `index`. Rows keep their order, so the epoch `number` means nothing; nor are there labels."""
        rows = slice(index * self.size, (index + 1) * self.size)
        self.progress(rows.start, self.count)
        inputs: dict[str, NDArray[Any]] = {}
        if self.tokens is not None:
            inputs["caption"] = self.tokens[rows]
        if self.pixels is not None:
            inputs["image"] = self.pixels(rows)
        return inputs, np.empty(0, np.float32)


def probabilities_on(bundle: Bundle, data: PreparedData, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, num_labels), the network's own, of rows of a data set."""
    from captune.model.training import predict

    tokens = tokens_of(bundle, [data.captions[row] for row in rows]) if data.has_captions else None
    pixels = (lambda part: data.pixels(rows[part])) if bundle.config.image else None
    return predict(bundle.network, Examples(len(rows), tokens, pixels, untold, usual_batch(bundle)))


def tokens_of(bundle: Bundle, captions: Sequence[str]) -> NDArray[np.int32] | None:
    """Ids of (n, max_tokens), cut or padded to what the network reads; None where it reads no captions."""
    vocabulary = vocabulary_of(bundle)
    if bundle.config.text is None or vocabulary is None:
        return None
    width = bundle.config.text.max_tokens
    if isinstance(vocabulary, Pieces):
        return vocabulary.encode(captions, width)
    ids = vocabulary.encode(captions)[:, :width]
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])))


def vocabulary_of(bundle: Bundle) -> Vocabulary | Pieces | None:
    """What takes captions to ids; None where the bundle reads none."""
    if bundle.config.text is None or bundle.vocabulary is None:
        return None
    kind = Pieces if bundle.config.text.encoder == "transformer" else Vocabulary
    return kind.from_json(bundle.vocabulary)
