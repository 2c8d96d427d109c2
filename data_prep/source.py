"""A file that somebody else made becomes text; it is read once, and what was read is what is hashed."""

from __future__ import annotations

import codecs
import hashlib
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from captune.data_prep.records import DataError
from captune.reading import machine_faults

_OTHER_KINDS = {
    b"\x1f\x8b": "compressed by gzip: unpack it, and name the file that comes out",
    b"PK\x03\x04": "a zip archive or a workbook (.xlsx): unpack it, or save its table as CSV",
    b"\xd0\xcf\x11\xe0": "a workbook (.xls): save its table as CSV",
    b"PAR1": "a table of Parquet: save it as CSV",
}
"""By first bytes, what a file is that holds no text of its own."""
_MARK = re.compile(r"(^|[\r\n])\ufeff+")  # inside a file where files were put one after another


@dataclass(frozen=True)
class Source:
    """A file's text, and the SHA-256 of its bytes."""

    path: Path
    text: str
    sha256: bytes


def read_source(path: Path) -> Source:
    """Read a file or a pipe of UTF-8, with or without byte order marks where a line begins.

    Raises DataError: there is none, it is a folder or a device, or it is not UTF-8; NotReadError where the machine does
    not let it be read.
    """
    try:
        with machine_faults(path):
            if stat.S_ISCHR(path.stat().st_mode):
                raise DataError(f"{path} is a device, which may never end: name a file")
            data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path") from None
    except IsADirectoryError:
        raise DataError(
            f"{path} is a folder: name the file in it, or read COCO annotations by captune prepare --format coco"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    # Every second byte of English in UTF-16 is NUL, three of four in UTF-32.
    for first, kind in _OTHER_KINDS.items():
        if data.startswith(first):
            raise DataError(f"{path} is {kind}")
    start = data[:200]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or start.count(0) * 3 > len(start):
        raise DataError(f"{path} is not UTF-8 but UTF-16 or alike; save the file as UTF-8")
    try:
        text = _MARK.sub(r"\1", data.decode())
    except UnicodeDecodeError as error:
        line = len((data[: error.start] + b".").splitlines())
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    return Source(path, text, hashlib.sha256(data).digest())


def digest(sources: list[Source]) -> str:
    """SHA-256 over those of the files, in hex."""
    return hashlib.sha256(b"".join(source.sha256 for source in sources)).hexdigest()
