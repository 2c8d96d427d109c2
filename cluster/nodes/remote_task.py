"""One piece of work on a node of a cluster: what it says is passed on, and it is begun again where its node is lost."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from captune.cluster.nodes.address import ClusterError
from captune.cluster.nodes.cut_off import end_without_head
from captune.cluster.nodes.resources import Request
from captune.cluster.nodes.session import free
from captune.errors import one_line

T = TypeVar("T")

ATTEMPTS = 3
_WAIT_SECONDS = 60.0  # that the work waits for room before a message says so, and between two of them


def run_on_node(work: Callable[..., T], *arguments: Any, request: Request, say: Callable[[Any], None]) -> T:
    """Runs `work(*arguments, say=...)` in a process of its own on a node with room for it, and returns its result.

    Ray must be connected, to a cluster with such a node.

    Args:
        work: does no harm when it is begun again after it was cut off.
        request: what it takes of the node.
        say: is called with what the work says, for what it waits, and that a node was lost.

    Raises:
        ClusterError: its node or process was lost ATTEMPTS times.
        Exception: what the work itself raises.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    task = ray.remote(num_cpus=request.cpus, num_gpus=request.gpus, max_retries=0, max_calls=1)(_run_and_report)
    for attempt in range(1, ATTEMPTS + 1):
        messages = task.remote(work, arguments)
        started = False
        try:
            while True:
                if not ray.wait([messages], timeout=_WAIT_SECONDS)[0]:
                    if not started:
                        say(f"waiting for room: {request}; {free()}")
                    continue
                kind, content = ray.get(next(messages))
                if kind == "result":
                    result: T = content
                    return result
                started = True
                say(content)
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            reason = one_line(error, 200)
            say(f"attempt {attempt} of {ATTEMPTS} was lost with its node or process ({reason})")
    raise ClusterError(f"the work was lost {ATTEMPTS} times with its node or process: give the same command again")


def _run_and_report(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Runs on a node: ("said", text) for each message as it comes, at last ("result", ...)."""
    import platform

    import ray

    end_without_head(ray.get_runtime_context().get_node_id())
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            messages.put(("result", work(*arguments, say=lambda text: messages.put(("said", text)))))
        except BaseException as error:
            messages.put(("error", error))

    yield "said", f"on node {platform.node()}"
    threading.Thread(target=run, name="run_on_node", daemon=True).start()
    while True:
        kind, content = messages.get()
        if kind == "error":
            raise content
        yield kind, content
        if kind == "result":
            return
