"""Looks at every node of a cluster: whether it can do its part of a search, and how it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from captune.cluster.nodes.address import ClusterError
from captune.cluster.nodes.ray_private import free_resources, nodes_of_actors
from captune.cluster.nodes.resources import Node
from captune.cluster.nodes.session import draining
from captune.cluster.object_storage.addresses import StorageError, is_url
from captune.cluster.object_storage.data_cache import fingerprint_at
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.errors import one_line

T = TypeVar("T")

SECONDS = 8.0
"""That nodes have to answer."""
_PACKAGES = ("captune", "ray", "keras", "numpy")
_TRIAL_ACTOR = "TrialWorker"  # in the name of the class of each actor that trains
_MOST = 3  # nodes that a message names
_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True)
class NodeRequirements:
    """What a node must have to run trials.

    data: path or address of the prepared data set. fingerprint: of the one that is meant. folder: where checkpoints are
    written, a path or an address. versions: of packages, as the driver has them.
    """

    data: str
    fingerprint: str
    folder: str
    versions: Mapping[str, str]


def on_each_node(
    nodes: Sequence[Node], function: Callable[..., T], *arguments: Any
) -> dict[Node, T | Exception | None]:
    """What `function` gives in a process on each node: its result, the exception it ended with, or None for no answer.

    Ray must be connected. All nodes together have `SECONDS`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    nodes_by_task = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(*arguments): node
        for node in nodes
    }
    answered, late = (
        ray.wait(list(nodes_by_task), num_returns=len(nodes_by_task), timeout=SECONDS) if nodes_by_task else ([], [])
    )
    answers: dict[Node, T | Exception | None] = {nodes_by_task[reference]: None for reference in late}
    for reference in late:
        ray.cancel(reference, force=True)
    for reference in answered:
        try:
            answers[nodes_by_task[reference]] = ray.get(reference)
        except Exception as error:  # the function's own, a missing module, a node that has just died
            answers[nodes_by_task[reference]] = error
    return answers


def check_nodes(nodes: Sequence[Node], requirements: NodeRequirements) -> list[str]:
    """Asks every node whether it has what a search needs.

    Returns:
        Notes for a person, no errors: nodes that did not answer in time.

    Raises:
        ClusterError: a node lacks something; the message names nodes and reasons.
    """
    complaints, notes = [], []
    with _mark(requirements.folder) as mark:
        answers = on_each_node(nodes, complaint_of_node, requirements, mark)
    for node, answer in answers.items():
        if isinstance(answer, Exception):
            reason = one_line(answer.__cause__ or answer, 10_000)  # its end says most
            if "No module named" in reason:
                reason = "captune cannot be imported there; install it as it is here"
            complaints.append(f"node {node.name}: {reason[-200:]}")
        elif answer is None:
            notes.append(f"note: node {node.name} did not answer within {SECONDS:.0f} s and was not checked")
        elif answer:
            complaints.append(f"node {node.name}: {answer}")
    if complaints:
        rest = f"; and {len(complaints) - _MOST} more nodes" if len(complaints) > _MOST else ""
        raise ClusterError("; ".join(complaints[:_MOST]) + rest)
    return notes


def how_nodes_are(nodes: Sequence[Node]) -> list[dict[str, Any]]:
    """One row a node: what it has and what is taken of it (CPUs, GPUs, bytes of memory), and trials at work."""
    unused, leaving, at_work = free_resources(), draining(), nodes_of_actors(_TRIAL_ACTOR)
    memory = on_each_node(nodes, memory_of_node)
    rows = []
    for node in nodes:
        free, answer = unused.get(node.id, {}), memory[node]
        sizes = answer if isinstance(answer, tuple) else (0, 0, 0, 0)
        rows.append(
            {
                "node": node.name,
                "cpus": node.cpus,
                "cpus_taken": node.cpus - free.get("CPU", 0.0),
                "gpus": node.gpus,
                "gpus_taken": node.gpus - free.get("GPU", 0.0),
                "trials": at_work.count(node.id),
                "memory": sizes[0],
                "memory_taken": sizes[1],
                "gpu_memory": sizes[2],
                "gpu_memory_taken": sizes[3],
                "draining": node.id in leaving,
                "answered": isinstance(answer, tuple),
            }
        )
    return rows


def memory_of_node() -> tuple[int, int, int, int]:
    """Runs on a node: bytes of its memory, of those taken, of its GPUs' memory, of those taken; zeros if unknown."""
    try:
        lines = dict(line.split(":") for line in _MEMORY.read_text().splitlines())
        total, available = (1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    except (OSError, ValueError, KeyError):  # not Linux
        total = available = 0
    query = ["nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        table = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        sizes = [[2**20 * int(number) for number in line.split(",")] for line in table.splitlines()]
    except (OSError, subprocess.SubprocessError, ValueError):
        sizes = []
    return total, total - available, sum(size for size, _ in sizes), sum(used for _, used in sizes)


@contextmanager
def _mark(folder: str) -> Iterator[str]:
    """The name of a file that this machine has written in a folder: a node may have a folder of that name of its own.

    Empty for an address, which is one for all.
    """
    if is_url(folder):
        yield ""
        return
    mark = Path(folder) / f"{uuid4().hex}.tmp"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise ClusterError(f"this machine cannot write {folder} ({error.strerror or error}); choose another") from None
    try:
        yield mark.name
    finally:
        mark.unlink(missing_ok=True)


def complaint_of_node(requirements: NodeRequirements, mark: str) -> str:
    """Runs on a node: what it lacks, empty if nothing.

    Args:
        mark: a file in the folder that is to be seen here, too.
    """
    here = versions()
    differing = [
        f"{name} {here.get(name, 'absent')} instead of {expected}"
        for name, expected in requirements.versions.items()
        if here.get(name) != expected
    ]
    if differing:
        return f"has {', '.join(differing)}; install the same versions on all nodes"
    return _complaint_about_data(requirements) or _complaint_about_folder(requirements.folder, mark)


def versions() -> dict[str, str]:
    """Of Python and of what must be the same on all nodes, as this process has them; "absent" for what it has not."""
    numbers = {"Python": ".".join(map(str, sys.version_info[:2]))}
    for name in _PACKAGES:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            numbers[name] = "absent"
    return numbers


def _complaint_about_data(requirements: NodeRequirements) -> str:
    """What is at an address is not brought here yet: that may take minutes."""
    from captune.data_prep.records import DataError
    from captune.data_prep.store import PreparedData

    try:
        if is_url(requirements.data):
            fingerprint = fingerprint_at(requirements.data)
        else:
            fingerprint = PreparedData.open(requirements.data).manifest.fingerprint
    except StorageError as error:
        return f"cannot read the data: {error}"
    except (DataError, OSError) as error:
        return f"cannot read the data: {error}; it must be on a path that all nodes see"
    if fingerprint != requirements.fingerprint:
        return f"another data set is in {requirements.data}; all nodes must see the same"
    return ""


def _complaint_about_folder(where: str, mark: str) -> str:
    name = f"{uuid4().hex}.tmp"  # other nodes write here in the same moment
    if is_url(where):
        try:
            RemoteFolder(where).write(name, name.encode())
            RemoteFolder(where).remove(name)
        except StorageError as error:
            return f"cannot write {where}: {error}"
        return ""
    folder = Path(where)
    if not (folder / mark).is_file():
        return f"does not see what is written to {folder} elsewhere; --run must be on a path that all nodes see"
    try:
        (folder / name).touch()
        (folder / name).unlink()
    except OSError as error:
        return f"cannot write {folder} ({error.strerror or error}); --run must be on a path that all nodes see"
    return ""
