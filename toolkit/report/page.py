"""HTML: pieces of a page and the page itself. Whatever comes from a file is escaped here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from toolkit.report.style import css_variables
from toolkit.report.stylesheet import CSS


@dataclass
class Block:
    """One section of the page."""

    title: str
    html: list[str] = field(default_factory=list)
    text: str = ""

    @property
    def anchor(self) -> str:
        """The section's id."""
        letters = (letter if letter.isalnum() else " " for letter in self.title.lower())
        return "-".join("".join(letters).split()) or "section"


def figure(svg: str, caption: str = "", wide: bool = False, below: str = "") -> str:
    """A picture with its caption; `below` is HTML that stands under the picture, such as a player."""
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    frame = scrolling(svg) if wide else svg
    return f'<figure class="{"wide" if wide else "panel"}">{frame}{below}{text}</figure>'


def paragraph(text: str) -> str:
    """A line of explanation."""
    return f'<p class="note">{escape(text)}</p>'


def panels(figures: Sequence[str], tall_first: bool = False) -> str:
    """Small pictures side by side, as many as fit; a tall first one has two others beside it."""
    return f'<div class="panels{" tall-first" if tall_first else ""}">{"".join(figures)}</div>'


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str, numbers: Sequence[int] = ()
) -> str:
    """A table with header cells; the first cell of a row is its header.

    Args:
        columns: names of the columns.
        rows: cells as text.
        caption: what the table holds.
        numbers: indices of the columns that hold numbers and are set flush right.
    """
    styles = [' class="number"' if index in numbers else "" for index in range(len(columns))]
    head = "".join(
        f'<th scope="col"{style}>{escape(name)}</th>' for name, style in zip(columns, styles, strict=True)
    )
    body = []
    for first, *rest in rows:
        cells = "".join(
            f"<td{style}>{escape(cell)}</td>" for cell, style in zip(rest, styles[1:], strict=True)
        )
        body.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    whole = f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
    return scrolling(f"{whole}<tbody>{''.join(body)}</tbody></table>")


def scrolling(html: str) -> str:
    """Lets something wide scroll sideways by itself; tabindex lets the keyboard scroll it."""
    return f'<div class="scroll" tabindex="0">{html}</div>'


def not_run(paths: Sequence[Path | str]) -> str:
    """Says which files are not there yet."""
    names = ", ".join(f"<code>{escape(str(path))}</code>" for path in paths)
    verb = "is" if len(paths) == 1 else "are"
    return f'<p class="not-run"><strong>Not run:</strong> {names} {verb} not there.</p>'


def details(summary: str, html: str) -> str:
    """Something that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def render(title: str, text: str, blocks: Sequence[Block]) -> str:
    """The whole page, with a table of contents; it needs no network and no script."""
    contents, sections, used = [], [], {"content"}
    for block in blocks:
        anchor = block.anchor
        while anchor in used:
            anchor += "-again"
        used |= {anchor, f"{anchor}-title"}
        contents.append(f'<li><a href="#{anchor}">{escape(block.title)}</a></li>')
        lead = f"<p>{escape(block.text)}</p>" if block.text else ""
        sections.append(
            f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
            f'<h2 id="{anchor}-title">{escape(block.title)}</h2>{lead}{"".join(block.html)}</section>'
        )
    about = f'<p class="about">{escape(text)}</p>' if text else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # The browser itself refuses anything that is not in this file.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:; media-src data:\">\n"
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_style_sheet()}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#content">Skip to the content</a>\n'
        f"<header><h1>{escape(title)}</h1>{about}</header>\n"
        f'<nav aria-label="Contents"><ol>{"".join(contents)}</ol></nav>\n'
        f'<main id="content">\n{chr(10).join(sections)}\n</main>\n</body>\n</html>\n'
    )


def _style_sheet() -> str:
    palette = (
        f":root {{ color-scheme: light dark; {css_variables(dark=False)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {css_variables(dark=True)} }} }}\n"
    )
    return palette + CSS
