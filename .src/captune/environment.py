"""The environment variables of this process, changed for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Sets variables; afterwards all of the environment is what it was before, whoever changed it in between."""
    before = dict(os.environ)
    os.environ |= variables or {}
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
