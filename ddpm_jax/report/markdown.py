"""A table of words that reads alike in a terminal and in a Markdown file."""

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The lines of a Markdown table; the first column to the left, the others to the right, all padded.

    Args:
      header: one word a column.
      rows: one cell a column each.

    Raises:
      ValueError: a row has another number of cells.
    """
    wrong = [row for row in rows if len(row) != len(header)]
    if wrong:
        raise ValueError(f"a row of {len(wrong[0])} cells under {len(header)} columns: {wrong[0]}")
    widths = [max(3, *(len(cell) for cell in column)) for column in zip(header, *rows, strict=True)]
    rule = [f":{'-' * (width - 1)}" if i == 0 else f"{'-' * (width - 1)}:" for i, width in enumerate(widths)]
    lines = [_line(cells, widths) for cells in (header, rule, *rows)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return f"| {' | '.join(padded)} |"
