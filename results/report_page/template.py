"""Values set into a page, everything a person typed escaped."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2


def rendered(name: str, content: Mapping[str, Any]) -> str:
    """The template `name` of this folder, filled in."""
    # Half of a character can be in a path or a journal, but in no file of UTF-8.
    return _environment().get_template(name).render(content).encode("utf-8", "replace").decode()


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("captune.results.report_page", ".")
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
