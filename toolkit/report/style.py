"""What all pictures have in common: colours, type, and the way from a Matplotlib figure to inline SVG.

Figures are drawn in the colours of a light page. `to_svg` replaces each known colour by a CSS variable of the
same name, so that the page shows the same picture in light and in dark. The colours follow Okabe and Ito's
palette, which people with any of the common colour vision deficiencies can tell apart; where a colour has a
meaning, its place or a label says it too.
"""

import io
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
from matplotlib.figure import Figure

# name of the CSS variable -> (colour on a light page, colour on a dark page)
COLOURS = {
    "ink": ("#1d2530", "#e6eaf0"),
    "muted": ("#5b6675", "#9aa6b6"),
    "grid": ("#dfe4ea", "#333d4b"),
    "paper": ("#fefefe", "#161b22"),
    "series-0": ("#0072b2", "#4aa8e0"),
    "series-1": ("#d55e00", "#f08a3c"),
    "series-2": ("#009e73", "#2fc79b"),
    "series-3": ("#aa4499", "#dd8fd0"),
    "series-4": ("#e69f00", "#f5bd45"),
    "series-5": ("#56b4e9", "#86cdf5"),
    "series-6": ("#7a5c3e", "#c4a27e"),
    "series-7": ("#4d4d9f", "#a3a3ea"),
    "miss": ("#e69f01", "#f5bd46"),
    "false-alarm": ("#56b4e8", "#86cdf4"),
    "confusion": ("#c1272d", "#ff6b6b"),
}
SERIES = [light for name, (light, _) in COLOURS.items() if name.startswith("series-")]
INK, MUTED, GRID, PAPER = (COLOURS[name][0] for name in ("ink", "muted", "grid", "paper"))

# Inches: a panel is shown about 480 pixels wide; a wide picture spans the page and scrolls on a phone.
PANEL, WIDE = 4.6, 9.4

_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small, searchable, set in the reader's own font
    "svg.hashsalt": "toolkit",
    "text.parse_math": False,  # a "$" in a name is a dollar sign
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.prop_cycle": matplotlib.cycler(color=SERIES),
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "lines.markersize": 6.5,
    "lines.markeredgecolor": PAPER,
    "figure.facecolor": "none",
    "savefig.transparent": True,
}


def styled():
    """Context or decorator in which figures get the common look; Matplotlib's settings stay as they were."""
    return matplotlib.rc_context(_SETTINGS)


def series(index: int) -> str:
    """The colour of the `index`-th series; the palette repeats after its end."""
    return SERIES[index % len(SERIES)]


def css_variables(dark: bool) -> str:
    """The palette as CSS declarations."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Draws a figure as an SVG element to stand in an HTML page.

    The same figure gives the same bytes: no date, and ids are counted instead of derived from memory.

    Args:
        figure: a figure made inside `styled()`.
        name: unique on the page; the ids inside the SVG start with it.
        label: what the picture shows, for readers who do not see it.
    """
    with styled():
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE.*?>", "", text.getvalue(), flags=re.DOTALL))
    # The one rule in it (how lines join) would hold for the whole page, whose own style sheet has it.
    root.remove(next(child for child in root if child.tag.endswith("defs")))
    _rename_ids(root, name)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            # An HTML parser puts elements into the SVG namespace by itself and knows href without a prefix.
            element.set(key.rpartition("}")[2], _tidy(key, value))
        if element.tag not in ("text", "tspan"):
            element.text = None
        element.tail = None
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", label)
    # A plain width in CSS pixels: the page lets it shrink, and knows from which width on to scroll.
    root.set("style", f"max-width: {figure.get_figwidth() * 104:.0f}px")
    return _themed(ElementTree.tostring(root, encoding="unicode"))


def _rename_ids(root: ElementTree.Element, name: str) -> None:
    """Drops ids that nothing refers to and counts the others: name-0, name-1, ..."""
    used = set()
    for element in root.iter():
        for value in element.attrib.values():
            used.update(re.findall(r"^#(.+)$|url\(#([^)]+)\)", value))
    used = {first or second for first, second in used}
    names = {}
    for element in root.iter():
        old = element.attrib.pop("id", None)
        if old in used:
            element.set("id", names.setdefault(old, f"{name}-{len(names)}"))
    for element in root.iter():
        for key, value in element.attrib.items():
            if "#" in value:
                value = re.sub(r"^#(.+)$", lambda found: "#" + names.get(found[1], found[1]), value)
                element.set(key, re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{names[found[1]]})", value))


def _tidy(key: str, value: str) -> str:
    if key == "style":
        value = re.sub(r"font-family:[^;]*(; )?", "", value)
    if key in ("d", "x", "y", "style", "points"):
        value = re.sub(r"-?\d+\.\d{3,}", _two_decimals, value)
    return " ".join(value.split())


def _two_decimals(number: re.Match) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _themed(svg: str) -> str:
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg
