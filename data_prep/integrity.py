"""Whether a prepared data set is what was prepared: the sums of its files, and the range of every value in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.captions import Vocabulary
from captune.data_prep.manifest import ANEW, EXAMPLES, MANIFEST, VOCABULARY, Manifest
from captune.data_prep.records import DataError
from captune.data_prep.split import SPLITS
from captune.errors import one_line
from captune.reading import MissingError, UnreadableError, machine_faults, regular, sha256

if TYPE_CHECKING:
    import pyarrow as pa

Columns = Mapping[str, "pa.Array"]


def read_manifest(path: Path) -> Manifest:
    """Of the set in a folder. Raises DataError, or MissingError where there is none."""
    return Manifest.from_json(_content(path / MANIFEST), path / MANIFEST)


def check_sizes(path: Path, manifest: Manifest) -> None:
    """Raise DataError unless every file is there and whole."""
    for name, expected in sorted(manifest.files.items()):
        with machine_faults(path / name):
            size = (path / name).stat().st_size if (path / name).is_file() else 0
        if size != expected:
            raise DataError(f"{path / name} has {size} bytes, not {expected}: {ANEW}")


def check_sums(path: Path, manifest: Manifest) -> None:
    """Raise DataError unless every file is as it was written."""
    for name, expected in sorted(manifest.sha256.items()):
        try:
            same = sha256(path / name) == expected
        except UnreadableError as error:
            raise DataError(f"{error}: {ANEW}") from None
        if not same:
            raise DataError(f"{path / name} is not as it was written (SHA-256 differs): {ANEW}")


def read_examples(path: Path, manifest: Manifest) -> Columns:
    """The columns of a set, memory-mapped. Raise DataError unless they are such as prepare writes."""
    import pyarrow as pa

    expected = _schema(manifest)
    try:
        with machine_faults(path / EXAMPLES, unknown=pa.ArrowException):
            reader = pa.ipc.open_file(pa.memory_map(str(path / EXAMPLES)))
            if reader.num_record_batches != 1 or reader.schema != expected:
                raise ValueError(f"its columns are not {', '.join(expected.names)}")
            batch = reader.get_batch(0)
        batch.validate(full=True)
        columns = {name: batch.column(name) for name in expected.names}
        _check_values(columns, manifest)
    except (OSError, ValueError, TypeError, LookupError, pa.ArrowException) as error:
        raise DataError(f"{path / EXAMPLES} is damaged ({one_line(error, 200)}): {ANEW}") from None
    return columns


def read_vocabulary(path: Path, manifest: Manifest) -> Vocabulary:
    """The words of a set that has captions. Raises DataError."""
    content = _content(path / VOCABULARY)
    try:
        vocabulary = Vocabulary.from_json(content.decode())
        if vocabulary.size != manifest.vocabulary_size or vocabulary.settings != manifest.captions:
            raise DataError(f"it is not the one of {manifest.vocabulary_size} ids that the manifest tells of")
    except ValueError as error:
        raise DataError(f"{path / VOCABULARY} is damaged ({one_line(error, 200)}): {ANEW}") from None
    return vocabulary


def fingerprint(
    pixels: str,
    label_ids: tuple[int, ...],
    label_names: tuple[str, ...],
    columns: Columns,
    vocabulary: str | None,
) -> str:
    """Of the content of a set, whatever files hold it.

    pixels: SHA-256 of all pictures in hex, empty without any. vocabulary: its JSON, None without captions.
    """
    digest = hashlib.sha256(pixels.encode())
    digest.update(json.dumps([label_ids, label_names, vocabulary is not None]).encode())
    for column in columns.values():
        is_text = column.type == "string"
        digest.update(json.dumps(column.to_pylist()).encode() if is_text else _values(column).data)
    digest.update((vocabulary or "").encode())
    return digest.hexdigest()


def matrix(column: pa.Array) -> NDArray[Any]:
    """(n, width) view of a fixed-size list column."""
    return _values(column).reshape(-1, column.type.list_size)


def _values(column: pa.Array) -> NDArray[Any]:
    """The numbers of a column, those of lists one after another."""
    values: NDArray[Any] = getattr(column, "values", column).to_numpy()
    return values


def _schema(manifest: Manifest) -> pa.Schema:
    import pyarrow as pa

    columns = [
        ("image_id", pa.string()),
        ("split", pa.uint8()),
        ("picture", pa.int64()),
        ("caption", pa.string()),
        ("labels", pa.list_(pa.uint8(), len(manifest.label_ids))),
    ]
    if manifest.max_tokens is not None:
        columns.append(("tokens", pa.list_(pa.int32(), manifest.max_tokens)))
    return pa.schema(columns)


def _check_values(columns: Columns, manifest: Manifest) -> None:
    """Raise ValueError for the first that cannot have been prepared."""
    for name, column in columns.items():
        if column.null_count or getattr(column, "values", column).null_count:
            raise ValueError(f"{name} has gaps")
    split, labels = columns["split"].to_numpy(), matrix(columns["labels"])
    counts = [int((split == code).sum()) for code in range(len(SPLITS))]
    if counts != [manifest.counts[name] for name in SPLITS] or sum(counts) != len(split) or not len(split):
        raise ValueError(f"{len(split)} rows, of the splits {counts}, where the manifest has {manifest.counts}")
    if labels.max() > 1 or tuple(labels[split == 0].sum(axis=0, dtype=np.int64)) != manifest.label_counts:
        raise ValueError("labels are not 0 and 1, or not as many as the manifest tells of")
    if columns["picture"].to_numpy().min() < 0:
        raise ValueError("a picture has a number below 0")
    if manifest.vocabulary_size is not None:
        tokens = _values(columns["tokens"])
        if tokens.min() < 0 or tokens.max() >= manifest.vocabulary_size:
            raise ValueError(f"tokens are not from 0 to {manifest.vocabulary_size - 1}")


def _content(path: Path) -> bytes:
    try:
        with regular(path) as file:
            return file.read()
    except MissingError:
        raise
    except UnreadableError as error:
        raise DataError(f"{error}: {ANEW}") from None
