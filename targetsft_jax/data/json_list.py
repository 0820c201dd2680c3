"""Split a JSON list into its items, in bounded memory."""

import re
from collections.abc import Callable, Iterator

from targetsft_jax.data.json_rows import MAX_LINE

# A string, perhaps without its end, or a character of the structure.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[][{},]', re.S)
# Python's own parser fails far below this.
_MAX_DEPTH = 10_000
_WHITE = b" \t\r\n"
_OPENING, _CLOSING = b"[{", b"]}"
_QUOTE, _COMMA = b'",'


class NotAList(ValueError):
    """A text other than a JSON list, or one that ends before the list does."""


def items(read: Callable[[], bytes]) -> Iterator[bytes]:
    """Stream the items of a JSON list as bytes.

    An item that is not JSON is yielded too, for the parser of rows to refuse.

    Args:
        read: function that returns the next part of the text, empty at its end. The
            text begins with the bracket, perhaps after white space.

    Yields:
        The bytes of each item, without white space around it.

    Raises:
        NotAList: the brackets do not match, an item has more than MAX_LINE bytes, or
            text follows the list.
    """
    text = b""
    at = start = depth = 0  # Next character, start of the item, open brackets.
    closed = False
    while part := read():
        # Only the item that is not complete is retained.
        text, at, start = text[start:] + part, at - start, 0
        while not closed and (token := _next(text, at)) is not None:
            at, bracket = token.end(), text[token.start()]
            if bracket in _OPENING:
                depth += 1
                start = at if depth == 1 else start
            elif bracket in _CLOSING:
                depth -= 1
            closed = depth == 0
            if closed and bracket != _CLOSING[0] or depth > _MAX_DEPTH:
                problem = "nested too deeply" if depth else "its brackets do not match"
                raise NotAList(f"{problem}; expected a list of rows")
            if closed or (depth == 1 and bracket == _COMMA):
                item = text[start : token.start()].strip(_WHITE)
                start = at
                if item or not closed:  # The list may be empty.
                    yield item
        if len(text) - start > MAX_LINE:
            raise NotAList(f"a row has more than {MAX_LINE >> 20} MiB")
        if closed:
            if text[start:].strip(_WHITE):
                raise NotAList("text follows the list; expected its end")
            start = len(text)
            at = start
    if not closed:
        raise NotAList("the list does not end")


def _next(text: bytes, at: int) -> re.Match[bytes] | None:
    """Next bracket or comma outside of strings; None if the text ends before it."""
    while (token := _TOKEN.search(text, at)) is not None:
        if text[token.start()] != _QUOTE:
            return token
        if not token[1]:
            return None  # A string without its end.
        at = token.end()
    return None
