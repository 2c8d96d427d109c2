"""Pictures in bulk: decoded on all cores into one Arrow file, read back through a memory map."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_prep.images import ImageError, Pixels, read_image
from data_prep.records import DataError

if TYPE_CHECKING:
    import pyarrow as pa

# A record batch is decoded into one buffer, so this bounds the memory of a prepare.
BATCH_ROWS = 1024
BATCH_BYTES = 64 * 2**20


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rows_per_batch(side: int) -> int:
    """Pictures in a record batch: 1024, fewer where they would exceed 64 MiB, at least 1."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES // (side * side * 3)))


def write_pixels(
    target: Path,
    pictures: Sequence[Path],
    side: int,
    *,
    workers: int,
    on_fault: Callable[[int, str], None],
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Decode pictures in order into target and return the SHA-256 of all their bytes, as hex.

    A picture that cannot be decoded is told to on_fault(place, reason) and left out, so the file holds the
    others without gaps; on_fault ends the work by raising. progress is called with (done, total) pictures.
    """
    import pyarrow as pa

    # Threads, not processes: Pillow drops the interpreter lock while it decodes and resizes, and threads
    # write into the batch itself, where processes would send every picture through a pipe.
    digest = hashlib.sha256()
    rows = rows_per_batch(side)
    buffer = np.empty((min(rows, len(pictures)), side, side, 3), np.uint8)
    schema = _schema(side)

    def decode_into(row: int, picture: Path) -> str | None:
        try:
            buffer[row] = read_image(picture, side)
        except ImageError as error:
            return str(error)
        return None

    done = 0
    with (
        ThreadPoolExecutor(workers) as pool,
        pa.OSFile(str(target), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for start in range(0, len(pictures), rows):
            chunk = pictures[start : start + rows]
            good = []
            for row, fault in enumerate(pool.map(decode_into, range(len(chunk)), chunk)):
                if fault is None:
                    good.append(row)
                else:
                    on_fault(start + row, fault)
                done += 1
                if progress:
                    progress(done, len(pictures))
            kept = buffer[good] if len(good) < len(chunk) else buffer[: len(chunk)]
            digest.update(kept.data)
            flat = pa.array(kept.reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, side * side * 3)
            writer.write_batch(pa.record_batch([column], schema=schema))
    return digest.hexdigest()


def _schema(side: int) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("pixels", pa.list_(pa.uint8(), side * side * 3))])


class PixelFile:
    """A file of write_pixels, memory-mapped: processes on one machine share one copy in the page cache."""

    def __init__(self, path: Path, side: int) -> None:
        import pyarrow as pa

        self.side = side
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            if reader.schema != _schema(side):
                raise DataError(f"{path} does not hold pictures of side {side}: delete its folder and prepare it again")
            batches = [reader.get_batch(place) for place in range(reader.num_record_batches)]
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} is damaged ({error}): delete its folder and prepare it again") from None
        shape = (-1, side, side, 3)
        self._views = [batch.column(0).values.to_numpy().reshape(shape) for batch in batches]
        self._starts = np.cumsum([0, *(len(view) for view in self._views)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def gather(self, places: NDArray[np.int64]) -> Pixels:
        """(len(places), side, side, 3) uint8, each picture copied once. Raises IndexError beyond the file."""
        if len(places) and (places.min() < 0 or places.max() >= len(self)):
            raise IndexError(f"pictures are 0 to {len(self) - 1}, got {places.min()} to {places.max()}")
        gathered = np.empty((len(places), self.side, self.side, 3), np.uint8)
        batches = np.searchsorted(self._starts, places, side="right") - 1
        within = places - self._starts[batches]
        for row, (batch, place) in enumerate(zip(batches.tolist(), within.tolist(), strict=True)):
            gathered[row] = self._views[batch][place]
        return gathered
