"""The loop of a search, shown and logged as its caller wants it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from captune.results.run_folder import RunFolder
from captune.tuner.api.logs import logging_to
from captune.tuner.api.progress import say, search_progress, silent
from captune.tuner.space.config import SearchConfig

if TYPE_CHECKING:
    from captune.cluster.object_storage.mirror import Mirror
    from captune.data_prep.store import PreparedData
    from captune.results.sinks.sink import SinkName
    from captune.results.summary import Summary


def drive(
    folder: RunFolder,
    mirror: Mirror | None,
    config: SearchConfig,
    data: PreparedData,
    address: str | None,
    progress: bool,
    sinks: Sequence[SinkName],
) -> Summary:
    from captune.tuner.ray_tune.search import run_search

    with ExitStack() as shown:
        show = shown.enter_context(search_progress()) if progress else lambda _: None
        told = say if progress else silent
        shown.enter_context(logging_to(folder, sinks, told))
        return run_search(folder, config, data, address=address, show=show, say=told, mirror=mirror)
