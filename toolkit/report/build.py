"""From a description to the page and the summary table."""

from dataclasses import dataclass

from toolkit.report import page, sections, table
from toolkit.report.description import Description, Places
from toolkit.report.page import Block
from toolkit.report.table import Row


@dataclass
class Report:
    """A finished report: the page, the rows of its table, and the files that were not there."""

    html: str
    rows: list[Row]
    missing: list[str]


def build(description: Description, places: Places) -> Report:
    """Reads all files that a description names and draws them.

    Raises:
        UserError, ScoreError: a malformed file; missing ones are listed instead.
    """
    rows = table.rows_of(description.results, places)
    missing = [result.file for result in description.results if not places(result.file).exists()]
    blocks = [Block("Summary", [table.as_html(rows)])] if rows else []
    for number, section in enumerate(description.sections, 1):
        block, absent = sections.render(section, places, number)
        blocks.append(block)
        missing += absent
    html = page.render(description.title, description.text, blocks)
    return Report(html, rows, list(dict.fromkeys(missing)))
