"""Untrusted picture bytes."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captune.data_prep.images import MAX_PIXELS, ImageError, check_image, decode, image_path, read_image
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


@settings(max_examples=300)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP"]), st.integers(0), st.binary(min_size=1, max_size=9))
def test_overwritten_bytes_give_pixels_or_an_image_error(kind: str, at: int, patch: bytes) -> None:
    data = bytearray(encoded(photograph(24, 24), kind))
    at %= len(data)
    data[at : at + len(patch)] = patch
    try:
        assert decode(bytes(data), 8, name="x").shape == (8, 8, 3)
    except ImageError as error:
        assert "picture x" in str(error)


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
