"""How fast pictures of 224 x 224 pixels reach a trial on one core, and what their readers take of the memory.

    python tests/benchmarks/input.py

2,400 drawn pictures, batches of 32 in random order. Pictures a second of: Keras's ImageDataGenerator with the paper's
augmentation, from an array in memory; NumPy, which copies the same rows out of the same array; and Batches on a
prepared set, whose augmentation runs in the network instead. Then eight processes each read the whole set, and hold it
while all are measured: private memory is what a process has for itself of its mapping of pixels.arrow, the
proportional set size counts each page divided by its readers.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from captune.data_prep.batches import Batches
from captune.data_prep.images import Pixels
from captune.data_prep.manifest import PIXELS
from captune.data_prep.store import PreparedData, prepare

PICTURES, SIDE, BATCH, ROUNDS, READERS = 2400, 224, 32, 5, 8
MiB = 2**20


def draw(folder: Path) -> PreparedData:
    """Prepare soft noise; what a picture shows makes no difference here."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageID", "Labels"])
        for place in range(PICTURES):
            soft = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((SIDE, SIDE))
            soft.save(folder / "images" / f"{place}.jpg")
            rows.writerow([f"{place}.jpg", 1 + place % 18])
    return prepare(folder / "train.csv", folder / "images", folder / "data", side=SIDE)


def gathered(pixels: Pixels, epoch: int) -> Iterator[Pixels]:
    order = np.random.default_rng(epoch).permutation(len(pixels))
    return (pixels[order[start : start + BATCH]] for start in range(0, len(order), BATCH))


def ours(batches: Batches, epoch: int) -> Iterator[NDArray[np.generic]]:
    return (inputs["image"] for inputs, _ in batches.epoch(epoch))


def keras_generator(pixels: Pixels) -> Iterator[NDArray[np.generic]]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        rotation_range=20,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
        rescale=1 / 255,
    )
    return generator.flow(pixels, batch_size=BATCH, seed=0)


def rate(batches: Iterator[NDArray[np.generic]]) -> float:
    """Pictures a second."""
    started = time.perf_counter()
    count = sum(len(batch) for batch in batches)
    return count / (time.perf_counter() - started)


def rates(data: PreparedData) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pixels = data.pixels(np.arange(PICTURES))
    batches = Batches(data, np.arange(PICTURES), BATCH, modality="image", seed=0)
    sources: list[Callable[[int], Iterator[NDArray[np.generic]]]] = [
        lambda epoch: gathered(pixels, epoch),
        lambda epoch: ours(batches, epoch),
    ]
    # In turns, and the best of each: what else the machine does then hits both.
    rounds = [[rate(batches_of(epoch)) for batches_of in sources] for epoch in range(ROUNDS)]
    numpy, batched = (max(speed) for speed in zip(*rounds, strict=True))
    flow = keras_generator(pixels)
    next(flow)
    keras = rate(islice(flow, 10))
    print(f"{PICTURES:,} pictures of {SIDE} x {SIDE} pixels, batches of {BATCH}, one core")
    print(f"{'input':28} {'pictures/s':>11}  Batches to it")
    for name, speed in (("Keras ImageDataGenerator", keras), ("NumPy gather", numpy), ("Batches", batched)):
        print(f"{name:28} {speed:11,.0f}  {batched / speed:10,.2f}")


def mapped(process: int) -> dict[str, int]:
    """Bytes of a process's mappings of the pixel file, by the names of /proc/PID/smaps."""
    sizes: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            inside = line.endswith(f"/{PIXELS}")
        elif inside and values[-1] == "kB":
            sizes[name[:-1]] = sizes.get(name[:-1], 0) + 1024 * int(values[0])
    return sizes


def read_all(path: Path) -> None:
    """What a reader process does: read each picture once, say so, and stay until its input ends."""
    data = PreparedData.open(path)
    for _ in Batches(data, np.arange(len(data)), BATCH, modality="image", seed=os.getpid()).epoch(0):
        pass
    print("read", flush=True)
    sys.stdin.read()


def memory(data: PreparedData) -> None:
    command = (sys.executable, __file__, str(data.path))
    readers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(READERS)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "read\n"
    size = (data.path / PIXELS).stat().st_size
    print(f"{READERS} processes that have read all {size / MiB:.0f} MiB of {PIXELS}, MiB of its mapping in each")
    print(f"{'process':>7} {'resident':>9} {'private':>8} {'proportional':>13}")
    for number, reader in enumerate(readers):
        sizes = mapped(reader.pid)
        private = sizes["Private_Clean"] + sizes["Private_Dirty"]
        print(f"{number:7} {sizes['Rss'] / MiB:9.1f} {private / MiB:8.1f} {sizes['Pss'] / MiB:13.1f}")
    for reader in readers:
        reader.communicate()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = draw(Path(folder) / "drawn")
        memory(data)
        rates(data)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        read_all(Path(sys.argv[1]))
    else:
        main()
