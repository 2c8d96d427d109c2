"""Batches of a prepared data set as plain numpy, shuffled anew each epoch and the same on every run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.captions import PADDING, UNKNOWN
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData

Modality = Literal["both", "image", "caption"]
Inputs = dict[str, NDArray[Any]]
Batch = tuple[Inputs, NDArray[np.float32]]
_POOL = 50  # batches
_MIRROR = 1  # other chances than those of the order


class Gathered(Protocol):
    """Rows by their numbers (b,): (b, ..)."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Features:
    """What towers gave before: of pictures by their number, (pictures, ..) of any float type, and the same of mirrored
    ones; of captions by their rows, (rows, ..)."""

    plain: Gathered | None = None
    mirrored: Gathered | None = None
    captions: Gathered | None = None


class Batches:
    """rows of data in batches of batch_size, the last one smaller where they do not divide.

    A batch is (inputs, labels): inputs {"image": uint8 (b, side, side, 3), "caption": int32 (b, max_tokens)},
    of these what modality names; "features", the rows (b, ..) of features by picture, stand in for "image"
    where they are given; where there are mirrored ones and a seed, each row has those by even chance;
    "caption_features" stand beside "caption". labels float32 (b, L). tokens: ids (rows of data, width) in the place of
    those of data; targets: (rows of data, L) in the place of its labels. max_tokens cuts captions or pads them with 0;
    None takes that of data. Ids of vocabulary_size and above become 1 (unknown), None keeps all. seed: each epoch has
    its own order, told by (seed, epoch) alone; None keeps the order of rows. by_length: captions of like length
    share a batch, so that little of it is padding; batches come in random order all the same.
    """

    def __init__(
        self,
        data: PreparedData,
        rows: NDArray[np.int64],
        batch_size: int,
        *,
        modality: Modality,
        max_tokens: int | None = None,
        vocabulary_size: int | None = None,
        seed: int | None = None,
        by_length: bool = False,
        features: Features | None = None,
        tokens: NDArray[np.int32] | None = None,
        targets: NDArray[np.float32] | None = None,
    ) -> None:
        if modality not in ("both", "image", "caption"):
            raise DataError(f"modality must be both, image or caption, got {modality!r}")
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("max_tokens", max_tokens, 1),
            ("vocabulary_size", vocabulary_size, UNKNOWN + 1),
        ):
            if value is not None and value < low:
                raise DataError(f"{name} must be {low} or more, got {value}")
        if modality != "caption" and not data.has_images:
            raise DataError(f"{data.path} has no pictures, modality {modality} needs them: choose caption")
        if modality != "image" and not data.has_captions:
            raise DataError(f"{data.path} has no captions, modality {modality} needs them: choose image")
        self.data = data
        self.rows = np.asarray(rows, np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self._with_images = modality != "caption"
        self._features = features or Features()
        self._labels = (data.labels if targets is None else targets)[self.rows].astype(np.float32)
        self._tokens: NDArray[np.int32] | None = None
        tokens = data.tokens if tokens is None else tokens
        if modality != "image" and tokens is not None:
            self._tokens = _fit(tokens[self.rows], max_tokens, vocabulary_size)
        self._lengths = lengths(self._tokens) if by_length and self._tokens is not None else None
        self._last_order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def batch(self, number: int, index: int) -> Batch:
        """Batch index (0 to len - 1) of epoch number (0 or more). Raises IndexError beyond."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch must be from 0 to {len(self) - 1}, got {index}")
        places = self._order(number)[index * self.batch_size : (index + 1) * self.batch_size]
        inputs: Inputs = {}
        if self._with_images and self._features.plain is not None:
            inputs["features"] = self._of_pictures(self._features.plain, self._features.mirrored, number, places)
        elif self._with_images:
            inputs["image"] = self.data.pixels(self.rows[places])
        if self._tokens is not None:
            inputs["caption"] = self._tokens[places]
            if self._features.captions is not None:
                inputs["caption_features"] = self._features.captions[self.rows[places]]
        return inputs, self._labels[places]

    def _of_pictures(
        self, plain: Gathered, mirrored: Gathered | None, number: int, places: NDArray[np.int64]
    ) -> NDArray[Any]:
        pictures = self.data.picture_of[self.rows[places]]
        values = plain[pictures]
        if mirrored is not None and self.seed is not None:
            turned = np.random.default_rng((self.seed, number, _MIRROR)).random(len(self.rows))[places] < 0.5
            values[turned] = mirrored[pictures[turned]]
        return values

    def epoch(self, number: int) -> Iterator[Batch]:
        """All batches of epoch number, in order."""
        for index in range(len(self)):
            yield self.batch(number, index)

    def _order(self, number: int) -> NDArray[np.int64]:
        # Read and set in one step each, so that threads asking for two epochs at once get the right orders.
        last = self._last_order
        if last is not None and last[0] == number:
            return last[1]
        order = np.arange(len(self.rows))
        if self.seed is not None:
            generator = np.random.default_rng((self.seed, number))
            order = generator.permutation(order)
            if self._lengths is not None:
                order = _alike(order, self._lengths, self.batch_size, generator)
        self._last_order = (number, order)
        return order


def lengths(tokens: NDArray[np.int32]) -> NDArray[np.int64]:
    """Tokens of each caption (n, T) before its padding."""
    return np.count_nonzero(tokens != PADDING, axis=1)


def _alike(
    order: NDArray[np.int64], lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """An order in which rows of like length share a batch; those of the last, smaller batch stay where they are.

    As common for sequences (bucketing): within every _POOL batches rows are sorted by length, and then all batches
    shuffled. Who meets whom in a batch still changes from epoch to epoch.
    """
    whole, pool = len(order) // batch_size * batch_size, _POOL * batch_size
    grouped = order[:whole].copy()
    for rows in np.split(grouped, range(pool, whole, pool)):
        rows[:] = rows[np.argsort(lengths[rows], kind="stable")]
    return np.concatenate([generator.permutation(grouped.reshape(-1, batch_size)).ravel(), order[whole:]])


def _fit(tokens: NDArray[np.int32], max_tokens: int | None, vocabulary_size: int | None) -> NDArray[np.int32]:
    """Cut or pad (n, T) to (n, max_tokens); ids beyond the vocabulary become unknown."""
    width = tokens.shape[1] if max_tokens is None else max_tokens
    fitted = np.full((len(tokens), width), PADDING, np.int32)
    ids = tokens[:, :width]
    if vocabulary_size is not None:
        ids = np.where(ids < vocabulary_size, ids, UNKNOWN)
    fitted[:, : ids.shape[1]] = ids
    return fitted
