"""The caller's process: what captune and the libraries under it change of it is changed back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from captune.environment import environment


@contextmanager
def left_as_it_was() -> Iterator[None]:
    """Environment and warning filters are afterwards what they were before. Also a decorator.

    TensorFlow, scikit-learn and others set variables and filters when they are imported. What is imported stays, so a
    second call finds nothing to change back. Signal handlers and log levels are changed back where they are changed:
    captune.cluster.nodes.session, captune.interrupt, captune.results.optuna_private.
    """
    with environment(), warnings.catch_warnings():
        yield
