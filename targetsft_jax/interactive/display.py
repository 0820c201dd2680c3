"""Displays of token tables: plain text, and HTML for notebooks."""

import html as markup
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len, set_cell_size

from targetsft_jax.palette import BLUE, ORANGE

if TYPE_CHECKING:
    from targetsft_jax.interactive.token_table import Entry, TokenTable

ROWS = 40
"""Tokens of the plain table."""

DOUBTS = 10
"""Tokens of the table in HTML."""

_WIDEST = 16


@dataclass(frozen=True)
class Column:
    """A number per token.

    Attributes:
        name: attribute of the table, [N].
        label: heading.
        description: noun phrase for the legend.
    """

    name: str
    label: str
    description: str


def plain(table: "TokenTable") -> str:
    """Title, one line for each of the first tokens, and the number of others."""
    shown = range(min(ROWS, len(table)))
    tokens = [set_cell_size(_quoted(table.tokens[i]), _width(table)) for i in shown]
    cells = [
        [_number(x) for x in getattr(table, column.name)[: len(shown)]]
        for column in table.columns
    ]
    heads = [column.label for column in table.columns]
    widths = [max(map(cell_len, [h, *c])) for h, c in zip(heads, cells)]
    token = "token".ljust(_width(table))
    lines = [table.title, _line(token, heads, widths, table.top_label)]
    for i in shown:
        numbers = [column[i] for column in cells]
        lines.append(_line(tokens[i], numbers, widths, _top(table.top[i])))
    if len(table) > ROWS:
        lines.append(f"… and {len(table) - ROWS:,} more tokens; .rows() has all")
    return "\n".join(lines)


def html(table: "TokenTable") -> str:
    """The text, each scored token coloured by the first column, and the doubts.

    Orange is 0 and blue is 1; a title on each token has its numbers.
    """
    first, *_ = table.columns
    values = np.asarray(getattr(table, first.name), np.float64)
    parts = []
    for i, token in enumerate(table.tokens):
        parts += [_faint(table.context[i]), _coloured(table, i, token, values[i])]
    parts.append(_faint(table.context[-1]))
    order = np.argsort(values, kind="stable")[:DOUBTS]
    heads = "".join(
        f'<th title="{_escape(column.description)}">{_escape(column.label)}</th>'
        for column in table.columns
    )
    body = "".join(_row(table, int(i)) for i in order)
    legend = (
        f"{first.label}, {first.description}: {_swatch(0)} 0 {_swatch(0.5)} ½ "
        f"{_swatch(1)} 1. Below: the tokens with the smallest {first.label}."
    )
    return (
        f"<div><p><b>{_escape(table.title)}</b></p>"
        f'<div style="white-space:pre-wrap;line-height:1.7">{"".join(parts)}</div>'
        f'<p style="opacity:.75">{legend}</p>'
        f"<table><thead><tr><th>token</th>{heads}<th>{table.top_label}</th></tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _width(table: "TokenTable") -> int:
    longest = max(cell_len(_quoted(token)) for token in table.tokens[:ROWS])
    return min(_WIDEST, max(5, longest))


def _line(token: str, cells: Sequence[str], widths: Sequence[int], top: str) -> str:
    # Not str.rjust: characters of labels may be wider than one cell.
    padded = [" " * (w - cell_len(c)) + c for c, w in zip(cells, widths)]
    return f"{token}  {'  '.join(padded)}  {top}".rstrip()


def _quoted(token: str) -> str:
    """A token with its spaces and line ends visible."""
    return repr(token)


def _number(value: float) -> str:
    return f"{float(value):.3f}".replace("-0.000", "0.000")


def _top(entries: "Sequence[Entry]") -> str:
    return " · ".join(f"{_quoted(x.token)} {_number(x.mass)}" for x in entries)


def _row(table: "TokenTable", i: int) -> str:
    cells = [f"<code>{_escape(_quoted(table.tokens[i]))}</code>"]
    cells += [_number(getattr(table, column.name)[i]) for column in table.columns]
    cells.append(_escape(_top(table.top[i])))
    # Left: notebooks align cells to the right.
    sides = ["left", *["right"] * len(table.columns), "left"]
    row = "".join(
        f'<td style="text-align:{side}">{cell}</td>' for side, cell in zip(sides, cells)
    )
    return f"<tr>{row}</tr>"


def _coloured(table: "TokenTable", i: int, token: str, value: float) -> str:
    numbers = ", ".join(
        f"{column.label} {_number(getattr(table, column.name)[i])}"
        for column in table.columns
    )
    title = _escape(f"{_quoted(token)}: {numbers}; {_top(table.top[i])}")
    text = _escape(token).replace("\n", "↵\n")
    return f'<span style="background:{_colour(value)}" title="{title}">{text}</span>'


def _faint(text: str) -> str:
    return f'<span style="opacity:.55">{_escape(text)}</span>' if text else ""


def _swatch(value: float) -> str:
    style = f"background:{_colour(value)};border:1px solid rgba(128,128,128,.6)"
    return f'<span style="{style}">&nbsp;&nbsp;&nbsp;</span>'


def _colour(value: float) -> str:
    """Translucent, so that it is a tint on light and dark pages alike."""
    value = float(np.clip(np.nan_to_num(value), 0, 1))
    base = BLUE if value >= 0.5 else ORANGE
    red, green, blue = (int(base[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{0.6 * abs(2 * value - 1):.2f})"


def _escape(text: Any) -> str:
    return markup.escape(str(text), quote=True)
