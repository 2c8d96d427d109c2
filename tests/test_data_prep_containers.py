"""Picture files as containers: parts, scans, sizes, metadata."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from captune.data_prep import containers
from captune.data_prep.images import FORMATS, ImageError, decode

SIDE = 24


def noise(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(data: bytes) -> list[int]:
    return decode(data, SIDE, name="x").ravel().tolist()


def chunk(kind: bytes, content: bytes, *, right: bool = True) -> bytes:
    total = zlib.crc32(content, zlib.crc32(kind)) ^ (not right)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", total)


def segment(code: int, content: bytes) -> bytes:
    return bytes([0xFF, code]) + struct.pack(">H", len(content) + 2) + content


JPEG, PROGRESSIVE = (encoded(noise(), "JPEG", progressive=progressive) for progressive in (False, True))
PNG = encoded(noise(), "PNG")
CHUNKS = [
    chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2**21))),
    chunk(b"iCCP", b""),
    chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
    chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21))),
    chunk(b"zTXt", b"Comment\0\7?"),
    chunk(b"tEXt", b"Comment\0x", right=False),
    chunk(b"eXIf", b"MM\0*", right=False),
    chunk(b"gAMA", b"1"),
    chunk(b"acTL", b"\0" * 8),
    chunk(b"zzZz", b"of somebody", right=False),
    chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**20))) * 80,
]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(64, 48), (1, 300), (257, 2)])
def test_kind_and_size_stand_in_front(kind: str, size: tuple[int, int]) -> None:
    data = encoded(noise(*size), kind)
    assert containers.kind_of(data) == kind
    assert containers.size_of(data) == size


@pytest.mark.parametrize("options", [{"lossless": True}, {"exif": b"MM\0*\0\0\0\x08\0\0\0\0\0\0"}, {"quality": 10}])
def test_size_of_every_kind_of_webp(options: dict[str, object]) -> None:
    assert containers.size_of(encoded(noise(37, 300), "WEBP", **options)) == (37, 300)


@example(b"\xc0\0\4\0\0\xff\xda\0\3", b"\xff\xd8\xff")
@given(
    st.binary(max_size=80), st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"RIFF1234WEBP"])
)
def test_any_bytes_have_some_size(data: bytes, signature: bytes) -> None:
    width, height = containers.size_of(signature + data)
    assert width >= 0 and height >= 0
    containers.without_metadata(signature + data)
    containers.jpeg_scans(signature + data, 5)
    containers.jpeg_lacks_only_its_end(signature + data)


@pytest.mark.parametrize("behind", [33, len(PNG) - 12], ids=["before the pixels", "behind the pixels"])
@pytest.mark.parametrize("part", CHUNKS, ids=lambda part: part[4:20].decode("ascii", "replace"))
def test_png_is_its_pixels_whatever_its_metadata(part: bytes, behind: int) -> None:
    data = PNG[:behind] + part + PNG[behind:]
    assert containers.without_metadata(data) == PNG
    assert pixels(data) == pixels(PNG)


def test_png_cut_in_a_text_behind_its_pixels_is_whole() -> None:
    assert pixels(PNG[:-12] + chunk(b"tEXt", b"Comment\0" + b"x" * 100)[:50]) == pixels(PNG)
    assert pixels(PNG[:-12]) == pixels(PNG)


def test_png_of_wrong_sums_where_they_matter_is_refused() -> None:
    indexed = encoded(noise().convert("P"), "PNG")
    palette = indexed.index(b"PLTE") + 4
    with pytest.raises(ImageError, match="damaged"):
        pixels(indexed[:palette] + bytes([indexed[palette] ^ 1]) + indexed[palette + 1 :])


def test_turn_told_in_a_text_is_taken() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>')
    assert pixels(encoded(noise(), "PNG", pnginfo=texts)) == pixels(encoded(noise().rotate(180), "PNG"))


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE], ids=["sequential", "progressive"])
@pytest.mark.parametrize(
    "part",
    [
        segment(0xE2, b"ICC_PROFILE\0\1\1" + b"x" * 60_000) * 20,
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\1\xb0\1\0\4\0\0\0\1\0\0\0\2\0\0\0\0"),
        segment(0xE1, b"Exif\0\0" + b"x" * 60_000) * 3,
        segment(0xE1, JPEG[:50_000] + b"\xff\xda" * 300),
        segment(0xED, b"Photoshop 3.0\x008BIM\3"),
        segment(0xFE, b"\xff\xd9\xff\xda"),
        b"\xff\xff\xff" + segment(0xFE, b""),
    ],
    ids=["profile", "profile of nothing", "further pictures", "Exif", "thumbnail", "Photoshop", "marks", "filled"],
)
def test_jpeg_is_its_pixels_whatever_its_metadata(data: bytes, part: bytes) -> None:
    spoilt = data[:20] + part + data[20:]
    assert len(containers.without_metadata(spoilt)) < len(data) + 61_000
    assert pixels(spoilt) == pixels(data)
    assert containers.jpeg_scans(spoilt, 100) == containers.jpeg_scans(data, 100)


@pytest.mark.parametrize(
    ("data", "scans"), [(JPEG, 1), (PROGRESSIVE, 10), (encoded(noise().convert("L"), "JPEG", progressive=True), 6)]
)
def test_scans_are_counted(data: bytes, scans: int) -> None:
    assert containers.jpeg_scans(data, 100) == scans
    assert containers.jpeg_scans(data, 4) == min(scans, 5)


def test_what_follows_the_scan_of_a_sequential_jpeg_is_no_scan() -> None:
    assert containers.jpeg_scans(JPEG + b"\xff\xda\0\2" * 200, 100) == 1


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE], ids=["sequential", "progressive"])
@pytest.mark.parametrize("side", [3, SIDE, 100])
def test_jpeg_that_lacks_only_its_end_mark_is_whole(data: bytes, side: int) -> None:
    assert (decode(data[:-2], side, name="x") == decode(data, side, name="x")).all()
    assert (decode(data[:-1], side, name="x") == decode(data, side, name="x")).all()


@pytest.mark.parametrize("kind", ["sequential", "progressive", "grey"])
@pytest.mark.parametrize("side", [3, 100])
def test_jpeg_cut_anywhere_in_its_scans_is_refused(kind: str, side: int) -> None:
    """Also where its pixels at this size are all there; the last bits may be no more than filling."""
    whole = {"sequential": JPEG, "progressive": PROGRESSIVE, "grey": encoded(noise().convert("L"), "JPEG")}[kind]
    for length in range(10, len(whole) - 8, 61):
        with pytest.raises(ImageError):
            decode(whole[:length], side, name="x")


def test_progressive_jpeg_cut_between_two_scans_is_refused() -> None:
    at = 1
    while (at := PROGRESSIVE.find(b"\xff\xda", at + 1)) > 0:
        with pytest.raises(ImageError):
            pixels(PROGRESSIVE[:at])
