"""Untrusted picture bytes."""

import contextlib
import errno
import io
import os
import re
import struct
import time
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captune.data_prep import images, squares
from captune.data_prep.images import (
    MAX_PIXELS,
    ImageError,
    MachineError,
    check_image,
    decode,
    image_path,
    read_image,
)
from captune.data_prep.memory import SharedBytes
from captune.data_prep.records import DataError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photograph(width: int = 200, height: int = 150) -> Image.Image:
    """Smooth, so that no way of scaling changes it much: red falls to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    blue = np.full((height, width), 40)
    pixels = np.stack([255 - 255 * x / width, 255 - 255 * y / height, blue], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def close(one: np.ndarray, other: np.ndarray, by: float = 6) -> bool:
    return bool(np.abs(one.astype(int) - other.astype(int)).mean() < by)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("side", [1, 16, 224, 300])
def test_every_format_is_stretched_to_the_square(kind: str, side: int) -> None:
    pixels = decode(encoded(photograph(), kind), side, name="x")
    assert pixels.shape == (side, side, 3)
    assert pixels.dtype == np.uint8
    assert close(pixels, np.asarray(photograph().resize((side, side), Image.Resampling.BILINEAR)), 12)


def test_large_jpeg_is_scaled_as_well_as_a_small_one() -> None:
    small = decode(encoded(photograph(200, 150), "JPEG"), 48, name="x")
    large = decode(encoded(photograph(2000, 1500), "JPEG"), 48, name="x")
    assert close(small, large, 3)


def test_one_pixel_is_enough() -> None:
    assert (decode(encoded(Image.new("RGB", (1, 1), (9, 8, 7))), 8, name="x") == (9, 8, 7)).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_colour_modes_become_rgb(mode: str) -> None:
    source = photograph().convert(mode)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    expected = np.asarray(source.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
    assert close(decode(encoded(source, kind), 32, name="x"), expected)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((8, 8), 32_768, np.uint16))
    assert np.unique(decode(encoded(grey), 4, name="x")).tolist() == [127]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    if mode == "P":
        indexed = Image.new("P", (8, 8), 1)
        indexed.putpalette([0, 0, 0, 50, 50, 50])
        data = encoded(indexed, transparency=1)
    else:
        data = encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode))
    assert (decode(data, 4, name="x") == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying = photograph(96, 96)
    turns = Image.Transpose
    store_as = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    stored = lying.transpose(store_as[orientation]) if orientation in store_as else lying
    for kind in ("JPEG", "PNG"):
        assert close(decode(encoded(stored, kind, exif=exif), 24, name="x"), np.asarray(lying.resize((24, 24))))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_costs_only_the_turn() -> None:
    data = encoded(photograph(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(data, 16, name="x").shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("percent", range(0, 100, 10))
def test_cut_file_is_refused(kind: str, percent: int) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    progressive = kind == "progressive"
    data = encoded(noise, "JPEG" if progressive else kind, **({"progressive": True} if progressive else {}))
    with pytest.raises(ImageError, match=r"picture cut\.jpg "):
        decode(data[: len(data) * percent // 100], 32, name="cut.jpg")


@pytest.mark.parametrize("data", [b"", b"x", b"\xff\xd8\xff", b"<svg/>", b"%PDF-1.4", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(data, 8, name="x")


def test_formats_that_run_programs_are_not_read() -> None:
    for kind in ("EPS", "TIFF", "PPM", "PDF"):
        with pytest.raises(ImageError, match="is not one of JPEG"):
            decode(encoded(photograph(8, 8), kind), 8, name="x")


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (8193, 8193), (10**6, 10**3), (10_000, 10_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bomb_is_refused_by_its_header(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="too many pixels"):
        decode(png_header(width, height), 8, name="x")


def test_the_largest_size_is_no_bomb() -> None:
    with pytest.raises(ImageError, match="damaged"):
        decode(png_header(MAX_PIXELS // 8192, 8192), 8, name="x")


@pytest.mark.parametrize("side", [0, -1, 1025, True, 2.0])
def test_wrong_side_is_refused(side: int) -> None:
    with pytest.raises(DataError, match="side"):
        decode(b"x", side, name="x")


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg", "/etc/x.jpg", "a\\..\\x.jpg", "", "a\0.jpg"])
def test_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        image_path(tmp_path, name)


def test_path_inside_the_folder_is_given(tmp_path: Path) -> None:
    assert image_path(tmp_path, "a/b..c.jpg") == tmp_path / "a" / "b..c.jpg"


def test_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "none.jpg", 8)
    with pytest.raises(ImageError, match="is not a file"):
        read_image(tmp_path, 8)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="is not a file"):
        read_image(tmp_path / "pipe.jpg", 8)
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / ("x" * 300), 8)
    (tmp_path / "good.png").write_bytes(encoded(photograph()))
    assert read_image(tmp_path / "good.png", 8).shape == (8, 8, 3)


def test_first_bytes_tell_what_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "page").write_text("<html>404</html>")
    for name in ("none", "pipe", "empty", "page", "."):
        with pytest.raises(ImageError, match="picture"):
            check_image(tmp_path / name)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP"):
        (tmp_path / kind).write_bytes(encoded(photograph(), kind))
        check_image(tmp_path / kind)


def progressive_of_scans(side: int, scans: int) -> bytes:
    """A grey JPEG of zeros, whose first scan has the averages and each further one refines the same coefficient."""

    def segment(code: int, content: bytes) -> bytes:
        return bytes([0xFF, code]) + struct.pack(">H", len(content) + 2) + content

    blocks = (side // 8) ** 2
    head = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    head += segment(0xC4, b"\0" + b"\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10" + b"\1" + bytes(15) + b"\0")
    averages = segment(0xDA, b"\1\1\0\0\0\0") + bytes((blocks + 7) // 8)
    nothing = segment(0xDA, b"\1\1\0\1\x01\0") + bytes((blocks + 7) // 8)
    return b"\xff\xd8" + head + averages + nothing * (scans - 1) + b"\xff\xd9"


def test_jpeg_of_too_many_scans_is_refused() -> None:
    assert decode(progressive_of_scans(64, 100), 8, name="x").shape == (8, 8, 3)
    for scans in (101, 20_000):
        with pytest.raises(ImageError, match=r"picture odd\.jpg .*more than 100 scans"):
            decode(progressive_of_scans(64, scans), 8, name="odd.jpg")


def test_side_longer_than_a_jpeg_can_be_is_refused() -> None:
    assert decode(encoded(Image.new("L", (1, 65_535))), 8, name="x").shape == (8, 8, 3)
    with pytest.raises(ImageError, match="65535 a side"):
        decode(encoded(Image.new("L", (1, 65_536))), 8, name="x")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_large_picture_is_turned_into_rgb_in_strips_to_the_same_pixels(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = photograph().convert("L").convert("I;16") if mode == "I;16" else photograph().convert(mode)
    whole = decode(encoded(source), 32, name="x")
    monkeypatch.setattr(squares, "STRIP_PIXELS", 700)
    assert (decode(encoded(source), 32, name="x") == whole).all()


@pytest.mark.parametrize(
    "fault", ["ENFILE", "EMFILE", "ENOMEM", "EIO", "EACCES", "EPERM", "ESTALE", "ENOSPC", "ETIMEDOUT"]
)
@pytest.mark.parametrize("place", ["stat", "read_bytes"])
def test_fault_of_the_system_is_none_of_the_picture(
    fault: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "sound.png"
    picture.write_bytes(encoded(photograph()))
    number = getattr(errno, fault)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, place, fail)
    with pytest.raises(MachineError, match=re.escape(f"sound.png cannot be read: {os.strerror(number)}")) as caught:
        read_image(picture, 8)
    assert caught.value.exit_status == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("load", MemoryError()),
        ("getexif", MemoryError()),
        ("resize", MemoryError()),
        ("load", OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_fault_of_the_system_while_decoding_is_none_of_the_picture(
    kind: str, place: str, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise fault

    data = encoded(photograph(), kind)
    monkeypatch.setattr(Image.Image, place, fail)
    with pytest.raises(MachineError, match="picture x cannot be read"):
        decode(data, 8, name="x")


def test_decoder_that_gets_no_memory_calls_its_picture_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = encoded(photograph())[:300]
    with pytest.raises(ImageError, match="damaged"):
        decode(cut, 8, name="x")
    monkeypatch.setattr(images, "is_free", lambda count: False)
    with pytest.raises(MachineError, match="memory ran out"):
        decode(cut, 8, name="x")


def test_file_of_many_bytes_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SMALL_FILE_BYTES", 100)
    taken: list[int] = []

    class Shared(SharedBytes):
        def taken(self, count: int) -> contextlib.AbstractContextManager[None]:
            taken.append(count)
            return super().taken(count)

    monkeypatch.setattr(images, "_in_flight", Shared(images.MAX_BYTES))
    (tmp_path / "large.png").write_bytes(encoded(photograph()))
    assert read_image(tmp_path / "large.png", 8).shape == (8, 8, 3)
    assert taken == [images.MAX_BYTES]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"GIF", "is not one of"),
        (encoded(photograph())[:16], None),
        (b"%PDF-1.4 and more", "not one"),
    ],
)
def test_picture_is_known_by_its_first_bytes(tmp_path: Path, content: bytes, reason: str | None) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ImageError, match=reason) if reason else contextlib.nullcontext():
        check_image(tmp_path / "x")


def spoilt(draw: st.DrawFn) -> bytes:
    """A picture with bits turned, parts cut out, doubled, or put in from another."""
    sources = [picture(kind) for kind in KINDS]
    data = bytearray(draw(st.sampled_from(sources)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 200))
        how = draw(st.sampled_from(["turn", "cut", "end", "double", "splice", "overwrite"]))
        if how == "turn" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del data[at : at + size]
        elif how == "end":
            del data[at:]
        elif how == "double":
            data[at:at] = data[at : at + size]
        elif how == "splice":
            other = draw(st.sampled_from(sources))
            start = draw(st.integers(0, len(other)))
            data[at:at] = other[start : start + size]
        else:
            patch = draw(
                st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xda", b"\xff\xd9"])
            )
            data[at : at + len(patch)] = patch
    return bytes(data)


KINDS: dict[str, dict[str, object]] = {
    "JPEG": {},
    "JPEG progressive": {"progressive": True},
    "JPEG CMYK": {},
    "PNG": {},
    "PNG P": {"transparency": 3},
    "PNG I;16": {},
    "WEBP": {},
    "WEBP RGBA": {"lossless": True},
    "GIF": {},
    "BMP": {},
    "BMP P": {},
    "TIFF": {},
}


@cache
def picture(name: str) -> bytes:
    kind, _, mode = name.partition(" ")
    image = photograph(40, 30)
    if mode == "I;16":
        image = image.convert("L").convert(mode)
    elif mode and mode != "progressive":
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, kind, **KINDS[name], **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))


@pytest.mark.fuzz
@given(st.composite(spoilt)(), st.integers(1, 40))
def test_spoilt_picture_gives_pixels_or_one_line(data: bytes, side: int) -> None:
    before = time.monotonic()
    try:
        assert decode(data, side, name="x").shape == (side, side, 3)
    except ImageError as error:
        assert str(error).startswith("picture x ") and "\n" not in str(error) and len(str(error)) < 300
    assert time.monotonic() - before < 10
