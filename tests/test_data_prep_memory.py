"""What decoding takes, and how threads share it."""

import io
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captune.data_prep import images
from captune.data_prep.images import ImageError, MachineError, decode, read_image
from captune.data_prep.memory import SharedBytes, bytes_needed


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@given(st.lists(st.integers(0, 10), min_size=1, max_size=12))
def test_threads_never_hold_more_than_there_is_and_all_come_to_an_end(counts: list[int]) -> None:
    shared, held, most, lock = SharedBytes(10), [0], [0], threading.Lock()

    def work(count: int) -> None:
        with shared.taken(count):
            with lock:
                held[0] += count
                most[0] = max(most[0], held[0])
            with lock:
                held[0] -= count

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, counts))
    assert most[0] <= 10 and held[0] == 0


def test_bytes_come_back_after_an_error() -> None:
    shared = SharedBytes(1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), shared.taken(1):
            raise ZeroDivisionError


def test_large_pictures_wait_for_each_other_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large is what takes more than half of all there is."""
    monkeypatch.setattr(images, "_in_flight", SharedBytes(images.MAX_BYTES))
    monkeypatch.setattr(images, "bytes_needed", lambda image, *_, **__: images.MAX_BYTES * image.width // 100)
    at_work, most, lock = {"large": 0, "small": 0}, {"large": 0, "small": 0}, threading.Lock()

    def slow(image: Image.Image, side: int) -> np.ndarray:
        kind = "large" if image.width > 50 else "small"
        with lock:
            at_work[kind] += 1
            most[kind] = max(most[kind], at_work[kind])
        time.sleep(0.02)
        with lock:
            at_work[kind] -= 1
        return np.zeros((side, side, 3), np.uint8)

    monkeypatch.setattr(images, "stretched", slow)
    files = [encoded(Image.new("RGB", (width, 2)), "PNG") for width in (60, 5) * 6]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda data: decode(data, 8, name="x"), files))
    assert most["large"] == 1
    assert most["small"] > 1


@pytest.mark.parametrize(
    ("mode", "kind", "options", "per_pixel"),
    [
        ("RGB", "PNG", {}, 4),
        ("L", "PNG", {}, 5),
        ("P", "PNG", {"transparency": 0}, 5),
        ("LA", "PNG", {}, 8),
        ("RGB", "PNG", {"transparency": (0, 0, 0)}, 8),
        ("RGBA", "WEBP", {"lossless": True}, 20),
        ("RGB", "BMP", {}, 4),
        ("RGB", "JPEG", {}, 4 / 64),
        ("RGB", "JPEG", {"progressive": True}, 6 + 4 / 64),
        ("CMYK", "JPEG", {"progressive": True}, 8 + 8 / 64),
    ],
)
def test_bytes_are_counted_by_what_a_format_and_a_mode_take(
    mode: str, kind: str, options: dict[str, object], per_pixel: float
) -> None:
    with Image.open(io.BytesIO(encoded(Image.new(mode, (512, 512)), kind, **options))) as image:
        image.draft("RGB", (64, 64))
        count = bytes_needed(image, 512 * 512, 0, buffered="progressive" in image.info)
    assert count == 512 * 512 * per_pixel


def test_picture_that_takes_too_much_is_refused_by_its_name_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "stretched", lambda *_: pytest.fail("decoded"))
    picture = tmp_path / "odd.webp"
    small = encoded(Image.new("RGBA", (8, 8)), "WEBP", lossless=True)
    sizes = int.from_bytes(small[21:25], "little") >> 28 << 28 | 7999 << 14 | 7999
    picture.write_bytes(small[:21] + sizes.to_bytes(4, "little") + small[25:])
    with pytest.raises(ImageError, match=r"odd\.webp .*MiB of memory, at most 768 .*scale it down"):
        read_image(picture, 16)


PEAK = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from captune.data_prep.images import ImageError, read_image
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
read_image(sys.argv[1], 16)
before = peak()
def read(path):
    try:
        read_image(path, 16)
    except ImageError as error:
        assert "MiB" in str(error), error
with ThreadPoolExecutor(3) as pool:
    list(pool.map(read, sys.argv[2:]))
print(peak() - before)
"""


@pytest.mark.soak
@pytest.mark.slow
def test_huge_pictures_on_three_threads_take_less_than_a_gigabyte_together(tmp_path: Path) -> None:
    """Each has 64 million pixels and some kilobytes, and takes 512 MiB by itself."""
    small, grey, printed = tmp_path / "small", tmp_path / "grey.png", tmp_path / "printed.jpg"
    small.write_bytes(encoded(Image.new("LA", (4, 4)), "PNG"))
    grey.write_bytes(encoded(Image.new("LA", (8190, 8190)), "PNG", compress_level=1))
    printed.write_bytes(encoded(Image.new("CMYK", (8190, 8190)), "JPEG", progressive=True, subsampling=0))
    paths = [grey, printed, grey]
    assert max(path.stat().st_size for path in paths) < 2**21
    ran = subprocess.run([sys.executable, "-c", PEAK, small, *paths], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 1000


@pytest.mark.slow
def test_want_of_memory_is_never_called_damage(tmp_path: Path) -> None:
    """With limits from too little to enough: a sound picture is read, or it is said that memory ran out."""
    picture = tmp_path / "large.jpg"
    picture.write_bytes(encoded(Image.new("RGB", (5000, 5000)), "JPEG", progressive=True, subsampling=0))
    script = (
        "import resource, sys\nfrom captune.data_prep.images import MachineError, read_image\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)\n"
        "try:\n    print(read_image(sys.argv[1], 16).shape)\n"
        "except MachineError as error:\n    print(error)\n"
    )
    outcomes = [
        subprocess.run([sys.executable, "-c", script, picture, str(room)], capture_output=True, text=True, check=True)
        for room in (3, 30, 100, 160, 400)
    ]
    assert all("memory ran out" in ran.stdout for ran in outcomes[:3])
    assert outcomes[-1].stdout.strip() == "(16, 16, 3)"
    assert issubclass(MachineError, RuntimeError)
