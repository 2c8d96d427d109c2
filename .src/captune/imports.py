"""Imports of libraries that would load many more of their own, which captune never calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_alone = False


def captune_is_alone() -> None:
    """Says that nothing but captune runs in this process, as a notebook would: `passing_over` may do its work."""
    global _alone
    _alone = True


@contextmanager
def passing_over(*modules: str) -> Iterator[None]:
    """Imports as if these modules were not installed; where others run beside captune, all that there is.

    What is loaded already stays, and all of them can be imported afterwards. Whatever is imported within has to do
    without them for good, so each is named by those who know that it can.
    """
    hidden = set(modules) - sys.modules.keys() if _alone else set()
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]  # None: by that Python knows what is not there
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, sys) is None:
                del sys.modules[name]
