"""Imports of libraries that would load many more of their own, which captune never calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_alone = False


def captune_is_alone() -> None:
    """Says that nothing but captune runs in this process, no notebook and no program of somebody's."""
    global _alone
    _alone = True


@contextmanager
def passing_over(*modules: str) -> Iterator[None]:
    """While this lasts an import finds none of these modules, where captune is alone in its process.

    What is loaded already stays, and all of them can be imported afterwards. What is imported within does without them
    from then on, so only what can is.
    """
    hidden = set(modules) - sys.modules.keys() if _alone else set()
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]  # None: by that Python knows what is not there
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, sys) is None:
                del sys.modules[name]
