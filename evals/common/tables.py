"""Markdown tables, as studies print them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Columns = Sequence[tuple[str, str]]
"""Title of each column, and the format of its cells by the names of a row's figures."""


def table(rows: Sequence[Mapping[str, object]], columns: Columns) -> list[str]:
    """Return a Markdown table of rows as lines; a figure that a row lacks or that is None is a dash.

    Args:
        rows: Figures by name.
        columns: Which of them, and how.
    """
    return aligned(
        [[title for title, _ in columns], *([_cell(row, form) for _, form in columns] for row in rows)]
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table as lines whose columns stand below each other; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return [f"| {line} |" for line in lines]


def filled(value: object, form: str) -> str:
    """Format a figure for a cell of a table; None, an unknown one, is a dash."""
    return "-" if value is None else format(value, form)


def _cell(row: Mapping[str, object], form: str) -> str:
    try:
        return form.format_map({name: value for name, value in row.items() if value is not None})
    except KeyError:
        return "-"
