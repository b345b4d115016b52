"""Figures as SVG text: one look for all, no global plotting state, equal input gives equal bytes.

A figure is drawn once in the light palette. The stand-alone file keeps those colours; the copy inlined in the page
gets CSS variables in their place, so that it follows the reader's light or dark mode.
"""

import io
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Light palette, each colour once so that it can be found in the SVG. Series colours are Okabe and Ito's (2008),
# told apart under all common colour-vision deficiencies.
PALETTE = {
    "paper": "#fffffe",
    "ink": "#1c2127",
    "muted": "#626b75",
    "grid": "#e1e5ea",
    "faint": "#b9c0c8",
    "accent": "#0066a8",
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "red": "#d55e00",
    "sky": "#56b4e9",
    "pink": "#cc79a7",
}
WIDTH = 5.0  # inches: narrow, so that text stays readable when a phone scales the figure down
FONT = 9.0
FONTS = "Inter, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "remora",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": FONT,
    "axes.edgecolor": PALETTE["faint"],
    "axes.labelcolor": PALETTE["muted"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": PALETTE["paper"],
    "savefig.facecolor": PALETTE["paper"],
    "grid.color": PALETTE["grid"],
    "grid.linewidth": 0.8,
    "text.color": PALETTE["ink"],
    "xtick.color": PALETTE["faint"],
    "ytick.color": PALETTE["faint"],
    "xtick.labelcolor": PALETTE["muted"],
    "ytick.labelcolor": PALETTE["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@contextmanager
def drawing() -> Generator[None]:
    """Draw in Remora's style: settings hold inside the block only, and fonts that lack a glyph are no warning.

    The text of the SVG is set by the reader's own fonts; the missing glyph concerns only the measuring of widths.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support .* natively")
        yield


def new_figure(height: float, *, width: float = WIDTH) -> Figure:
    """An empty figure on an SVG canvas, sizes in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    return figure


def quiet_grid(axes: Axes, which: str) -> None:
    """Light grid lines along one axis, and no spine on the other."""
    axes.grid(visible=True, axis="x" if which == "x" else "y")
    axes.spines["left" if which == "x" else "bottom"].set_visible(False)


def to_svg(figure: Figure) -> str:
    """The figure as a stand-alone SVG document: no date, no metadata, real text."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=no_metadata)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r"<!DOCTYPE.*?>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    # matplotlib states its measuring font; the reader's own sans-serif looks better and is there.
    return re.sub(r"<text[^>]+>", lambda tag: re.sub(r"'DejaVu Sans'[^;\"]*", FONTS, tag.group()), text)


def inline(svg: str, name: str, title: str) -> str:
    """Prepare an SVG document for inlining in HTML.

    Args:
        svg: from `to_svg`.
        name: prefix that makes the ids of this figure unique in the page.
        title: what the figure shows, for screen readers; plain text.

    Returns:
        An ``<svg>`` element with colours as CSS variables, sized by the page.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"\s*<style type=\"text/css\">.*?</style>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box is not None, "matplotlib always writes a viewBox"
    rest = re.sub(r"<[^>]+>", lambda tag: _adapt(tag.group(), name), rest)
    return f'<svg viewBox="{box.group(1)}" role="img" aria-label="{_attribute(title)}">{rest}'


def _adapt(tag: str, name: str) -> str:
    """Make the ids of one tag the figure's own and its colours variables; text between tags is never touched."""
    tag = re.sub(r'(\s)id="([^"]+)"', rf'\1id="{name}-\2"', tag)
    tag = tag.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    for colour, value in PALETTE.items():
        tag = tag.replace(value, f"var(--{colour})")
    return tag


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
