"""What people ask of a search while it runs, or before it goes on: a file each in `RUN/requests`.

The driver alone writes the journal, so whoever asks leaves a file, whole or not at all. The driver takes up what it
holds, and removes it when that is in the study. One that is killed between the two finds it there.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import StrictInt

from captune.cluster.object_storage.addresses import join
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.reading import MissingError, json_object, parsed_object
from captune.results.documents import Document
from captune.results.run_folder import RunFolder

_ENDING = ".json"


class Request(Document):
    """What one file asks for.

    configurations: to be tried next, each of dotted names to values. stop: number of a trial that is to end. pin: of
    one that is to train to its end.
    """

    configurations: tuple[dict[str, Any], ...] = ()
    stop: StrictInt | None = None
    pin: StrictInt | None = None


@dataclass(frozen=True)
class Requests:
    """Those of a run that were not taken up. At an address the files are there, not in the copy on this machine."""

    run: RunFolder

    def add(self, request: Request) -> None:
        """Leaves it for the driver. Raises StorageError or OSError where the run cannot be written to."""
        name = f"{time.time_ns():020}-{secrets.token_hex(4)}{_ENDING}"  # in the order in which they came
        if self._remote is not None:
            self._remote.write(name, request.to_json().encode())
            return
        self.run.requests.mkdir(exist_ok=True)
        request.write(self.run.requests / name)

    def names(self) -> list[str]:
        """Of those that wait, the first first. Raises StorageError where the address cannot be reached."""
        if self._remote is not None:
            return sorted(name for name in self._remote.list() if name.endswith(_ENDING))
        return sorted(path.name for path in self.run.requests.glob(f"*{_ENDING}"))

    def read(self, name: str) -> Request:
        """One of them. Raises RunError or UnreadableError where `add` did not write it."""
        if self._remote is None:
            return Request.parse(json_object(self.run.requests / name), name)
        content = self._remote.read(name)
        if content is None:
            raise MissingError(f"{name} is gone")
        return Request.parse(parsed_object(content, name), name)

    def remove(self, name: str) -> None:
        """What it asked for is in the study."""
        if self._remote is not None:
            self._remote.remove(name)
        else:
            (self.run.requests / name).unlink(missing_ok=True)

    @cached_property
    def _remote(self) -> RemoteFolder | None:
        address = self.run.address
        return None if address is None else RemoteFolder(join(address, self.run.requests.name))
