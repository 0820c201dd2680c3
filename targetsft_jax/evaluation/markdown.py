"""Markdown tables that are aligned as plain text, too."""

from collections.abc import Sequence


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Markdown table of a heading and rows; columns after the first align right.

    Args:
        lines: cells of the heading, then of each row.
    """
    # The rule of a column that aligns right has two characters at least.
    widths = [max(2, *map(len, column)) for column in zip(*lines)]
    rows = [
        "| "
        + " | ".join(
            cell.rjust(w) if n else cell.ljust(w)
            for n, (cell, w) in enumerate(zip(line, widths))
        )
        + " |"
        for line in lines
    ]
    rule = ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]]
    return "\n".join([rows[0], "| " + " | ".join(rule) + " |", *rows[1:]])
