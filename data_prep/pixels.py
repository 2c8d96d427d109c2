"""Pictures in bulk: decoded, on all cores or elsewhere, into one Arrow stream; read back through a memory map."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import PIL
from numpy.typing import NDArray

from captune.data_prep.images import ImageError, MachineError, Pixels, read_image
from captune.data_prep.journal import GrowingPixels, PixelSums, pixel_schema
from captune.data_prep.manifest import ANEW
from captune.data_prep.records import DataError
from captune.errors import one_line
from captune.reading import machine_faults

if TYPE_CHECKING:
    import pyarrow as pa

# At most three record batches are in memory, one being decoded, one being written and its message: this bounds the
# memory of a prepare. A killed one has to decode two of them again.
BATCH_ROWS = 1024
BATCH_BYTES = 32 * 2**20
TASK_ROWS = 8  # pictures that a thread takes at a time


class Decode(Protocol):
    """Decodes many pictures, here or elsewhere: what write_pixels gets its pixels from."""

    def __call__(
        self, pictures: Sequence[Path], first: int, rows: int, side: int, /
    ) -> Generator[tuple[Pixels, Iterator[str | None]]]:
        """Batches of rows pictures from the first on: (pixels, why each picture is missing, None where it is there).

        pixels: (n, side, side, 3) uint8, n = rows in all batches but the last; what a missing picture has there is
        not defined. The reasons come as the pictures are done; pixels are whole when all reasons have come, and hold
        until the next batch is asked for. Closing it ends the work.
        """


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rows_per_batch(side: int) -> int:
    """Pictures in a record batch: 1024, fewer where they would exceed 32 MiB, at least 1."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES // (side * side * 3)))


def write_pixels(
    target: Path,
    journal: Path,
    pictures: Sequence[Path],
    side: int,
    *,
    made_from: Mapping[str, str],
    decode: Decode,
    on_fault: Callable[[int, str], None],
    progress: Callable[[int, int], None] | None = None,
) -> PixelSums:
    """Decode pictures in order into target and return its sums.

    A picture that cannot be decoded is told to on_fault(place, reason) and left out, so the file holds the
    others without gaps; on_fault ends the work by raising. progress is called with (done, total) pictures.
    What journal says was decoded before, of the same made_from, is not decoded again, whatever decoded it.
    """
    rows = rows_per_batch(side)
    # Half a file of other batches, or from another decoder, would not end as the same bytes.
    made_from = {**made_from, "rows per batch": str(rows), "Pillow": PIL.__version__}
    with contextlib.closing(GrowingPixels(target, journal, side, made_from)) as growing:
        for place, reason in growing.faults:
            on_fault(place, reason)
        if growing.done and progress:
            progress(growing.done, len(pictures))
        with contextlib.closing(decode(pictures, growing.done, rows, side)) as batches:
            for pixels, reasons in batches:
                start = growing.done
                good: list[int] = []
                faults: list[tuple[int, str]] = []
                for row, fault in enumerate(reasons):
                    if fault is None:
                        good.append(row)
                    else:
                        faults.append((start + row, fault))
                        on_fault(start + row, fault)
                    if progress:
                        progress(start + row + 1, len(pictures))
                growing.append(pixels[good] if faults else pixels, start + len(pixels), faults)
        return growing.finish()


def in_threads(workers: int) -> Decode:
    """A Decode of so many threads of this process. While a batch is used, the next is decoded."""

    def decode(
        pictures: Sequence[Path], first: int, rows: int, side: int, /
    ) -> Generator[tuple[Pixels, Iterator[str | None]]]:
        return _decoded(pictures, first, rows, side, workers)

    return decode


def _decoded(
    pictures: Sequence[Path], first: int, rows: int, side: int, workers: int
) -> Generator[tuple[Pixels, Iterator[str | None]]]:
    # Threads, not processes: Pillow drops the interpreter lock while it decodes and resizes, and threads
    # write into the batch itself, where processes would send every picture through a pipe.
    pool = ThreadPoolExecutor(workers)
    buffers = np.empty((2, min(rows, len(pictures) - first), side, side, 3), np.uint8)

    def begin(number: int, start: int) -> tuple[Pixels, Iterator[str | None]]:
        chunk = pictures[start : start + rows]
        into = buffers[number % 2, : len(chunk)]
        parts = [slice(place, place + TASK_ROWS) for place in range(0, len(chunk), TASK_ROWS)]
        try:
            tasks = [pool.submit(decode_into, into[part], chunk[part], side) for part in parts]
        except RuntimeError as error:
            raise MachineError(
                f"{workers} threads cannot be started ({error}): allow more processes, or memory"
            ) from None
        return into, (reason for task in tasks for reason in task.result())

    ahead = None
    try:
        for number, start in enumerate(range(first, len(pictures), rows)):
            batch, ahead = ahead, begin(number, start)
            if batch:
                yield batch
        if ahead:
            yield ahead
    finally:
        pool.shutdown(cancel_futures=True)


def decode_into(pixels: Pixels, pictures: Sequence[Path], side: int) -> list[str | None]:
    """Decode pictures into pixels (n, side, side, 3); return why each is missing, None where it is there.

    Raises MachineError where it is not the picture's fault.
    """
    reasons: list[str | None] = []
    for row, picture in enumerate(pictures):
        try:
            pixels[row] = read_image(picture, side)
            reasons.append(None)
        except ImageError as error:
            reasons.append(str(error))
    return reasons


def pictures(path: Path, side: int) -> Iterator[Pixels]:
    """Each picture (side, side, 3) of a file of write_pixels, read batch by batch, where a map would hold all of it."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as file:
        for batch in pa.ipc.open_stream(file):
            yield from batch.column(0).values.to_numpy().reshape(-1, side, side, 3)


class PixelFile:
    """A file of write_pixels, memory-mapped: processes on one machine share one copy in the page cache."""

    def __init__(self, path: Path, side: int) -> None:
        import pyarrow as pa

        self.side = side
        try:
            with machine_faults(path, unknown=pa.ArrowException):
                reader = pa.ipc.open_stream(pa.memory_map(str(path)))
                if reader.schema != pixel_schema(side):
                    raise ValueError(f"it does not hold pictures of side {side}")
                self._views = [_pixels_of(batch).reshape(-1, side, side, 3) for batch in reader]
        except (OSError, ValueError, TypeError, pa.ArrowException) as error:
            raise DataError(f"{path} is damaged ({one_line(error, 100)}): {ANEW}") from None
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


def _pixels_of(batch: pa.RecordBatch) -> Pixels:
    """One after another. Raises ArrowInvalid where the batch is none."""
    batch.validate()
    pixels: Pixels = batch.column(0).values.to_numpy()
    return pixels
