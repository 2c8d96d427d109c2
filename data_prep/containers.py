"""Picture files as containers: their parts without metadata, and what decoding takes, told before it begins."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Literal

Kind = Literal["JPEG", "PNG", "WEBP", "BMP", "GIF"]

_SIGNATURES: dict[Kind, re.Pattern[bytes]] = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "BMP": re.compile(rb"BM"),
    "GIF": re.compile(rb"GIF8[79]a"),
}

# A marker with a segment, or one of start and end: not those that stand within the data of a scan.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_JPEG_METADATA = {*range(0xE1, 0xF0), 0xFE} - {0xEE}  # APP0 and APP14 tell the colours
_COEFFICIENTS = 64  # of a block

_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_PNG_TEXTS_OF_A_TURN = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_MAX_TURN_BYTES = 2**16  # of EXIF, which a JPEG cannot have more of in a segment either


def kind_of(data: bytes) -> Kind | None:
    """The format that a file begins as."""
    return next((kind for kind, signature in _SIGNATURES.items() if signature.match(data)), None)


def without_metadata(data: bytes) -> bytes:
    """A JPEG or PNG with only what makes its pixels and may tell how it is turned; anything else as it is.

    Profiles, texts, thumbnails and further pictures cost memory and time where they are large, and a fault in them is
    none of the picture's.
    """
    kind = kind_of(data)
    dropped = _jpeg_metadata(data) if kind == "JPEG" else _png_metadata(data) if kind == "PNG" else iter(())
    parts, at = [], 0
    for start, end in dropped:
        parts.append(data[at:start])
        at = end
    return b"".join([*parts, data[at:]]) if parts else data


def jpeg_scans(data: bytes, most: int) -> int:
    """Scans that a decoder reads of a JPEG, most + 1 where there are more: each costs a pass over all pixels."""
    frame, scans = bytes(10), 0
    for code, start, end in _segments(data):
        if code in _FRAMES:
            frame = data[start:end]
        elif code == _SOS:
            scans += 1
            # Nothing behind a scan of all components is read, unless it is one of those that refine each other.
            of_all = data[start + 4 : start + 5] == frame[9:10] and frame[1] not in _PROGRESSIVE
            if scans > most or of_all:
                break
    return scans


def jpeg_lacks_only_its_end(data: bytes) -> bool:
    """Whether a JPEG has no end mark, but scans of every coefficient; the last of them may still be cut."""
    components: bytes = b""
    scanned: set[tuple[int, int]] = set()
    for code, start, end in _segments(data):
        segment = data[start:end]
        if code == _EOI:
            return False
        if code in _FRAMES:
            components = segment[10::3]
        elif code == _SOS and len(segment) >= 6:
            first, last, bits = segment[-3:]
            if not bits & 15:
                scanned |= {(name, place) for name in segment[5:-3:2] for place in range(first, last + 1)}
    every = {(name, place) for name in components for place in range(_COEFFICIENTS)}
    return bool(every) and every <= scanned


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height as a picture tells them in front, anything where it is damaged; a GIF may turn out larger."""
    kind = kind_of(data)
    if kind == "JPEG":
        frame = next((data[start:end] for code, start, end in _segments(data) if code in _FRAMES), b"")
        return int.from_bytes(frame[7:9], "big"), int.from_bytes(frame[5:7], "big")
    if kind == "PNG":
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if kind == "GIF":
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if kind == "BMP":
        if data[14:15] == b"\x0c":  # the header of OS/2
            return int.from_bytes(data[18:20], "little"), int.from_bytes(data[20:22], "little")
        return int.from_bytes(data[18:22], "little"), abs(int.from_bytes(data[22:26], "little", signed=True))
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(code, start, end) of the segments of a JPEG, found as its decoder finds them: over whatever stands between."""
    at = 2
    while match := _MARKER.search(data, at):
        code, at = match[1][0], match.end()
        if code not in (_SOI, _EOI):
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
        yield code, match.start(), at
        if code == _EOI:
            return


def _jpeg_metadata(data: bytes) -> Iterator[tuple[int, int]]:
    turns = set()
    for code, start, end in _segments(data):
        if code == _SOS:
            return
        head = data[start + 4 : start + 10]
        if code == 0xE1 and head in (b"Exif\0\0", b"http:/") and head not in turns:
            turns.add(head)
        elif code in _JPEG_METADATA:
            yield start, end


def _png_metadata(data: bytes) -> Iterator[tuple[int, int]]:
    start = 8
    while (kind := data[start + 4 : start + 8]).isalpha() and len(kind) == 4:
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if kind not in _PNG_PIXELS and not _tells_a_turn(kind, data[start + 8 : min(end, start + _MAX_TURN_BYTES)]):
            yield start, end
        start = end


def _tells_a_turn(kind: bytes, chunk: bytes) -> bool:
    """Whether a whole chunk, its sum behind its content, may tell how the picture is turned."""
    content, expected = chunk[:-4], int.from_bytes(chunk[-4:], "big")
    if kind != b"eXIf" and not content.startswith(_PNG_TEXTS_OF_A_TURN):
        return False
    return zlib.crc32(content, zlib.crc32(kind)) == expected
