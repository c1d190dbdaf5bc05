"""The summary table: one row a figure, from the JSON files that the scoring commands wrote."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

from toolkit.errors import UserError
from toolkit.report.description import DATA_NAMES, Places, Result
from toolkit.report.page import scrolling
from toolkit.report.results import GROUPS, Metric, read_metrics
from toolkit.score.table import aligned

COLUMNS = ("system", "metric", "value", "95 % interval", "data", "scored on")


@dataclass
class Row:
    """One row of the summary; `metric` is None for a file that is not there."""

    group: str
    system: str
    metric: Metric | None
    data: str
    set: str = ""
    scored_on: str = ""

    @property
    def cells(self) -> list[str]:
        """The row as text, in the order of COLUMNS."""
        data = "" if self.group == GROUPS["times"] else DATA_NAMES[self.data]
        data = f"{data}: {self.set}" if self.set else data
        if self.metric is None:
            return [self.system, "", "not run", "", data, ""]
        return [self.system, self.metric.name, *self.metric.cells, data, self.scored_on]


def rows_of(results: Iterable[Result], places: Places) -> list[Row]:
    """Reads the files of a description's results.

    Raises:
        UserError: a malformed file, one of an unknown kind, or a metric that it does not hold.
    """
    return [row for result in results for row in _rows(result, places(result.file))]


def _rows(result: Result, path: Path) -> list[Row]:
    if not path.exists():
        return [Row("Not run", result.name, None, result.data, result.set)]
    kind, metrics, scored_on = read_metrics(path)
    names = dict.fromkeys(metric.key for metric in metrics)
    if unknown := [name for name in result.metrics if name not in names]:
        raise UserError(f"{path}: has no metric {unknown[0]!r}, expected one of {', '.join(names)}")
    wanted = result.metrics or [metric.key for metric in metrics if metric.headline]
    common = result.data, result.set, scored_on
    return [Row(GROUPS[kind], result.name, metric, *common) for metric in metrics if metric.key in wanted]


def as_text(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    return aligned(COLUMNS, [_dashes(row.cells) for row in rows], left=2)


def as_markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    lines = [COLUMNS, ["---", "---", "---:", "---", "---", "---:"], *(_dashes(row.cells) for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def as_html(rows: Sequence[Row]) -> str:
    """The table for the page: rows by task, the rows of one file under one name."""
    head = "".join(f'<th scope="col"{_style(name)}>{escape(name)}</th>' for name in COLUMNS)
    body = []
    for group, members in groupby(rows, key=lambda row: row.group):
        body.append(
            f'<tr class="group"><th scope="rowgroup" colspan="{len(COLUMNS)}">{escape(group)}</th></tr>'
        )
        for _, same in groupby(members, key=lambda row: (row.system, row.data, row.set, row.scored_on)):
            body += _file_rows(list(same))
    caption = "<caption>Lower is better for error rates and costs, higher for frame labels</caption>"
    table = f'<table class="summary">{caption}<thead><tr>{head}</tr></thead>'
    return scrolling(f"{table}<tbody>{''.join(body)}</tbody></table>")


def _file_rows(rows: Sequence[Row]) -> Iterator[str]:
    """Rows of one file; the name stands once, beside all of them."""
    for index, row in enumerate(rows):
        system, metric, value, interval, data, scored_on = map(escape, row.cells)
        name = "" if index else f'<th scope="rowgroup" rowspan="{len(rows)}">{system}</th>'
        tag = f'<span class="tag tag-{row.data}">{data}</span>' if data else ""
        yield (
            f'<tr>{name}<td class="metric">{metric}</td><td class="number value">{value}</td>'
            f'<td class="interval">{interval}</td><td>{tag}</td><td>{scored_on}</td></tr>'
        )


def _dashes(cells: Sequence[str]) -> list[str]:
    return [cell or "-" for cell in cells]


def _style(column: str) -> str:
    return ' class="number"' if column == "value" else ""
