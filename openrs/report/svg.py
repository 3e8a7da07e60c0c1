"""Matplotlib figures as SVG that lives inside a page: its colours, its fonts, ids of their own, and a text alternative."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that become variables of the page's style, so that one drawing serves light and dark.
INK, MUTED, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#010111", "#010112", "#010113", "#010114", "#010115", "#010116")
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    **{color: f"s{i}" for i, color in enumerate(SERIES, start=1)},
}
WIDTH = 4.1
"""Inches of a figure: on a phone's 350 px its letters stay readable."""

STYLE = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "openrs",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def axes(
    height: float, left: float = 0.42, right: float = 0.12, bottom: float = 0.42, top: float = 0.12
) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes; margins in inches, fixed, since laying out by trial is slow."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - top) / height)
        yield figure, figure.add_axes(box)


def render(figure: Figure, name: str, alternative: str) -> str:
    """The figure as an `<svg>` element. `name` makes its ids unique in the page."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    body = text[text.index(">") + 1 :]
    box = re.search(r'viewBox="([^"]+)"', text)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # What nobody refers to needs no id; what is referred to gets one of this figure's own.
    used = set(re.findall(r"#([A-Za-z][\w.-]*)[\")]", body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font: (?:\w+ )*([0-9.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, f"var(--{variable})")
    alt = html.escape(alternative, quote=True)
    viewbox = box[1] if box else "0 0 300 200"
    return f'<svg class="figure" viewBox="{viewbox}" role="img" aria-label="{alt}"><title>{alt}</title>{body}'
