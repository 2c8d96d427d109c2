"""A figure of Matplotlib as SVG inside of a page: text stays text, colours are the page's, light or dark."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins that Matplotlib takes for colours; the page's style sheet says what each is.
INK, FAINT, MAIN, SECOND, WARNING = "#010101", "#010102", "#010103", "#010104", "#010105"
_VARIABLES = {INK: "--ink", FAINT: "--faint", MAIN: "--main", SECOND: "--second", WARNING: "--warning"}
_STYLE: dict[str, Any] = {
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a name with dollars is a name
    "xtick.color": INK,
    "ytick.color": INK,
}


def drawn(name: str, description: str, draw: Callable[[Axes], None], *, size: tuple[float, float] = (7.2, 3.1)) -> str:
    """An `<svg>` of what `draw` does, the same each time.

    Args:
        name: of the figure on its page: its parts are told from those of others by it.
        description: what a screen reader says in its place.
        size: inches of 72 points.
    """
    style: Any = _STYLE | {"svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks: the reader's has them
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # the same in every figure, and nothing refers to them
    text = re.sub(r"#01010[1-5]", lambda colour: f"var({_VARIABLES[colour[0]]})", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    text = re.sub(r"(\d\.\d\d)\d+(?=[^<>]*>)", r"\1", text)  # of places, not of words
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None
    label = html.escape(description, quote=True)
    return f'<svg role="img" aria-label="{label}" {view_box[0]}>{text[text.index(">") + 1 :].strip()}'
