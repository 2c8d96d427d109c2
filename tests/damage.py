"""What happens to files: bits flip, ends are cut off, lines are swapped, and somebody edits JSON."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 0.5, 10**30, -(10**30), 1e308, math.nan, math.inf, "", "x", "0", "\ud800",
    "\x1b[2J", "../../x", "x" * 5000, [], [[]], {}, {"x": 1}, [None], ["x"], [-1], [1e400],
)  # fmt: skip
"""Values that nobody expects, each where another type or range is meant."""
_DEEP = b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000, b"9" * 10_000


_KINDS = ("flip", "cut", "remove", "repeat", "swap", "insert", "zeros", "deep", "json", "json")


@st.composite
def damaged(draw: st.DrawFn, content: bytes, kinds: tuple[str, ...] = _KINDS) -> bytes:
    """The content of a file after something has happened to it, or now and then nothing."""
    kind = draw(st.sampled_from(kinds))
    place = draw(st.integers(0, max(len(content) - 1, 0)))
    length = draw(st.integers(1, 64))
    if kind == "flip":
        spoilt = bytearray(content)
        for bit in draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=4)):
            spoilt[bit // 8] ^= 1 << bit % 8
        return bytes(spoilt)
    if kind == "cut":
        return content[:place]
    if kind == "remove":
        return content[:place] + content[place + length :]
    if kind == "repeat":
        return content[: place + length] + content[place:]
    if kind == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=16)) + content[place:]
    if kind == "zeros":
        return content[:place] + bytes(min(length, len(content) - place)) + content[place + length :]
    lines = content.splitlines(keepends=True)
    if kind == "swap":
        one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        lines[one], lines[other] = lines[other], lines[one]
        return b"".join(lines)
    line = draw(st.integers(0, len(lines) - 1))
    if kind == "deep":
        lines[line] = draw(st.sampled_from(_DEEP)) + b"\n"
        return b"".join(lines)
    return edited(draw, content) or b"".join([*lines[:line], edited(draw, lines[line]) or b"[]\n", *lines[line + 1 :]])


def edited(draw: st.DrawFn, content: bytes) -> bytes | None:
    """JSON with one value replaced, removed or added; None where the content is none."""
    try:
        value = json.loads(content)
    except ValueError:
        return None
    inside, parents = value, []
    while isinstance(inside, dict | list) and inside and (not parents or draw(st.booleans())):
        key = draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        parents.append((inside, key))
        inside = inside[key]
    odd = draw(st.sampled_from(ODD))
    if not parents:
        return json.dumps(odd).encode() + b"\n"
    parent, key = parents[-1]
    how = draw(st.sampled_from(["replace", "remove", "add"]))
    if how == "remove":
        del parent[key]
    elif how == "add" and isinstance(parent, dict):
        parent["another"] = odd
    else:
        parent[key] = odd
    return json.dumps(value).encode() + b"\n"
