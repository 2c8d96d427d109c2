"""Bytes of a network, from its configuration alone: integers, no framework, microseconds.

`weights_bytes` counts every variable once, frozen ones and batch-norm statistics too, in its storage type.
`bundle_bytes` is what the shipped folder holds at most: weights, their header, vocabulary, labels, sums.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from captune.errors import one_line
from captune.model.average import Average, Network
from captune.model.backbones import BACKBONES
from captune.model.config import ModelConfig, Storage, TextConfig, TrialConfig
from captune.model.flat import replace
from captune.model.layout import STORAGES, layout

MiB = 2**20  # what Keras prints as "MB"
MB = 10**6  # as file sizes are sold
DEFAULT_BUDGET = 100 * MiB
Measure = Literal["weights", "bundle"]

_UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": MB, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": MiB, "GiB": 2**30, "TiB": 2**40}
_BYTES = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_LARGEST = 2**60
_HEADER_LENGTH = 8  # the number before a safetensors header, which is padded to a multiple of as much
# bundle.json without configuration and labels: keys, rule, three sums of 64 digits, line ends.
_FRAME_BYTES = 505
_INDENT_BYTES = 6  # a line of the configuration in bundle.json has over the same key in compact JSON, at most
_HISTORY_BYTES = 4  # that a member of an average may be longer in bundle.json, where its weights came from nowhere
_WORD_BYTES = 12  # in vocabulary.json where the words are not known: English stems have 9 on average
_SETTINGS_BYTES = 190  # of vocabulary.json without its words
_PIECE_BYTES = 12  # in vocabulary.json where the word pieces are not known: those of English captions have 9
_PIECE_SETTINGS_BYTES = 120  # of vocabulary.json without its word pieces


@dataclass(frozen=True)
class Contents:
    """What a bundle holds besides weights, as bytes of JSON.

    labels: numbers and names. vocabulary: of vocabulary.json by the number of its words, from 0; None where the words
    are not known. pieces: the same of word pieces, by `text.weights`.
    """

    labels: int
    vocabulary: Sequence[int] | None = None
    pieces: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        label_ids: Sequence[int],
        label_names: Sequence[str],
        words: Sequence[str] | None,
        pieces: Mapping[str, Sequence[str]] | None = None,
    ) -> Contents:
        """Contents of the bundles made from one data set.

        Args:
            label_ids: numbers of the labels.
            label_names: as many names.
            words: of the vocabulary, commonest first; None without captions.
            pieces: of the vocabularies of text towers, likewise, by `text.weights`.
        """
        labels = len(json.dumps([*label_ids, *label_names], indent=2).encode())
        vocabulary = None if words is None else _growing(words, _SETTINGS_BYTES)
        return cls(
            labels, vocabulary, {name: _growing(some, _PIECE_SETTINGS_BYTES) for name, some in (pieces or {}).items()}
        )

    @classmethod
    def typical(cls, num_labels: int) -> Contents:
        """Room for labels and words that are not known yet."""
        return cls(labels=64 * num_labels)

    def vocabulary_bytes(self, text: TextConfig) -> int:
        """Bytes of vocabulary.json of an encoder."""
        words = text.vocabulary_size - text.marks
        if text.encoder == "transformer":
            known, settings, word = self.pieces.get(text.weights), _PIECE_SETTINGS_BYTES, _PIECE_BYTES
        else:
            known, settings, word = self.vocabulary, _SETTINGS_BYTES, _WORD_BYTES
        return settings + word * words if known is None else known[min(words, len(known) - 1)]


def _growing(words: Sequence[str], total: int) -> list[int]:
    """Bytes of a vocabulary by the number of its words. total: of it without any."""
    growing = [total]
    for word in words:
        total += len(json.dumps(word, ensure_ascii=False).encode()) + len(", ")
        growing.append(total)
    return growing


@dataclass(frozen=True)
class Size:
    """Totals over all parts. Parameters are counts, the rest bytes."""

    parameters: int
    frozen: int
    storage: Storage
    weights_bytes: int
    bundle_bytes: int
    parts: dict[str, int]  # bytes of the weights of each part

    @property
    def trainable(self) -> int:
        """Parameters that training changes."""
        return self.parameters - self.frozen


class Sized(Protocol):
    """What knows its bytes: a size, or the record of a trial."""

    @property
    def weights_bytes(self) -> int: ...
    @property
    def bundle_bytes(self) -> int: ...


@dataclass(frozen=True)
class Budget:
    """Bytes allowed, and what is held against them: the weights alone, or the whole bundle."""

    limit: int = DEFAULT_BUDGET
    measure: Measure = "weights"

    def __str__(self) -> str:
        return f"{show_bytes(self.limit)} of {self.measure}"

    def bytes_of(self, size: Sized) -> int:
        """The bytes that count."""
        return size.weights_bytes if self.measure == "weights" else size.bundle_bytes

    def holds(self, size: Sized) -> bool:
        """Whether they fit, the limit included."""
        return self.bytes_of(size) <= self.limit


def size(config: Network, contents: Contents | None = None) -> Size:
    """Exact count of variables and of their bytes as stored, and an upper bound of the bundle they make.

    Args:
        config: the network, or the average of several, and its storage.
        contents: what else the bundle holds; None for an estimate on the safe side.
    """
    storage = config.storage
    groups = list(layout(config))
    parts: dict[str, int] = {}
    for group in groups:
        parts[group.part] = parts.get(group.part, 0) + group.bytes_as(storage)
    weights = sum(parts.values())
    digits = len(str(weights))
    header = sum(group.header_bytes(storage, digits) for group in groups) + len("{}") + 2 * _HEADER_LENGTH
    contents = contents or Contents.typical(config.num_labels)
    manifest = _FRAME_BYTES + _described_bytes(config) + contents.labels
    words = contents.vocabulary_bytes(config.text) if config.text is not None else 0
    return Size(
        parameters=sum(group.values for group in groups),
        frozen=sum(group.frozen for group in groups),
        storage=storage,
        weights_bytes=weights,
        bundle_bytes=weights + header + manifest + words,
        parts=parts,
    )


def _described_bytes(config: Network) -> int:
    """Of the configuration in bundle.json, at most."""
    if isinstance(config, Average):
        return len(json.dumps(config.model_dump(), indent=1).encode()) + _HISTORY_BYTES * len(config.members)
    described = config.model_dump_json()
    return len(described.encode()) + _INDENT_BYTES * described.count(":")


def parse_bytes(text: str) -> int:
    """A number with its unit, such as 100MiB, 100MB or 104857600B, as bytes.

    Raises:
        ValueError: no unit, an unknown unit, or nothing left after rounding down to whole bytes.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None or match[2] not in _UNITS:
        number = match[1].lstrip("+-") if match and len(match[1]) < 20 else "100"
        raise ValueError(
            f"a size needs a number and a unit, got {one_line(repr(text), 60)}; "
            f"write {number}MiB (2**20 bytes each) or {number}MB (10**6 bytes each)"
        )
    count = int(Decimal(match[1]) * _UNITS[match[2]])
    if not 0 < count < _LARGEST:
        raise ValueError(
            f"a size must be above 0 and below 1 EiB, got {one_line(repr(text), 60)}; "
            "write for example 100MiB (2**20 bytes each) or 100MB (10**6 bytes each)"
        )
    return count


def show_bytes(count: int) -> str:
    """Bytes in both units, for messages: '99.83 MiB (104.68 MB)', '68.22 GiB (73.25 GB)'; '100 bytes' of very few."""
    if 0 < abs(count) < MiB / 200:  # which is 0.00
        return _in_bytes(count)
    step = (abs(count) >= 2**30) + (abs(count) >= 2**40)
    return f"{count / 1024 ** (2 + step):.2f} {'MGT'[step]}iB ({count / 1000 ** (2 + step):.2f} {'MGT'[step]}B)"


def _in_bytes(count: int) -> str:
    return f"{count:,} byte{'s' * (abs(count) != 1)}"


def refusal(size: Size, budget: Budget) -> str | None:
    """Why a network is over the budget, by parts; None where it fits."""
    if budget.holds(size):
        return None
    count = budget.bytes_of(size)
    parts = ", ".join(f"{part} {share / MiB:.2f}" for part, share in size.parts.items())
    over = count - budget.limit
    by = show_bytes(over) if over >= MiB / 100 else _in_bytes(over)
    what = f"{size.storage} weights" if budget.measure == "weights" else f"bundle with {size.storage} weights"
    return (
        f"needs {show_bytes(count)} of {what}, the budget is {show_bytes(budget.limit)}, "
        f"over by {by} (MiB by part: {parts})"
    )


def would_fit(config: ModelConfig, budget: Budget, contents: Contents | None = None) -> list[str]:
    """Single changes of a configuration that is over the budget after which it fits: 'text.embedding: 82 or less'."""
    return list(_changes(config, budget, contents))


def _changes(config: ModelConfig, budget: Budget, contents: Contents | None) -> Iterator[str]:
    def fits(name: str, value: Any) -> bool:
        try:
            changed = replace(TrialConfig(model=config), {name: value})
        except ValidationError:  # impossible beside the other settings
            return False
        return budget.holds(size(changed.model, contents))

    for storage in STORAGES:
        if STORAGES[storage] < STORAGES[config.storage] and fits("storage", storage):
            yield f"storage: {storage}"
            break  # the next one would cost more of the score
    if config.image is not None and config.image.is_named:
        smaller = sorted(BACKBONES, key=lambda name: -BACKBONES[name].parameters)
        backbone = next((name for name in smaller if fits("image.backbone", name)), None)
        if backbone is not None:
            yield f"image.backbone: {backbone}"
    for name, value, least in _widths(config):
        if not fits(name, least):
            continue
        low, high = least, value  # fits, does not fit
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(name, middle) else (low, middle)
        yield f"{name}: {low} or less"


def _widths(config: ModelConfig) -> Iterator[tuple[str, int, int]]:
    """Settings that are widths: name, value, the least value that leaves the layer in place."""
    if config.image is not None:
        if config.image.backbone == "compact":
            yield "image.width", config.image.width, 4
        if config.image.backbone == "transformer":
            yield "image.layers", config.image.layers, 1
        if config.image.units:
            yield "image.units", config.image.units, 1
        if config.image.head != "pooled" and config.image.position_units:
            yield "image.position_units", config.image.position_units, 1
    if config.text is not None:
        yield "text.vocabulary_size", config.text.vocabulary_size, config.text.marks + 1
        if config.text.encoder == "transformer":
            yield "text.layers", config.text.layers, 1
        else:
            yield "text.embedding", config.text.embedding, 1
        if config.text.encoder not in ("average", "transformer"):
            yield "text.units", config.text.units, 1
        if config.text.dense:
            yield "text.dense", config.text.dense, 1
        if config.text.wide and config.text.wide_buckets:
            yield "text.wide_buckets", config.text.wide_buckets, 1
    if config.head_units:
        yield "head_units", config.head_units, 1
