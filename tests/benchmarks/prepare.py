"""How many pictures a second prepare takes in, and what is left to do after it was killed half-way.

    python tests/benchmarks/prepare.py [PICTURES]

Pictures of about 190 x 190 pixels and 8 KB, at side 96, on all cores that this process may use. Of 24,000 files (unless
told otherwise) 256 are different: drawing takes longer than decoding. Three runs: from scratch, by a process that ends
itself with SIGKILL when it has half of the pictures, and again on what that left.
"""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from captune.data_prep.pixels import cores
from captune.data_prep.store import prepare

PICTURES, DIFFERENT, SIDE = 24_000, 256, 96
KILLED = "--killed"  # how this file calls itself: FOLDER PICTURES


def draw(folder: Path, count: int) -> None:
    """Write folder/train.csv without captions, and folder/images/*.jpg: soft colours under fine noise."""
    (folder / "images").mkdir(parents=True)
    drawn = []
    for place in range(min(count, DIFFERENT)):
        rng = np.random.default_rng(place)
        width, height = (int(side) for side in rng.integers(160, 224, 2))
        soft = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))
        noisy = np.asarray(soft) + rng.normal(0, 6, (height, width, 1))
        encoded = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=85)
        drawn.append(encoded.getvalue())
    with (folder / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageID", "Labels"])
        for place in range(count):
            (folder / "images" / f"{place}.jpg").write_bytes(drawn[place % len(drawn)])
            rows.writerow([f"{place}.jpg", 1 + place % 18])


def run(folder: Path, out: str, killed_at: int | None = None) -> tuple[float, str]:
    """Seconds of a prepare, and the fingerprint of what it made."""

    def end(done: int, total: int) -> None:
        if done == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    started = time.perf_counter()
    data = prepare(folder / "train.csv", folder / "images", folder / out, side=SIDE, progress=end)
    return time.perf_counter() - started, data.manifest.fingerprint


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    with tempfile.TemporaryDirectory() as temporary:
        folder, warm = Path(temporary) / "drawn", Path(temporary) / "warm"
        draw(warm, DIFFERENT)
        run(warm, "out")  # the first run of a process imports what later ones find
        draw(folder, count)
        size = sum(path.stat().st_size for path in (folder / "images").iterdir()) / count
        scratch, fingerprint = run(folder, "scratch")
        killed = subprocess.run([sys.executable, __file__, KILLED, folder, str(count // 2)], check=False)
        assert killed.returncode == -signal.SIGKILL
        rest, resumed = run(folder, "killed")
        assert resumed == fingerprint
    print(f"{count:,} JPEGs of {size / 1000:.1f} KB, side {SIDE}, {cores()} cores")
    print(f"{'prepare':24} {'seconds':>8} {'pictures/s':>11}")
    print(f"{'from scratch':24} {scratch:8.2f} {count / scratch:11,.0f}")
    print(f"{'again, killed half-way':24} {rest:8.2f} {rest / scratch:11.0%} of the time from scratch")


if __name__ == "__main__":
    if sys.argv[1:2] == [KILLED]:
        run(Path(sys.argv[2]), "killed", int(sys.argv[3]))
    else:
        main()
