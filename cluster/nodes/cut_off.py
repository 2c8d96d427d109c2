"""A worker that is cut off from the head of its cluster ends itself."""

from __future__ import annotations

import math
import os
import sys
import threading
import time

from captune.cluster.nodes.address import ANSWER_SECONDS, ClusterError, members

CUT_OFF_SECONDS = 30.0
"""Without a word from the head after which a node is taken to be cut off."""


def end_without_head(node: str, seconds: float = CUT_OFF_SECONDS) -> None:
    """From now on ends this process, a worker on a node, once it is cut off from the head of its cluster.

    That is when the head has not answered for `seconds`, or says that it has given the node up. What ran here is then
    handed out again, and a process that went on would write to the same files. Ray alone is too late: where a network
    swallows packets the head gives a node up after 63 s, and the node's workers end after 280 s (measured, Ray 2.60's
    own settings).

    Args:
        node: id of the node that this process runs on.
    """
    import ray

    head = ray.get_runtime_context().gcs_address
    threading.Thread(target=_watch, args=(head, node, seconds), name="end_without_head", daemon=True).start()


def _watch(head: str, node: str, seconds: float) -> None:
    pause = min(ANSWER_SECONDS, seconds / 6)
    answered, failures = math.inf, 0  # silence counts from the first answer on: who never got one cannot judge
    while True:
        why = ""
        try:
            if not members(head, [node], head, pause):
                why = "the head has given up this node"
            answered, failures = time.monotonic(), 0
        except ClusterError as error:
            failures += 1  # two at least: one question may have been under way while this machine slept
            if failures > 1 and time.monotonic() - answered > seconds:
                why = f"no answer from the head for {seconds:g} s ({error})"
        if why:
            print(f"{why}; this process ends, and what it did is done elsewhere", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(1)
        time.sleep(pause)
