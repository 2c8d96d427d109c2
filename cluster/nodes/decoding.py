"""Pictures decoded by all nodes of a Ray cluster, in order, to the same bytes as by one process."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from captune.cluster.nodes.address import ClusterError
from captune.cluster.nodes.session import session
from captune.data_prep.images import MachineError, Pixels
from captune.data_prep.pixels import Decode, decode_into
from captune.errors import one_line

# A task's pixels lie in the object store until they are taken, and so may those of all tasks in flight: 16 MiB for
# each CPU of the cluster. Fewer pictures than fit make the first results, and a node's first fault, come in seconds.
TASK_BYTES = 8 * 2**20
TASK_PICTURES = 64
AHEAD = 2  # tasks in flight for each CPU: one at work, one that is there when it ends
RETRIES = 5  # of a task whose worker or node died; a picture that kills its worker must not do so for ever
RECOUNT = 2.0  # seconds after which nodes that came or went count
PATIENCE = 300.0  # seconds for a node with a CPU to come back


def pictures_per_task(side: int) -> int:
    """Pictures of side x side pixels that one task decodes: 64, fewer where they would exceed 8 MiB, at least 1."""
    return max(1, min(TASK_PICTURES, TASK_BYTES // (side * side * 3)))


def ray_decoder(address: str, images: Path) -> Decode:
    """What `captune.data_prep.store.prepare` takes as decode: pictures become pixels on the nodes of a Ray cluster.

    The cluster is joined when the first picture is asked for, and left when the last is done or the work is closed.
    Tasks of one CPU each decode up to pictures_per_task pictures. Ray repeats those whose worker or node dies.

    Args:
        address: "auto" or "host:port" of a running cluster; Ray must not be connected yet.
        images: the folder of the pictures, which all nodes must see under the same absolute path.

    Raises:
        ClusterError: from the decoder: the cluster cannot be joined or has no CPU; a node does not see the pictures,
            or decodes with another Pillow than this process; its memory, disk or open files fail it; Ray gave a task
            up.
    """

    def decode(
        pictures: Sequence[Path], first: int, rows: int, side: int, /
    ) -> Generator[tuple[Pixels, Iterator[str | None]]]:
        if first >= len(pictures):
            return
        size = pictures_per_task(side)
        batches = [range(start, min(start + rows, len(pictures))) for start in range(first, len(pictures), rows)]
        tasks = ([pictures[row] for row in part] for batch in batches for part in _parts(batch, size))
        into = np.empty((len(batches[0]), side, side, 3), np.uint8)
        with session(address), closing(_in_order(tasks, side, images)) as results:
            for batch in batches:
                pixels = into[: len(batch)]
                yield pixels, _fill(pixels, results)

    return decode


@dataclass(frozen=True)
class Decoded:
    """What a task made of its pictures, and where."""

    pixels: Pixels
    reasons: list[str | None]
    unread: list[int]  # those of its pictures that the node cannot read
    fault: str | None  # of the node itself, which ended the task
    node: str
    pillow: str


def _decode(pictures: list[str], side: int) -> Decoded:
    """A task. Runs on a node."""
    import ray

    pixels = np.empty((len(pictures), side, side, 3), np.uint8)
    reasons: list[str | None] = []
    fault = None
    try:
        reasons = decode_into(pixels, [Path(picture) for picture in pictures], side)
    except MachineError as error:
        fault = str(error)
    suspects = [row for row, reason in enumerate(reasons) if reason] if fault is None else range(len(pictures))
    unread = [row for row in suspects if not os.access(pictures[row], os.R_OK)]
    node = f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
    return Decoded(pixels, reasons, unread, fault, node, PIL.__version__)


def _parts(batch: range, size: int) -> Iterator[range]:
    return (batch[start : start + size] for start in range(0, len(batch), size))


def _fill(pixels: Pixels, results: Iterator[tuple[Pixels, list[str | None]]]) -> Iterator[str | None]:
    """The reasons of a batch, while results of just as many pictures are copied into its pixels."""
    filled = 0
    while filled < len(pixels):
        part, reasons = next(results)
        pixels[filled : filled + len(part)] = part
        filled += len(part)
        yield from reasons


def _in_order(tasks: Iterable[list[Path]], side: int, images: Path) -> Generator[tuple[Pixels, list[str | None]]]:
    """Pixels and reasons of tasks, each a list of pictures, in their order, with as many in flight as CPUs allow."""
    import ray

    cpus, counted = _cpus(), time.monotonic()
    if not cpus:
        raise ClusterError("the cluster has no node with a CPU: add one with `ray start`, or prepare without --address")
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_decode)
    waiting, flight = iter(tasks), deque[tuple[Any, list[Path]]]()
    try:
        while True:
            if time.monotonic() - counted > RECOUNT:
                cpus, counted = _cpus(), time.monotonic()
            for pictures in islice(waiting, max(0, max(1, AHEAD * cpus) - len(flight))):
                flight.append((remote.remote([str(picture.absolute()) for picture in pictures], side), pictures))
            if not flight:
                return
            result, pictures = flight.popleft()
            answer = _awaited(result)
            if fault := node_fault(answer, pictures, images):
                raise ClusterError(f"node {answer.node} {fault}, or prepare without --address")
            yield answer.pixels, list(map(_as_named, pictures, answer.reasons))
    finally:
        for result, _ in flight:
            ray.cancel(result)


def _cpus() -> int:
    """CPUs of the nodes that are alive."""
    import ray

    return int(ray.cluster_resources().get("CPU", 0))


def _awaited(result: Any) -> Decoded:
    """A task's result, once it is there. Raises ClusterError when a node cannot run it, or Ray gives it up."""
    import ray

    while not ray.wait([result], timeout=PATIENCE)[0]:
        if not _cpus():
            raise ClusterError(
                f"the cluster has had no node with a CPU for {PATIENCE:g} s: add one, then prepare again"
            )
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        cause = str(error.cause).strip()
        if "failed to import" not in cause:
            raise  # a bug: its traceback is what helps
        node = str(error).partition("ip=")[2].partition(")")[0]  # Ray tells it in this text alone
        raise ClusterError(
            f"node {node} cannot load captune ({cause.splitlines()[-1]}): install the same version as here on all "
            "nodes, or prepare without --address"
        ) from None
    except ray.exceptions.RayError as error:
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise ClusterError(f"the cluster could not decode some pictures: {reason}; prepare again") from error


def node_fault(answer: Decoded, pictures: Sequence[Path], images: Path) -> str | None:
    """What is wrong with a node, or other than here, told from what it has made of pictures of the folder, or None."""
    if answer.pillow != PIL.__version__:
        return (
            f"decodes with Pillow {answer.pillow}, this machine with {PIL.__version__}: "
            "install the same version on both"
        )
    for row in answer.unread:
        # An empty mount point is a folder, too, so whether a picture is missing is for this machine to say.
        if os.access(pictures[row], os.R_OK):
            return (
                f"does not see {images.absolute()}: it cannot read {pictures[row].name}, this machine can; "
                "put the pictures on a shared path"
            )
    return answer.fault and f"fails: {answer.fault}"


def _as_named(picture: Path, reason: str | None) -> str | None:
    """The reason as this process would give it: a node is told absolute paths, for it works in another folder."""
    return reason and reason.replace(str(picture.absolute()), str(picture), 1)
