"""What a search takes note of while it runs: nodes, other searches on the cluster, and what people ask for."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from captune.cluster.nodes.claims import Sharing
from captune.cluster.nodes.resources import Request, Room
from captune.cluster.nodes.session import alive, free
from captune.cluster.object_storage.addresses import StorageError
from captune.cluster.object_storage.mirror import Mirror
from captune.errors import one_line
from captune.reading import UnreadableError
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.requests import Requests
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.dimensions import SpaceError
from captune.tuner.space.feasibility import FeasibleSpace

if TYPE_CHECKING:
    from captune.tuner.decisions.director import Director
    from captune.tuner.ray_tune.adapter import Adapter

_NODES_SECONDS = 5.0  # between two looks at the nodes
_SHARE_SECONDS = 1.0  # between two looks at the other searches on the cluster
_REQUEST_SECONDS, _REMOTE_REQUEST_SECONDS = 0.5, 10.0  # between two looks at what people ask for
_WAIT_SECONDS = 60.0  # that a trial waits before a message says so, and between two of them


@dataclass
class Rounds:
    """What is looked at, each as often as it is worth, and told to the director of a search.

    most_slots: that there were at most. fitting: trials that the nodes there are have room for.
    """

    run: RunFolder
    config: SearchConfig
    feasible: FeasibleSpace
    director: Director
    request: Request
    sharing: Sharing
    mirror: Mirror | None
    say: Callable[[str], None]
    most_slots: int
    fitting: int
    _nodes_checked: float = 0.0  # second of the clock, as the next
    _share_checked: float = 0.0
    _requests_checked: float = 0.0
    _wait_reported: float = 0.0
    _refused: set[str] = field(default_factory=set)  # requests by name, which stay where they are

    def look(self, adapter: Adapter) -> None:
        """At all of it, as far as it is time."""
        self._nodes(adapter)
        self.share()
        self.take_up_requests(adapter.drop)

    def _nodes(self, adapter: Adapter) -> None:
        """Takes note of nodes that came or went, and says each minute for what trials wait."""
        now = time.monotonic()
        if now - self._nodes_checked >= _NODES_SECONDS:
            self._nodes_checked = now
            room = Room.of(alive(), self.request)
            self.fitting = room.slots
            room = replace(room, slots=self.config.slots or room.slots)
            if room != self.director.room:
                self.say(f"nodes came or went: room for {room.slots} trials at once on {room.nodes} nodes")
            self.director.room, self.most_slots = room, max(self.most_slots, room.slots)
        waiting = adapter.unplaced(_WAIT_SECONDS)
        if waiting and now - self._wait_reported >= _WAIT_SECONDS:
            self._wait_reported = now
            self.say(f"{waiting} trials wait for room: {self.request} each; {free()}")

    def share(self) -> None:
        """Holds this search to its share of the cluster, and says when other searches come or go."""
        now, director = time.monotonic(), self.director
        if now - self._share_checked < _SHARE_SECONDS:
            return
        self._share_checked, others = now, len(self.sharing.others)
        director.share = self.sharing.may_hold(
            slots=max(self.fitting, director.room.slots),
            wanted=director.wanted,
            held=len(director.running),
            used=director.seconds(now),
            now=now,
        )
        if len(self.sharing.others) != others:
            self.say(self.sharing.told)

    def take_up_requests(self, stop: Callable[[int], bool]) -> None:
        """Does what people asked for.

        Args:
            stop: ends a trial by its number; whether it ran.
        """
        from captune.tuner.decisions.steering import enqueue

        now = time.monotonic()
        if now - self._requests_checked < (_REQUEST_SECONDS if self.mirror is None else _REMOTE_REQUEST_SECONDS):
            return
        self._requests_checked = now
        requests = Requests(self.run)
        with suppress(StorageError):  # the next time
            for name in requests.names():
                if name in self._refused:
                    continue
                try:
                    request = requests.read(name)
                    parameters = self.feasible.chosen(request.configurations)
                except (SpaceError, UnreadableError, RunError) as error:
                    self._refused.add(name)
                    why = ": ".join((*error.location, str(error))) if isinstance(error, SpaceError) else str(error)
                    self.say(f"note: {self.run}/{self.run.requests.name}/{name} is refused: {one_line(why)}")
                    continue
                if request.stop is not None and not stop(request.stop):
                    self.say(f"note: trial {request.stop} does not run, so there is nothing to stop")
                if request.pin is not None and not self.director.pin(request.pin):
                    self.say(f"note: trial {request.pin} does not run, so there is nothing to pin")
                if count := enqueue(self.director.study, parameters, name):
                    self.say(f"configurations that were enqueued, to be tried next: {count}")
                if self.mirror is None or self.mirror.flush():
                    requests.remove(name)
